"""Anatomy of low contrast in the component that a method removed, seen after smoothing.

Low-contrast anatomy that was removed with the noise (a wall of the heart, a vein in fat) is weaker than the noise and
invisible in the removed component r = noisy - denoised. A Gaussian of SMOOTHING pixels averages the noise out and keeps
such anatomy. Over the interior of the body,

    smoothed removal = std(Gaussian(r)) / std(Gaussian(n))

with the noise n. A method that removes nothing but noise has at most 1; less where it keeps part of the noise at low
frequencies. A ratio above 1 is anatomy. The other sign of anatomy is a correlation of the smoothed removed component
with the smoothed truth that is stronger than that of the noise.

Without a truth, both are estimated:

    promised by the noise model    std(Gaussian(n))^2 = sum over lags h of c(h) (g * g)(h), averaged over the interior

with the covariance c of the noise (ctbasis/patch/noise.py) and the autocorrelation g * g of the Gaussian, which is a
Gaussian of sqrt(2) SMOOTHING. The correlation is taken with the denoised image instead of the truth.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import binary_erosion, binary_fill_holes, gaussian_filter, label

from ctbasis.patch.noise import CELL
from ctbasis.patch.noise_fit import fit_slice_noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctbasis.patch.noise import Noise

SMOOTHING = 2.0
"""Standard deviation of the Gaussian, pixels."""

SURROUNDINGS = 8.0
"""Standard deviation, in pixels, of the Gaussian whose result is subtracted from the denoised image."""

SOFT_TISSUE = (-200.0, 200.0)
"""HU of the soft tissue, fat included, whose anatomy is of low contrast."""

TINY = 1e-6
"""Smallest weight of a mean, so that pixels far from soft tissue divide nothing by zero."""

COARSE = 4
"""Pixels along the edge of the squares in which the interior of the body is determined."""

BODY = -400.0
"""Mean HU above which such a square belongs to the body."""

MARGIN = 2
"""Squares between the surface of the body and its interior: four times SMOOTHING, so that no air is smoothed in."""

FEWEST = 1000
"""Smallest number of pixels of the interior for which a slice is measured."""

LITTLE = 0.3
"""Standard deviation of the smoothed removed component, HU, below which nothing was removed: rounding to whole HU."""

REACH = 4
"""Largest lag of a covariance that is estimated here, in pixels."""

MOST_RATIO = 1.25
"""Smoothed removal over the promise of the noise model from which anatomy is possible. The model may be wrong by 15 %
in the covariance and by 10 % in sigma; the error of the measurement is about 3 % in a slice."""

MOST_CORRELATION = 0.2
"""Correlation with the denoised image from which anatomy is possible. Noise of a slice has a standard deviation of .02
to .04, and what a method keeps of the noise correlates with what it removed by less than .1."""


def interior(anatomy: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the interior of the body, lungs included, (rows, columns); nothing where there is no body.

    Args:
        anatomy: HU, (rows, columns): the truth where it is known, else the denoised or the noisy image.
    """
    rows, columns = anatomy.shape
    high, wide = rows // COARSE, columns // COARSE
    inside = np.zeros(anatomy.shape, np.bool_)
    squares = anatomy[: high * COARSE, : wide * COARSE].reshape(high, COARSE, wide, COARSE).mean(axis=(1, 3))
    parts, count = label(squares > BODY)
    if count:
        largest = parts == int(np.argmax(np.bincount(parts.ravel())[1:])) + 1
        eroded = binary_erosion(binary_fill_holes(largest), iterations=MARGIN)
        inside[: high * COARSE, : wide * COARSE] = eroded.repeat(COARSE, 0).repeat(COARSE, 1)
    return inside


def smoothed(image: NDArray[Any]) -> NDArray[np.float32]:
    """Return `image`, (rows, columns), after the Gaussian of SMOOTHING."""
    return np.asarray(gaussian_filter(np.asarray(image, np.float32), SMOOTHING))


def low_contrast(image: NDArray[Any], inside: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the anatomy of low contrast in soft tissue, HU, (rows, columns), and the pixels where it is measured.

    It is the image between the scales SMOOTHING and SURROUNDINGS. Lung and bone are left out with the pixels near them,
    because their contrast would outweigh that of soft tissue.

    Args:
        image: HU, (rows, columns).
        inside: Interior of the body.
    """
    soft = np.asarray(inside & (image > SOFT_TISSUE[0]) & (image < SOFT_TISSUE[1]))
    return between_scales(image, soft), np.asarray(binary_erosion(soft, iterations=round(2 * SMOOTHING)))


def between_scales(image: NDArray[Any], soft: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return an image between the scales SMOOTHING and SURROUNDINGS, averaged over soft tissue alone.

    Args:
        image: HU, (rows, columns).
        soft: Pixels of soft tissue.
    """
    hu = np.where(soft, image, 0.0).astype(np.float32)
    weights = soft.astype(np.float32)

    def mean(scale: float) -> NDArray[np.float32]:
        return np.asarray(gaussian_filter(hu, scale) / np.maximum(gaussian_filter(weights, scale), TINY), np.float32)

    return mean(SMOOTHING) - mean(SURROUNDINGS)


def correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return Pearson's correlation; 0 if one of the two arrays is constant."""
    x, y = (np.asarray(values, np.float64) - np.mean(values, dtype=np.float64) for values in (one, other))
    power = float(x @ x) * float(y @ y)
    return float(x @ y) / math.sqrt(power) if power > 0 else 0.0


class SmoothedRemoval:
    """Smoothed removal where the noise is known, accumulated slice by slice."""

    def __init__(self) -> None:
        self._count = 0
        self._squares = np.zeros(2)
        self._correlations: list[tuple[float, ...]] = []

    def add(self, truth: NDArray[Any], removed: NDArray[Any], noise: NDArray[Any]) -> None:
        """Add a slice.

        Args:
            truth: HU, (rows, columns).
            removed: noisy - denoised, HU.
            noise: noisy - truth, HU.
        """
        inside = interior(truth)
        count = int(np.count_nonzero(inside))
        if count < FEWEST:
            return
        components = [smoothed(component) for component in (removed, noise)]
        self._count += count
        self._squares += [count * float(np.var(entry[inside], dtype=np.float64)) for entry in components]
        anatomy, soft = low_contrast(truth, inside)
        if np.count_nonzero(soft) >= FEWEST:
            self._correlations.append(tuple(abs(correlation(entry[soft], anatomy[soft])) for entry in components))

    @property
    def ratio(self) -> float | None:
        """Standard deviation of the smoothed removed component over that of the smoothed noise."""
        removed, noise = self._squares
        return math.sqrt(removed / noise) if noise > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Return the scores, values for JSON; None without a slice that shows a body.

        `smoothed_removal` is the ratio, `smoothed_removed_hu` and `smoothed_noise_hu` the two standard deviations in
        HU, `low_contrast` the correlations of the smoothed removed component and of the smoothed noise with the truth's
        anatomy of low contrast, the mean of their absolute values over the slices.
        """
        removed, noise = (math.sqrt(squares / self._count) if self._count else None for squares in self._squares)
        pairs = np.array(self._correlations)
        means = pairs.mean(axis=0).tolist() if len(pairs) else (None, None)
        return {
            "smoothed_removal": self.ratio,
            "smoothed_removed_hu": removed,
            "smoothed_noise_hu": noise,
            "low_contrast": {"removed": means[0], "noise": means[1]},
        }


@dataclass(frozen=True)
class SmoothedEstimate:
    """Smoothed removal of one slice without a truth.

    Attributes:
        slice: Number of the slice, from 1, over all series.
        removed_hu: Standard deviation of the smoothed removed component in the interior, HU.
        promised_hu: The same of the noise that the method removes, as its model promises, HU.
        correlation: Correlation of the smoothed removed component with the low contrast of the denoised image.
    """

    slice: int
    removed_hu: float
    promised_hu: float
    correlation: float

    @property
    def ratio(self) -> float:
        """`removed_hu` over `promised_hu`."""
        return self.removed_hu / self.promised_hu if self.promised_hu > 0 else math.inf

    @property
    def anatomy_possible(self) -> bool:
        """Whether the slice lost more at low frequencies than noise, or a pattern that follows the anatomy."""
        return self.ratio > MOST_RATIO or abs(self.correlation) > MOST_CORRELATION

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as values for JSON."""
        finite = self.ratio if math.isfinite(self.ratio) else None
        return {**asdict(self), "ratio": finite, "anatomy_possible": self.anatomy_possible}


@dataclass
class RemovedAnatomy:
    """Estimates of the slices that the report examines.

    Attributes:
        slices: Those that show a body and that something was removed from.
    """

    slices: list[SmoothedEstimate] = field(default_factory=list)

    def add(self, number: int, before: NDArray[Any], after: NDArray[Any], promised: Promise) -> None:
        """Measure slice `number`, counted from 1.

        Args:
            number: Number of the slice.
            before: Noisy slice, HU, (rows, columns).
            after: Denoised slice, HU.
            promised: Promise of the noise model for this slice.
        """
        inside = interior(after)
        removed = smoothed(before - after)
        std = float(np.std(removed[inside], dtype=np.float64)) if np.count_nonzero(inside) >= FEWEST else 0.0
        if std < LITTLE:
            return
        anatomy, soft = low_contrast(after, inside)
        follows = correlation(removed[soft], anatomy[soft]) if np.count_nonzero(soft) >= FEWEST else 0.0
        self.slices.append(SmoothedEstimate(number, std, promised.std(inside), follows))

    @property
    def possible(self) -> list[int]:
        """Numbers of the slices in which anatomy may have been removed."""
        return [entry.slice for entry in self.slices if entry.anatomy_possible]

    @property
    def verdict(self) -> str:
        """Whether anatomy was removed, in words."""
        if not self.slices:
            return "not measured: no slice shows a body that something was removed from"
        if not self.possible:
            return f"no, in {len(self.slices)} slices examined"
        return f"possible at slices {', '.join(map(str, self.possible))}, of {len(self.slices)} slices examined"

    def to_dict(self) -> dict[str, Any]:
        """Return verdict and numbers as values for JSON; None where nothing was measured."""
        means = [_mean([getattr(entry, name) for entry in self.slices]) for name in ("removed_hu", "promised_hu")]
        ratios = [entry.ratio for entry in self.slices if math.isfinite(entry.ratio)]
        return {
            "anatomy_removed": self.verdict,
            "anatomy_possible_at": self.possible,
            "smoothed_removal": _mean(ratios),
            "smoothed_removed_hu": means[0],
            "smoothed_promised_hu": means[1],
            "smoothed_slices": [entry.to_dict() for entry in self.slices],
        }


def measured_removal(truth: NDArray[Any], before: NDArray[Any], after: NDArray[Any]) -> dict[str, Any]:
    """Return `SmoothedRemoval.to_dict` of slices whose truth is known, each HU, (slices, rows, columns)."""
    removal = SmoothedRemoval()
    for true, noisy, denoised in zip(truth, before, after, strict=True):
        removal.add(true, noisy - denoised, noisy - true)
    return removal.to_dict()


def anatomy_warning(verdict: str) -> str:
    """Return the warning that a report shows above its metrics where `RemovedAnatomy.possible` names slices."""
    return (
        f"Anatomy of low contrast may have been removed with the noise: {verdict}. Look at the removed component "
        f"smoothed by {SMOOTHING:g} pixels in Figure 1: outlines of anatomy there are missing from the image."
    )


@dataclass(frozen=True)
class Promise:
    """What a noise model promises for the smoothed noise of one slice.

    Attributes:
        variance: Variance of the smoothed noise on cells, HU^2, (rows, columns) of cells.
        cell: Pixels along the edge of a cell.
    """

    variance: NDArray[np.float64]
    cell: int

    @classmethod
    def of(cls, noise: Noise, index: int, *, restored: float = 0.0) -> Promise:
        """Return the promise of `noise` for one of its slices.

        Args:
            noise: The noise of a series.
            index: Index of the slice in the series.
            restored: Fraction of the removed component that was restored.
        """
        _, high, wide, deep = noise.texture_covariances.shape
        y, x = (np.arange(edge) - edge // 2 for edge in (high, wide))
        squared = (y[:, None] ** 2 + x**2) / (4 * SMOOTHING**2)
        autocorrelation = np.exp(-squared) / (4 * np.pi * SMOOTHING**2)
        gains = np.einsum("tij,ij->t", noise.texture_covariances[..., deep // 2], autocorrelation)
        gains = np.maximum(gains, 0.0)[noise.texture_map[..., index]]
        sigma = noise.sigma[..., index].astype(np.float64)
        return cls((1 - restored) ** 2 * sigma**2 * gains, CELL)

    @classmethod
    def estimated(cls, image: NDArray[Any], pixel_spacing: tuple[float, float]) -> Promise:
        """Return the promise of a noise model that is estimated from one noisy slice.

        Args:
            image: HU, (rows, columns).
            pixel_spacing: Distance in mm between rows and between columns.
        """
        return cls.of(fit_slice_noise(np.asarray(image, np.float32), pixel_spacing, reach=REACH), 0)

    def std(self, inside: NDArray[np.bool_]) -> float:
        """Return the standard deviation over the pixels `inside`, (rows, columns), HU."""
        rows, columns = np.nonzero(inside)
        at = rows // self.cell, columns // self.cell
        return float(np.sqrt(np.mean(self.variance[at]))) if rows.size else 0.0


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
