"""The pass over A and U, against sums and images computed by NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctbasis.matrix import store as store_module
from ctbasis.report.quality import TISSUE
from ctbasis.report.survey import SAMPLED, Survey, lung_share, sampled_columns, survey

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANKS = (1, 3, 6)


def rank_k(A: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    product: NDArray[np.float64] = (U[:, :k] * s[:k]) @ Vt[:k]
    return product


@pytest.fixture(params=[128, 5])
def data(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Survey:
    monkeypatch.setattr(store_module, "COLUMN_CHUNK", request.param)
    stores = request.getfixturevalue("stores")
    return survey(stores.matrix, stores.basis, RANKS, stores.truth)


def test_the_energy_is_the_squared_norm_of_the_matrix(data: Survey, stores: Any) -> None:
    assert data.energy == pytest.approx(np.linalg.norm(stores.A) ** 2, rel=1e-9)


@pytest.mark.parametrize("k", RANKS)
def test_the_removed_energy_is_the_squared_norm_of_the_remainder_of_rank_k(data: Survey, stores: Any, k: int) -> None:
    removed = stores.A - rank_k(stores.A, k)
    assert data.removed[k].energy == pytest.approx(np.linalg.norm(removed) ** 2, rel=1e-4)
    assert data.removed[k].std == pytest.approx(np.std(removed[stores.A > TISSUE]), rel=1e-4)


def test_a_larger_rank_removes_less(data: Survey) -> None:
    energies = [data.removed[k].energy for k in RANKS]
    assert energies == sorted(energies, reverse=True)


@pytest.mark.parametrize("k", RANKS)
def test_the_images_are_columns_of_the_matrices(data: Survey, stores: Any, k: int) -> None:
    def images(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        return matrix[:, data.columns].T.reshape(-1, *stores.matrix.image)

    np.testing.assert_allclose(data.original, images(stores.A), rtol=1e-6)
    np.testing.assert_allclose(data.approximations[k], images(rank_k(stores.A, k)), atol=0.01)
    assert data.truth is not None
    np.testing.assert_allclose(data.truth, images(stores.T), rtol=1e-5, atol=1e-3)


def test_the_basis_images_are_columns_of_u(data: Survey, stores: Any) -> None:
    for index, image in enumerate(data.basis):
        np.testing.assert_array_equal(image, stores.basis.read_basis_image(index))


def test_without_ranks_and_truth_the_pass_gives_originals_and_basis_images(stores: Any) -> None:
    data = survey(stores.matrix, stores.basis, [])
    assert data.truth is None
    assert data.removed == {}
    assert len(data.basis) >= 1
    assert data.original.shape == (12, 48, 40)


@given(st.integers(1, 400_000))
def test_sampled_columns_are_distinct_and_evenly_spaced_for_any_number_of_slices(n: int) -> None:
    columns = sampled_columns(n)
    assert len(columns) == min(SAMPLED, n)
    assert columns[0] >= 0
    assert columns[-1] < n
    if n > 1:
        steps = np.diff(columns)
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1


def test_the_representative_slice_is_the_one_with_the_most_lung(data: Survey) -> None:
    data.original[...] = 40
    data.original[7, 10:30, 5:35] = -800
    data.original[2, 10:20, 5:35] = -800
    assert data.representative == 7


def test_without_lung_the_representative_slice_is_in_the_middle(data: Survey) -> None:
    data.original[...] = 40
    assert data.representative in (5, 6)


def test_noisy_air_does_not_count_as_lung() -> None:
    noise = np.random.default_rng(0).normal(0, 100, (128, 128))
    assert lung_share(np.maximum(-1000 + noise, -1000)) < 0.01
    assert lung_share(-800 + noise) > 0.95
