"""The noise of a volume in memory, for notebooks: sigma at every voxel, and the correlation between voxels.

The estimate is that of `fit_noise` (ctbasis/patch/noise_fit.py), which the svd step uses too. `Noise` describes it on
cells of pixels with the axes of patches; `NoiseEstimate` describes it on voxels with the axes of a volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.matrix.read import load
from ctbasis.matrix.volumes import series_of
from ctbasis.parameters import PatchMode
from ctbasis.patch.noise_fit import fit_noise, noise_reach
from ctbasis.patch.parts import named_notes, parts_of, without_series
from ctbasis.patch.volume import ArrayVolume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctbasis.matrix.read import ImageLike
    from ctbasis.patch.noise import Noise
    from ctbasis.patch.parts import Part
    from ctbasis.patch.rows import Shape


@dataclass(frozen=True, eq=False)
class NoiseEstimate:
    """The noise of a CT volume, estimated from the volume alone.

    Attributes:
        sigma: Standard deviation at every voxel, HU, (slices, rows, columns) float32.
        soft_tissue: Median of sigma in soft tissue, HU; of a volume with gaps, the median over its slices.
        correlation: Correlation of the noise of two voxels by their distance, (2 rz + 1, 2 ry + 1, 2 rx + 1): element
            [rz + dz, ry + dy, rx + dx] belongs to voxels dz slices, dy rows and dx columns apart; 1 at distance 0. Of a
            volume with gaps, that of its longest part.
        scanner: Properties of the scan that were fitted to the noise (bow-tie filter, tube current modulation,
            electronic noise), as text; empty if there was too little tissue for the fit. Of a volume with gaps, those
            of its longest part.
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
        >>> phantom = ctbasis.chest_phantom(slices=6, rows=192, columns=192)
        >>> noisy = ctbasis.simulate_dose(phantom, photons=3e4)
        >>> noise = ctbasis.estimate_noise(noisy)
        >>> noise.sigma.shape
        (6, 192, 192)
        >>> added = (noisy.hu - phantom.hu)[abs(phantom.hu) < 100].std()
        >>> bool(abs(noise.soft_tissue / added - 1) < 0.2)
        True
    """
    volume = load(image, spacing)
    parts, noises = zip(*fit_parts(volume), strict=True)
    return noise_estimate(parts, noises, volume.shape)


def fit_parts(
    image: ImageLike, spacing: tuple[float, float, float] | None = None, *, target_noise: float = PatchMode.target_noise
) -> list[tuple[Part, Noise]]:
    """Return every part of a CT volume with its noise, as patch mode estimates it.

    Args:
        image: See `estimate_noise`.
        spacing: See `estimate_noise`.
        target_noise: See `fit_noise`.
    """
    volume = load(image, spacing)
    hu = np.moveaxis(volume.clipped_hu(), 0, -1)
    parts = parts_of([series_of(volume)])
    return [(part, fit_part(hu, part, target_noise=target_noise)[1]) for part in parts]


def fit_part(
    hu: NDArray[Any], part: Part, *, shapes: Sequence[Shape] = (), target_noise: float = PatchMode.target_noise
) -> tuple[ArrayVolume, Noise]:
    """Fit the noise of one part of a volume in memory.

    Args:
        hu: HU of the volume, (rows, columns, slices).
        part: The part.
        shapes: Shapes of patches as far as which the covariance reaches, besides that of the part's own patches.
        target_noise: See `fit_noise`.

    Returns:
        The part as a volume, and its noise.
    """
    row, column = part.slices.pixel_spacing
    volume = ArrayVolume(hu[..., part.slices.columns], (row, column, part.slices.spacing or row))
    return volume, fit_noise(volume, reach=noise_reach(volume, shapes), target_noise=target_noise)


def noise_estimate(parts: Sequence[Part], noises: Sequence[Noise], shape: tuple[int, int, int]) -> NoiseEstimate:
    """Return the noise of a volume with the axes of the volume.

    Args:
        parts: The parts of the volume, in order.
        noises: Noise of each part.
        shape: Slices, rows and columns of the volume.
    """
    _, rows, columns = shape
    sigma = np.concatenate([noise.sigma_rows(0, rows, columns) for noise in noises], axis=2)
    counts = [part.slices.count for part in parts]
    longest = noises[int(np.argmax(counts))]
    named = zip(parts, noises, strict=True)
    notes = named_notes([(part.name, note) for part, noise in named for note in noise.notes])
    return NoiseEstimate(
        sigma=np.ascontiguousarray(np.moveaxis(sigma, -1, 0)),
        soft_tissue=float(np.median(np.repeat([noise.soft_tissue_sigma for noise in noises], counts))),
        correlation=np.moveaxis(longest.covariance, -1, 0),
        scanner=longest.scanner,
        notes=tuple(without_series(note) for note in notes),
    )
