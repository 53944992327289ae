"""The noise power spectrum: patterns of covariance, and the fit of the fine band that predicts the coarse one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.patch.bands import Bands
from ctbasis.patch.ray_paths import DIRECTIONS
from ctbasis.patch.spectrum import NODES, correlation_patterns, fit_spectrum

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXEL, REACH = 0.8, (4, 4)
LAGS = [(dy, dx) for dy in range(5) for dx in range(-4, 5) if (dy, dx) >= (0, 0)]


def at_lags(values: NDArray[np.float64]) -> NDArray[np.float64]:
    y, x = np.array(LAGS).T
    return values[..., y + REACH[0], x + REACH[1]]


def test_a_flat_spectrum_is_white_noise_and_a_ramp_has_no_power_at_frequency_zero() -> None:
    patterns = correlation_patterns((0.7, 0.7), (20, 20)).sum(axis=0)
    assert patterns.shape == (NODES + 1, 41, 41)
    white = np.zeros((41, 41))
    white[20, 20] = 1.0
    np.testing.assert_allclose(patterns[-1], white, atol=0.01)
    # The sum of a covariance over all lags is the power at frequency zero, which the ramp filter removes.
    ramp = patterns[:-1].sum(axis=0)
    assert abs(ramp.sum()) < 0.1 * ramp[20, 20]


def test_noise_of_one_direction_varies_along_it_and_hardly_across_it() -> None:
    # The detectors of the first views lie along the column index, so their noise is the same from row to row.
    patterns = correlation_patterns((0.7, 0.7), REACH)[0]
    for first in (patterns[-1], patterns[:-1].sum(axis=0)):
        assert first[5, 4] > 0.8 * first[4, 4]
        assert first[4, 5] < 0.2 * first[4, 4]


def test_the_fine_band_is_what_the_filter_leaves() -> None:
    bands = Bands.of((0.8, 0.7))
    rng = np.random.default_rng(0)
    f = np.fft.fftfreq(400)
    ramp = np.sqrt(np.hypot(f[:, None], f[None]))
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(400, 400))) * ramp).real[..., None].astype(np.float32)
    fine, coarse = bands.fine_part(noise), bands.coarse_part(noise)
    power = np.abs(np.fft.fft2(noise[..., 0])) ** 2 * bands.fine_power(f[:, None], f[None])
    assert np.square(fine).mean() == pytest.approx(power.mean() / 400**2, rel=0.02)
    # The bands hardly share frequencies, so their noise is nearly independent.
    assert abs(np.corrcoef(fine.ravel(), coarse.ravel())[0, 1]) < 0.25
    assert np.square(bands.fine_part(rng.normal(size=(300, 300, 1)).astype(np.float32))).mean() == pytest.approx(
        bands.white_fraction, rel=0.02
    )


@pytest.mark.parametrize("cutoff", [0.35, 0.6, 1.0])
@pytest.mark.parametrize("edge_enhancement", [0.0, 2.0])
def test_the_coarse_end_of_the_spectrum_follows_from_the_fine_band(cutoff: float, edge_enhancement: float) -> None:
    # Ramp noise of a smooth or edge-enhancing kernel, with anatomy that the fine band hardly shows.
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256))) / np.hypot(0.5, 0.5)
    kernel = (1 + edge_enhancement * frequency**2) * np.exp(-((frequency / cutoff) ** 2))
    spectrum = np.fft.ifft2(frequency * kernel**2).real
    reach = np.arange(-4, 5)
    true = spectrum[np.ix_(reach, reach)] / spectrum[0, 0]
    bands = Bands.of((PIXEL, PIXEL))
    f = np.fft.fftfreq(256)
    seen = np.fft.ifft2(frequency * kernel**2 * bands.fine_power(f[:, None], f[None])).real / spectrum[0, 0]
    fine = at_lags(correlation_patterns((PIXEL, PIXEL), REACH, bands))
    fitted = fit_spectrum(np.ones((64, DIRECTIONS)), fine, np.tile(at_lags(seen[np.ix_(reach, reach)]), (64, 1)))
    covariance = fitted.covariances(np.ones((1, DIRECTIONS)), correlation_patterns((PIXEL, PIXEL), REACH))[0]
    assert covariance[4, 4] == pytest.approx(1.0, abs=0.05)
    triangle = np.outer(5 - np.abs(reach), 5 - np.abs(reach))
    ratio = np.sqrt((covariance * triangle).sum() / covariance[4, 4] / (true * triangle).sum())
    assert ratio == pytest.approx(1.0, abs=0.1)
