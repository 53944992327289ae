"""The covariance of the noise between the voxels of a patch, measured on quiet cells.

Within a slice, the covariance is measured in the fine band of the difference of the slice from its neighbours
(ctbasis/patch/bands.py); a model of the noise power spectrum extends it to all frequencies (ctbasis/patch/texture.py).
Along the slices, it is derived from the covariance of that difference with the one in the next slice. The covariance in
three dimensions is the product of the two, as it is for a scanner whose kernel acts within slices and whose slice
profile acts along them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import minimum_filter

from ctbasis.patch.cells import SLAB_CELLS, TRUNCATED_VARIANCE, TRUNCATION, subtract_neighbours
from ctbasis.patch.noise import CELL
from ctbasis.patch.texture import CellCovariances
from ctbasis.patch.volume import slabs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.patch.bands import Bands
    from ctbasis.patch.noise import Noise
    from ctbasis.patch.volume import Slab, Volume

MAX_QUIET_CELLS = 1500
"""Quiet cells on which the covariance is measured, at most."""

MIN_PRODUCTS = 64
"""Cells that the correlation along the slices needs; with fewer, slices are taken to be independent."""

DOUBTFUL_CORRELATION, CERTAIN_CORRELATION = 0.25, 0.5
"""Correlation of neighbouring slices up to which remaining anatomy alone may explain it, and from which on it belongs
to the noise."""

CORRELATIONS = np.linspace(0, 0.9, 91)
"""Candidate correlations of neighbouring slices."""


@dataclass(frozen=True)
class NoiseCovariance:
    """The measured covariance of the noise divided by its sigma.

    Attributes:
        in_plane: Covariances within slices in the fine band, cell by cell.
        along: Correlation between slices by lag, from -rz to rz, (2 rz + 1,); 1 at lag 0.
        scale: Factor by which sigma must be multiplied, because correlated slices lose variance when their neighbours
            are subtracted.
    """

    in_plane: CellCovariances
    along: NDArray[np.float64]
    scale: float


def white_covariance(reach: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return the covariance of white noise for lags of up to `reach`: 1 at lag 0, else 0."""
    white = np.zeros([2 * edge + 1 for edge in reach])
    white[reach] = 1.0
    return white


def measure_covariance(
    volume: Volume, rough: Noise, quiet: NDArray[np.bool_], reach: tuple[int, int, int], bands: Bands
) -> NoiseCovariance:
    """Measure the covariance of the noise divided by sigma.

    Args:
        volume: The series, HU.
        rough: Noise whose sigma is used to normalize the volume.
        quiet: Mask of quiet cells.
        reach: Largest lag along rows, columns and slices.
        bands: Bands of spatial frequency; the fine one is measured.
    """
    rows, columns, slices = volume.shape
    lags = [(dy, dx) for dy in range(reach[0] + 1) for dx in range(-reach[1], reach[1] + 1) if (dy, dx) >= (0, 0)]
    cells = _sample_cells(quiet, (rows, columns), reach)
    parts = list(slabs(rows, height=SLAB_CELLS * CELL, halo=bands.halo + reach[0]))
    work = partial(covariance_slab, rough=rough, cells=cells, lags=lags, bands=bands)
    measured = list(volume.map_slabs(work, parts, "noise: covariance"))
    profile = _slice_correlation([row for _, products in measured for row in products], reach[2])
    # Slabs in order hold the cells in order.
    in_plane = np.concatenate([products for products, _ in measured])
    # Variance of a slice minus its neighbours' mean, relative to its value for independent slices, 1.5.
    one, two = (float(profile[lag]) if lag < len(profile) else 0.0 for lag in (1, 2))
    gain = (1.5 - 2 * one + 0.5 * two) / 1.5 if slices > 1 else 1.0
    along = np.concatenate([profile[:0:-1], profile])
    return NoiseCovariance(CellCovariances(cells, np.array(lags), in_plane), along, float(1 / np.sqrt(max(gain, 0.05))))


def covariance_slab(
    volume: Volume, slab: Slab, *, rough: Noise, cells: NDArray[np.intp], lags: list[tuple[int, int]], bands: Bands
) -> tuple[NDArray[np.float64], list[list[float]]]:
    """Measure the covariances of the cells of one slab.

    Returns:
        Mean products at every lag within the slice, (cells, lags); and for each cell with a slice before it and two
        slices after it, the mean products with the same and the next slice.
    """
    _, columns, slices = volume.shape
    here = cells[(cells[:, 0] * CELL >= slab.first) & (cells[:, 0] * CELL < slab.stop)]
    in_plane = np.empty((len(here), len(lags)))
    along: list[list[float]] = []
    if not len(here):
        return in_plane, along
    x = volume.read(slab.low, slab.high) / rough.sigma_rows(slab.low, slab.high, columns)
    e = bands.fine_part(subtract_neighbours(x))
    # The blurred edges of what deviates so much are left out with it.
    inside = minimum_filter((np.abs(e) <= TRUNCATION).astype(np.float32), (3, 3, 1), mode="nearest")
    e *= inside

    def mean_product(row: int, column: int, z: int, lag: tuple[int, int, int]) -> float:
        """Return the mean over the pairs of voxels of which neither belongs to an edge or a vessel."""
        one = slice(row, row + CELL), slice(column, column + CELL), z
        other = slice(row + lag[0], row + lag[0] + CELL), slice(column + lag[1], column + lag[1] + CELL), z + lag[2]
        pairs = max(float(np.vdot(inside[one], inside[other])), 1.0)
        return float(np.vdot(e[one], e[other])) / pairs / TRUNCATED_VARIANCE

    for number, (row, column, z) in enumerate(here):
        place = row * CELL - slab.low, column * CELL, z
        in_plane[number] = [mean_product(*place, (dy, dx, 0)) for dy, dx in lags]
        if 0 < z < slices - 2:
            along.append([mean_product(*place, (0, 0, lag)) for lag in (0, 1)])
    return in_plane, along


def _sample_cells(quiet: NDArray[np.bool_], image: tuple[int, int], reach: tuple[int, int, int]) -> NDArray[np.intp]:
    """Return quiet cells that are far enough from the border of the image, (cells, 3), in order."""
    margin = -(-max(reach[:2]) // CELL)
    cells = np.argwhere(quiet)
    cells = cells[:: max(1, len(cells) // MAX_QUIET_CELLS)]
    last = np.array([image[0] // CELL - margin, image[1] // CELL - margin])
    return np.asarray(cells[(cells[:, :2] >= margin).all(axis=1) & (cells[:, :2] < last).all(axis=1)], np.intp)


def _slice_correlation(products: list[list[float]], reach: int) -> NDArray[np.float64]:
    """Return the correlation between slices by lag up to `reach`: 1, r, r^4, r^9 ..., a Gaussian slice profile.

    Let e be a slice minus the mean of its neighbours. With the variance of a slice as unit, its variance is
    e0 = 1.5 - 2 r1 + 0.5 r2, and its covariance with e of the next slice is e1 = -1 + 1.75 r1 - r2 + 0.25 r3. r is the
    correlation for which e1 / e0 has the value measured on quiet cells.

    Args:
        products: Mean of e_z e_z and of e_z e_(z+1) of every cell.
        reach: Largest lag.
    """
    r = CORRELATIONS
    correlation = 0.0
    if len(products) >= MIN_PRODUCTS:
        expected = (-1 + 1.75 * r - r**4 + 0.25 * r**9) / (1.5 - 2 * r + 0.5 * r**4)
        e0, e1 = np.mean(products, axis=0)
        correlation = float(r[np.argmin(np.abs(expected - e1 / max(e0, 1e-12)))])
    if correlation < CERTAIN_CORRELATION:
        limits = DOUBTFUL_CORRELATION, CERTAIN_CORRELATION
        correlation = float(np.interp(correlation, limits, (0.0, CERTAIN_CORRELATION)))
    lags = np.arange(reach + 1)
    return np.asarray(np.where(lags == 0, 1.0, correlation ** (np.arange(reach + 1.0) ** 2)))
