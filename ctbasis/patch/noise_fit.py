"""Blind estimation of the noise of a CT series: standard deviation at every place, and covariance within a patch.

Anatomy only adds to the measured variance, so three measures keep it out of the estimate:

1. The variance is measured cell by cell on the difference of each slice from its neighbours, after subtraction of the
   local mean (ctbasis/patch/cells.py).
2. The map of the variance is not the measured one. It is the physical model of ctbasis/patch/ray_paths.py, which has
   few parameters to fit (ctbasis/patch/variance_model.py).
3. The noise level is taken from the quietest cells relative to that map, with the statistical error of their variances
   deconvolved (ctbasis/patch/cells.py).

The covariance of the noise divided by sigma is averaged over the quietest cells (ctbasis/patch/covariance.py). How it
varies over the image follows from the variances of the rays through each place (ctbasis/patch/texture.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import uniform_filter1d

from ctbasis.parameters import PatchMode
from ctbasis.patch.cells import degrees_of_freedom, measure_cells, quiet_level, select_quiet
from ctbasis.patch.covariance import measure_covariance, white_covariance
from ctbasis.patch.noise import CELL, Noise
from ctbasis.patch.texture import fit_textures
from ctbasis.patch.variance_model import POOLED_SLICES, fit_variance_model

if TYPE_CHECKING:
    from ctbasis.patch.volume import Volume

TISSUE = (-920.0, 150.0)
"""Range of a cell's mean HU for lung, soft tissue and mixtures of the two."""

SOFT_TISSUE = (-150.0, 150.0)
"""Range of a cell's mean HU for soft tissue."""

ASSUMED_DEGREES_OF_FREEDOM = 20.0
"""Degrees of freedom of a cell's variance in one slice, as long as the covariance is not known."""

MIN_SIGMA = 0.5
"""Smallest sigma in HU, near the rounding error of whole HU (0.29)."""

LITTLE_NOISE = 4.0
"""Sigma in soft tissue, HU, up to which a note says that there is hardly any noise to remove."""

MIN_CELLS = 64
"""Cells of tissue that an estimate needs."""

MAX_NOISE_FLOOR = 2.0
"""Largest standard deviation of the noise floor that is kept, relative to the target noise. The noise floor is not
quantum noise (ctbasis/patch/texture.py), and it cannot be separated from the finest anatomy."""


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
    cells = measure_cells(volume)
    reach = (reach[0], reach[1], min(reach[2], volume.shape[2] - 1))
    measured, tissue = cells.within(SOFT_TISSUE), cells.within(TISSUE)
    if measured.sum() < MIN_CELLS:
        measured = tissue
    count = int(measured.sum())
    if count < MIN_CELLS:
        note = f"noise: the series has {count} cells of tissue, an estimate needs {MIN_CELLS}; nothing is removed"
        return Noise(np.full_like(cells.mean, MIN_SIGMA), white_covariance(reach), count, (note,))
    dy, dx, _ = volume.spacing
    model = fit_variance_model(cells.mean, cells.variance, tissue, (dy * CELL, dx * CELL))
    shape = model.relative_variance
    pooled = min(POOLED_SLICES, volume.shape[2])
    # The differences of neighbouring slices share a slice, so three of them count as two independent ones.
    independent = (pooled + 1) / 2
    log_ratio, log_ratio_in_plane = (
        np.log(np.maximum(uniform_filter1d(variance.astype(np.float64), pooled, axis=2, mode="nearest"), 1e-6) / shape)
        for variance in (cells.variance, cells.variance_in_plane)
    )
    assumed = ASSUMED_DEGREES_OF_FREEDOM * independent
    level = quiet_level(log_ratio[measured], assumed)
    quiet = select_quiet(log_ratio, measured, level, assumed)
    rough = Noise(np.sqrt(shape * np.exp(level)).astype(np.float32), white_covariance(reach), int(quiet.sum()))
    correlated = measure_covariance(volume, rough, quiet, reach)
    covariance = correlated.covariance
    # Anatomy only adds to either level, so the lower one is nearer to the noise. In thick slices, the difference of
    # neighbouring slices can hold more anatomy than the slice itself.
    in_plane, across = (
        quiet_level(ratio[measured], degrees_of_freedom(covariance) * independent)
        for ratio in (log_ratio_in_plane, log_ratio)
    )
    sigma = np.sqrt(shape * np.exp(min(in_plane, across + 2 * np.log(correlated.scale))))
    sigma = np.maximum(sigma, MIN_SIGMA)
    soft = float(np.median(sigma[measured]))
    notes = []
    if soft <= LITTLE_NOISE:
        notes.append(
            "noise: the series has little noise (it may already be denoised, or be synthetic); little will be removed"
        )
    noise = Noise(
        sigma.astype(np.float32),
        covariance,
        int(quiet.sum()),
        tuple(notes),
        scanner=model.description(),
        soft_tissue_sigma=soft,
    )
    textures = fit_textures(
        model.ray_variances, tissue, correlated.in_plane, spacing=volume.spacing[:2], reach=(reach[0], reach[1])
    )
    if textures is None:
        return noise
    along = covariance[reach[0], reach[1]]
    floor = min(textures.flat_fraction, (MAX_NOISE_FLOOR * target_noise / soft) ** 2)
    removed = textures.covariances - floor / max(textures.flat_fraction, 1e-12) * textures.flat
    return replace(
        noise, texture_covariances=removed[..., None] * along, texture_map=textures.texture_map, noise_floor=floor
    )
