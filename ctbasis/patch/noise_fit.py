"""Blind estimation of the noise of a CT series: standard deviation at every place, and covariance within a patch.

Anatomy only adds to the measured variance, so four measures keep it out of the estimate:

1. The noise is measured on the difference of each slice from its neighbours, and in the fine band of spatial
   frequencies (ctbasis/patch/bands.py).
2. It is measured on the cells of soft tissue that hold the least anatomy in the coarse band (ctbasis/patch/cells.py).
3. The map of the variance is not the measured one. It is the physical model of ctbasis/patch/ray_paths.py, which has
   few parameters to fit (ctbasis/patch/variance_model.py).
4. The power of the noise at coarse frequencies is not measured. It follows from the fine ones, because the ramp filter
   leaves no power at frequency zero (ctbasis/patch/spectrum.py).

How the covariance varies over the image follows from the variances of the rays through each place
(ctbasis/patch/texture.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctbasis.parameters import PatchMode
from ctbasis.patch.bands import Bands
from ctbasis.patch.cells import measure_cells
from ctbasis.patch.covariance import measure_covariance, white_covariance
from ctbasis.patch.noise import CELL, Noise
from ctbasis.patch.ray_paths import TracedRays
from ctbasis.patch.rows import patch_shape
from ctbasis.patch.texture import fit_textures
from ctbasis.patch.variance_model import fit_variance_model
from ctbasis.patch.volume import ArrayVolume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctbasis.patch.rows import Shape
    from ctbasis.patch.volume import Volume

TISSUE = (-920.0, 150.0)
"""Range of a cell's mean HU for lung, soft tissue and mixtures of the two."""

SOFT_TISSUE = (-150.0, 150.0)
"""Range of a cell's mean HU for soft tissue."""

MIN_SIGMA = 0.5
"""Smallest sigma in HU, near the rounding error of whole HU (0.29)."""

LITTLE_NOISE = 4.0
"""Sigma in soft tissue, HU, up to which a note says that there is hardly any noise to remove."""

MIN_CELLS = 64
"""Cells of tissue that an estimate needs."""

WIDENINGS = 1.5, 2.25
"""Factors of the scales of the bands, tried in order until the fine band holds enough of the noise."""

MIN_FINE_FRACTION = 0.45
"""Fraction of the noise variance that the fine band should hold. With less, its power at coarse scales is uncertain by
more than a tenth; a smooth kernel needs wider bands, in which more anatomy is left."""

MAX_INCREASE = 1.5
"""Ratio of the sigma in soft tissue of wider bands to that of narrower ones up to which the wider bands are used. Both
estimate the same sigma, the narrower ones with an error of up to a third where they hold little of the noise. A
larger increase shows anatomy in the wider bands."""

MAX_NOISE_FLOOR = 2.0
"""Largest standard deviation of the noise floor that is kept, relative to the target noise. The noise floor is not
quantum noise (ctbasis/patch/spectrum.py), and it cannot be separated from the finest anatomy."""


def fit_noise(
    volume: Volume, *, reach: tuple[int, int, int] = (4, 4, 2), target_noise: float = PatchMode.target_noise
) -> Noise:
    """Estimate the noise of `volume` from the volume itself.

    Args:
        volume: The series, HU.
        reach: Largest lag of the covariance along rows, columns and slices: the size of a patch minus one.
        target_noise: Noise in soft tissue, HU, of the standard-dose scan that the denoised series resembles. It limits
            the noise floor; 0 sets the noise floor to zero.

    Returns:
        The noise. With too little tissue for a measurement, sigma is MIN_SIGMA everywhere and a note says so; then
        nothing is removed.
    """
    reach = (reach[0], reach[1], min(reach[2], volume.shape[2] - 1))
    fit = _NoiseFit(volume, reach, target_noise)
    noise, fine_fraction = fit.in_bands(Bands.of(volume.spacing))
    if fine_fraction >= MIN_FINE_FRACTION:
        return noise
    for widening in WIDENINGS:
        wider, fine_fraction = fit.in_bands(Bands.of(volume.spacing, widening))
        if fine_fraction >= MIN_FINE_FRACTION:
            return wider if wider.soft_tissue_sigma <= MAX_INCREASE * noise.soft_tissue_sigma else noise
    # The power lies at frequencies below those of any kernel: it is that of anatomy.
    return noise


def noise_reach(volume: Volume, shapes: Sequence[Shape] = ()) -> tuple[int, int, int]:
    """Return the largest lag of the covariance that the patches of a volume need, along rows, columns and slices.

    Args:
        volume: The series.
        shapes: Shapes of the patches of stored bases, besides the shape that the volume itself has patches of.
    """
    rows, columns, slices = np.max([patch_shape(volume.shape, volume.spacing), *shapes], axis=0).tolist()
    return rows - 1, columns - 1, min(slices, volume.shape[2]) - 1


def fit_slice_noise(image: NDArray[np.float32], pixel_spacing: tuple[float, float], *, reach: int) -> Noise:
    """Estimate all noise of one slice from the slice alone.

    Args:
        image: HU, (rows, columns).
        pixel_spacing: Distance in mm between rows and between columns.
        reach: Largest lag of the covariance in pixels.
    """
    volume = ArrayVolume(image[..., None], (*pixel_spacing, pixel_spacing[0]))
    return fit_noise(volume, reach=(reach, reach, 0), target_noise=0.0)


class _NoiseFit:
    """The estimates of the noise of a volume in different bands; for the arguments see `fit_noise`."""

    def __init__(self, volume: Volume, reach: tuple[int, int, int], target_noise: float) -> None:
        self._volume, self._reach, self._target_noise = volume, reach, target_noise
        self._rays: TracedRays | None = None

    def in_bands(self, bands: Bands) -> tuple[Noise, float]:
        """Return the noise as measured in given bands, and the fraction of its variance that lies in the fine band."""
        volume, reach = self._volume, self._reach
        dy, dx, _ = volume.spacing
        cells = measure_cells(volume, bands)
        measured, tissue = cells.within(SOFT_TISSUE), cells.within(TISSUE)
        if measured.sum() < MIN_CELLS:
            measured = tissue
        count = int(measured.sum())
        if count < MIN_CELLS:
            note = f"noise: the series has {count} cells of tissue, an estimate needs {MIN_CELLS}; nothing is removed"
            return Noise(np.full_like(cells.mean, MIN_SIGMA), white_covariance(reach), count, (note,)), 1.0
        if self._rays is None:
            # The mean HU of the cells, and so the rays, are the same in all bands.
            self._rays = TracedRays(cells.mean, (dy * CELL, dx * CELL))
        model = fit_variance_model(cells, tissue, self._rays)
        shape = model.relative_variance
        quiet = cells.quiet(measured, shape)
        in_plane, across = (
            float(np.median(variance[quiet] / shape[quiet])) for variance in (cells.variance_in_plane, cells.variance)
        )
        rough = Noise(np.sqrt(shape * across).astype(np.float32), white_covariance(reach), int(quiet.sum()))
        correlated = measure_covariance(volume, rough, quiet, reach, bands)
        textures = fit_textures(
            model.ray_variances, tissue, correlated.in_plane, spacing=(dy, dx), reach=(reach[0], reach[1]), bands=bands
        )
        # Anatomy only adds to either level, so the lower one is nearer to the noise. In thick slices, the difference of
        # neighbouring slices can hold more anatomy than the slice itself.
        level = correlated.in_plane.variance * min(in_plane, across * correlated.scale**2) / textures.fine_fraction
        sigma = np.maximum(np.sqrt(shape * level), MIN_SIGMA)
        soft = float(np.median(sigma[measured]))
        notes = []
        if soft <= LITTLE_NOISE:
            notes.append(
                "noise: the series has little noise (it may already be denoised, or be synthetic); little will be "
                "removed"
            )
        floor = min(textures.flat_fraction, (MAX_NOISE_FLOOR * self._target_noise / soft) ** 2)
        removed = textures.covariances - floor / max(textures.flat_fraction, 1e-12) * textures.flat
        noise = Noise(
            sigma.astype(np.float32),
            textures.average[..., None] * correlated.along,
            int(quiet.sum()),
            tuple(notes),
            texture_covariances=removed[..., None] * correlated.along,
            texture_map=textures.texture_map,
            scanner=model.description(),
            soft_tissue_sigma=soft,
            noise_floor=floor,
        )
        return noise, textures.fine_fraction
