"""The engine numpy gives the exact SVD for every spectrum, including small singular values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctbasis.errors import CtbasisError
from ctbasis.svd.engines.numpy import factorize
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.plan import plan_factorization
from tests.svd.factoring import with_spectrum

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.matrix.store import MatrixStore

    StoreMatrix = Callable[..., MatrixStore]

EPS = float(np.finfo(np.float64).eps)


def factored(matrix: MatrixStore, rank: int, uri: Path) -> FactorStore:
    """Factor `matrix` at `rank` and open the factors."""
    plan = plan_factorization(
        engine="numpy", rows=matrix.rows, cols=matrix.cols, rank=rank, oversample=0, power_iters=0, seed=None
    )
    writer = FactorWriter.create(str(uri), matrix, rank=plan.rank, dtype=np.float64)
    spectrum = factorize(matrix, writer, plan)
    writer.finish(s=spectrum.s, V=spectrum.V, plan=plan, matrix=matrix)
    return FactorStore.open(str(uri))


def whole_U(factors: FactorStore) -> NDArray[Any]:  # noqa: N802 - U is the matrix's name
    """Return U, (m, k)."""
    return np.vstack([factors.read_block(index) for index in range(factors.block_count)])


SPECTRA = {
    "slowly decaying": 1e5 / np.arange(1, 31),
    "fast decaying": 1e5 * np.exp(-np.arange(30.0)),
    "rank 4 of 30": np.concatenate([[400.0, 300, 200, 100], np.zeros(26)]),
    "equal": np.full(30, 7.0),
    "one column": np.array([3.0]),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_singular_values_are_accurate_to_machine_precision_relative_to_the_largest(
    name: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    s = SPECTRA[name]
    factors = factored(store_matrix(with_spectrum(1100, s)), len(s), tmp_path / "f.zarr")
    np.testing.assert_allclose(factors.s, s, atol=100 * EPS * s[0])


@pytest.mark.parametrize("name", SPECTRA)
def test_both_bases_are_orthonormal_even_if_the_matrix_is_rank_deficient(
    name: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    s = SPECTRA[name]
    factors = factored(store_matrix(with_spectrum(1100, s)), len(s), tmp_path / "f.zarr")
    U, identity = whole_U(factors), np.eye(len(s))
    np.testing.assert_allclose(U.T @ U, identity, atol=1e-13)
    np.testing.assert_allclose(factors.V.T @ factors.V, identity, atol=1e-13)


@pytest.mark.parametrize("rank", [1, 5, 29, 30])
def test_the_residual_at_rank_k_is_optimal(rank: int, store_matrix: StoreMatrix, tmp_path: Path) -> None:
    s = SPECTRA["slowly decaying"]
    A = with_spectrum(1100, s)
    factors = factored(store_matrix(A), rank, tmp_path / "f.zarr")
    residual = np.linalg.norm(A - whole_U(factors) @ factors.weights.T)
    assert residual == pytest.approx(np.sqrt((s[rank:] ** 2).sum()), abs=1e-9 * s[0])


def test_the_largest_entry_of_each_right_singular_vector_is_positive(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    A = with_spectrum(700, SPECTRA["slowly decaying"])
    factors = factored(store_matrix(A), 5, tmp_path / "f.zarr")
    largest = np.abs(factors.V).argmax(axis=0)
    assert (factors.V[largest, range(5)] > 0).all()


def test_an_int16_matrix_with_a_shorter_last_block_is_the_product_of_its_factors(
    store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    A = rng.integers(-1000, 3000, (65536 + 300, 7), dtype=np.int16)
    matrix = store_matrix(A)
    assert matrix.block_count == 2
    factors = factored(matrix, 7, tmp_path / "f.zarr")
    np.testing.assert_allclose(whole_U(factors) @ factors.weights.T, A, atol=1e-8)


def test_infinity_is_an_error(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    A = np.ones((600, 3))
    A[7, 1] = np.inf
    with pytest.raises(CtbasisError, match="NaN or Inf in rows 0 to 600"):
        factored(store_matrix(A), 2, tmp_path / "f.zarr")
