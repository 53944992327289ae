"""Stores are copied, replaced and removed the same in folders and on S3, and no place that is none is taken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import MatrixStore
from ctbasis.steps.cleanup import cleanup
from ctbasis.steps.svd import factorize, publish
from ctbasis.storage import stores
from ctbasis.storage.object_store import ObjectStore
from ctbasis.svd.factors import FactorStore
from tests.svd.conftest import write_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray


def matrix_values(rows: int = 4000, cols: int = 9) -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-1000, 1000, (rows, cols)).astype(np.int16)


def contents(uri: str) -> dict[str, bytes]:
    """Return what lies below a URI, key by key."""
    if stores.is_s3(uri):
        objects = ObjectStore(uri)
        return {key: objects.read(key) or b"" for key in objects.keys_below()}
    return {key: Path(uri, key).read_bytes() for key in stores.keys(uri)}


def test_the_factors_are_the_same_bytes_wherever_matrix_and_factors_lie(prefix: str, tmp_path: Path) -> None:
    A = matrix_values()
    found = []
    for number, (matrix, factors) in enumerate(
        [(str(tmp_path), str(tmp_path)), (prefix, prefix), (str(tmp_path), prefix), (prefix, str(tmp_path))]
    ):
        write_matrix(f"{matrix}/m{number}", A)
        factorize(f"{matrix}/m{number}", f"{factors}/f{number}", rank=4, ranks=[], engine="numpy", seed=1)
        found.append(contents(f"{factors}/f{number}"))
    assert {"zarr.json", "U/c/0/0", "s/c/0", "aside/zarr.json", "headers/c/0"} <= set(found[0])
    assert found[1:] == found[:1] * 3


def test_a_basis_on_s3_is_published_to_a_folder_byte_by_byte(prefix: str, tmp_path: Path) -> None:
    write_matrix(f"{prefix}/m", matrix_values())
    factorize(f"{prefix}/m", f"{prefix}/f", rank=4, ranks=[], engine="numpy")
    publish(f"{prefix}/f", tmp_path / "basis")
    assert contents(str(tmp_path / "basis")) == contents(f"{prefix}/f")
    assert FactorStore.open(str(tmp_path / "basis")).rank == 4


def test_a_published_basis_outlives_the_folder_that_it_was_linked_from(tmp_path: Path) -> None:
    write_matrix(str(tmp_path / "m"), matrix_values())
    factorize(str(tmp_path / "m"), str(tmp_path / "f"), rank=4, ranks=[], engine="numpy")
    publish(str(tmp_path / "f"), tmp_path / "basis")
    assert (tmp_path / "basis" / "U" / "c" / "0" / "0").stat().st_nlink == 2
    before = contents(str(tmp_path / "basis"))
    write_matrix(str(tmp_path / "m"), -matrix_values())
    factorize(str(tmp_path / "m"), str(tmp_path / "f"), rank=4, ranks=[], engine="numpy")
    assert contents(str(tmp_path / "basis")) == before
    stores.delete(str(tmp_path / "f"))
    assert contents(str(tmp_path / "basis")) == before


@pytest.mark.parametrize("target", ["folder", "s3"])
def test_a_copy_replaces_what_was_there_and_one_that_broke_off_is_refused(
    place: str, target: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_matrix(f"{place}/m", matrix_values())
    copied = f"{prefix}/copied" if target == "s3" else str(tmp_path / "copied")
    write_matrix(copied, matrix_values(cols=200))
    one_copied = stores._one_copied

    class BreakOffError(Exception):
        pass

    def breaking(source: str, target: str) -> object:
        copy_one = one_copied(source, target)

        def copy(key: str) -> None:
            if key == "headers/zarr.json":
                raise BreakOffError
            copy_one(key)

        return copy

    with monkeypatch.context() as patch:
        patch.setattr(stores, "_one_copied", breaking)
        with pytest.raises(BreakOffError):
            stores.copy(f"{place}/m", copied)
    with pytest.raises(CtbasisError, match="no matrix at"):
        MatrixStore.open(copied)
    stores.copy(f"{place}/m", copied)
    assert contents(copied) == contents(f"{place}/m")


def test_a_deletion_that_broke_off_leaves_nothing_that_is_taken_for_a_store(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_matrix(f"{place}/m", matrix_values())

    def broken(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", broken)
        patch.setattr(ObjectStore, "keys_below", broken)
        with pytest.raises(InterruptedError):
            stores.delete(f"{place}/m")
    assert "A/c/0/0" in stores.keys(f"{place}/m")
    with pytest.raises(CtbasisError, match="no matrix at"):
        MatrixStore.open(f"{place}/m")
    assert stores.delete(f"{place}/m")
    assert list(stores.keys(f"{place}/m")) == []
    assert not stores.delete(f"{place}/m")


def test_deleting_a_store_spares_its_neighbour_of_a_longer_name(place: str) -> None:
    write_matrix(f"{place}/m", matrix_values())
    write_matrix(f"{place}/m2", matrix_values())
    before = contents(f"{place}/m2")
    stores.delete(f"{place}/m")
    assert contents(f"{place}/m2") == before


def test_cleanup_removes_the_runs_own_folder_below_the_store_and_no_other(prefix: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for run in ("run-1", "run-2"):
        write_matrix(stores.run_folder(str(tmp_path), prefix, run) + "/matrix.zarr", matrix_values())
    cleanup(tmp_path, prefix, "run-1")
    assert {key.split("/")[0] for key in stores.keys(prefix)} == {"run-2"}
    assert list(tmp_path.iterdir()) == []
    cleanup(tmp_path, prefix, "run-1")


@pytest.mark.usefixtures("aws")
def test_stores_that_cannot_be_removed_fail_a_run_that_succeeded_and_do_not_hide_why_one_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CtbasisError, match="there is no bucket"):
        cleanup(tmp_path, "s3://no-such-bucket/x", "run-1")
    cleanup(tmp_path, "s3://no-such-bucket/x", "run-1", succeeded=False)
    assert "s3://no-such-bucket/x/run-1 is not removed: there is no bucket" in capsys.readouterr().err


def test_stores_of_a_run_are_in_its_workspace_unless_told_otherwise() -> None:
    assert stores.run_folder("/workspace", "", "id") == "/workspace"
    assert stores.run_folder("/workspace", "s3://bucket/prefix/", "id") == "s3://bucket/prefix/id"


@pytest.mark.parametrize("store", ["", "s3://bucket", "s3://bucket/", "s3://bucket/some/prefix", "S3://bucket/x/"])
def test_a_place_on_s3_or_none_is_taken(store: str) -> None:
    stores.check(store)


@pytest.mark.parametrize("store", ["/folder", "gs://user:pass-word@x/y", "s3://", "s3:///x", "s3://key:pass-word@b/x"])
def test_a_place_that_is_not_on_s3_is_refused_without_repeating_it(store: str) -> None:
    with pytest.raises(CtbasisError, match="expected: s3://bucket/prefix") as caught:
        stores.check(store)
    assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize("store", ["s3://bucket/a/../b", "s3://bucket/a//b", "s3://bucket/./a"])
def test_a_prefix_that_tools_would_rewrite_is_refused(store: str) -> None:
    with pytest.raises(CtbasisError, match="without empty parts"):
        stores.check(store)


def test_a_whole_bucket_is_never_deleted() -> None:
    for uri in ("s3://bucket", "s3://bucket/"):
        with pytest.raises(CtbasisError, match="whole bucket"):
            stores.delete(uri)
