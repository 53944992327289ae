"""The noise of a volume in memory, for notebooks: sigma at every voxel, and the correlation between voxels.

The estimate is that of `fit_noise` (ctbasis/patch/noise_fit.py), which the svd step uses too. `Noise` describes it on
cells of pixels with the axes of patches; `NoiseEstimate` describes it on voxels with the axes of a volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.matrix.read import load
from ctbasis.patch.noise_fit import fit_noise
from ctbasis.patch.rows import patch_shape, shape_without_breaks
from ctbasis.patch.volume import ArrayVolume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.matrix.read import ImageLike
    from ctbasis.patch.noise import Noise


@dataclass(frozen=True, eq=False)
class NoiseEstimate:
    """The noise of a CT volume, estimated from the volume alone.

    Attributes:
        sigma: Standard deviation at every voxel, HU, (slices, rows, columns) float32.
        soft_tissue: Median of sigma in soft tissue, HU.
        correlation: Correlation of the noise of two voxels by their distance, (2 rz + 1, 2 ry + 1, 2 rx + 1): element
            [rz + dz, ry + dy, rx + dx] belongs to voxels dz slices, dy rows and dx columns apart; 1 at distance 0.
        scanner: Properties of the scan that were fitted to the noise (bow-tie filter, tube current modulation,
            electronic noise), as text; empty if there was too little tissue for the fit.
        notes: Remarks for the user, such as that the volume holds too little tissue to measure noise.

    Examples:
        >>> import numpy as np, ctbasis
        >>> noise = ctbasis.NoiseEstimate(np.full((1, 8, 8), 20.0), 20.0, np.ones((1, 1, 1)))
        >>> noise.covariance[0, 0, 0]
        np.float64(400.0)
    """

    sigma: NDArray[np.float32]
    soft_tissue: float
    correlation: NDArray[np.float64]
    scanner: str = ""
    notes: tuple[str, ...] = ()

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Covariance of the noise in soft tissue, HU^2, with the axes of `correlation`."""
        return self.soft_tissue**2 * self.correlation

    def __repr__(self) -> str:
        return f"NoiseEstimate({self.soft_tissue:.1f} HU in soft tissue, {self.scanner or 'scanner unknown'})"


def estimate_noise(image: ImageLike, spacing: tuple[float, float, float] | None = None) -> NoiseEstimate:
    """Estimate the noise of a CT volume from the volume alone.

    The estimate is the one that patch mode denoises with. It assumes that the variance of the noise follows from the
    paths of the X-rays through the patient; docs/explanation/patch-mode.md describes the method and its limits.

    Args:
        image: A volume, an array of HU (slices, rows, columns), a DataArray, or the folder or URI of a series.
        spacing: Distance in mm between slices, rows and columns; an array needs it.

    Returns:
        The noise. Where there is too little tissue to measure it, sigma is 0.5 HU everywhere and a note says so.

    Raises:
        CtbasisError: `image` is no volume, or the series cannot be read.

    Examples:
        The noise that a simulated dose adds to a phantom without noise:

        >>> import ctbasis
        >>> phantom = ctbasis.chest_phantom(slices=6, rows=96, columns=96)
        >>> noisy = ctbasis.simulate_dose(phantom, photons=3e4)
        >>> noise = ctbasis.estimate_noise(noisy)
        >>> noise.sigma.shape
        (6, 96, 96)
        >>> added = (noisy.hu - phantom.hu)[abs(phantom.hu) < 100].std()
        >>> bool(abs(noise.soft_tissue / added - 1) < 0.2)
        True
    """
    volume = load(image, spacing)
    dz, dy, dx = volume.spacing
    stored = ArrayVolume(np.moveaxis(volume.clipped_hu(), 0, -1), (dy, dx, dz))
    rows, columns, slices = patch_shape(shape_without_breaks(stored.shape, stored.breaks), stored.spacing)
    return noise_estimate(fit_noise(stored, reach=(rows - 1, columns - 1, slices - 1)), volume.shape)


def noise_estimate(noise: Noise, shape: tuple[int, int, int]) -> NoiseEstimate:
    """Return the noise of a volume of `shape` (slices, rows, columns) with the axes of the volume."""
    _, rows, columns = shape
    return NoiseEstimate(
        sigma=np.ascontiguousarray(np.moveaxis(noise.sigma_rows(0, rows, columns), -1, 0)),
        soft_tissue=noise.soft_tissue_sigma,
        correlation=np.moveaxis(noise.covariance, -1, 0),
        scanner=noise.scanner,
        notes=noise.notes,
    )
