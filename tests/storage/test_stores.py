"""Stores in folders and on S3 are copied, replaced and deleted alike, and invalid locations are refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import MatrixStore
from ctbasis.parameters import SvdPlan
from ctbasis.steps.cleanup import run_step as cleanup
from ctbasis.steps.svd import factorize, publish
from ctbasis.storage import stores
from ctbasis.storage.copies import copy
from ctbasis.storage.object_store import ObjectStore
from ctbasis.storage.objects import FolderObjects
from ctbasis.svd.factors import FactorStore
from tests.svd.conftest import write_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLAN = SvdPlan.of(rank="4", ranks="4", engine="numpy")


def matrix_values(rows: int = 4000, cols: int = 9) -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-1000, 1000, (rows, cols)).astype(np.int16)


def contents(uri: str) -> dict[str, bytes]:
    """Return the content of every object or file below a URI, by its key."""
    if stores.is_s3(uri):
        objects = ObjectStore(uri)
        return {key: objects.read(key) or b"" for key in objects.keys_below()}
    return {key: Path(uri, key).read_bytes() for key in stores.keys(uri)}


def test_factors_are_byte_identical_for_every_location_of_matrix_and_factors(prefix: str, tmp_path: Path) -> None:
    A = matrix_values()
    stored = []
    for number, (matrix, factors) in enumerate(
        [(str(tmp_path), str(tmp_path)), (prefix, prefix), (str(tmp_path), prefix), (prefix, str(tmp_path))]
    ):
        write_matrix(f"{matrix}/m{number}", A)
        factorize(f"{matrix}/m{number}", f"{factors}/f{number}", PLAN.replaced(seed=1))
        stored.append(contents(f"{factors}/f{number}"))
    assert {"zarr.json", "U/c/0/0", "s/c/0", "aside/zarr.json", "headers/c/0"} <= set(stored[0])
    assert stored[1:] == stored[:1] * 3


def test_a_basis_on_s3_is_published_to_a_folder_unchanged(prefix: str, tmp_path: Path) -> None:
    write_matrix(f"{prefix}/m", matrix_values())
    factorize(f"{prefix}/m", f"{prefix}/f", PLAN)
    publish(f"{prefix}/f", tmp_path / "basis")
    assert contents(str(tmp_path / "basis")) == contents(f"{prefix}/f")
    assert FactorStore.open(str(tmp_path / "basis")).rank == 4


def test_a_published_basis_survives_the_deletion_of_its_source_folder(tmp_path: Path) -> None:
    write_matrix(str(tmp_path / "m"), matrix_values())
    factorize(str(tmp_path / "m"), str(tmp_path / "f"), PLAN)
    publish(str(tmp_path / "f"), tmp_path / "basis")
    assert (tmp_path / "basis" / "U" / "c" / "0" / "0").stat().st_nlink == 2
    before = contents(str(tmp_path / "basis"))
    write_matrix(str(tmp_path / "m"), -matrix_values())
    factorize(str(tmp_path / "m"), str(tmp_path / "f"), PLAN)
    assert contents(str(tmp_path / "basis")) == before
    stores.delete(str(tmp_path / "f"))
    assert contents(str(tmp_path / "basis")) == before


@pytest.mark.parametrize("target", ["folder", "s3"])
def test_a_copy_replaces_its_target_and_an_interrupted_copy_is_refused(
    place: str, target: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_matrix(f"{place}/m", matrix_values())
    copied = f"{prefix}/copied" if target == "s3" else str(tmp_path / "copied")
    write_matrix(copied, matrix_values(cols=200))
    key_copier = stores._key_copier

    class InterruptedCopyError(Exception):
        pass

    def interrupting(source: str, target: str) -> object:
        copy_one = key_copier(source, target)

        def copy(key: str) -> None:
            if key == "headers/zarr.json":
                raise InterruptedCopyError
            copy_one(key)

        return copy

    with monkeypatch.context() as patch:
        patch.setattr(stores, "_key_copier", interrupting)
        with pytest.raises(InterruptedCopyError):
            copy(f"{place}/m", copied)
    with pytest.raises(CtbasisError, match="is not complete"):
        MatrixStore.open(copied)
    copy(f"{place}/m", copied)
    assert contents(copied) == contents(f"{place}/m")


def test_an_interrupted_deletion_leaves_no_readable_store(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_matrix(f"{place}/m", matrix_values())

    def interrupted(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(FolderObjects, "remove", interrupted)
        patch.setattr(ObjectStore, "remove", interrupted)
        with pytest.raises(InterruptedError):
            stores.delete(f"{place}/m")
    assert "A/c/0/0" in stores.keys(f"{place}/m")
    with pytest.raises(CtbasisError, match="is not complete"):
        MatrixStore.open(f"{place}/m")
    assert stores.delete(f"{place}/m")
    assert list(stores.keys(f"{place}/m")) == []
    assert not stores.delete(f"{place}/m")


def test_deleting_a_store_keeps_a_store_whose_name_begins_alike(place: str) -> None:
    write_matrix(f"{place}/m", matrix_values())
    write_matrix(f"{place}/m2", matrix_values())
    before = contents(f"{place}/m2")
    stores.delete(f"{place}/m")
    assert contents(f"{place}/m2") == before


def test_cleanup_deletes_only_the_folder_of_its_own_run(prefix: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for run in ("run-1", "run-2"):
        write_matrix(stores.run_folder(str(tmp_path), prefix, run) + "/matrix.zarr", matrix_values())
    cleanup(tmp_path, prefix, "run-1")
    assert {key.split("/")[0] for key in stores.keys(prefix)} == {"run-2"}
    assert list(tmp_path.iterdir()) == []
    cleanup(tmp_path, prefix, "run-1")


@pytest.mark.usefixtures("aws")
def test_a_failed_cleanup_fails_a_successful_run_and_only_warns_after_a_failed_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CtbasisError, match="there is no bucket"):
        cleanup(tmp_path, "s3://no-such-bucket/x", "run-1")
    cleanup(tmp_path, "s3://no-such-bucket/x", "run-1", succeeded=False)
    assert "s3://no-such-bucket/x/run-1 is not removed: there is no bucket" in capsys.readouterr().err


def test_run_folder_is_the_workspace_unless_a_store_is_given() -> None:
    assert stores.run_folder("/workspace", "", "id") == "/workspace"
    assert stores.run_folder("/workspace", "s3://bucket/prefix/", "id") == "s3://bucket/prefix/id"


@pytest.mark.parametrize("store", ["", "s3://bucket", "s3://bucket/", "s3://bucket/some/prefix", "S3://bucket/x/"])
def test_an_s3_prefix_or_an_empty_string_is_accepted(store: str) -> None:
    stores.validate_prefix(store)


@pytest.mark.parametrize("store", ["/folder", "gs://user:pass-word@x/y", "s3://", "s3:///x", "s3://key:pass-word@b/x"])
def test_a_location_outside_s3_is_refused_without_repeating_the_uri(store: str) -> None:
    with pytest.raises(CtbasisError, match="expected: s3://bucket/prefix") as caught:
        stores.validate_prefix(store)
    assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize("store", ["s3://bucket/a/../b", "s3://bucket/a//b", "s3://bucket/./a"])
def test_a_prefix_with_empty_or_relative_parts_is_refused(store: str) -> None:
    with pytest.raises(CtbasisError, match="without empty parts"):
        stores.validate_prefix(store)


def test_a_whole_bucket_is_never_deleted() -> None:
    for uri in ("s3://bucket", "s3://bucket/"):
        with pytest.raises(CtbasisError, match="whole bucket"):
            stores.delete(uri)
