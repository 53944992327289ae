"""The noise model holds no anatomy: soft tissue with structure of its own, in the quiet cells too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.patch.noise_fit import fit_noise
from ctbasis.patch.volume import ArrayVolume
from tests.patch.volumes import body

if TYPE_CHECKING:
    from numpy.typing import NDArray

EDGE, PIXEL, SIGMA = 320, 0.8, 30.0


def random_field(power: NDArray[np.float64], slices: int, seed: int) -> NDArray[np.float32]:
    """Return slices of Gaussian noise with a given power spectrum and variance 1, (rows, columns, slices)."""
    white = np.random.default_rng(seed).normal(size=(EDGE, EDGE, slices))
    field = np.fft.ifft2(np.fft.fft2(white, axes=(0, 1)) * np.sqrt(power)[..., None], axes=(0, 1)).real
    return np.asarray(field / field.std(), np.float32)


def patch_mean_ratio(covariance: NDArray[np.float64]) -> float:
    """Return the standard deviation of the mean of a patch over that of its voxels."""
    return float(np.sqrt(covariance.mean() / covariance[0, 0]))


@pytest.mark.parametrize("slices", [1, 10])
@pytest.mark.parametrize(("cutoff", "edge_enhancement"), [(0.45, 0.0), (0.6, 2.0)], ids=["smooth", "sharp"])
def test_the_covariance_is_that_of_the_noise_where_soft_tissue_has_structure(
    cutoff: float, edge_enhancement: float, slices: int
) -> None:
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(EDGE), np.fft.fftfreq(EDGE))) / np.hypot(0.5, 0.5)
    kernel = (1 + edge_enhancement * frequency**2) * np.exp(-((frequency / cutoff) ** 2))
    noise = SIGMA * random_field(frequency * kernel**2, slices, 0)
    structure = random_field(kernel**2 / np.maximum(frequency, 1 / EDGE) ** 3, 1, 1)
    truth = body(EDGE, slices)
    truth += 12 * structure * ((truth > -100) & (truth < 100))
    estimate = fit_noise(ArrayVolume(truth + noise, (PIXEL, PIXEL, 3.0)), reach=(4, 4, 0), target_noise=0.0)
    spectrum = np.fft.ifft2(frequency * kernel**2).real
    y, x = np.indices((5, 5)).reshape(2, -1)
    true = spectrum[y[:, None] - y, x[:, None] - x]
    found = estimate.patch_covariance((5, 5, 1))
    assert patch_mean_ratio(found) == pytest.approx(patch_mean_ratio(true), rel=0.15)
    assert estimate.soft_tissue_sigma == pytest.approx(SIGMA, rel=0.08)
