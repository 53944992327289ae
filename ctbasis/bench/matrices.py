"""Matrices with a known spectrum in a store, generated block by block, so that they may be larger than memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.matrix.slice_store import Series
from ctbasis.matrix.store import MatrixStore, MatrixWriter, block_rows_for, column_chunk_for
from ctbasis.progress import progress
from ctbasis.storage.voxels import absent

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRENGTH = 300.0
"""Root mean square of the values, about that of CT images in HU."""

DIRECTIONS = 100
NOISE = 8


def write_decaying(uri: str, *, rows: int, cols: int, dtype: str, seed: int = 0, distinct: int = 0) -> MatrixStore:
    """Write a matrix with the singular values c / i, i = 1 ... n, and random singular vectors.

    The left singular vectors are Gaussian blocks G_b R^-1 with R^T R = sum of G_b^T G_b. The blocks are drawn twice
    instead of being held in memory. int16 rounds the values, which adds a floor of sqrt(m / 12) to the singular values.

    Args:
        uri: URI of the new store.
        rows: Number of rows m.
        cols: Number of columns n, at most m.
        dtype: float64, float32 or int16.
        seed: Seed of the singular vectors.
        distinct: Number of different row blocks, which then repeat as hard links, so that a matrix of any size takes
            little disk space and is read from the page cache; 0 if all blocks differ.
    """
    # Whole row blocks are written, so narrow chunks are not needed to limit memory.
    writer = MatrixWriter.create(
        uri, image=(rows, 1), cols=cols, dtype=dtype, column_chunk=column_chunk_for(cols, block_rows_for(cols))
    )
    blocks = [slice(first, min(first + writer.block_rows, rows)) for first in range(0, rows, writer.block_rows)]
    distinct = distinct or len(blocks)

    def gaussian(index: int) -> NDArray[np.float64]:
        block, index = blocks[index], index % distinct
        return np.random.default_rng([seed, index]).standard_normal((block.stop - block.start, cols))

    G = np.zeros((cols, cols))
    for index in progress(range(min(distinct, len(blocks))), "bench: norms", unit="block"):
        part = gaussian(index)
        G += part.T @ part
    G *= max(1.0, len(blocks) / distinct)
    s = 1.0 / np.arange(1, cols + 1)
    V, _ = np.linalg.qr(np.random.default_rng([seed, -1 % 2**32]).standard_normal((cols, cols)))
    scale = STRENGTH * np.sqrt(rows * cols / np.sum(s**2))
    X = np.linalg.inv(np.linalg.cholesky(G)).T @ (scale * s[:, None] * V.T)
    for index in progress(range(len(blocks)), "bench: matrix", unit="block"):
        if index >= distinct and blocks[index].stop - blocks[index].start == writer.block_rows:
            repeat_block(Path(uri), index % distinct, index)
            continue
        values = _as(gaussian(index) @ X, dtype)
        for first in range(0, cols, writer.column_chunk):
            columns = slice(first, min(first + writer.column_chunk, cols))
            chunk = values[:, columns]
            writer.write(blocks[index], columns, chunk, np.full_like(chunk, absent(dtype)))
    writer.finish(series=[Series("1.2.3", 0, cols)], headers=[b""] * cols)
    return MatrixStore.open(uri)


def write_low_rank(uri: str, *, rows: int, cols: int, dtype: str, seed: int = 0) -> MatrixStore:
    """Write a matrix of `DIRECTIONS` random directions and noise; unlike `write_decaying` it forms no n x n matrix.

    The singular values of the directions decrease as 1 / i, and the noise is uniform in whole numbers up to `NOISE`.

    Args:
        uri: URI of the new store.
        rows: Number of rows m.
        cols: Number of columns n.
        dtype: float64, float32 or int16.
        seed: Seed of directions and noise.
    """
    column_chunk = column_chunk_for(cols, block_rows_for(cols))
    writer = MatrixWriter.create(uri, image=(rows, 1), cols=cols, dtype=dtype, column_chunk=column_chunk)
    s = 1.0 / np.arange(1, min(DIRECTIONS, rows, cols) + 1)
    W = np.random.default_rng([seed, -1 % 2**32]).standard_normal((len(s), cols), np.float32)
    W *= (STRENGTH * s / np.linalg.norm(s))[:, None]
    firsts = range(0, rows, writer.block_rows)
    for index, first in enumerate(progress(firsts, "bench: matrix", unit="block")):
        block = slice(first, min(first + writer.block_rows, rows))
        rng = np.random.default_rng([seed, index])
        values = rng.standard_normal((block.stop - block.start, len(s)), np.float32) @ W
        values += rng.integers(-NOISE, NOISE, values.shape, np.int8, endpoint=True)
        A = _as(values, dtype)
        for start in range(0, cols, writer.column_chunk):
            columns = slice(start, min(start + writer.column_chunk, cols))
            writer.write(block, columns, A[:, columns], None)
    writer.finish(series=[Series("1.2.3", 0, cols)], headers=[b""] * cols)
    return MatrixStore.open(uri)


def repeat_block(store: Path, index: int, other: int) -> None:
    """Make row block `other` of the matrix store a copy of row block `index`, by hard links to its chunks."""
    for array in ("A", "aside"):
        chunks = store / array / "c"
        (chunks / str(other)).mkdir()
        for chunk in (chunks / str(index)).iterdir():
            (chunks / str(other) / chunk.name).hardlink_to(chunk)


def _as(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    kind = np.dtype(dtype)
    if kind.kind != "i":
        return values.astype(kind)
    limits = np.iinfo(kind)
    # The lowest value marks an entry of `aside` that is empty; it is kept out of A too.
    return np.clip(np.round(values), limits.min + 1, limits.max).astype(kind)
