"""The one pass over A and U, against the same sums and images by plain NumPy."""

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
def found(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Survey:
    monkeypatch.setattr(store_module, "COLUMN_CHUNK", request.param)
    stores = request.getfixturevalue("stores")
    return survey(stores.matrix, stores.basis, RANKS, stores.truth)


def test_the_energy_is_the_squared_norm_of_the_matrix(found: Survey, stores: Any) -> None:
    assert found.energy == pytest.approx(np.linalg.norm(stores.A) ** 2, rel=1e-9)


@pytest.mark.parametrize("k", RANKS)
def test_the_removed_energy_is_the_squared_norm_of_what_rank_k_leaves(found: Survey, stores: Any, k: int) -> None:
    left = stores.A - rank_k(stores.A, k)
    assert found.removed[k].energy == pytest.approx(np.linalg.norm(left) ** 2, rel=1e-4)
    assert found.removed[k].std == pytest.approx(np.std(left[stores.A > TISSUE]), rel=1e-4)


def test_more_rank_removes_less(found: Survey) -> None:
    energies = [found.removed[k].energy for k in RANKS]
    assert energies == sorted(energies, reverse=True)


@pytest.mark.parametrize("k", RANKS)
def test_the_images_are_columns_of_the_matrices(found: Survey, stores: Any, k: int) -> None:
    def images(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        return matrix[:, found.columns].T.reshape(-1, *stores.matrix.image)

    np.testing.assert_allclose(found.original, images(stores.A), rtol=1e-6)
    np.testing.assert_allclose(found.approximations[k], images(rank_k(stores.A, k)), atol=0.01)
    assert found.truth is not None
    np.testing.assert_allclose(found.truth, images(stores.T), rtol=1e-5, atol=1e-3)


def test_the_basis_images_are_columns_of_u(found: Survey, stores: Any) -> None:
    for index, image in enumerate(found.basis):
        np.testing.assert_array_equal(image, stores.basis.read_basis_image(index))


def test_without_ranks_to_compute_or_truth_the_pass_still_gives_originals_and_basis(stores: Any) -> None:
    found = survey(stores.matrix, stores.basis, [])
    assert found.truth is None
    assert found.removed == {}
    assert len(found.basis) >= 1
    assert found.original.shape == (12, 48, 40)


@given(st.integers(1, 400_000))
def test_sampled_columns_are_distinct_and_even_over_any_number_of_slices(n: int) -> None:
    columns = sampled_columns(n)
    assert len(columns) == min(SAMPLED, n)
    assert columns[0] >= 0
    assert columns[-1] < n
    if n > 1:
        steps = np.diff(columns)
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1


def test_the_representative_slice_is_the_one_with_most_lung(found: Survey) -> None:
    found.original[...] = 40
    found.original[7, 10:30, 5:35] = -800
    found.original[2, 10:20, 5:35] = -800
    assert found.representative == 7


def test_without_lung_the_representative_slice_is_in_the_middle(found: Survey) -> None:
    found.original[...] = 40
    assert found.representative in (5, 6)


def test_noisy_air_is_not_taken_for_lung() -> None:
    noise = np.random.default_rng(0).normal(0, 100, (128, 128))
    assert lung_share(np.maximum(-1000 + noise, -1000)) < 0.01
    assert lung_share(-800 + noise) > 0.95
