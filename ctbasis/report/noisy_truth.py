"""Errors against a truth that has noise of its own, such as the full-dose scan of a patient.

The truth is t + n with the anatomy t and noise n, and the noisy input is t + n + m. m is known at every voxel as the
input minus the truth. The error of a result x against the truth, E (x - t - n)^2, is not its error against t, because x
was computed from an input that holds n too: a method that keeps n is favoured, a method that removes it is penalized.
The twin of the truth

    B = t + n - w m,    w = (1 + k) / (rho + k),    rho = var m / var n,    k = cov(n, m) / var n

has noise n - w m that is uncorrelated with the noise n + m of the input. If both are Gaussian and of one spectrum, it
is independent of x, and the true error of x follows:

    E (x - t)^2 = E (x - B)^2 - var(n - w m),    var(n - w m) = var n (1 - 2 w k + w^2 rho)

It holds for inserted noise (k = 0), for scanners whose insertion correlates with the noise of the scan, and for a truth
that is a repetition of the scan (k = -1: w = 0, and only the variance of n is subtracted). rho and k are measured in
flat windows of soft tissue, in the band of high frequencies, where anatomy hardly contributes. The local variance of n
is that of m divided by rho.

Limits: noise of the truth whose spectrum differs from that of m, read-out noise, which changes rho from place to place,
and anatomy as fine as a pixel make the result wrong. Where a method leaves little error, the result is a small
difference of large numbers.

References:
    C. M. Stein, "Estimation of the mean of a multivariate normal distribution", Ann. Statist. 9(6), 1135-1151, 1981.
    N. Moran, D. Schmidt, Y. Zhong, P. Coady, "Noisier2Noise: learning to denoise from unpaired noisy data", CVPR 2020
        (noise that is added to noise).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter, gaussian_gradient_magnitude, uniform_filter

from ctbasis.report.quality import LUNG, TISSUE
from ctbasis.report.smoothed_removal import interior

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

WINDOW = 12
"""Pixels along the edge of a flat window."""

HIGH_PASS = 1.0
"""Standard deviation, in pixels, of the Gaussian that is subtracted to leave the band of high frequencies."""

SMOOTHING = 1.5
"""Standard deviation, in pixels, of the Gaussian before regions are determined, so that noise does not choose them."""

SOFT_TISSUE = (-150.0, 150.0)
"""HU of soft tissue after smoothing."""

STEEP = 60.0
"""HU per pixel after smoothing from which a pixel belongs to an edge."""

FLATTEST = 0.5
"""Fraction of the windows that is used, those with the smallest gradient at low frequencies."""

LOCAL = 10.0
"""Standard deviation, in pixels, of the Gaussian over which the variance of m is local."""

CLIPPED = -1020.0
"""HU at and below which a voxel of truth or input may have been clipped; such voxels are left out."""

FEWEST_WINDOWS = 20
"""Smallest number of flat windows for a measurement."""

FEWEST_VOXELS = 500
"""Smallest number of voxels of a region for which an error is given."""

NOTICED_SIGMA, NOTICED_FRACTION = 3.0, 0.02
"""Noise of a truth that is noticed: HU in soft tissue, and its variance over that of m. Less changes no score."""

TINY = 1e-6
"""Smallest variance of the noise of a truth over that of m, so that a truth without noise divides nothing by zero."""

REGIONS = ("body", "soft", "lung", "edges")
"""Regions whose errors are given."""


@dataclass(frozen=True)
class TruthNoise:
    """The noise of a truth, relative to the noise m that the input has in addition.

    Attributes:
        sigma: Standard deviation of the noise of the truth in soft tissue, HU.
        ratio: rho, the variance of m over that of the noise of the truth.
        covariance: k, the covariance of both over the variance of the noise of the truth.
        given: Whether `sigma` was given, and not measured.
    """

    sigma: float
    ratio: float
    covariance: float
    given: bool = False

    @property
    def weight(self) -> float:
        """w, the part of m that the twin takes off."""
        return (1 + self.covariance) / (self.ratio + self.covariance)

    @property
    def twin_variance(self) -> float:
        """Variance of the noise of the twin over that of the noise of the truth."""
        w = self.weight
        return 1 - 2 * w * self.covariance + w**2 * self.ratio

    @property
    def noticeable(self) -> bool:
        """Whether the noise changes scores."""
        return self.given or (self.sigma > NOTICED_SIGMA and 1 / self.ratio > NOTICED_FRACTION)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as values for JSON."""
        numbers = {"sigma_soft_hu": self.sigma, "given": self.given, "ratio": self.ratio}
        return {**numbers, "covariance": self.covariance, "weight": self.weight}


class FlatWindows:
    """Noise of truth and input in flat windows of soft tissue, collected slice by slice."""

    def __init__(self) -> None:
        self._windows: list[NDArray[np.float64]] = []
        self._soft = np.zeros(2)

    @classmethod
    def of(cls, truth: Iterable[NDArray[Any]], noisy: Iterable[NDArray[Any]]) -> Self:
        """Return the windows of slices of the truth and of the input, HU, each (rows, columns)."""
        windows = cls()
        for slices in zip(truth, noisy, strict=True):
            windows.add(*slices)
        return windows

    def add(self, truth: NDArray[Any], noisy: NDArray[Any]) -> None:
        """Add a slice of the truth and of the input, HU, (rows, columns)."""
        true = np.asarray(truth, np.float64)
        m = np.asarray(noisy, np.float64) - true
        smooth = gaussian_filter(true, SMOOTHING)
        soft = interior(true) & (smooth > SOFT_TISSUE[0]) & (smooth < SOFT_TISSUE[1])
        soft &= gaussian_gradient_magnitude(true, SMOOTHING) < STEEP
        soft &= np.minimum(true, noisy) > CLIPPED
        self._soft += int(np.count_nonzero(soft)), float(np.square(m[soft]).sum())
        flat = uniform_filter(binary_erosion(soft, iterations=2).astype(np.float64), WINDOW) > 0.99  # noqa: PLR2004
        high, high_m = (image - gaussian_filter(image, HIGH_PASS) for image in (true, m))
        slope = gaussian_gradient_magnitude(true, 2 * SMOOTHING)
        maps = (high**2, high_m**2, high * high_m, slope)
        centres = slice(WINDOW // 2, None, WINDOW)
        chosen = flat[centres, centres]
        if chosen.any():
            means = [uniform_filter(values, WINDOW)[centres, centres][chosen] for values in maps]
            self._windows.append(np.stack(means, axis=1))

    def measure(self, sigma: float | None = None) -> TruthNoise | None:
        """Return the noise of the truth; None with too few flat windows, or if the input is the truth.

        Args:
            sigma: Standard deviation of the noise of the truth in soft tissue, HU, if it is known.
        """
        windows = np.concatenate(self._windows) if self._windows else np.empty((0, 4))
        windows = windows[windows[:, 1] > 0]
        if len(windows) < FEWEST_WINDOWS:
            return None
        # The slope is one of low frequencies, so this choice does not depend on the noise that is measured.
        flat = windows[windows[:, 3] <= np.quantile(windows[:, 3], FLATTEST)]
        count, squares = self._soft
        variance = float(squares / count)
        inverse = float(np.median(flat[:, 0] / flat[:, 1])) if sigma is None else sigma**2 / variance
        inverse = max(inverse, TINY)
        covariance = float(np.median(flat[:, 2] / flat[:, 1])) / inverse
        # Noise that the input shares with the truth at most cancels, and at most doubles.
        covariance = min(max(covariance, -1.0), 1.0)
        return TruthNoise(math.sqrt(variance * inverse), 1 / inverse, covariance, given=sigma is not None)


class TwinErrors:
    """Errors of images against the noiseless anatomy of a noisy truth, collected slice by slice.

    Args:
        noise: The noise of the truth.
        names: Names of the images.
    """

    def __init__(self, noise: TruthNoise, names: tuple[str, ...] = ("image", "noisy")) -> None:
        self.noise = noise
        self._sums = {name: {region: np.zeros(2) for region in REGIONS} for name in names}

    def add(self, truth: NDArray[Any], noisy: NDArray[Any], *images: NDArray[Any]) -> None:
        """Add a slice.

        Args:
            truth: The noisy truth, HU, (rows, columns).
            noisy: The input.
            *images: The images, in the order of `names`.
        """
        true = np.asarray(truth, np.float64)
        m = np.asarray(noisy, np.float64) - true
        twin = true - self.noise.weight * m
        own = gaussian_filter(m**2, LOCAL) / self.noise.ratio * self.noise.twin_variance
        valid = np.minimum(true, noisy) > CLIPPED
        for region, mask in smooth_regions(true).items():
            inside = mask & valid
            count = int(np.count_nonzero(inside))
            for name, image in zip(self._sums, images, strict=True):
                squares = (np.asarray(image, np.float64) - twin)[inside] ** 2 - own[inside]
                self._sums[name][region] += count, float(squares.sum())

    def rmse(self, name: str) -> dict[str, float | None]:
        """Return the root mean square errors of an image, HU, by the name of the score.

        None stands for a region with too few voxels, and 0 where the estimate of the squared error is negative.
        """
        return corrected_rmse(self._sums[name])


def corrected_rmse(sums: Mapping[str, NDArray[np.float64]]) -> dict[str, float | None]:
    """Return `TwinErrors.rmse` from the number of voxels and the sum of squared errors, HU^2, of each region."""
    return {
        f"rmse_{region}": math.sqrt(max(square / count, 0.0)) if count >= FEWEST_VOXELS else None
        for region, (count, square) in sums.items()
    }


def smooth_regions(truth: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """Return the masks of REGIONS in a slice, (rows, columns), determined after smoothing.

    Args:
        truth: HU, (rows, columns).
    """
    smooth = gaussian_filter(np.asarray(truth, np.float64), SMOOTHING)
    inside = interior(smooth)
    edges = inside & (gaussian_gradient_magnitude(np.asarray(truth, np.float64), SMOOTHING) > STEEP)
    soft = (smooth > SOFT_TISSUE[0]) & (smooth < SOFT_TISSUE[1])
    lung = (smooth > LUNG[0]) & (smooth < LUNG[1])
    return {
        "body": np.asarray(inside & ((smooth > TISSUE) | lung)),
        "soft": np.asarray(inside & soft & ~edges),
        "lung": np.asarray(inside & lung & ~edges),
        "edges": np.asarray(edges),
    }


def paired_scores(
    truth: Iterable[NDArray[Any]],
    before: Iterable[NDArray[Any]],
    after: Iterable[NDArray[Any]],
    *,
    sigma: float | None = None,
) -> dict[str, Any]:
    """Return the scores of slices whose truth may have noise of its own, values for JSON.

    Args:
        truth: Slices of the truth, HU, (rows, columns); a sequence, because it is read twice.
        before: The same slices of the input; a sequence.
        after: The same slices of the result.
        sigma: Standard deviation of the noise of the truth in soft tissue, HU, if it is known.

    Returns:
        `truth_noise`, the noise of the truth; None if it cannot be measured. `noise_corrected`, the errors of the
        result, and those of the input as its `before`; None where the noise of the truth is not noticeable.
    """
    return twin_scores(FlatWindows.of(truth, before).measure(sigma), zip(truth, before, after, strict=True))


def twin_scores(
    noise: TruthNoise | None, slices: Iterable[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]
) -> dict[str, Any]:
    """Return the scores of `paired_scores` from the measured noise of the truth.

    Args:
        noise: From `FlatWindows.measure`.
        slices: Truth, input and result of every slice, HU, (rows, columns); read only if the noise is noticeable.
    """
    if noise is None or not noise.noticeable:
        return {"truth_noise": None if noise is None else noise.to_dict(), "noise_corrected": None}
    errors = TwinErrors(noise)
    for true, noisy, denoised in slices:
        errors.add(true, noisy, denoised, noisy)
    corrected = {**errors.rmse("image"), "before": errors.rmse("noisy")}
    return {"truth_noise": noise.to_dict(), "noise_corrected": corrected}


def noisy_truth_warning(scores: Mapping[str, Any]) -> str:
    """Return the warning about scores that hold `noise_corrected` of `paired_scores`."""
    noise = scores["truth_noise"]
    return (
        f"The truth has noise of its own, about {noise['sigma_soft_hu']:.1f} HU in soft tissue. A method that removes "
        "this noise too is penalized by the scores against the truth; the noise-corrected scores estimate the error "
        "against the anatomy without noise."
    )
