"""Local variances on a grid of square cells, and the choice of the cells that hold noise and hardly any anatomy.

Anatomy raises the variance of a cell above that of the noise. Four measures keep it out of the estimate:

1. The variance is measured on the difference of each slice from its neighbours, which share anatomy and not noise.
2. It is measured in the fine band of spatial frequencies (ctbasis/patch/bands.py).
3. The cells are chosen by their variance in the coarse band, where anatomy dominates. A choice by the variance that is
   measured would take the cells whose noise is small by chance.
4. Voxels of a cell that deviate far more than its other voxels are left out: at large pixels, hardly any cell is free
   of edges and vessels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import uniform_filter

from ctbasis.patch.noise import CELL
from ctbasis.patch.volume import slabs
from ctbasis.storage.voxels import AIR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.patch.bands import Bands
    from ctbasis.patch.volume import Slab, Volume

MAX_CLIPPED = 0.02
"""Fraction of excluded or clipped voxels above which the variance of a cell is not that of the noise: one voxel of a
cell may be its smallest."""

TRUNCATION = 3.5
"""Deviation in the fine band, relative to sigma, from which on a voxel belongs to an edge or a vessel. Of noise, 0.05 %
of the voxels deviate as much."""

TRUNCATED_VARIANCE = 0.994
"""Variance of a normal distribution with variance 1 within TRUNCATION."""

MEDIAN_SQUARE = 0.4549
"""Median of the square of a variable that is normally distributed with variance 1."""

QUIET_FRACTION, MAX_QUIET_FRACTION = 0.15, 0.25
"""Fraction of the soft-tissue cells on which the noise is measured: those with the least variance in the coarse band.
The larger fraction is used in small images, as far as needed for MIN_QUIET_CELLS."""

MIN_QUIET_CELLS = 40
"""Quiet cells that a covariance needs; with fewer, chance makes it uncertain."""

SURROUNDINGS = 3, 5
"""Cells along an edge of the squares over which the coarse and the fine variance are averaged before they are compared.
The variance of a single cell varies so much by chance that the choice would be one of chance."""

INDEPENDENT_SLICES = 4
"""Slices after which the noise of a slice minus its neighbours is independent, but the anatomy is still alike."""

CHANCE = 1.5
"""Ratio of the coarse variances of the same place in two slices up to which chance explains it. With the limit at 1,
the choice would favour cells whose noise holds little power at low frequencies, and sharpen the measured texture."""

SLAB_CELLS = 8
"""Rows of cells in a slab."""


@dataclass(frozen=True)
class Cells:
    """Measurements of all cells of a volume, arrays of (rows, columns, slices) of cells.

    Attributes:
        mean: Mean HU.
        variance: Variance in the fine band of the slice minus the mean of its neighbours, scaled to that of a slice if
            slices are independent, HU^2.
        variance_in_plane: Variance in the fine band of the slice alone, HU^2. It holds more anatomy, but does not
            depend on other slices.
        coarse_variance: Variance of the difference in the coarse band, averaged over the surrounding cells, HU^2.
        clipped: Fraction of voxels that are excluded or clipped.
    """

    mean: NDArray[np.float32]
    variance: NDArray[np.float32]
    variance_in_plane: NDArray[np.float32]
    coarse_variance: NDArray[np.float32]
    clipped: NDArray[np.float32]

    def within(self, hu: tuple[float, float]) -> NDArray[np.bool_]:
        """Return the mask of cells whose mean lies within `hu` and whose noise was not clipped."""
        in_range = (self.mean > hu[0]) & (self.mean < hu[1])
        return np.asarray(in_range & (self.clipped <= MAX_CLIPPED) & (self.variance > 0))

    def structure(self) -> NDArray[np.float32]:
        """Return the ratio of the coarse to the fine variance of every cell, a measure of its anatomy."""
        return np.asarray(self._coarse_nearby() / self._fine_around())

    def quiet(self, candidates: NDArray[np.bool_], relative_variance: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return the mask of the candidates with the least anatomy, a fraction QUIET_FRACTION to MAX_QUIET_FRACTION.

        The coarse variance is compared with the geometric mean of two predictions of the noise: the modelled one, whose
        errors favour cells with less noise than predicted, and the measured fine one, whose chance favours cells with
        more noise.

        Args:
            candidates: Mask of cells, at least one.
            relative_variance: Modelled variance of the noise, up to a factor.
        """
        structure = self._coarse_nearby() / np.sqrt(relative_variance * self._fine_around())
        needed = MIN_QUIET_CELLS / int(candidates.sum())
        fraction = max(QUIET_FRACTION, min(needed, MAX_QUIET_FRACTION))
        return np.asarray(candidates & (structure <= np.quantile(structure[candidates], fraction)))

    def _coarse_nearby(self) -> NDArray[np.float32]:
        """Return the coarse variance near every cell, in slices whose noise is independent if there are such slices.

        Where that of the cell itself is larger by more than chance, anatomy begins or ends in its slice.
        """
        slices = self.coarse_variance.shape[2]
        if slices <= 2 * INDEPENDENT_SLICES:
            return self.coarse_variance
        here = np.arange(slices)
        before, after = here - INDEPENDENT_SLICES, here + INDEPENDENT_SLICES
        pairs = np.where(before < 0, after, before), np.where(after >= slices, before, after)
        nearby = sum(self.coarse_variance[..., other] for other in pairs) / 2
        return np.asarray(np.maximum(nearby, self.coarse_variance / CHANCE), np.float32)

    def _fine_around(self) -> NDArray[np.float32]:
        return np.maximum(_average_around(self.variance, SURROUNDINGS[1]), np.float32(1e-6))


def measure_cells(volume: Volume, bands: Bands) -> Cells:
    """Measure every cell of a volume in the given bands, in one pass over its slabs."""
    parts = list(slabs(volume.shape[0], height=SLAB_CELLS * CELL, halo=bands.halo))
    measured = list(volume.map_slabs(partial(measure_slab, bands=bands), parts, "noise"))
    cells = Cells(*(np.concatenate(arrays) for arrays in zip(*measured, strict=True)))
    return replace(cells, coarse_variance=_average_around(cells.coarse_variance, SURROUNDINGS[0]))


def measure_slab(volume: Volume, slab: Slab, *, bands: Bands) -> tuple[NDArray[np.float32], ...]:
    """Measure the cells of a slab; return the arrays of `Cells`, the coarse variance cell by cell."""
    x = volume.read(slab.low, slab.high)
    own = slice(slab.first - slab.low, slab.stop - slab.low)
    tiles = _tiles(x[own])
    difference = subtract_neighbours(x)
    fine = bands.fine_part(difference)
    in_plane = bands.fine_part(x) if x.shape[2] > 1 else fine
    fine_variances = (_truncated_variance(_tiles(part[own])) for part in (fine, in_plane))
    coarse_variance = np.square(_tiles(bands.coarse_part(difference)[own])).mean(axis=-1)
    arrays = tiles.mean(axis=-1), *fine_variances, coarse_variance, _clipped_fraction(tiles)
    return tuple(np.asarray(array, np.float32) for array in arrays)


def subtract_neighbours(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Subtract from each slice the mean of its two neighbours, scaled so that white noise keeps its variance.

    Args:
        x: HU, or HU divided by sigma, (rows, columns, slices). A single slice is returned as it is.
    """
    if x.shape[2] == 1:
        return x
    neighbours = np.concatenate([x[..., 1:2], x[..., :-1]], axis=2)
    neighbours += np.concatenate([x[..., 1:], x[..., -2:-1]], axis=2)
    difference = (x - neighbours / 2) * np.float32(np.sqrt(1 / 1.5))
    # The first and the last slice have one neighbour: the variance is 1 + 1 instead of 1 + 1/2.
    difference[..., [0, -1]] *= np.float32(np.sqrt(0.75))
    return np.asarray(difference, np.float32)


def _truncated_variance(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the variance of the voxels of each cell that deviate by less than TRUNCATION times the cell's sigma.

    Sigma follows from the median of the squares, on which a few voxels of an edge or a vessel have little effect.
    """
    squares = np.square(tiles)
    inside = squares <= TRUNCATION**2 / MEDIAN_SQUARE * np.median(squares, axis=-1, keepdims=True)
    return np.asarray(squares.mean(axis=-1, where=inside) / TRUNCATED_VARIANCE)


def _clipped_fraction(tiles: NDArray[np.float32]) -> NDArray[np.floating]:
    """Return the fraction of the voxels of each cell that are excluded, or clipped at one value below air.

    Where the range of values ends below air, several voxels of a cell have the least value; noise that is not clipped
    rarely takes its least value twice.
    """
    least = np.minimum(tiles.min(axis=-1, keepdims=True), AIR)
    return np.asarray(((tiles == AIR) | (tiles == least)).mean(axis=-1))


def _average_around(values: NDArray[np.float32], edge: int) -> NDArray[np.float32]:
    """Return the average over `edge` x `edge` cells and the neighbouring slices."""
    return np.asarray(uniform_filter(values, (edge, edge, min(3, values.shape[2])), mode="nearest"), np.float32)


def _tiles(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return values as (cell rows, cell columns, slices, voxels of a cell); mirroring completes cells at the border."""
    rows, columns, slices = values.shape
    pad = [(0, -rows % CELL), (0, -columns % CELL), (0, 0)]
    full = np.pad(values, pad, mode="symmetric" if min(rows, columns) >= CELL else "wrap")
    tiles = full.reshape(full.shape[0] // CELL, CELL, full.shape[1] // CELL, CELL, slices)
    return tiles.transpose(0, 2, 4, 1, 3).reshape(tiles.shape[0], tiles.shape[2], slices, CELL * CELL)
