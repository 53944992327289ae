"""Synthetic volumes with known truth and known noise, and the ways in which the tests denoise them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from ctbasis.patch.denoise import denoise
from ctbasis.patch.learn import learn_basis
from ctbasis.patch.noise import Noise
from ctbasis.patch.noise_fit import fit_noise
from ctbasis.patch.rows import patch_shape
from ctbasis.patch.volume import ArrayVolume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.patch.basis import PatchBasis

SHAPE = (5, 5, 3)
"""Rows, columns and slices of a patch."""


def body(edge: int = 128, slices: int = 12) -> NDArray[np.float32]:
    """Return an ellipse of tissue with two lungs, a vessel in each, and a spine, HU, (rows, columns, slices)."""
    y, x, z = np.mgrid[0:edge, 0:edge, 0:slices].astype(np.float32)
    middle = edge / 2
    hu = np.full(y.shape, -1000.0, np.float32)
    hu[((y - middle) / 0.34) ** 2 + ((x - middle) / 0.44) ** 2 < edge**2] = 40.0
    for side in (-1, 1):
        lung = ((y - middle + 6) / 0.2) ** 2 + ((x - middle - side * 0.21 * edge) / 0.13) ** 2 < edge**2
        hu[lung] = -850.0
        vessel = (y - middle - 0.5 * z) ** 2 + (x - middle - side * (0.21 * edge + z)) ** 2 < 9
        hu[vessel] = 20.0
    hu[(y - 1.32 * middle) ** 2 + (x - middle) ** 2 < 36] = 400.0
    return gaussian_filter(hu, (0.7, 0.7, 0.0))


def white_noise(shape: tuple[int, ...], sigma: float = 30.0) -> NDArray[np.float32]:
    """Return white noise of standard deviation `sigma`, HU."""
    return np.random.default_rng(1).normal(0, sigma, shape).astype(np.float32)


def constant_noise(shape: tuple[int, int, int], sigma: float) -> Noise:
    """Return the description of white noise with the same `sigma` everywhere in a volume of `shape`."""
    covariance = np.zeros((9, 9, 5))
    covariance[4, 4, 2] = 1.0
    cells = (-(-shape[0] // 8), -(-shape[1] // 8), shape[2])
    return Noise(np.full(cells, sigma, np.float32), covariance, 1000)


def sigma_errors(sigma: NDArray[np.float32], true: NDArray[np.float32], hu: NDArray[np.float32]) -> tuple[float, float]:
    """Return the median of |sigma / true - 1| in body and lung."""
    error = np.abs(sigma / true - 1)
    return float(np.median(error[hu > -300])), float(np.median(error[(hu > -950) & (hu < -600)]))


def denoise_volume(volume: ArrayVolume, noise: Noise, basis: PatchBasis, **options: object) -> NDArray[np.float32]:
    """Return the denoised volume, all slabs together, HU."""
    return np.concatenate([hu for _, hu in denoise(volume, noise, basis, **options)])  # type: ignore[arg-type]


def denoise_blind(
    hu: NDArray[np.float32], spacing: tuple[float, float, float] = (1.4, 1.4, 2.5), **options: object
) -> tuple[NDArray[np.float32], Noise]:
    """Denoise with the noise and the basis of the volume itself; return the result and the estimated noise."""
    volume = ArrayVolume(hu, spacing)
    shape = patch_shape(volume.shape, volume.spacing)
    noise = fit_noise(volume, reach=(shape[0] - 1, shape[1] - 1, shape[2] - 1))
    return denoise_volume(volume, noise, learn_basis(volume, noise, shape=shape, classes=8), **options), noise


def errors_of_blind_denoising(
    truth: NDArray[np.float32], hu: NDArray[np.float32], **options: object
) -> tuple[float, float, Noise]:
    """Denoise blind; return the RMSE over the body before and after, HU, and the estimated noise."""
    clean, noise = denoise_blind(hu, **options)
    assert np.isfinite(clean).all()
    inside = (truth > -300) & (truth < 1000)
    before, after = ((image - truth)[inside] for image in (hu, clean))
    return float(np.sqrt(np.mean(before**2))), float(np.sqrt(np.mean(after**2))), noise
