"""Every array of every kind of store, missing, damaged, exchanged or of another run, is refused by name.

The arrays come from ctbasis/storage/schemas.py, and a store of each kind is written by its own writer. A new array or a
new kind of store is therefore tested without a change here, or fails the tests of completeness.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from ctbasis.errors import CtbasisError
from ctbasis.matrix.slice_store import Series
from ctbasis.matrix.store import MatrixStore, MatrixWriter
from ctbasis.patch.bases import PatchBases, kind_at
from ctbasis.patch.basis import PatchBasis, TextureBasis
from ctbasis.patch.classes import Classes
from ctbasis.patch.noise import Noise
from ctbasis.patch.parts import parts_of
from ctbasis.patch.plan import PatchPlan
from ctbasis.patch.result import PatchStore, noise_arrays, noise_attributes
from ctbasis.storage import stores
from ctbasis.storage.array_layout import ROOT, crc32c
from ctbasis.storage.array_store import ArrayStore, StoreWriter, array_schema
from ctbasis.storage.copies import copy
from ctbasis.storage.objects import open_objects
from ctbasis.storage.schemas import DENOISED, FACTORS, MATRIX, PATCH_BASES, PATCH_BASIS, PATCH_ROWS, SCHEMAS, VERSION
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.plan import plan_factorization
from tests.store_edits import edit_object, edit_root, flip_bit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

ROWS, COLUMNS, SLICES, RANK, VOXELS, LEADING = 40, 30, 6, 3, 12, 4
RUNS = ("run", "other")
FLIPS = 6
"""Random bits that are inverted in each object, besides the first and the last."""


def write_matrix(uri: str, rng: np.random.Generator) -> None:
    writer = MatrixWriter.create(uri, image=(ROWS, COLUMNS), cols=SLICES, dtype=np.int16, column_chunk=3)
    A = rng.integers(-1000, 1000, (ROWS * COLUMNS, SLICES)).astype(np.int16)
    aside = np.where(rng.random(A.shape) < 0.1, np.int16(-1500), np.int16(-32768))
    for first in range(0, len(A), writer.block_rows):
        rows = slice(first, min(first + writer.block_rows, len(A)))
        for start in (0, 3):
            columns = slice(start, start + 3)
            writer.write(rows, columns, A[rows, columns], aside[rows, columns])
    headers = [rng.bytes(50 + int(rng.integers(50))) for _ in range(SLICES)]
    writer.finish(series=[Series("1.2", 0, 4, 2.5), Series("1.3", 4, 2, 2.5)], headers=headers)


def write_factors(uri: str, rng: np.random.Generator) -> None:
    write_matrix(f"{uri}-matrix", rng)
    matrix = MatrixStore.open(f"{uri}-matrix")
    writer = FactorWriter.create(uri, matrix, rank=RANK)
    U, s, Vt = np.linalg.svd(matrix.read_columns(slice(None)).astype(float), full_matrices=False)
    for index in range(matrix.block_count):
        writer.write_block(matrix.block(index), U[matrix.block(index), :RANK])
    writer.create_sketch(2)
    for index in range(matrix.block_count):
        writer.write_sketch(matrix.block(index), np.zeros((len(U[matrix.block(index)]), 2)))
    writer.drop_sketch()
    plan = plan_factorization(
        engine="numpy", rows=matrix.rows, cols=SLICES, rank=RANK, oversample=0, power_iters=0, seed=0
    )
    writer.finish(s=s[:RANK], V=Vt[:RANK].T, plan=plan, matrix=matrix)


def noise_of(rng: np.random.Generator, slices: int) -> Noise:
    covariance = rng.random((3, 3, 3))
    return Noise(
        rng.random((5, 4, slices), np.float32) + 1,
        covariance,
        100,
        (),
        np.stack([covariance, covariance / 2]),
        rng.integers(0, 2, (5, 4, slices)).astype(np.uint8),
    )


def write_denoised(uri: str, rng: np.random.Generator) -> None:
    write_matrix(f"{uri}-matrix", rng)
    matrix = MatrixStore.open(f"{uri}-matrix")
    writer = MatrixWriter.like(uri, matrix, dtype=np.float32)
    for index in range(matrix.block_count):
        writer.write_block(matrix.block(index), matrix.read_block(index))
    parts = parts_of(matrix.series)
    noises = [noise_of(rng, part.slices.count) for part in parts]
    plan = PatchPlan(engine="numpy", patches=[[5, 5, 3]], bases=[1, 1])
    described = {"parts": [part.to_attributes() for part in parts], "noise": noise_attributes(noises)}
    writer.finish_like(matrix, noise_arrays(noises), {"patch": vars(plan), **described})


def patch_basis(rng: np.random.Generator) -> PatchBasis:
    def floats(*shape: int) -> NDArray[np.float32]:
        return rng.random(shape, np.float32)

    def texture(classes: int) -> TextureBasis:
        monomials = 1 + LEADING + LEADING * (LEADING + 1) // 2
        return TextureBasis(
            rng.random((VOXELS, VOXELS)),
            floats(VOXELS, LEADING),
            Classes(floats(LEADING), floats(monomials, classes)),
            floats(classes, VOXELS),
            floats(classes, VOXELS, VOXELS),
            floats(classes, VOXELS),
        )

    return PatchBasis((2, 3, 2), (0.7, 0.7, 2.5), rng.random((VOXELS, VOXELS)), (texture(3), texture(2)), {"seed": 0})


WRITERS: dict[str, Callable[[str, np.random.Generator], None]] = {
    "matrix": write_matrix,
    "factors": write_factors,
    "denoised": write_denoised,
    "patch-basis": lambda uri, rng: patch_basis(rng).save(uri),
    "patch": lambda uri, rng: PatchBases((patch_basis(rng), patch_basis(rng))).save(uri),
}


def read_slices(store: MatrixStore | FactorStore) -> None:
    for index in range(store.block_count):
        store.read_block(index)
    store.read_aside(slice(None))
    for column in range(store.cols):
        store.header(column)


def read_matrix(uri: str) -> None:
    read_slices(MatrixStore.open(uri))


def read_factors(uri: str) -> None:
    store = FactorStore.open(uri)
    read_slices(store)
    store.read_basis_image(0)
    ArrayStore.open(uri, FACTORS).array("weights").read()


def read_denoised(uri: str) -> None:
    store = PatchStore.open(uri)
    read_slices(store)
    for number in range(len(store.parts)):
        store.noise(number)


READERS: dict[str, Callable[[str], Any]] = {
    "matrix": read_matrix,
    "factors": read_factors,
    "denoised": read_denoised,
    "patch-basis": PatchBases.open,
    "patch": PatchBases.open,
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a store of each kind, of two runs: `run/kind` and `other/kind`."""
    place = tmp_path_factory.mktemp("stores")
    for seed, run in enumerate(RUNS):
        for kind, write in WRITERS.items():
            write(str(place / run / kind), np.random.default_rng(seed))
    return place


@cache
def objects_of(store: Path) -> list[str]:
    return sorted(stores.keys(str(store)))


def chunk_keys(store: Path) -> list[str]:
    return [key for key in objects_of(store) if "/c/" in key]


def array_name(key: str) -> str:
    """Return the name of the array that an object belongs to."""
    return next(part for part in key.split("/") if not part.isdigit())


def refused(kind: str, uri: str, names: Iterable[str]) -> str:
    """Return the message of the refusal, which must contain one of `names`."""
    with pytest.raises(CtbasisError) as caught:
        READERS[kind](uri)
    message = str(caught.value)
    assert any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message) for name in names), message
    assert caught.value.remedy
    return message


@pytest.fixture
def damaged(originals: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies the store of a kind, to be damaged, and restores it if called again."""

    def restored(kind: str) -> Path:
        shutil.rmtree(tmp_path / kind, ignore_errors=True)
        return Path(shutil.copytree(originals / "run" / kind, tmp_path / kind))

    return restored


def test_the_stores_of_these_tests_are_of_every_kind_and_have_every_array(originals: Path) -> None:
    assert set(WRITERS) == set(READERS) == set(SCHEMAS) - {PATCH_ROWS.kind}
    for kind, schema in SCHEMAS.items():
        if kind == PATCH_ROWS.kind:
            continue
        uri = str(originals / "run" / kind)
        READERS[kind](uri)
        stored = {array_name(key) for key in chunk_keys(Path(uri)) if not schema.members}
        patterns = {re.sub(r"-[0-9]+$", "-*", name) for name in stored}
        assert patterns == {name for name, array in schema.arrays.items() if not array.temporary}
        assert {int(name.rpartition("-")[2]) for name in stored if "-" in name} in ({1, 2}, set())


@pytest.mark.parametrize("kind", WRITERS)
def test_zarr_reads_every_array_with_the_same_values(kind: str, originals: Path) -> None:
    if kind == "patch":
        return
    uri = str(originals / "run" / kind)
    store = ArrayStore.open(uri, SCHEMAS[kind])
    group = zarr.open_group(uri, mode="r")
    names = {array_name(key) for key in chunk_keys(Path(uri))}
    assert {name for name, _ in group.arrays()} == names
    for name in names:
        np.testing.assert_array_equal(group[name][...], store.array(name).read())  # type: ignore[index]


@pytest.mark.parametrize("kind", WRITERS)
def test_every_object_that_is_missing_or_has_another_size_is_refused(
    kind: str, damaged: Callable[[str], Path], originals: Path
) -> None:
    for key in objects_of(originals / "run" / kind):
        store = damaged(kind)
        content = (store / key).read_bytes()
        names = (key, array_name(key)) if key != ROOT else (str(store),)
        for changed in (None, b"", content[:-1], content[: len(content) // 2], content + b"\0"):
            (store / key).unlink(missing_ok=True)
            if changed is not None:
                (store / key).write_bytes(changed)
            if key.endswith(ROOT) and changed == content + b"\0":
                changed = content + b" "  # noqa: PLW2901 - still JSON
                (store / key).write_bytes(changed)
                if key == ROOT:
                    continue
            refused(kind, str(store), names)


@pytest.mark.parametrize("kind", WRITERS)
def test_every_flipped_bit_is_refused(kind: str, damaged: Callable[[str], Path], originals: Path) -> None:
    rng = random.Random(kind)
    store = damaged(kind)
    for key in objects_of(originals / "run" / kind):
        content = (store / key).read_bytes()
        bits = 8 * len(content)
        # A flip in the white space of the root's JSON may leave its meaning unchanged, which is no damage.
        for bit in {0, bits - 1, *(rng.randrange(bits) for _ in range(FLIPS))}:
            (store / key).write_bytes(flip_bit(content, bit))
            if key == ROOT and _same_json(content, flip_bit(content, bit)):
                continue
            refused(kind, str(store), (key, array_name(key)) if key != ROOT else (str(store),))
        (store / key).write_bytes(content)
    READERS[kind](str(store))


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


@pytest.mark.parametrize("kind", WRITERS)
def test_every_chunk_in_the_place_of_another_is_refused(
    kind: str, damaged: Callable[[str], Path], originals: Path
) -> None:
    store = damaged(kind)
    chunks = {key: (store / key).read_bytes() for key in chunk_keys(originals / "run" / kind)}
    for key, content in chunks.items():
        own = [other for other in chunks if array_name(other) == array_name(key) and chunks[other] != content]
        same_size = [other for other in chunks if len(chunks[other]) == len(content) and chunks[other] != content]
        for other in {*own[:2], *same_size[:3], *list(chunks)[:1]} - {key}:
            (store / key).write_bytes(chunks[other])
            (store / other).write_bytes(content)
            refused(kind, str(store), (array_name(key), array_name(other)))
            (store / other).write_bytes(chunks[other])
        (store / key).write_bytes(content)
    READERS[kind](str(store))


@pytest.mark.parametrize("kind", WRITERS)
def test_every_object_of_another_run_is_refused(kind: str, damaged: Callable[[str], Path], originals: Path) -> None:
    store = damaged(kind)
    keys = objects_of(originals / "run" / kind)
    for key in keys:
        content, other = (store / key).read_bytes(), (originals / "other" / kind / key).read_bytes()
        assert other != content, key
        (store / key).write_bytes(other)
        # A root of another run does not list these arrays, the first of which is named.
        refused(kind, str(store), (key, array_name(key)) if key != ROOT else (str(store),))
        (store / key).write_bytes(content)
    for name in {array_name(key) for key in chunk_keys(originals / "run" / kind)} if kind != "patch" else {"1", "2"}:
        shutil.rmtree(store / name)
        shutil.copytree(originals / "other" / kind / name, store / name)
        refused(kind, str(store), (name,))
        shutil.rmtree(store / name)
        shutil.copytree(originals / "run" / kind / name, store / name)
    READERS[kind](str(store))


METADATA_EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "dtype": lambda document: document.update(data_type="complex128"),
    "other dtype": lambda document: document.update(
        data_type="float64" if document["data_type"] == "float32" else "float32"
    ),
    "one row more": lambda document: document.update(shape=[document["shape"][0] + 1, *document["shape"][1:]]),
    "a billion rows": lambda document: document.update(shape=[10**9, *document["shape"][1:]]),
    "a huge chunk": lambda document: document["chunk_grid"]["configuration"].update(
        chunk_shape=[10**15] * len(document["shape"])
    ),
    "a negative size": lambda document: document.update(shape=[-1] * len(document["shape"])),
    "no shape": lambda document: document.pop("shape"),
    "a chunk of no rows": lambda document: document["chunk_grid"]["configuration"].update(
        chunk_shape=[0] * len(document["shape"])
    ),
    "no checksum": lambda document: document["codecs"].pop(),
    "big endian": lambda document: document["codecs"][0].update(configuration={"endian": "big"}),
    "no manifest": lambda document: document["attributes"].clear(),
    "a short manifest": lambda document: document["attributes"]["manifest"].update(crc32c="00"),
}


@pytest.mark.parametrize("kind", ["matrix", "factors", "denoised", "patch-basis"])
def test_metadata_that_differs_from_the_schema_is_refused_although_all_checksums_fit(
    kind: str, damaged: Callable[[str], Path], originals: Path
) -> None:
    store = damaged(kind)
    for key in objects_of(originals / "run" / kind):
        if not key.endswith(f"/{ROOT}"):
            continue
        name, content = array_name(key), (store / key).read_bytes()
        for edit, change in METADATA_EDITS.items():
            document = json.loads(content)
            change(document)
            changed = json.dumps(document).encode()
            (store / key).write_bytes(changed)
            forge(store, name, changed)
            # An array that is too large may be found by an array whose shape must agree with it.
            with pytest.raises(CtbasisError) as caught:
                READERS[kind](str(store))
            assert str(store) in str(caught.value), edit
        (store / key).write_bytes(content)
        forge(store, name, content)
    READERS[kind](str(store))


def forge(store: Path, name: str, metadata: bytes) -> None:
    """Enter the metadata of an array into the root's manifest, as a hostile writer would."""
    manifest = json.loads((store / ROOT).read_bytes())["attributes"]["manifest"]
    edit_root(str(store), manifest={**manifest, name: [len(metadata), crc32c(metadata)]})


@pytest.mark.parametrize("kind", WRITERS)
def test_a_store_of_another_version_kind_or_format_is_refused_by_every_reader(
    kind: str, damaged: Callable[[str], Path]
) -> None:
    for attributes, expected in (
        ({"version": VERSION - 1}, f"version {VERSION - 1}"),
        ({"version": VERSION + 1}, f"version {VERSION + 1}"),
        ({"version": str(VERSION)}, "version unknown"),
        ({"format": "other"}, "version"),
        ({"kind": "unknown"}, "kind"),
        ({"kind": PATCH_ROWS.kind}, "kind"),
        ({"complete": False}, "not complete"),
        ({"complete": "yes"}, "not complete"),
        ({"manifest": {}}, "manifest"),
        ({"manifest": None}, "manifest"),
        ({"manifest": {"A": [1]}}, "manifest"),
    ):
        store = damaged(kind)
        edit_root(str(store), **attributes)
        for reader in (READERS[kind], MatrixStore.open, FactorStore.open, PatchStore.open, PatchBases.open, kind_at):
            with pytest.raises(CtbasisError) as caught:
                reader(str(store))
            if reader == READERS[kind]:
                assert expected in str(caught.value)


ATTRIBUTE_VALUES: tuple[Any, ...] = (None, 10**9, -1, "text", [], {}, [None], [10**9], [{"first": 1}])


@pytest.mark.parametrize("kind", WRITERS)
def test_attributes_of_a_hostile_writer_are_refused_without_a_traceback(
    kind: str, damaged: Callable[[str], Path]
) -> None:
    names = ArrayStore.open(str(damaged(kind)), SCHEMAS[kind]).attributes
    for name in names:
        if name == "provenance":
            continue
        for value in ATTRIBUTE_VALUES:
            store = damaged(kind)
            edit_root(str(store), **{name: value})
            # Some of these values happen to be valid; any other error than a refusal fails this test.
            with contextlib.suppress(CtbasisError):
                READERS[kind](str(store))


def test_header_offsets_out_of_order_or_beyond_the_headers_are_refused(tmp_path: Path) -> None:
    for number, offsets in enumerate(([0, 5, 3, 9], [1, 3, 6, 9], [0, 3, 6, 10], [0, 3, -1, 9], [0, 3, 2**62, 9])):
        uri = str(tmp_path / str(number))
        writer = StoreWriter.create(uri, MATRIX, {"image": [2, 2]})
        for name in ("A", "aside"):
            writer.put(name, np.ones((4, 3), np.int16))
        writer.put("headers", np.zeros(9, np.uint8))
        writer.put("header_offsets", np.asarray(offsets, np.int64))
        writer.finish({"series": [vars(Series("1.2", 0, 3))]})
        matrix = MatrixStore.open(uri)
        with pytest.raises(CtbasisError, match=r"header_offsets of .* are not in order"):
            matrix.header(0)


def test_a_writer_does_not_finish_while_a_chunk_or_an_array_is_missing(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    writer = StoreWriter.create(uri, MATRIX, {"image": [2, 2]})
    array = writer.create_array("A", (4, 3), np.int16, chunks=(2, 3))
    array.write(np.ones((2, 3)), slice(0, 2))
    for name in ("aside", "headers", "header_offsets"):
        with pytest.raises(CtbasisError, match=r"is missing"):
            writer.finish({"series": []})
        shape = {"aside": (4, 3), "headers": (9,), "header_offsets": (4,)}[name]
        kind = {"aside": "int16", "headers": "uint8", "header_offsets": "int64"}[name]
        writer.put(name, np.zeros(shape, kind), chunks=(2, 3) if name == "aside" else ())
    with pytest.raises(CtbasisError, match=r"rows 2 to 4: the chunk A/c/1/0 is missing"):
        writer.finish({"series": []})
    with pytest.raises(CtbasisError, match="is not complete"):
        MatrixStore.open(uri)
    with pytest.raises(TypeError, match="not in the schema"):
        writer.create_array("another", (4,), np.int16)
    assert array_schema(MATRIX, "sigma-1") is None
    assert array_schema(DENOISED, "sigma-1") is DENOISED.arrays["sigma-*"]


@pytest.mark.parametrize("kind", ["factors", "patch"])
def test_damage_on_s3_is_refused_too_and_a_whole_store_is_copied_both_ways(
    kind: str, originals: Path, prefix: str, tmp_path: Path
) -> None:
    source, uri = str(originals / "run" / kind), f"{prefix}/store"
    copy(source, uri)
    READERS[kind](uri)
    copy(uri, str(tmp_path / "back"))
    assert objects_of(tmp_path / "back") == objects_of(originals / "run" / kind)
    objects = open_objects(uri)
    for key in chunk_keys(originals / "run" / kind)[::4]:
        content = objects.read(key) or b""
        edit_object(uri, key, lambda before: flip_bit(before, 5))
        refused(kind, uri, (array_name(key),))
        objects.write(key, content[:-1])
        refused(kind, uri, (key, array_name(key)))
        objects.remove([key])
        refused(kind, uri, (key, array_name(key)))
        with pytest.raises(CtbasisError):
            copy(uri, str(tmp_path / "again"))
        objects.write(key, content)
    READERS[kind](uri)


def test_a_member_of_a_patch_basis_opens_alone_and_has_the_kind_of_patches(originals: Path) -> None:
    uri = str(originals / "run" / PATCH_BASES.kind)
    assert [PatchBases.open(f"{uri}/{number}").bases[0].classes for number in (1, 2)] == [5, 5]
    assert PatchBasis.open(f"{uri}/2").shape == (2, 3, 2)
    assert kind_at(uri) == kind_at(f"{uri}/1") == "patch"
    assert ArrayStore.open(f"{uri}/1", PATCH_BASIS).kind == "patch-basis"
