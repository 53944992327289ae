"""Matrices with a given spectrum, their factorization by an engine, and the errors of factors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.svd.engines import engine_named
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.plan import plan_factorization

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.matrix.store import MatrixStore
    from ctbasis.svd.spectrum import Spectrum


def with_spectrum(rows: int, s: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Return a matrix (rows, len(s)) with the singular values s and random singular vectors."""
    rng = np.random.default_rng(seed)
    U, _ = np.linalg.qr(rng.standard_normal((rows, len(s))))
    V, _ = np.linalg.qr(rng.standard_normal((len(s), len(s))))
    return np.asarray((U * s) @ V.T)


def factored(
    matrix: MatrixStore,
    uri: Path,
    *,
    rank: int,
    engine: str = "numpy",
    oversample: int = 5,
    power_iters: int = 1,
    seed: int | None = 0,
    method: str = "auto",
    memory: int = 0,
    dtype: str = "float64",
) -> tuple[FactorStore, NDArray[Any], Spectrum]:
    """Factor `matrix`; return the factor store, the whole U, and the engine's return value."""
    plan = plan_factorization(
        engine=engine,
        rows=matrix.rows,
        cols=matrix.cols,
        rank=rank,
        oversample=oversample,
        power_iters=power_iters,
        seed=seed,
        method=method,
        memory=memory,
    )
    writer = FactorWriter.create(str(uri), matrix, rank=plan.rank, dtype=dtype)
    spectrum = engine_named(engine).load()(matrix, writer, plan)
    writer.finish(s=spectrum.s, V=spectrum.V, plan=plan, matrix=matrix, accuracy=spectrum.accuracy)
    factors = FactorStore.open(str(uri))
    return factors, np.vstack([factors.read_block(index) for index in range(factors.block_count)]), spectrum


def tail(s: NDArray[np.float64], k: int) -> float:
    """Return the Frobenius residual of the optimal rank-k approximation."""
    return float(np.sqrt((s[k:] ** 2).sum()))


def orthonormality_error(Q: NDArray[Any]) -> float:
    """Return ||Q^T Q - I||_2."""
    return float(np.linalg.norm(Q.T @ Q - np.eye(Q.shape[1]), 2))
