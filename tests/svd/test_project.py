"""The factors of a projection onto another basis, and the report of what the projection leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctbasis.errors import CtbasisError
from ctbasis.parameters import SvdPlan
from ctbasis.steps.svd import factorize, noise_norm
from ctbasis.svd.factors import FactorStore
from ctbasis.svd.project import project_matrix

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.matrix.store import MatrixStore

    StoreMatrix = Callable[..., MatrixStore]


def chest(columns: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    patterns = np.linalg.qr(np.random.default_rng(0).standard_normal((600, 6)))[0]
    weights = rng.standard_normal((6, columns)) * np.array([[4000], [900], [600], [400], [300], [200]])
    return np.asarray(patterns @ weights + rng.normal(0, 3, (600, columns)), np.float32)


@pytest.fixture
def basis(store_matrix: StoreMatrix, tmp_path: Path) -> FactorStore:
    matrix = store_matrix(chest(12, 1), name="first.zarr")
    factorize(matrix.uri, str(tmp_path / "basis.zarr"), SvdPlan.of(rank="6", ranks="6", engine="numpy"))
    return FactorStore.open(str(tmp_path / "basis.zarr"))


def dense(factors: FactorStore) -> NDArray[Any]:
    U = np.concatenate([factors.read_block(index) for index in range(factors.block_count)])
    return np.asarray(U.astype(np.float64) @ factors.weights.T)


def test_the_factors_are_those_of_the_orthogonal_projection(
    basis: FactorStore, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    A = chest(9, 2)
    factors = project_matrix(store_matrix(A), basis, str(tmp_path / "projected.zarr"), rank=6, noise_norm=noise_norm)
    U = np.concatenate([basis.read_block(index) for index in range(basis.block_count)]).astype(np.float64)
    projected = U @ (U.T @ A)
    np.testing.assert_allclose(dense(factors), projected, atol=0.01)
    np.testing.assert_allclose(factors.s, np.linalg.svd(projected, compute_uv=False)[:6], rtol=1e-5)
    np.testing.assert_allclose(factors.V.T @ factors.V, np.eye(6), atol=1e-6)
    lost = np.linalg.norm(A - projected) / np.linalg.norm(A)
    assert factors.projection["lost"] == pytest.approx(lost, rel=1e-3)
    assert factors.accuracy["residual"] / factors.accuracy["norm"] == pytest.approx(lost, rel=1e-3)


def test_projecting_the_basis_own_slices_leaves_out_what_their_factorization_left_out(
    basis: FactorStore, tmp_path: Path
) -> None:
    plan = SvdPlan.of(basis=basis.uri, rank="50", ranks="2", engine="numpy")
    outcome = factorize(str(tmp_path / "first.zarr"), str(tmp_path / "again.zarr"), plan)
    again = FactorStore.open(str(tmp_path / "again.zarr"))
    assert outcome.rank == 6
    assert again.projection["lost"] == pytest.approx(again.projection["own"], rel=1e-3)
    np.testing.assert_allclose(again.s, basis.s, rtol=1e-5)


def test_images_of_another_size_are_an_error(basis: FactorStore, store_matrix: StoreMatrix, tmp_path: Path) -> None:
    other = store_matrix(chest(9, 2)[:500], name="smaller.zarr")
    with pytest.raises(CtbasisError, match="of images of 600 x 1, the series of 500 x 1"):
        project_matrix(other, basis, str(tmp_path / "projected.zarr"), rank=6, noise_norm=noise_norm)
