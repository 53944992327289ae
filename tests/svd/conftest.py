"""Fixtures: matrices in real stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctbasis.matrix.slice_store import Series
from ctbasis.matrix.store import MatrixStore, MatrixWriter
from ctbasis.storage.voxels import absent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


def write_matrix(uri: str, A: NDArray[Any]) -> MatrixStore:
    """Write A, (m, n), to a matrix store of one series in which no voxel is set aside."""
    m, n = A.shape
    writer = MatrixWriter.create(uri, image=(m, 1), cols=n, dtype=A.dtype)
    for start in range(0, n, writer.column_chunk):
        columns = slice(start, min(n, start + writer.column_chunk))
        part = A[:, columns]
        writer.write(slice(0, m), columns, part, np.full_like(part, absent(A.dtype)))
    writer.finish(series=[Series("1.2.3", 0, n)], headers=[b"header"] * n)
    return MatrixStore.open(uri)


@pytest.fixture
def store_matrix(tmp_path: Path) -> Callable[..., MatrixStore]:
    """Return a function that writes an array to a matrix store and opens the store."""

    def store(A: NDArray[Any], *, name: str = "matrix.zarr") -> MatrixStore:
        return write_matrix(str(tmp_path / name), A)

    return store
