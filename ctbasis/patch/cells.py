"""Local variances on a grid of square cells, and the noise level of the quiet cells among them.

Anatomy raises the variance of a cell above that of the noise. Two steps keep it out of the estimate:

1. The variance is measured on the difference of each slice from its neighbours, after subtraction of a local mean.
2. The noise level is taken from the quietest cells only. The smallest of many measured variances lies below the true
   variance by chance. The distribution of a measured variance is known (chi-square), so it is deconvolved first.

References:
    B. Efron, "Empirical Bayes deconvolution estimates", Biometrika 103(1), 1-20, 2016.
    N. Laird, "Nonparametric maximum likelihood estimation of a mixing distribution", J. Am. Stat. Assoc. 73(364),
        805-811, 1978.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.special import gammaln

from ctbasis.patch.noise import CELL
from ctbasis.patch.volume import slabs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.patch.volume import Slab, Volume

SURROUNDINGS = 17
"""Pixels along the edge of the square whose mean is subtracted before a variance is measured."""

CLIPPED_HU = -995.0
"""HU at and below which a voxel may have been clipped."""

MAX_CLIPPED = 0.02
"""Fraction of possibly clipped voxels above which the variance of a cell is not that of the noise."""

QUIET_FRACTION = 0.05
"""Fraction of the soft-tissue cells that are assumed to hold only noise. Chest scans have more such cells in thin
slices and fewer in thick ones; the resulting level is 0.95 to 1.1 of the truth in both."""

SLAB_CELLS = 8
"""Rows of cells in a slab."""

LEVEL_WINDOW = 0.32
"""Range of log variance around the QUIET_FRACTION quantile over which the level is averaged. In a series with many flat
places, the quietest cells are those for which the variance model is slightly too high."""

LEVEL_STEP = 0.05
"""Bin width of the deconvolved distribution, in log variance."""

EM_ITERATIONS = 300
"""Iterations of the expectation-maximization algorithm."""


@dataclass
class Cells:
    """Measurements of all cells of a volume, arrays of (rows, columns, slices) of cells.

    Attributes:
        mean: Mean HU.
        variance: Variance of the slice minus the mean of its neighbours and minus its local mean, scaled to that of a
            slice if slices are independent, HU^2.
        variance_in_plane: Variance of the slice minus its local mean only, HU^2. It holds more anatomy, but does not
            depend on other slices.
        clipped: Fraction of voxels that may have been clipped.
    """

    mean: NDArray[np.float32]
    variance: NDArray[np.float32]
    variance_in_plane: NDArray[np.float32]
    clipped: NDArray[np.float32]

    def within(self, hu: tuple[float, float]) -> NDArray[np.bool_]:
        """Return the mask of cells whose mean lies within `hu` and whose noise was not clipped."""
        in_range = (self.mean > hu[0]) & (self.mean < hu[1])
        return np.asarray(in_range & (self.clipped <= MAX_CLIPPED) & (self.variance > 0))


def measure_cells(volume: Volume) -> Cells:
    """Measure every cell of a volume in one pass over its slabs."""
    parts = list(slabs(volume.shape[0], height=SLAB_CELLS * CELL, halo=SURROUNDINGS))
    measured = list(volume.map_slabs(measure_slab, parts, "noise"))
    return Cells(*(np.concatenate(arrays) for arrays in zip(*measured, strict=True)))


def measure_slab(volume: Volume, slab: Slab) -> tuple[NDArray[np.float32], ...]:
    """Measure the cells of a slab; return the arrays of `Cells`."""
    x = volume.read(slab.low, slab.high)
    own = slice(slab.first - slab.low, slab.stop - slab.low)
    tiles = _tiles(x[own])
    variances = (
        np.square(_tiles(residual[own])).mean(axis=-1) for residual in (subtract_neighbours(x), _subtract_local_mean(x))
    )
    arrays = tiles.mean(axis=-1), *variances, (tiles <= CLIPPED_HU).mean(axis=-1)
    return tuple(np.asarray(array, np.float32) for array in arrays)


def subtract_neighbours(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Subtract from each slice the mean of its two neighbours and the local mean of the difference.

    The result is scaled so that white noise keeps its variance.

    Args:
        x: HU, or HU divided by sigma, (rows, columns, slices).
    """
    if x.shape[2] == 1:
        return _subtract_local_mean(x)
    neighbours = np.concatenate([x[..., 1:2], x[..., :-1]], axis=2)
    neighbours += np.concatenate([x[..., 1:], x[..., -2:-1]], axis=2)
    difference = (x - neighbours / 2) * np.float32(np.sqrt(1 / 1.5))
    # The first and the last slice have one neighbour: the variance is 1 + 1 instead of 1 + 1/2.
    difference[..., [0, -1]] *= np.float32(np.sqrt(0.75))
    return _subtract_local_mean(np.asarray(difference, np.float32))


def _subtract_local_mean(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(x - uniform_filter(x, (SURROUNDINGS, SURROUNDINGS, 1)), np.float32)


def _tiles(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return values as (cell rows, cell columns, slices, voxels of a cell); mirroring completes cells at the border."""
    rows, columns, slices = values.shape
    pad = [(0, -rows % CELL), (0, -columns % CELL), (0, 0)]
    full = np.pad(values, pad, mode="symmetric" if min(rows, columns) >= CELL else "wrap")
    tiles = full.reshape(full.shape[0] // CELL, CELL, full.shape[1] // CELL, CELL, slices)
    return tiles.transpose(0, 2, 4, 1, 3).reshape(tiles.shape[0], tiles.shape[2], slices, CELL * CELL)


def quiet_level(log_ratio: NDArray[np.float64], degrees_of_freedom: float) -> float:
    """Return the noise level of the quietest cells, with the statistical error of their variances deconvolved.

    Expectation-maximization finds the distribution of true log variances under which the measured ones are most
    likely. The level is the mean of that distribution around its QUIET_FRACTION quantile.

    Args:
        log_ratio: Log of measured over modelled variance, one value per cell, (cells,).
        degrees_of_freedom: Degrees of freedom of each measured variance.
    """
    middle = float(np.quantile(log_ratio, QUIET_FRACTION))
    edges = middle + LEVEL_STEP * np.arange(-60, 81)
    bins = (edges[:-1] + edges[1:]) / 2
    observed = np.histogram(np.clip(log_ratio, edges[0], edges[-1]), edges)[0] / len(log_ratio)
    offset = bins[:, None] - bins
    half = degrees_of_freedom / 2
    # Density of the log of a chi-square variable divided by its degrees of freedom.
    density = np.exp(half * np.log(half) - gammaln(half) + half * (offset - np.exp(np.minimum(offset, 20.0))))
    likelihood = density * LEVEL_STEP
    level = np.full(len(bins), 1 / len(bins))
    for _ in range(EM_ITERATIONS):
        level *= likelihood.T @ (observed / np.maximum(likelihood @ level, 1e-12))
    cumulative = np.cumsum(level)
    quantile = np.interp(QUIET_FRACTION, cumulative / cumulative[-1], bins)
    near = level * (np.abs(bins - quantile) <= LEVEL_WINDOW)
    return float(near @ bins / near.sum())


def degrees_of_freedom(covariance: NDArray[np.float64]) -> float:
    """Return the degrees of freedom of the mean square over one cell in one slice.

    Args:
        covariance: Covariance of the noise by lag, as in `Noise`.
    """
    reach = (np.array(covariance.shape) - 1) // 2
    plane = covariance[:, :, reach[2]]
    y, x = (np.maximum(CELL - np.abs(np.arange(-edge, edge + 1)), 0) for edge in reach[:2])
    return float(CELL**4 / np.sum(plane**2 * y[:, None] * x))


def select_quiet(
    log_ratio: NDArray[np.float64], candidates: NDArray[np.bool_], level: float, degrees_of_freedom: float
) -> NDArray[np.bool_]:
    """Return the mask of quiet cells: candidates whose variance is that of the noise within its statistical error."""
    return np.asarray(candidates & (np.abs(log_ratio - level) < np.sqrt(2 / degrees_of_freedom)))
