"""A fixture that factors small DICOM series by NumPy's SVD and writes the stores of the pipeline."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pydicom
import pytest

from ctbasis.matrix.slice_store import Series
from ctbasis.matrix.store import MatrixStore, MatrixWriter
from ctbasis.storage.voxels import AIR, absent
from ctbasis.svd.factors import FactorWriter
from ctbasis.svd.plan import plan_factorization

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray


class WriteBasis(Protocol):
    """The signature of the `write_basis` fixture."""

    def __call__(self, *series: Sequence[Path], rank: int, dtype: DTypeLike = np.float32) -> str: ...


def hounsfield(dataset: pydicom.Dataset) -> NDArray[np.float64]:
    """Return HU, (Rows * Columns,)."""
    return dataset.pixel_array.ravel() * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)


def header_of(dataset: pydicom.Dataset) -> bytes:
    """Return `dataset` as a DICOM file (Part 10) without PixelData."""
    del dataset.PixelData
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def write_basis(tmp_path: Path) -> WriteBasis:
    """Return a function that writes the exact rank-`rank` factors of DICOM files, one list of files per series."""

    def write(*series: Sequence[Path], rank: int, dtype: DTypeLike = np.float32) -> str:
        slices = [pydicom.dcmread(path) for paths in series for path in paths]
        hu = np.stack([hounsfield(dataset) for dataset in slices], axis=1)
        padding = np.stack([hounsfield_padding(dataset) for dataset in slices], axis=1)
        kind: Any = np.int16 if (hu == np.round(hu)).all() else np.float32
        A = np.where(padding, AIR, np.maximum(hu, AIR)).astype(kind)
        aside = np.where(hu == A, absent(kind), hu).astype(kind)
        image = (slices[0].Rows, slices[0].Columns)
        writer = MatrixWriter.create(str(tmp_path / "matrix.zarr"), image=image, cols=len(slices), dtype=kind)
        writer.write(slice(0, len(A)), slice(0, len(slices)), A, aside)
        firsts = np.cumsum([0, *map(len, series)])
        entries = [
            Series(slices[first].SeriesInstanceUID, int(first), len(paths), 2.5, (0.7, 0.7))
            for first, paths in zip(firsts, series, strict=False)
        ]
        writer.finish(series=entries, headers=[header_of(dataset) for dataset in slices])
        matrix = MatrixStore.open(writer.uri)
        U, s, Vt = np.linalg.svd(A.astype(np.float64), full_matrices=False)
        factors = FactorWriter.create(str(tmp_path / "basis.zarr"), matrix, rank=rank, dtype=dtype)
        for index in range(matrix.block_count):
            factors.write_block(matrix.block(index), U[matrix.block(index), :rank])
        plan = plan_factorization(
            engine="numpy", rows=matrix.rows, cols=matrix.cols, rank=rank, oversample=1, power_iters=2, seed=7
        )
        factors.finish(s=s[:rank], V=Vt[:rank].T, plan=plan, matrix=matrix)
        return factors.uri

    return write


def hounsfield_padding(dataset: pydicom.Dataset) -> NDArray[np.bool_]:
    """Return the padding mask, (Rows * Columns,)."""
    padding: NDArray[np.bool_] = dataset.pixel_array.ravel() == dataset.get("PixelPaddingValue", np.nan)
    return padding
