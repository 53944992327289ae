"""A small matrix, its factors from NumPy's SVD, its truth, and a qc.json, as the earlier steps write them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest

from ctbasis.matrix.slice_store import Series
from ctbasis.matrix.store import MatrixStore, MatrixWriter
from ctbasis.storage.voxels import absent
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.plan import plan_factorization

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PATIENT = b"Doe^Jane"
FILE = "Doe_Jane/19600101/slice.dcm"
IMAGE = (48, 40)
COLS = 12


@dataclass(frozen=True)
class Stores:
    """The inputs of the report: stores on disk, and the matrix and its truth as arrays."""

    matrix: MatrixStore
    basis: FactorStore
    truth: MatrixStore
    qc: Path
    A: NDArray[np.float64]
    T: NDArray[np.float64]


class MakeStores(Protocol):
    """The signature of the `make_stores` fixture."""

    def __call__(self, *, rank: int = 6, series: tuple[int, ...] = (COLS,), **qc: Any) -> Stores: ...


def low_rank_chest() -> NDArray[np.float64]:
    """Return a matrix of rank 3, (m, n): slices of a body with two lungs that moves, to first order, between slices."""
    y, x = np.mgrid[-1 : 1 : IMAGE[0] * 1j, -1 : 1 : IMAGE[1] * 1j]
    body = np.where(x**2 + y**2 < 0.8, 40.0, -990.0)
    body[(np.abs(x) - 0.4) ** 2 + y**2 < 0.08] = -800
    patterns = [body, *np.gradient(body)]
    strengths = np.stack([np.ones(COLS), 0.4 * np.sin(np.arange(COLS)), 0.3 * np.cos(np.arange(COLS))])
    return np.stack([pattern.ravel() for pattern in patterns], axis=1) @ strengths


def write_matrix(path: Path, A: NDArray[np.float64], series: tuple[int, ...]) -> MatrixStore:
    """Write `A` to a matrix store; `series` is the number of slices of each series."""
    writer = MatrixWriter.create(str(path), image=IMAGE, cols=A.shape[1], dtype=np.float32)
    writer.write(slice(0, len(A)), slice(0, A.shape[1]), A, np.full(A.shape, absent(np.float32)))
    firsts = np.cumsum([0, *series])
    writer.finish(
        series=[
            Series(f"1.2.{number}", int(first), count, 2.5, (0.7, 1.4))
            for number, (first, count) in enumerate(zip(firsts, series, strict=False), start=1)
        ],
        headers=[PATIENT] * A.shape[1],
    )
    return MatrixStore.open(writer.uri)


def qc_content(series: tuple[int, ...]) -> dict[str, Any]:
    """Return the content of a qc.json with padding, clipping, gaps, tolerated defects and skipped files."""
    slices = [
        {"file": FILE, "padded": 10 * (column < 2), "outside": 5, "tolerated": ["RescaleSlope is absent"]}
        for column in range(sum(series))
    ]
    return {
        "files": sum(series) + 2,
        "slices": slices,
        "series": [
            {
                "SeriesInstanceUID": f"1.2.{number}",
                "count": count,
                "spacing": 2.5,
                "gaps": [{"after": 0.0, "before": 5.0, "missing": 1}],
                "tolerated": [],
            }
            for number, count in enumerate(series, start=1)
        ],
        "set_aside": [{"file": FILE, "reason": "a localizer", "broken": False}] * 2,
    }


@pytest.fixture(scope="session")
def make_stores(tmp_path_factory: pytest.TempPathFactory) -> MakeStores:
    """Return a function that creates the stores; its extra keyword arguments replace entries of qc.json."""

    def make(*, rank: int = 6, series: tuple[int, ...] = (COLS,), **qc: Any) -> Stores:
        folder = tmp_path_factory.mktemp("stores")
        rng = np.random.default_rng(5)
        T = low_rank_chest()
        A = (T + rng.normal(0, 30, T.shape)).astype(np.float32).astype(np.float64)
        matrix = write_matrix(folder / "matrix.zarr", A, series)
        truth = write_matrix(folder / "truth.zarr", T, series)
        U, s, Vt = np.linalg.svd(A, full_matrices=False)
        factors = FactorWriter.create(str(folder / "basis.zarr"), matrix, rank=rank)
        for index in range(matrix.block_count):
            factors.write_block(matrix.block(index), U[matrix.block(index), :rank])
        plan = plan_factorization(
            engine="numpy", rows=len(A), cols=COLS, rank=rank, oversample=15, power_iters=2, seed=None
        )
        factors.finish(s=s[:rank], V=Vt[:rank].T, plan=plan, matrix=matrix)
        path = folder / "qc.json"
        path.write_text(json.dumps({**qc_content(series), **qc}))
        return Stores(matrix, FactorStore.open(factors.uri), truth, path, A, T)

    return make


@pytest.fixture
def stores(make_stores: MakeStores) -> Stores:
    """Return stores at rank 6 of 12 that the test may modify."""
    return make_stores()
