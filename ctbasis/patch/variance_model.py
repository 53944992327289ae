"""What the scanner did to how noise is distributed, told by the quiet places of the image.

How the variance is distributed follows from the paths of the rays (ctbasis/patch/ray_paths.py) but for what no header
tells, or only in a private way: whether there was a bow-tie filter, how the tube current followed the body around it
and along it, at what path a ray starves, what share electronic noise has. Over the right distribution, the variance of
whatever holds nothing but noise is the same everywhere; anatomy only adds to it. So the image is cut into blocks, the
quietest cells of each tell its level, and what is sought is under what most levels are alike.

What is done to the image afterwards, by adaptive filters and iterative reconstruction, evens noise out: where that
explains more, the variance goes in to a power below one.

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
from scipy.ndimage import gaussian_filter1d, uniform_filter1d

from ctbasis.patch.ray_paths import RayPaths, Scan

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLICES = 3
"""Slices whose variances are averaged in a cell: their noise is almost independent, their anatomy the same."""

TRIED: dict[str, tuple[float, ...]] = {
    "longest": (6.5, 7.0, 7.5, 8.0, 9.0),
    "bow_tie": (0.0, 400.0, 320.0, 260.0, 220.0, 190.0, 170.0, 155.0, 140.0, 125.0, 110.0),
    "modulation": (0.0, 0.5, 1.0),
}
"""What a scanner may have done."""

TOGETHER = (("bow_tie", "modulation"), ("longest",))
"""What of it is tried in all combinations, for the one explains a little of the other; the rest is tried in turn."""

ROUNDS = 2
"""Of that."""

CLEARLY = 0.95
"""Of the unevenness: what a guess has to be below, for less is chance."""

SHARES = tuple(float(share) for share in np.linspace(0, 1, 21))
"""Shares of the variance that electronic noise may have, averaged over the body."""

POWERS = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Powers of the variance that may be left: 1 is that of the rays, 0 the same everywhere, which adaptive filters and
iterative reconstruction come near."""

BLOCKS = 8
"""Blocks along the edge of the image's tissue, each with as much of it."""

QUIET = 0.1
"""Share of a block's or a slice's cells that is quiet."""

EVEN = 0.75
"""Share of the blocks that are to be alike: the rest holds anatomy throughout."""

FEW = 20
"""Cells of a slice or a block below which it says nothing."""

SEEN = 24
"""Slices, at most, that tell what the scanner did."""


@dataclass(frozen=True)
class Scanned:
    """How the variance of a series is distributed.

    Attributes:
        scan: What the scanner did.
        share: Of the variance that is electronic noise, averaged over the body.
        power: Of the variance of the rays that the image's has.
        shape: The variance of cells up to a factor, (rows, columns, slices).
        rays: That of the rays through a cell by direction, up to a factor, (directions, rows, columns, slices).
        blocks: Of the image that told it; nothing is told by fewer than two.
    """

    scan: Scan
    share: float
    power: float
    shape: NDArray[np.float64]
    rays: NDArray[np.float32]
    blocks: int

    def words(self) -> str:
        """Return what the scanner did, for people; nothing where that cannot be told."""
        scan, said = self.scan, []
        if self.blocks < 2:  # noqa: PLR2004 - one is always like itself
            return ""
        if scan.bow_tie:
            said.append(f"bow-tie filter for a body of {2 * scan.bow_tie:.0f} mm")
        if scan.modulation:
            said.append(f"tube current that makes up for {scan.modulation:.0%} of the longest path of each view")
        if scan.longest < Scan().longest:
            said.append(f"rays that starve at a path of {scan.longest:g}")
        said.append(f"{self.share:.0%} electronic noise")
        if self.power < 1:
            said.append(f"noise evened out, to the power {self.power:g}")
        return ", ".join(said)


def find_scan(
    mean: NDArray[np.floating], variance: NDArray[np.floating], tissue: NDArray[np.bool_], cell: tuple[float, float]
) -> Scanned:
    """Tell what the scanner did.

    Args:
        mean: Of cells, HU, (rows, columns, slices).
        variance: As measured in each, noise and anatomy, HU^2.
        tissue: Cells whose variance may be that of noise.
        cell: mm between cells along rows and columns.
    """
    pooled = uniform_filter1d(variance.astype(np.float64), SLICES, axis=2, mode="nearest")
    slices = mean.shape[2]
    chosen = np.unique(np.linspace(0, slices - 1, min(SEEN, slices)).round().astype(np.intp))
    scan = _scan(RayPaths(mean[..., chosen], cell), _Quiet(pooled[..., chosen], tissue[..., chosen]))
    paths, quiet = RayPaths(mean, cell), _Quiet(pooled, tissue)
    shapes = paths.variances(scan)
    best = quiet.fit(shapes)
    for power in POWERS[1:]:
        other = quiet.fit(shapes, power)
        if other.unevenness < CLEARLY * best.unevenness:
            best = other
    shape = _mixed(shapes, best.share) ** best.power * np.exp(best.current)
    return Scanned(scan, best.share, best.power, shape, paths.by_direction(best.share, scan), len(quiet.blocks))


def _scan(paths: RayPaths, quiet: _Quiet) -> Scan:
    """Return the scan under which quiet places are most alike; of equals, that in which the scanner did least."""
    found: dict[Scan, float] = {}

    def unevenness(scan: Scan) -> float:
        if scan not in found:
            found[scan] = quiet.fit(paths.variances(scan)).unevenness
        return found[scan]

    best = Scan()
    for _ in range(ROUNDS):
        for names in TOGETHER:
            guesses = itertools.product(*(TRIED[name] for name in names))
            other = min((replace(best, **dict(zip(names, guess, strict=True))) for guess in guesses), key=unevenness)
            if unevenness(other) < CLEARLY * unevenness(best):
                best = other
    return best


def _mixed(shapes: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    return np.asarray((1 - share) * shapes[0] + share * shapes[1])


@dataclass(frozen=True)
class _Fit:
    """How one distribution of the variance explains the quiet places.

    Attributes:
        share: Of the second of two shapes that it is mixed of.
        power: Of the mixture.
        current: Log of the tube current's part in the variance of every slice, about zero, (slices,).
        unevenness: Standard deviation of the levels of the blocks, of the log variance.
    """

    share: float
    power: float
    current: NDArray[np.float64]
    unevenness: float


class _Quiet:
    """The cells of tissue, in blocks of the image and in slices.

    Args:
        variance: Of cells, HU^2, (rows, columns, slices).
        tissue: Which of them count.

    Attributes:
        blocks: Places among the cells that count, block by block, of the blocks that hold enough of them.
    """

    def __init__(self, variance: NDArray[np.float64], tissue: NDArray[np.bool_]) -> None:
        self._tissue = tissue
        self._log_variance = np.log(np.maximum(variance[tissue], 1e-6))
        y, x, self._slice = np.nonzero(tissue)
        self._slices = _members(self._slice, tissue.shape[2])
        self.blocks = [block for block in _members(_part(y) * BLOCKS + _part(x), BLOCKS * BLOCKS) if len(block) >= FEW]

    def fit(self, shapes: NDArray[np.float64], power: float = 1.0) -> _Fit:
        """Return the mixture of two variances, to a power, under which quiet places are most alike.

        Args:
            shapes: The variances, (2, rows, columns, slices).
            power: Of the mixture.
        """
        inside = shapes[:, self._tissue]
        fits = []
        for share in SHARES:
            ratio = self._log_variance - power * np.log(_mixed(inside, share))
            current = self._current(ratio)
            fits.append(_Fit(share, power, current, self._unevenness(ratio - current[self._slice])))
        return min(fits, key=lambda fit: fit.unevenness)

    def _unevenness(self, ratio: NDArray[np.float64]) -> float:
        """Return the spread of the levels of the blocks; anatomy lifts some and lowers none."""
        if not self.blocks:
            return 0.0
        levels = np.sort([_level(ratio[block]) for block in self.blocks])
        return float(levels[: max(2, int(EVEN * len(levels)))].std())

    def _current(self, ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log of the tube current's part in the variance of every slice: smooth along the patient."""
        slices = len(self._slices)
        found, weight = np.zeros(slices), np.zeros(slices)
        for z, cells in enumerate(self._slices):
            if len(cells) >= FEW:
                found[z], weight[z] = _level(ratio[cells]), 1.0
        if weight.any():
            found -= np.median(found[weight > 0])
        width = min(3.0, slices / 4)
        total = gaussian_filter1d(weight, width, mode="nearest")
        return np.asarray(gaussian_filter1d(found * weight, width, mode="nearest") / np.maximum(total, 1e-3))


def _level(values: NDArray[np.float64]) -> float:
    """Return the value that a share of QUIET is below."""
    least = int(QUIET * (len(values) - 1))
    return float(np.partition(values, least)[least])


def _members(part: NDArray[np.intp], count: int) -> list[NDArray[np.intp]]:
    """Return the places in `part` of every number below `count`."""
    order = np.argsort(part, kind="stable")
    return np.split(order, np.searchsorted(part[order], np.arange(1, count)))


def _part(place: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return which of BLOCKS parts, with as many cells each, a place along an axis is in."""
    if not len(place):
        return place
    edges = np.quantile(place, np.linspace(0, 1, BLOCKS + 1))[1:-1]
    return np.asarray(np.searchsorted(edges, place, side="right"), np.intp)
