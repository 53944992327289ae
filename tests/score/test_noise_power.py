"""The noise power spectrum of noise with a known spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ctbasis.score.noise_power import NoisePower

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPACING = (0.7, 0.7)
NYQUIST = 0.5 / 0.7
SIGMA = 20.0


def white(slices: int = 6, edge: int = 256) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(0, SIGMA, (slices, edge, edge))


def measured(volume: NDArray[np.float64], spacing: tuple[float, float] = SPACING) -> NoisePower:
    power = NoisePower(spacing)
    for image in volume:
        power.add(image, np.ones(image.shape, np.bool_))
    return power


def test_white_noise_has_a_flat_spectrum_and_its_mean_frequency_is_half_the_nyquist_frequency() -> None:
    power = measured(white())
    f, radial = power.radial()
    np.testing.assert_allclose(radial, SIGMA**2 * 0.7 * 0.7, rtol=0.06)
    assert power.mean_frequency == pytest.approx(f.mean(), rel=0.01)
    assert power.mean_frequency == pytest.approx(NYQUIST / 2, rel=0.02)
    assert power.std == pytest.approx(SIGMA, rel=0.01)
    assert power.squares == 6 * 15 * 15


def test_the_integral_of_the_spectrum_is_the_variance() -> None:
    power = measured(white(2))
    df = 1 / (power.edge * 0.7)
    assert power.spectrum.sum() * df * df == pytest.approx(SIGMA**2 * (1 - 1 / power.edge**2), rel=0.02)


@pytest.mark.parametrize("pixels", [0.9, 1.2])
def test_blurred_noise_has_the_spectrum_and_mean_frequency_of_the_gaussian(pixels: float) -> None:
    power = measured(gaussian_filter(white(), (0, pixels, pixels)))
    f, radial = power.radial()
    theory = SIGMA**2 * 0.49 * np.exp(-((2 * np.pi * pixels * 0.7 * f) ** 2))
    strong = (theory > 0.05 * theory.max()) & (f < 0.6 * NYQUIST)
    np.testing.assert_allclose(radial[strong], theory[strong], rtol=0.12)
    assert power.mean_frequency == pytest.approx(
        (f * theory).sum() / theory.sum(), rel=0.06
    )  # the rims of the squares leak


@pytest.mark.parametrize("peak", [0.2, 0.35])
def test_the_peak_frequency_is_that_of_a_spectrum_with_one_maximum(peak: float) -> None:
    # f exp(-f^2 / (2 peak^2)), the shape of filtered back-projection, has its maximum at `peak`.
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(256, 0.7), np.fft.fftfreq(256, 0.7)))
    amplitude = np.sqrt(f * np.exp(-((f / peak) ** 2) / 2))
    noise = np.fft.ifft2(np.fft.fft2(white(), axes=(1, 2)) * amplitude, axes=(1, 2)).real
    assert measured(noise).peak_frequency == pytest.approx(peak, abs=1 / (32 * 0.7))


def test_frequencies_are_per_mm_for_every_pixel_size() -> None:
    fine, coarse = measured(white(2)), measured(white(2), (1.4, 1.4))
    assert (fine.edge, coarse.edge) == (32, 16)
    for power, pixel in ((fine, 0.7), (coarse, 1.4)):
        assert power.mean_frequency == pytest.approx(0.25 / pixel, rel=0.03)
    long = measured(white(2), (0.7, 1.4))
    assert long.radial()[0][-1] < 0.5 / 1.4


def test_only_squares_within_the_region_are_counted() -> None:
    noise, region = white(1)[0], np.zeros((256, 256), np.bool_)
    region[:, :128] = True
    noise[:, 128:] *= 10
    power = NoisePower(SPACING)
    power.add(noise, region)
    assert power.std == pytest.approx(SIGMA, rel=0.02)
    assert power.squares == 15 * 7


def test_without_a_square_there_is_no_result() -> None:
    power = NoisePower(SPACING)
    power.add(np.zeros((16, 16)), np.ones((16, 16), np.bool_))
    power.add(white(1)[0], np.zeros((256, 256), np.bool_))
    assert (power.squares, power.std, power.mean_frequency, power.peak_frequency) == (0, None, None, None)
    assert set(power.to_dict()) == {"squares", "std", "mean_frequency", "peak_frequency", "frequencies", "power"}
