"""A location with a user's files is never emptied, a bucket's keys are no paths, and no other URL is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import MatrixStore, MatrixWriter
from ctbasis.patch.bases import PatchBases, kind_at
from ctbasis.steps.cleanup import run_step as cleanup
from ctbasis.steps.factor import factor
from ctbasis.steps.svd import publish
from ctbasis.storage import stores
from ctbasis.storage.array_layout import ROOT
from ctbasis.storage.array_store import ArrayStore
from ctbasis.storage.copies import copy
from ctbasis.storage.object_store import ObjectStore
from ctbasis.storage.objects import is_s3, open_objects
from ctbasis.storage.schemas import MATRIX
from ctbasis.svd.factors import FactorStore, FactorWriter
from tests.store_edits import edit_object, edit_root, flip_bit
from tests.svd.conftest import write_matrix

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

THESIS = b"three years of work"


def values() -> NDArray[Any]:
    return np.random.default_rng(0).integers(-1000, 1000, (600, 5)).astype(np.int16)


FOREIGN = ("thesis.txt", "zarr.json", "A/thesis.txt", "A/c/0/thesis", "A/c/0/0.bak", "c/thesis", "1/2/3/zarr.json")
"""Files of a user, also such as lie deep or have names like those of a store."""


@pytest.mark.parametrize("key", FOREIGN)
def test_a_location_with_a_users_file_is_refused_by_name_and_kept(key: str, place: str, tmp_path: Path) -> None:
    write_matrix(f"{tmp_path}/source", values())
    uri = f"{place}/mine"
    if key != "zarr.json":
        # Even below a store of ctbasis, a file that is not part of it is kept.
        write_matrix(uri, values())
    objects = open_objects(uri)
    objects.write(key, THESIS)
    before = objects.sizes()
    for write in (
        lambda: stores.delete(uri),
        lambda: copy(f"{tmp_path}/source", uri),
        lambda: MatrixWriter.create(uri, image=(2, 2), cols=2, dtype=np.int16),
        lambda: FactorWriter.create(uri, MatrixStore.open(f"{tmp_path}/source"), rank=2),
        lambda: PatchBases(()).save(uri),
    ):
        with pytest.raises(CtbasisError, match="which is not part of a store of ctbasis") as caught:
            write()
        assert key in str(caught.value)
    assert objects.sizes() == before
    assert objects.read(key) == THESIS


@pytest.mark.parametrize("state", ["damaged", "missing", "flipped"])
def test_a_store_whose_root_is_damaged_is_kept_and_the_error_says_what_to_remove(
    state: str, place: str, tmp_path: Path
) -> None:
    uri = f"{place}/my basis"
    write_matrix(uri, values())
    objects = open_objects(uri)
    if state == "missing":
        objects.remove([ROOT])
    else:
        edit_object(uri, ROOT, lambda content: content[:-9] if state == "damaged" else flip_bit(content, 40))
    before = objects.sizes()
    write_matrix(f"{tmp_path}/source", values())
    with pytest.raises(CtbasisError) as caught:
        copy(f"{tmp_path}/source", uri)
    assert f"{ROOT} is {'missing' if state == 'missing' else 'damaged'}" in caught.value.found
    command = "aws s3 rm --recursive" if is_s3(uri) else "rm -r --"
    assert caught.value.remedy.endswith(f"{command} '{uri}'")
    assert objects.sizes() == before


def test_factor_does_not_empty_the_folder_that_it_is_told_to_write_to(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_bytes(THESIS)
    with pytest.raises(CtbasisError, match=r"thesis\.txt"):
        factor(values().astype(np.float32), rank=2, keep=tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_bytes() == THESIS
    (tmp_path / "out" / "thesis.txt").unlink()
    factor(values().astype(np.float32), rank=2, keep=tmp_path / "out")
    factor(values().astype(np.float32), rank=3, keep=tmp_path / "out")
    assert FactorStore.open(str(tmp_path / "out")).rank == 3


def test_a_store_is_not_written_over_a_file_and_symbolic_links_are_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(THESIS)
    with pytest.raises(CtbasisError, match="is a file"):
        write_matrix(str(tmp_path / "file"), values())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "0").write_bytes(THESIS)
    write_matrix(str(tmp_path / "m"), values())
    (tmp_path / "m" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CtbasisError, match="link"):
        stores.delete(str(tmp_path / "m"))
    assert (tmp_path / "elsewhere" / "0").read_bytes() == THESIS


def test_cleanup_removes_the_stores_of_its_run_and_nothing_else_below_its_prefix(prefix: str, tmp_path: Path) -> None:
    folder = stores.run_folder(str(tmp_path), prefix, "run-1")
    write_matrix(f"{folder}/matrix.zarr", values())
    write_matrix(f"{folder}/factors.zarr", values())
    others = ObjectStore(folder)
    others.write("thesis.txt", THESIS)
    others.write("data/c/0/0", THESIS)
    cleanup(tmp_path, prefix, "run-1")
    assert others.sizes() == {"thesis.txt": len(THESIS), "data/c/0/0": len(THESIS)}


@pytest.mark.parametrize("key", ["../../x", "/x", "A/../../x", "A/c/0/0/../../../../../x", "..", "A\\..\\x", "1/../x"])
def test_a_key_that_leaves_the_folder_is_not_copied(key: str, place: str, tmp_path: Path) -> None:
    store = f"{place}/p/factors.zarr"
    write_matrix(store, values())
    before = set(tmp_path.rglob("*"))
    with pytest.raises(CtbasisError, match="no key of a store"):
        stores.copy_keys(store, str(tmp_path / "a" / "b" / "basis"), [key])
    # A manifest that lists it is refused before anything is written.
    manifest = ArrayStore.open(store, MATRIX).manifest
    edit_root(store, manifest={**manifest, key: [1, 1]})
    with pytest.raises(CtbasisError, match="the manifest of"):
        publish(store, tmp_path / "a" / "b" / "basis")
    assert set(tmp_path.rglob("*")) == before


def test_an_object_below_a_store_that_is_not_part_of_it_is_not_published(place: str, tmp_path: Path) -> None:
    write_matrix(f"{place}/m", values())
    open_objects(f"{place}/m").write("A/other", b"evil")
    publish(f"{place}/m", tmp_path / "basis")
    written = {path.read_bytes() for path in (tmp_path / "basis").rglob("*") if path.is_file()}
    assert b"evil" not in written
    assert MatrixStore.open(str(tmp_path / "basis")).cols == 5


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://user:pass-word@host/basis",
        "zip://pass-word.zip",
        "zip::s3://pass-word/x",
        "memory://pass-word",
        "http://user:pass-word@host/",
        "gs://pass-word/x",
        "simplecache::ftp://user:pass-word@host",
        "file://pass-word/x",
        "s3://user:pass-word@bucket/x",
        "",
        "a\0pass-word",
    ],
)
def test_only_folders_and_s3_are_opened_and_the_refusal_repeats_no_secret(uri: str) -> None:
    for reader in (MatrixStore.open, FactorStore.open, PatchBases.open, kind_at, stores.delete):
        with pytest.raises(CtbasisError) as caught:
            reader(uri)
        assert "pass-word" not in str(caught.value)


def test_a_file_uri_names_a_folder(tmp_path: Path) -> None:
    write_matrix(str(tmp_path / "a store"), values())
    assert MatrixStore.open(f"file://{tmp_path}/a%20store").cols == 5
    assert stores.delete(f"file://{tmp_path}/a%20store")
    assert not (tmp_path / "a store").exists()
