"""Factors of one small matrix by the engines that run on Spark, as an earlier build computed them.

Run as `python -m tests.svd.stored_factors` to write the factors of the present build to `stored_factors.npz`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from ctbasis.matrix import store
from tests.services import running_spark
from tests.svd.conftest import write_matrix
from tests.svd.factoring import factored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

STORED = Path(__file__).with_name("stored_factors.npz")

ROWS, COLUMNS, RANK, OVERSAMPLE, SEED = 640, 20, 4, 3, 7

EVERY = 32
"""One row of U in so many is stored."""


class Run(NamedTuple):
    """One way to factor the matrix."""

    engine: str
    method: str
    power_iters: int

    def __str__(self) -> str:
        return f"{self.engine} {self.method} q={self.power_iters}"


RUNS = [
    Run("mahout", "auto", 0),
    Run("mahout", "auto", 2),
    Run("spark", "exact", 1),
    Run("spark", "randomized", 0),
    Run("spark", "randomized", 2),
    Run("spark", "single-pass", 0),
]
"""With q = 0, the factors are far from those of the SVD and depend on each value of Omega."""


def matrix() -> NDArray[np.int16]:
    """Return A, made of products of whole numbers, which are the same with each version of BLAS."""
    rng = np.random.default_rng(11)
    left = rng.integers(-9, 10, (ROWS, COLUMNS)) * (48 // np.arange(1, COLUMNS + 1))
    return (left @ rng.integers(-9, 10, (COLUMNS, COLUMNS))).astype(np.int16)


def computed(run: Run) -> dict[str, NDArray[np.float64]]:
    """Return s, V, one row of U in `EVERY`, and the norm of A - U diag(s) V^T, from three row blocks.

    Spark must run with the settings of Mahout.
    """
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "BLOCK_ELEMENTS", 1)
        A = matrix()
        stored = write_matrix(f"{scratch}/matrix.zarr", A)
        assert stored.block_count == 3
        factors, U, _ = factored(
            stored,
            Path(scratch, "factors.zarr"),
            engine=run.engine,
            method=run.method,
            rank=RANK,
            oversample=OVERSAMPLE,
            power_iters=run.power_iters,
            seed=SEED,
        )
        residual = np.linalg.norm(A - U @ factors.weights.T)
        return {"s": factors.s, "V": factors.V, "U": U[::EVERY], "residual": np.array(residual)}


def read() -> Mapping[str, NDArray[np.float64]]:
    """Return the stored arrays by the run and the letter, such as "mahout auto q=0 V"."""
    with np.load(STORED) as arrays:
        return dict(arrays)


def write() -> None:
    """Write the factors of the present build."""
    import pyspark

    with running_spark():
        arrays = {f"{run} {name}": values for run in RUNS for name, values in computed(run).items()}
    np.savez_compressed(STORED, build=np.array(f"pyspark {pyspark.__version__}"), **arrays)


if __name__ == "__main__":
    write()
