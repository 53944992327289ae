"""The matrix store returns what was written, and refuses incomplete, missing and corrupt data."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ctbasis.errors import CtbasisError
from ctbasis.matrix.slice_store import Series
from ctbasis.matrix.store import (
    BLOCK_ELEMENTS,
    COHORT_COLUMNS,
    COLUMN_CHUNK,
    MAX_BLOCK_BYTES,
    MatrixStore,
    MatrixWriter,
    block_rows_for,
)
from ctbasis.storage import stores
from ctbasis.storage.object_store import ObjectStore
from ctbasis.storage.objects import open_objects
from ctbasis.storage.voxels import absent, is_absent
from ctbasis.svd.engines.mahout_bridge import check_limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

COLS = COLUMN_CHUNK + 5


def modify(uri: str, key: str, edit: Callable[[bytes], bytes]) -> None:
    """Modify the content of a stored chunk."""
    if stores.is_s3(uri):
        objects = ObjectStore(uri)
        objects.write(key, edit(objects.read(key) or b""))
    else:
        path = Path(uri, key)
        path.write_bytes(edit(path.read_bytes()))


def write_matrix(uri: str, dtype: str = "int16") -> NDArray[Any]:
    rng = np.random.default_rng(0)
    A = rng.integers(-1000, 2000, (300 * 200, COLS)).astype(dtype)
    writer = MatrixWriter.create(uri, image=(300, 200), cols=COLS, dtype=dtype)
    for start in range(0, COLS, writer.column_chunk):
        columns = slice(start, min(COLS, start + writer.column_chunk))
        aside = np.full_like(A[:, columns], absent(dtype))
        aside[5] = -2048
        for first in range(0, len(A), writer.block_rows):
            rows = slice(first, first + writer.block_rows)
            writer.write(rows, columns, A[rows, columns], aside[rows])
    series = [Series("1.2", 0, 100, spacing=2.5, pixel_spacing=(0.7, 0.7)), Series("1.3", 100, COLS - 100)]
    writer.finish(series=series, headers=[bytes([column]) * (column + 1) for column in range(COLS)])
    return A


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_blocks_columns_and_headers_are_read_as_written(dtype: str, place: str) -> None:
    A = write_matrix(f"{place}/m", dtype)
    matrix = MatrixStore.open(f"{place}/m")
    assert (matrix.rows, matrix.cols, matrix.dtype, matrix.image) == (60000, COLS, np.dtype(dtype), (300, 200))
    assert matrix.block_count > 1
    np.testing.assert_array_equal(np.vstack([matrix.read_block(i) for i in range(matrix.block_count)]), A)
    np.testing.assert_array_equal(matrix.read_columns(slice(100, COLS)), A[:, 100:])
    assert matrix.header(7) == b"\x07" * 8
    assert matrix.series[1].columns == slice(100, COLS)


def test_only_the_voxels_set_aside_have_values_in_aside(place: str) -> None:
    write_matrix(f"{place}/m")
    aside = MatrixStore.open(f"{place}/m").read_aside(slice(0, 3))
    expected = np.zeros(aside.shape, bool)
    expected[5] = True
    np.testing.assert_array_equal(~is_absent(aside), expected)


def test_an_unfinished_matrix_is_refused(place: str) -> None:
    MatrixWriter.create(f"{place}/m", image=(4, 4), cols=3, dtype="int16")
    with pytest.raises(CtbasisError, match="is not complete"):
        MatrixStore.open(f"{place}/m")


def test_a_missing_matrix_is_reported(place: str) -> None:
    with pytest.raises(CtbasisError, match="no matrix at"):
        MatrixStore.open(f"{place}/nothing")


def test_a_missing_chunk_raises_an_error(place: str) -> None:
    write_matrix(f"{place}/m")
    matrix = MatrixStore.open(f"{place}/m")
    open_objects(f"{place}/m").remove(["A/c/1/0"])
    matrix.read_block(0)
    with pytest.raises(CtbasisError, match="rows 16384 to 32768: the chunk A/c/1/0 is missing"):
        matrix.read_block(1)
    with pytest.raises(CtbasisError, match="rows 16384 to 32768: the chunk A/c/1/0 is missing"):
        MatrixStore.open(f"{place}/m")


def test_the_checksum_detects_a_flipped_bit(place: str) -> None:
    write_matrix(f"{place}/m")
    modify(f"{place}/m", "A/c/1/0", lambda content: content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    with pytest.raises(CtbasisError, match="A/c/1/0 has the checksum"):
        MatrixStore.open(f"{place}/m").read_block(1)


def test_a_truncated_chunk_is_detected(place: str) -> None:
    write_matrix(f"{place}/m")
    modify(f"{place}/m", "A/c/1/0", lambda content: content[:-1])
    with pytest.raises(CtbasisError, match="A/c/1/0 has 2195459 bytes\n  expected: 2195460"):
        MatrixStore.open(f"{place}/m")
    with pytest.raises(CtbasisError, match="A/c/1/0 has 2195459 bytes"):
        MatrixStore.open(f"{place}/m", listing=False).read_block(1)


def test_replacing_a_matrix_by_a_smaller_one_leaves_no_old_chunks(place: str) -> None:
    write_matrix(f"{place}/m")
    small = np.full((16, 3), 7, np.int16)
    writer = MatrixWriter.create(f"{place}/m", image=(4, 4), cols=3, dtype="int16")
    with pytest.raises(CtbasisError, match="is not complete"):
        MatrixStore.open(f"{place}/m")
    writer.write(slice(0, 16), slice(0, 3), small, np.full_like(small, absent("int16")))
    writer.finish(series=[Series("1.2", 0, 3)], headers=[b"a", b"", b"c"])
    matrix = MatrixStore.open(f"{place}/m")
    np.testing.assert_array_equal(matrix.read_block(0), small)
    assert [matrix.header(column) for column in range(3)] == [b"a", b"", b"c"]
    assert {key for key in stores.keys(f"{place}/m") if "/c/" in key} == {
        "A/c/0/0",
        # A chunk of `aside` is stored also if all its values are absent, so that a reader notices its loss.
        "aside/c/0/0",
        "header_offsets/c/0",
        "headers/c/0",
    }


def write_rows(uri: str, blocks: list[int]) -> None:
    """Write row blocks of a matrix whose values are the row numbers."""
    writer = MatrixWriter(uri)
    for block in blocks:
        rows = slice(block * writer.block_rows, min((block + 1) * writer.block_rows, 200_000))
        A = np.repeat(np.arange(rows.start, rows.stop, dtype=np.float32)[:, None], 3, axis=1)
        writer.write(rows, slice(0, 3), A, np.full_like(A, np.nan))


def test_forked_processes_write_disjoint_blocks_concurrently(place: str) -> None:
    uri = f"{place}/m"
    writer = MatrixWriter.create(uri, image=(500, 400), cols=3, dtype="float32")
    blocks = range(-(-200_000 // writer.block_rows))
    assert len(blocks) >= 4
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=write_rows, args=(uri, list(blocks[part::3]))) for part in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    writer.finish(series=[Series("1.2", 0, 3)], headers=[b"", b"", b""])
    matrix = MatrixStore.open(uri)
    A = np.vstack([matrix.read_block(index) for index in range(matrix.block_count)])
    np.testing.assert_array_equal(A, np.repeat(np.arange(200_000.0)[:, None], 3, axis=1))


@settings(max_examples=200)
@given(st.integers(min_value=1, max_value=COHORT_COLUMNS))
def test_a_block_of_a_few_patients_has_the_same_number_of_elements_for_any_number_of_slices(n: int) -> None:
    rows = block_rows_for(n)
    assert 256 <= rows <= 65536
    assert rows * n <= BLOCK_ELEMENTS
    # The next power of two would be too large, unless the rows are limited.
    assert 2 * rows * n > BLOCK_ELEMENTS or rows == 65536


@settings(max_examples=200)
@given(st.integers(min_value=COHORT_COLUMNS + 1, max_value=2**27))
@example(2**27)
def test_a_block_of_a_cohort_grows_with_the_number_of_slices_and_stays_below_2_gib_as_float64(n: int) -> None:
    rows = block_rows_for(n)
    assert rows.bit_count() == 1
    assert rows * n >= block_rows_for(COHORT_COLUMNS) * COHORT_COLUMNS
    # Mahout receives a block with its header as one Java array.
    check_limits(rows, n, rows)
    assert rows == 512 or 2 * rows * n * 8 > MAX_BLOCK_BYTES
    assert rows <= 512
