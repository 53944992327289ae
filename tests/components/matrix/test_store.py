"""The matrix store gives back what was written, and refuses what is incomplete, missing or corrupt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import CtbasisError
from components.matrix.store import (
    BLOCK_ELEMENTS,
    COLUMN_CHUNK,
    MatrixStore,
    MatrixWriter,
    Series,
    absent,
    block_rows_for,
    is_absent,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

COLS = COLUMN_CHUNK + 5


def written(uri: Path, dtype: str = "int16") -> NDArray[Any]:
    rng = np.random.default_rng(0)
    A = rng.integers(-1000, 2000, (300 * 200, COLS)).astype(dtype)
    writer = MatrixWriter.create(str(uri), image=(300, 200), cols=COLS, dtype=dtype)
    for start in range(0, COLS, COLUMN_CHUNK):
        columns = slice(start, min(COLS, start + COLUMN_CHUNK))
        aside = np.full_like(A[:, columns], absent(dtype))
        aside[5] = -2048
        for first in range(0, len(A), writer.block_rows):
            rows = slice(first, first + writer.block_rows)
            writer.write(rows, columns, A[rows, columns], aside[rows])
    series = [Series("1.2", 0, 100, spacing=2.5, pixel_spacing=(0.7, 0.7)), Series("1.3", 100, COLS - 100)]
    writer.finish(series=series, headers=[bytes([column]) * (column + 1) for column in range(COLS)])
    return A


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_blocks_columns_and_headers_come_back_as_written(dtype: str, tmp_path: Path) -> None:
    A = written(tmp_path / "m", dtype)
    matrix = MatrixStore.open(str(tmp_path / "m"))
    assert (matrix.rows, matrix.cols, matrix.dtype, matrix.image) == (60000, COLS, np.dtype(dtype), (300, 200))
    assert matrix.block_count > 1
    np.testing.assert_array_equal(np.vstack([matrix.read_block(i) for i in range(matrix.block_count)]), A)
    np.testing.assert_array_equal(matrix.read_columns(slice(100, COLS)), A[:, 100:])
    assert matrix.header(7) == b"\x07" * 8
    assert matrix.series[1].columns == slice(100, COLS)


def test_what_was_set_aside_is_told_from_what_was_not(tmp_path: Path) -> None:
    written(tmp_path / "m")
    aside = MatrixStore.open(str(tmp_path / "m")).read_aside(slice(0, 3))
    expected = np.zeros(aside.shape, bool)
    expected[5] = True
    np.testing.assert_array_equal(~is_absent(aside), expected)


def test_an_unfinished_matrix_is_refused(tmp_path: Path) -> None:
    MatrixWriter.create(str(tmp_path / "m"), image=(4, 4), cols=3, dtype="int16")
    with pytest.raises(CtbasisError, match="is not complete"):
        MatrixStore.open(str(tmp_path / "m"))


def test_no_matrix_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="no matrix at"):
        MatrixStore.open(str(tmp_path / "nothing"))


def test_a_missing_chunk_is_an_error_and_never_zeros(tmp_path: Path) -> None:
    written(tmp_path / "m")
    (tmp_path / "m" / "A" / "c" / "1" / "0").unlink()
    matrix = MatrixStore.open(str(tmp_path / "m"))
    matrix.read_block(0)
    with pytest.raises(CtbasisError, match="values are missing"):
        matrix.read_block(1)


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    written(tmp_path / "m")
    chunk = tmp_path / "m" / "A" / "c" / "1" / "0"
    content = bytearray(chunk.read_bytes())
    content[1000] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(CtbasisError, match="does not decode"):
        MatrixStore.open(str(tmp_path / "m")).read_block(1)


@settings(max_examples=200)
@given(st.integers(min_value=1, max_value=1_000_000))
def test_a_block_stays_near_its_size_whatever_the_number_of_slices(n: int) -> None:
    rows = block_rows_for(n)
    assert 256 <= rows <= 65536
    assert rows * n <= BLOCK_ELEMENTS or rows == 256
