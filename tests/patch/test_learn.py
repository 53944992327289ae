"""Learning, whitening and storing a patch basis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.patch.basis import PatchBasis, whitening
from ctbasis.patch.learn import PATCHES_PER_VOXEL, learn_basis
from ctbasis.patch.volume import ArrayVolume
from tests.patch.volumes import SHAPE, body, constant_noise, denoise_volume, white_noise

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def truth() -> NDArray[np.float32]:
    return body()


@pytest.fixture(scope="module")
def noisy(truth: NDArray[np.float32]) -> ArrayVolume:
    return ArrayVolume(truth + white_noise(truth.shape), (1.4, 1.4, 2.5))


@pytest.fixture(scope="module")
def basis(noisy: ArrayVolume) -> PatchBasis:
    return learn_basis(noisy, constant_noise(noisy.shape, 30.0), shape=SHAPE, classes=8)


def test_a_short_series_gets_fewer_classes() -> None:
    volume = ArrayVolume(body(64, 10))
    few = learn_basis(volume, constant_noise(volume.shape, 30.0), shape=SHAPE, classes=64)
    assert 1 < few.classes <= 60 * 60 * 8 / (PATCHES_PER_VOXEL * 75)


def test_a_basis_gives_the_same_result_after_it_was_stored(
    tmp_path: object, basis: PatchBasis, noisy: ArrayVolume
) -> None:
    uri = f"{tmp_path}/basis.zarr"
    basis.save(uri)
    again = PatchBasis.open(uri)
    noise = constant_noise(noisy.shape, 30.0)
    np.testing.assert_array_equal(denoise_volume(noisy, noise, again), denoise_volume(noisy, noise, basis))
    assert again.provenance == basis.provenance


def test_basis_vectors_are_orthonormal_and_whitening_gives_unit_covariance(basis: PatchBasis) -> None:
    (texture,) = basis.textures
    for vectors in texture.vectors:
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(vectors)), atol=1e-4)
    rng = np.random.default_rng(0)
    root = rng.normal(size=(20, 20))
    covariance = root @ root.T + 3 * np.eye(20)
    W, back = whitening(covariance)
    np.testing.assert_allclose(W @ covariance @ W, np.eye(20), atol=1e-8)
    np.testing.assert_allclose(W @ back, np.eye(20), atol=1e-8)


@pytest.mark.parametrize("rows", [97, 98, 99, 100])
def test_learning_works_when_the_last_slab_is_too_low_for_a_patch(rows: int) -> None:
    volume = ArrayVolume(body(100)[:rows] + white_noise((rows, 100, 12)), (1.4, 1.4, 2.5))
    noise = constant_noise(volume.shape, 30.0)
    learned = learn_basis(volume, noise, shape=SHAPE, classes=4)
    assert sum(learned.provenance["patches"]) > 0
    assert denoise_volume(volume, noise, learned).shape == volume.shape
