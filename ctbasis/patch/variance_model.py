"""Fit of the variance model of ctbasis/patch/ray_paths.py to the noise that is measured in quiet places of the image.

The radiological paths of the rays predict how the noise variance is distributed over the image. The prediction depends
on properties of the scan that no public DICOM header contains: the bow-tie filter, tube current modulation around and
along the patient, the path length at which rays starve, and the share of electronic noise. With the right properties,
the ratio of measured to predicted variance is the same in all places that hold only noise; anatomy can only raise it.
So the image is divided into blocks, the level of each block is taken from its quietest cells, and the fit chooses the
properties for which the levels of most blocks agree.

Adaptive filters and iterative reconstruction make the noise more uniform. Where that explains the levels better, the
predicted variance is raised to a power below one.

References:
    J. Hsieh, "Computed Tomography: Principles, Design, Artifacts, and Recent Advances", SPIE, 3rd ed. 2015, chapter 6.
    M. Gies, W. A. Kalender, H. Wolf, C. Suess, "Dose reduction in CT by anatomically adapted tube current modulation.
        I. Simulation studies", Med. Phys. 26(11), 2235-2247, 1999.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ctbasis.patch.ray_paths import ScanModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.patch.cells import Cells
    from ctbasis.patch.ray_paths import RayPaths, TracedRays

CANDIDATES: dict[str, tuple[float, ...]] = {
    "starvation_path": (6.5, 7.0, 7.5, 8.0, 9.0),
    "bow_tie_radius": (0.0, 400.0, 320.0, 260.0, 220.0, 190.0, 170.0, 155.0, 140.0, 125.0, 110.0),
    "modulation": (0.0, 0.5, 1.0),
}
"""Values that the fit tries for each attribute of `ScanModel`."""

SEARCH_GROUPS = (("bow_tie_radius", "modulation"), ("starvation_path",))
"""Attributes that are searched jointly, one group after another. The effects of the bow-tie filter and of modulation
overlap in part, so all their combinations are tried."""

SEARCH_ROUNDS = 2
"""Number of times that all groups are searched."""

MIN_IMPROVEMENT = 0.95
"""Ratio of unevenness below which a candidate replaces the best so far; smaller improvements are chance."""

MIN_EXPONENT_IMPROVEMENT = 0.9
"""The same for exponents other than 1. An exponent acts everywhere and fits chance more easily: one of four simulated
scans improved by more than a twentieth with a wrong one."""

ELECTRONIC_FRACTIONS = tuple(float(fraction) for fraction in np.linspace(0, 1, 21))
"""Candidate fractions of electronic noise in the variance, averaged over the body."""

EXPONENTS = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Candidate exponents of the predicted variance: 1 is filtered back-projection, 0 is noise that is the same
everywhere, which adaptive filters and iterative reconstruction approach."""

MAX_BLOCKS = 32
"""Number of blocks, a power of 2, if there is enough tissue for all; blocks hold equal amounts of tissue."""

QUIET_FRACTION = 0.3
"""Fraction of the cells of a block that are used: those with the least anatomy."""

COMPARED_BLOCKS = 0.75
"""Fraction of the blocks, those with the lowest levels, that are compared; the others hold anatomy throughout."""

MIN_BLOCKS = 16
"""Blocks that the fit needs: of these, twelve are compared, and five properties are fitted. Some candidate always makes
a few levels agree. With fewer blocks, the default scan is kept."""

MIN_CELLS = 20
"""Cells that a slice or block needs; with fewer it is not used."""


@dataclass(frozen=True)
class VarianceModel:
    """The fitted distribution of the noise variance of a series.

    Attributes:
        scan: Fitted properties of the scan.
        electronic_fraction: Fraction of electronic noise in the variance, averaged over the body.
        exponent: Exponent of the predicted variance.
        relative_variance: Variance of cells up to one common factor, (rows, columns, slices).
        ray_variances: Variance of the rays through each cell by direction, up to one common factor, (directions, rows,
            columns, slices).
        blocks: Number of blocks that were compared; with fewer than MIN_BLOCKS nothing is fitted but the level.
    """

    scan: ScanModel
    electronic_fraction: float
    exponent: float
    relative_variance: NDArray[np.float64]
    ray_variances: NDArray[np.float32]
    blocks: int

    def description(self) -> str:
        """Return the fitted properties as text for the user; empty where there was too little tissue for the fit."""
        scan, parts = self.scan, []
        if self.blocks < MIN_BLOCKS:
            return ""
        if scan.bow_tie_radius:
            parts.append(f"bow-tie filter for a body of {2 * scan.bow_tie_radius:.0f} mm diameter")
        if scan.modulation:
            parts.append(f"tube current modulation that compensates {scan.modulation:.0%} of each view's longest path")
        if scan.starvation_path < ScanModel().starvation_path:
            parts.append(f"photon starvation above a path length of {scan.starvation_path:g}")
        parts.append(f"{self.electronic_fraction:.0%} electronic noise")
        if self.exponent < 1:
            parts.append(f"noise made more uniform (variance to the power {self.exponent:g})")
        return ", ".join(parts)


def fit_variance_model(cells: Cells, tissue: NDArray[np.bool_], rays: TracedRays) -> VarianceModel:
    """Fit the distribution of the noise variance to the variances that were measured in cells.

    Args:
        cells: The measured cells.
        tissue: Cells that may be used.
        rays: The rays through the cells.
    """
    variance = cells.variance.astype(np.float64)
    quiet = _quiet_by_block(cells.structure(), tissue)
    chosen = rays.sampled_slices
    scan = _fit_scan(rays.sample, _QuietCells(variance[..., chosen], quiet[..., chosen]))
    paths, every = rays.every, _QuietCells(variance, quiet)
    terms = paths.variances(scan)
    best = every.fit(terms)
    for exponent in EXPONENTS[1:]:
        other = every.fit(terms, exponent)
        if other.unevenness < MIN_EXPONENT_IMPROVEMENT * best.unevenness:
            best = other
    return VarianceModel(
        scan=scan,
        electronic_fraction=best.electronic_fraction,
        exponent=best.exponent,
        relative_variance=_mixture(terms, best.electronic_fraction) ** best.exponent * np.exp(best.log_current),
        ray_variances=paths.variances_by_direction(best.electronic_fraction, scan),
        blocks=len(every.blocks),
    )


def _fit_scan(paths: RayPaths, cells: _QuietCells) -> ScanModel:
    """Return the scan properties with the least unevenness; among nearly equal ones, those closest to the defaults."""
    known: dict[ScanModel, float] = {}

    def unevenness(scan: ScanModel) -> float:
        if scan not in known:
            known[scan] = cells.fit(paths.variances(scan)).unevenness
        return known[scan]

    best = ScanModel()
    for _ in range(SEARCH_ROUNDS):
        for names in SEARCH_GROUPS:
            combinations = itertools.product(*(CANDIDATES[name] for name in names))
            candidates = (replace(best, **dict(zip(names, values, strict=True))) for values in combinations)
            other = min(candidates, key=unevenness)
            if unevenness(other) < MIN_IMPROVEMENT * unevenness(best):
                best = other
    return best


def _mixture(terms: NDArray[np.float64], electronic_fraction: float) -> NDArray[np.float64]:
    return np.asarray((1 - electronic_fraction) * terms[0] + electronic_fraction * terms[1])


@dataclass(frozen=True)
class _Fit:
    """The agreement of one predicted variance map with the quiet cells.

    Attributes:
        electronic_fraction: Weight of the second of the two variance terms.
        exponent: Exponent of their mixture.
        log_current: Log of the factor by which the tube current changes the variance of every slice, about zero,
            (slices,).
        unevenness: Standard deviation of the levels of the blocks, in log variance.
    """

    electronic_fraction: float
    exponent: float
    log_current: NDArray[np.float64]
    unevenness: float


class _QuietCells:
    """Cells with little anatomy, grouped by blocks of the image and by slices.

    Args:
        variance: Measured variance of cells, HU^2, (rows, columns, slices).
        quiet: Cells that are used.

    Attributes:
        blocks: Indices of the cells of every block.
    """

    def __init__(self, variance: NDArray[np.float64], quiet: NDArray[np.bool_]) -> None:
        self._quiet = quiet
        self._log_variance = np.log(np.maximum(variance[quiet], 1e-6))
        y, x, self._slice = np.nonzero(quiet)
        self._slices = _members(self._slice, quiet.shape[2])
        self.blocks = _blocks(y, x)

    def fit(self, terms: NDArray[np.float64], exponent: float = 1.0) -> _Fit:
        """Return the mixture of two variance terms, raised to `exponent`, that has the least unevenness.

        Args:
            terms: Variance terms, (2, rows, columns, slices).
            exponent: Exponent of the mixture.
        """
        inside = terms[:, self._quiet]
        fits = []
        for fraction in ELECTRONIC_FRACTIONS:
            ratio = self._log_variance - exponent * np.log(_mixture(inside, fraction))
            current = self._log_current(ratio)
            fits.append(_Fit(fraction, exponent, current, self._unevenness(ratio - current[self._slice])))
        return min(fits, key=lambda fit: fit.unevenness)

    def _unevenness(self, ratio: NDArray[np.float64]) -> float:
        """Return the spread of the lowest block levels; anatomy raises the level of a block and never lowers it."""
        if len(self.blocks) < MIN_BLOCKS:
            return 0.0
        levels = np.sort([np.median(ratio[block]) for block in self.blocks])
        return float(levels[: int(COMPARED_BLOCKS * len(levels))].std())

    def _log_current(self, ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log effect of the tube current on the variance of every slice; it is smooth along the patient."""
        slices = len(self._slices)
        level, weight = np.zeros(slices), np.zeros(slices)
        for z, cells in enumerate(self._slices):
            if len(cells) >= MIN_CELLS:
                level[z], weight[z] = np.median(ratio[cells]), 1.0
        if weight.any():
            level -= np.median(level[weight > 0])
        width = min(3.0, slices / 4)
        total = gaussian_filter1d(weight, width, mode="nearest")
        return np.asarray(gaussian_filter1d(level * weight, width, mode="nearest") / np.maximum(total, 1e-3))


def _quiet_by_block(structure: NDArray[np.float32], tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the mask of the QUIET_FRACTION of the cells of every block with the least anatomy, at least MIN_CELLS."""
    y, x, _ = np.nonzero(tissue)
    inside = structure[tissue]
    kept = np.zeros(len(inside), bool)
    for block in _blocks(y, x):
        count = min(len(block), max(MIN_CELLS, round(QUIET_FRACTION * len(block))))
        kept[block[np.argsort(inside[block], kind="stable")[:count]]] = True
    quiet = tissue.copy()
    quiet[tissue] = kept
    return quiet


def _blocks(y: NDArray[np.intp], x: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Return the indices of the cells of every block, given their rows and columns.

    The cells are halved again and again across the direction in which they extend further, so that all blocks hold as
    many cells, at least MIN_CELLS unless there are fewer than that.
    """
    blocks, positions = [np.arange(len(y))], np.stack([y, x])
    while len(blocks) < MAX_BLOCKS and len(blocks[0]) >= 2 * MIN_CELLS:
        blocks = [half for block in blocks for half in _halves(block, positions)]
    return blocks


def _halves(block: NDArray[np.intp], positions: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Return the two halves of a block; the first one holds an odd cell less."""
    along = positions[:, block]
    order = np.argsort(along[np.argmax(np.ptp(along, axis=1))], kind="stable")
    return [block[order[: len(order) // 2]], block[order[len(order) // 2 :]]]


def _members(labels: NDArray[np.intp], count: int) -> list[NDArray[np.intp]]:
    """Return the indices of the elements that carry each label from 0 to `count` - 1."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(1, count)))
