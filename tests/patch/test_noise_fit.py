"""The blind noise estimate, against noise of known standard deviation and correlation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ctbasis.errors import CtbasisError
from ctbasis.patch.noise import Noise
from ctbasis.patch.noise_fit import fit_noise
from ctbasis.patch.volume import ArrayVolume
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.projection import ParallelBeam
from tests.patch.volumes import body, constant_noise, errors_of_blind_denoising, sigma_errors, white_noise


@pytest.mark.parametrize(
    ("photons", "soft"),
    [
        (1e4, False),
        (2e4, False),
        (6e4, False),
        (1e4, True),
        (2e4, True),
        (6e4, True),
    ],
)
def test_sigma_is_accurate_to_ten_percent_in_body_and_fifteen_in_lung(photons: float, soft: bool) -> None:
    edge = 256
    truth = body(edge, 12)
    beam = ParallelBeam.around((edge, edge), (1.4, 1.4), 200)
    added = np.moveaxis(image_noise(np.moveaxis(truth, -1, 0), beam, Dose(photons)), 0, -1)
    if soft:
        added = gaussian_filter(added, (0.8, 0.8, 0))
    volume = ArrayVolume(np.maximum(truth + added, -1000), (1.4, 1.4, 2.5))
    sigma = fit_noise(volume).sigma_rows(0, edge, edge)
    # Apart from the vessels, all slices of the phantom are equal. Their mean square estimates the variance.
    true = np.sqrt(gaussian_filter((added**2).mean(axis=2), 3.0))[..., None]
    in_body, in_lung = sigma_errors(sigma, true, truth)
    assert in_body < 0.10
    assert in_lung < 0.15


def test_padding_around_the_field_of_view_does_not_affect_the_estimate() -> None:
    truth = body()
    y, x = np.mgrid[:128, :128] - 63.5
    outside = y**2 + x**2 > 48**2
    hu = truth + white_noise(truth.shape)
    hu[outside] = truth[outside] = -2048.0
    before, after, noise = errors_of_blind_denoising(truth, hu)
    assert after < 0.8 * before
    sigma = noise.sigma_rows(0, 128, 128)[truth > -300]
    assert 0.85 * 30 < np.median(sigma) < 1.15 * 30


def test_invalid_values_of_sigma_are_replaced_by_the_nearest_valid_cell() -> None:
    sigma = np.full((4, 4, 2), 30.0, np.float32)
    sigma[0, 0], sigma[1, 1], sigma[2, 2] = np.nan, 0.0, -np.inf
    noise = Noise(sigma, constant_noise((32, 32, 2), 30.0).covariance, 10)
    np.testing.assert_array_equal(noise.sigma, np.full((4, 4, 2), 30.0))
    with pytest.raises(CtbasisError):
        Noise(np.zeros((4, 4, 2), np.float32), noise.covariance, 10)


def test_sigma_of_correlated_slices_is_accurate_to_a_fifth() -> None:
    truth = body(192, 16)
    kernel = np.array([0.25, 0.5, 0.25]) / np.sqrt(0.375)
    noise = np.apply_along_axis(np.convolve, 2, white_noise((192, 192, 18)), kernel, "valid")
    estimate = fit_noise(ArrayVolume(truth + noise, (1.4, 1.4, 1.0)))
    ratio = np.median(estimate.sigma_rows(0, 192, 192)[truth > -300]) / 30.0
    assert 0.8 < ratio < 1.2
    assert abs(estimate.covariance[4, 4, 3] - 2 / 3) < 0.15


@pytest.mark.parametrize("pixel", [0.7, 1.4])
def test_discs_that_begin_and_end_between_slices_do_not_raise_sigma(pixel: float) -> None:
    """Their ends differ from the neighbouring slices, and hardly any cell is free of them."""
    edge, slices, sigma = 256, 33, 25.0
    y, x, z = np.mgrid[:edge, :edge, :slices]
    truth = np.where((y - 128) ** 2 + (x - 128) ** 2 < 110**2, 40.0, -1000.0).astype(np.float32)
    places = range(40, 230, 22)
    for number, (row, column) in enumerate(product(places, places)):
        first = 5 * number % 11
        inside = ((y - row) ** 2 + (x - column) ** 2 < 4**2) & ((z - first) % 11 < 8) & (truth > 0)
        truth[inside] += (120.0, 340.0, 950.0)[number % 3]
    truth = gaussian_filter(truth, (0.6, 0.6, 0))
    added = gaussian_filter(np.random.default_rng(2).normal(size=truth.shape), (0.7, 0.7, 0))
    volume = ArrayVolume(np.asarray(truth + sigma / added.std() * added, np.float32), (pixel, pixel, 2.5))
    assert fit_noise(volume, target_noise=0.0).soft_tissue_sigma == pytest.approx(sigma, rel=0.15)
