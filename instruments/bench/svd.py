"""The engines on one matrix: time, memory, and how far their rank-k residual is from the optimal one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.matrix.ingest import ingest
from components.matrix.store import MatrixStore
from components.svd.engines import ENGINES
from components.svd.factorize import factorize
from components.svd.factors import FactorStore
from instruments.bench.meter import Meter

if TYPE_CHECKING:
    from numpy.typing import NDArray


def bench_svd(series: Path, *, rank: int = 50, oversample: int = 15, power_iters: int = 2) -> list[dict[str, Any]]:
    """Factor the matrix of `series` by every engine.

    Returns:
        A row an engine: rows, cols, dtype, rank, oversample, power_iters, seconds, cpu_seconds, peak_mib (of all
        processes, the start of Spark included), residual_over_optimal = ||A - A_k||_F / sqrt(sum_{i>k} sigma_i^2).
    """
    with tempfile.TemporaryDirectory() as scratch:
        uri = str(Path(scratch) / "matrix.zarr")
        ingest(series, uri, Path(scratch) / "qc.json")
        matrix = MatrixStore.open(uri)
        optimal = optimal_residual(matrix, rank)
        rows = []
        for engine in ENGINES:
            factors_uri = str(Path(scratch) / f"{engine}.zarr")
            with Meter() as meter:
                outcome = factorize(
                    uri,
                    factors_uri,
                    rank=rank,
                    ranks=[rank],
                    oversample=oversample,
                    power_iters=power_iters,
                    engine=engine,
                )
            rows.append(
                {
                    "bench": "svd",
                    "engine": engine,
                    "rows": matrix.rows,
                    "cols": matrix.cols,
                    "dtype": str(matrix.dtype),
                    "rank": outcome.plan.rank,
                    "oversample": outcome.plan.oversample,
                    "power_iters": outcome.plan.power_iters,
                    "seconds": meter.seconds,
                    "cpu_seconds": meter.cpu_seconds,
                    "peak_mib": meter.peak_mib,
                    "residual_over_optimal": residual(matrix, FactorStore.open(factors_uri)) / optimal,
                }
            )
        return rows


def optimal_residual(matrix: MatrixStore, rank: int) -> float:
    """Return sqrt(sum of sigma_i^2 for i > rank), by numpy's SVD of the whole matrix in memory."""
    A = np.vstack([matrix.read_block(index) for index in range(matrix.block_count)])
    s: NDArray[np.float64] = np.linalg.svd(A, compute_uv=False)
    return float(np.sqrt((s[rank:] ** 2).sum()))


def residual(matrix: MatrixStore, factors: FactorStore) -> float:
    """Return ||A - U diag(s) V^T||_F by one pass over A."""
    squared = 0.0
    for index in range(matrix.block_count):
        difference = matrix.read_block(index) - factors.read_block(index) @ factors.weights.T
        squared += float((difference**2).sum())
    return float(np.sqrt(squared))
