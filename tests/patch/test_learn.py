"""Learning, whitening and storing a patch basis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.patch.basis import PatchBasis, whitening
from ctbasis.patch.learn import PATCHES_PER_VOXEL, learn_basis
from ctbasis.patch.volume import ArrayVolume
from tests.patch.volumes import SHAPE, body, known, white_noise, whole

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
    return learn_basis(noisy, known(noisy.shape, 30.0), shape=SHAPE, classes=8)


def test_a_short_series_has_no_more_classes_than_patches_for_their_bases() -> None:
    volume = ArrayVolume(body(64, 10))
    few = learn_basis(volume, known(volume.shape, 30.0), shape=SHAPE, classes=64)
    assert 1 < few.classes <= 60 * 60 * 8 / (PATCHES_PER_VOXEL * 75)


def test_a_basis_is_what_it_was_when_it_is_read_again(tmp_path: object, basis: PatchBasis, noisy: ArrayVolume) -> None:
    uri = f"{tmp_path}/basis.zarr"
    basis.save(uri)
    again = PatchBasis.open(uri)
    noise = known(noisy.shape, 30.0)
    np.testing.assert_array_equal(whole(noisy, noise, again), whole(noisy, noise, basis))
    assert again.provenance == basis.provenance


def test_vectors_are_orthonormal_and_whitening_whitens(basis: PatchBasis) -> None:
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
def test_a_last_slab_without_a_place_for_a_patch_is_learned_from_as_any_other(rows: int) -> None:
    volume = ArrayVolume(body(100)[:rows] + white_noise((rows, 100, 12)), (1.4, 1.4, 2.5))
    noise = known(volume.shape, 30.0)
    learned = learn_basis(volume, noise, shape=SHAPE, classes=4)
    assert sum(learned.provenance["patches"]) > 0
    assert whole(volume, noise, learned).shape == volume.shape
