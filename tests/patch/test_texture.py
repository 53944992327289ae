"""Noise textures: their fit, and their use in whitening and denoising, against simulated noise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ctbasis.patch.basis import PatchBasis, whitening
from ctbasis.patch.denoise import denoise
from ctbasis.patch.learn import learn_basis
from ctbasis.patch.noise import CELL, Noise
from ctbasis.patch.noise_fit import fit_noise
from ctbasis.patch.ray_paths import DIRECTIONS, RayPaths, ScanModel
from ctbasis.patch.sampling import ClassRows, PatchSampler
from ctbasis.patch.volume import ArrayVolume, Slab
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.projection import ParallelBeam

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

EDGE, SLICES, PIXEL = 192, 12, 1.8
SHAPE = (5, 5, 3)


def oval() -> NDArray[np.float32]:
    """Return an ellipse of water in air, twice as wide as high, HU, (rows, columns, slices)."""
    y, x, _ = np.mgrid[:EDGE, :EDGE, :SLICES] - (EDGE - 1) / 2
    hu = np.where((y / 0.22) ** 2 + (x / 0.44) ** 2 < EDGE**2, 0.0, -1000.0).astype(np.float32)
    return gaussian_filter(hu, (0.7, 0.7, 0.0))


@pytest.fixture(scope="module")
def added() -> NDArray[np.float32]:
    """Return low-dose noise, HU: streaks along the wide axis."""
    beam = ParallelBeam.around((EDGE, EDGE), (PIXEL, PIXEL), 240)
    return np.moveaxis(image_noise(np.moveaxis(oval(), -1, 0), beam, Dose(1e4)), 0, -1)


@pytest.fixture(scope="module")
def noisy(added: NDArray[np.float32]) -> ArrayVolume:
    return ArrayVolume(np.maximum(oval() + added, -1000), (PIXEL, PIXEL, 2.5))


@pytest.fixture(scope="module")
def noise(noisy: ArrayVolume) -> Noise:
    return fit_noise(noisy, reach=(4, 4, 2), target_noise=0.0)


@pytest.fixture(scope="module")
def basis(noisy: ArrayVolume, noise: Noise) -> PatchBasis:
    return learn_basis(noisy, noise, shape=SHAPE, classes=2)


def test_the_noise_floor_is_separated_from_quantum_noise_and_kept_up_to_twice_the_target(
    added: NDArray[np.float32], noisy: ArrayVolume, noise: Noise
) -> None:
    assert fit_noise(noisy, target_noise=1000.0).noise_floor < 0.1
    assert noise.noise_floor == 0
    rng = np.random.default_rng(5)
    # Aliasing makes a part of the quantum noise flat, so the flat noise is as strong as the quantum noise of its place.
    flat = (0.7 * noise.sigma_rows(0, EDGE, EDGE) * rng.normal(size=noisy.shape)).astype(np.float32)
    both = ArrayVolume(np.maximum(oval() + added + flat, -1000), noisy.spacing)
    # 0.7^2 / (1 + 0.7^2)
    share = fit_noise(both, target_noise=1000.0)
    assert share.noise_floor == pytest.approx(0.33, abs=0.08)
    np.testing.assert_allclose(share.texture_covariances[:, 4, 4, 2], 1 - share.noise_floor, atol=0.03)
    # The removed noise is correlated like quantum noise alone.
    assert (
        np.abs(
            share.texture_covariances[:, 4, 5, 2] / (1 - share.noise_floor) - noise.texture_covariances[:, 4, 5, 2]
        ).mean()
        < 0.1
    )
    less = fit_noise(both, target_noise=share.soft_tissue_sigma / 8)
    assert less.noise_floor == pytest.approx(1 / 16)
    np.testing.assert_allclose(less.texture_covariances[:, 4, 4, 2], 15 / 16, atol=0.01)


def test_rays_along_the_wide_axis_of_a_body_are_the_noisiest_in_its_middle() -> None:
    cells = oval().reshape(EDGE // CELL, CELL, EDGE // CELL, CELL, SLICES).mean(axis=(1, 3))
    paths = RayPaths(cells, (CELL * PIXEL, CELL * PIXEL))
    for share in (0.0, 1.0):
        variances = paths.variances_by_direction(share, ScanModel())
        # The sum over all directions is the variance of the cell.
        np.testing.assert_allclose(variances.sum(axis=0), paths.variances(ScanModel())[int(share)], rtol=1e-3)
        middle = variances[:, EDGE // CELL // 2, EDGE // CELL // 2, 0]
        # Half of all views later, the detector lies along the row index and the rays along the wide axis.
        assert int(np.argmax(middle)) == DIRECTIONS // 2
        assert middle.max() > 5 * middle.min()


def test_every_texture_has_the_correlation_of_the_noise_in_its_cells(added: NDArray[np.float32], noise: Noise) -> None:
    body = oval() > -100
    where = noise.texture_rows(0, EDGE, EDGE)
    assert len(noise.texture_covariances) > 2
    checked = 0
    for number, texture in enumerate(noise.texture_covariances):
        own = (where == number) & body
        if own.sum() < 5000:
            continue
        checked += 1
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0)):
            shifted = np.roll(added, (-dy, -dx), (0, 1))
            true = float((added * shifted)[own].mean() / np.square(added[own]).mean())
            assert texture[4 + dy, 4 + dx, 2] == pytest.approx(true, abs=0.15)
    assert checked > 2


def test_noise_without_a_preferred_direction_has_nearly_equal_textures() -> None:
    rng = np.random.default_rng(3)
    white = gaussian_filter(rng.normal(0, 60, (EDGE, EDGE, SLICES)), (0.7, 0.7, 0)).astype(np.float32)
    estimate = fit_noise(ArrayVolume(oval() + white, (PIXEL, PIXEL, 2.5)))
    plane = estimate.texture_covariances[..., 2]
    assert np.ptp(plane, axis=0).max() < 0.2


def test_whitened_patches_of_noise_are_white_in_every_texture(
    added: NDArray[np.float32], noise: Noise, basis: PatchBasis
) -> None:
    drawn = PatchSampler(noise, SHAPE, 0.3, 0, tuple(range(len(noise.texture_covariances))))
    # A volume of noise without anatomy, from the region of the body.
    inside = ArrayVolume(added[64:128, 32:160].copy())
    there = replace(noise, sigma=noise.sigma[8:16, 4:20], texture_map=noise.texture_map[8:16, 4:20])
    rows = ClassRows(
        replace(drawn, noise=there),
        tuple(whitening(texture.covariance)[0].astype(np.float32) for texture in basis.textures),
        tuple(texture.lead for texture in basis.textures),
        tuple(texture.classes for texture in basis.textures),
    )
    white = [part for _, part in rows(inside, Slab(0, 64, 0, 64))]
    variance = np.concatenate(white).var()
    assert 0.8 < variance < 1.3
    plain, _ = whitening(noise.patch_covariance(SHAPE))
    flat, _ = replace(drawn, noise=there)(inside, Slab(0, 64, 0, 64))

    def spread(white: NDArray[np.float32]) -> float:
        values = np.linalg.eigvalsh(np.cov(white.T))
        return float(values[-1] / np.median(values))

    # With one covariance for all places, streaks have large variances, as anatomy would.
    assert spread(np.concatenate(white)) < 0.8 * spread(flat @ plain)


def test_textures_remove_streaks_that_a_single_covariance_leaves(
    added: NDArray[np.float32], noisy: ArrayVolume, noise: Noise, basis: PatchBasis
) -> None:
    body = oval() > -100
    one = replace(noise, texture_covariances=np.empty(0), texture_map=np.empty(0, np.uint8))
    assert len(one.texture_covariances) == 1
    plain = learn_basis(noisy, one, shape=SHAPE, classes=4)

    def left(by: Noise, on: PatchBasis) -> tuple[float, float]:
        error = np.concatenate([hu for _, hu in denoise(noisy, by, on, target_noise=0.0)]) - oval()
        # Streaks lie along the rows, so they change from row to row.
        across = error - np.roll(error, 1, axis=0)
        return float(np.sqrt(np.square(error)[body].mean())), float(np.sqrt(np.square(across)[body].mean()))

    (error, streaks), (plain_error, plain_streaks) = left(noise, basis), left(one, plain)
    assert streaks < 0.75 * plain_streaks
    assert error < plain_error
    # Of uniform tissue, the low-pass filter restores nothing but noise.
    assert error < 0.2 * added[body].std()


def test_a_basis_with_textures_is_read_as_it_was_written_and_textures_are_matched(
    noise: Noise, basis: PatchBasis, tmp_path: Path
) -> None:
    basis.save(f"{tmp_path}/basis")
    again = PatchBasis.open(f"{tmp_path}/basis")
    assert again.classes == basis.classes
    for one, other in zip(again.textures, basis.textures, strict=True):
        np.testing.assert_array_equal(one.vectors, other.vectors)
        np.testing.assert_array_equal(one.classes.forms, other.classes.forms)
    np.testing.assert_array_equal(again.match_textures(noise), np.arange(len(noise.texture_covariances)))
    reversed_noise = replace(noise, texture_covariances=noise.texture_covariances[::-1])
    np.testing.assert_array_equal(again.match_textures(reversed_noise), np.arange(len(noise.texture_covariances))[::-1])
