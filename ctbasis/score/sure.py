"""Stein's unbiased risk estimate (SURE) along a given noise field: the true error of a method without a truth.

A series y = t + n with unknown anatomy t and Gaussian noise n is denoised to f(y). Its mean squared error is

    E |f(y) - t|^2 = E |f(y) - y|^2 - var n + 2 div,    div = E n . (f(y) - t) = tr(S_n J)

with the covariance S_n of the noise and the Jacobian J of f. For a field m of the same spectrum, independent of n and
rho times as strong, S_m = rho S_n, and the divergence follows from a second run on y + epsilon m:

    div = E m . (f(y + epsilon m) - f(y)) / (epsilon rho)

For a scan of which some slices exist at a lower dose too, m is the low-dose slice minus the full-dose slice: the real
noise of the scanner, with its texture and its streaks. In all other slices m is not known, and nothing is measured.

Slices that overlap share noise: slice l of y holds noise that is correlated with that of slice k. A method that
averages over slices then removes less noise than it seems, and the divergence in slice k has a part from every slice l,

    div_k = sum over l of tr(S_kl J_kl),    S_kl = r(k - l) S_kk

with the correlation r between slices. So the second run needs a field in the neighbouring slices too: its expectation
given that of the known slices, r(k - l) m_k for a lone slice k. The part of the unknown field that is independent of m
contributes nothing on average. Without it, errors of three-dimensional methods come out too low.

The same two runs free another score from the noise of the series. The removed component r = y - f(y) follows n, and so
it correlates with the low contrast L(y) = L(t) + L(n) that the series shows, even if no anatomy is removed. The part of
the noise is a divergence too: with the response r' = m - (f(y + epsilon m) - f(y)) / epsilon of r to the field,

    cov(r, L(t)) = cov(r, L(y)) - mean r' L(m) / rho,    var L(t) = var L(y) - var L(m) / rho

References:
    C. M. Stein, "Estimation of the mean of a multivariate normal distribution", Ann. Statist. 9(6), 1135-1151, 1981.
    S. Ramani, T. Blu, M. Unser, "Monte-Carlo SURE: a black-box optimization of regularization parameters for general
        denoising algorithms", IEEE Trans. Image Process. 17(9), 1540-1554, 2008.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter

from ctbasis.errors import CtbasisError
from ctbasis.report.noisy_truth import LOCAL
from ctbasis.report.smoothed_removal import FEWEST, SOFT_TISSUE, between_scales, interior, low_contrast, smoothed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Volume = NDArray[np.floating[Any]]

EPSILON = 0.1
"""Part of the field that is added in the second run. It is small because a blind method learns its basis again in the
second run, and the field adds epsilon^2 rho to the variance of the noise: with 0.3 and a rho of 4 more than a third,
which a basis learned from few slices takes for anatomy. It is large against rounding to whole HU and against chance, by
which patches are sorted into other classes in the second run."""


@dataclass(frozen=True)
class Risk:
    """What two runs of a method along a noise field tell.

    Attributes:
        squares: Estimated squared errors, HU^2, which may be negative at a voxel, (slices, rows, columns).
        denoised: The result f(y), HU.
        response: Change of the result along the field, (f(y + epsilon m) - f(y)) / epsilon, HU.
    """

    squares: NDArray[np.float64]
    denoised: Volume
    response: NDArray[np.float64]


def sure(
    method: Callable[[Volume], Volume],
    noisy: Volume,
    field: Volume,
    *,
    ratio: float | NDArray[np.float64],
    epsilon: float = EPSILON,
    correlation: Sequence[float] = (),
) -> Risk:
    """Estimate the squared error of a method at every voxel, from two runs.

    A single voxel says nothing: average the result over a region of at least thousands of voxels, in slices where
    `field` is not zero.

    Args:
        method: The method, a function of a volume that returns a volume of the same shape. Whatever it estimates from
            its input belongs to it, as far as it changes with the input without jumps.
        noisy: The series y, HU, (slices, rows, columns).
        field: m, HU, of the same shape.
        ratio: rho, the variance of the field over that of the noise of `noisy`, for all slices or slice by slice,
            (slices, 1, 1) (`ctbasis.report.noisy_truth.FlatWindows` measures it).
        epsilon: Part of the field that is added.
        correlation: Correlation of the noise of a slice with that of the next, the second next ... slice, for the
            slices in which the field is zero; empty if slices are independent or the field is known in all of them.

    Raises:
        CtbasisError: The shapes differ, or `ratio` or `epsilon` is not positive.
    """
    if noisy.shape != field.shape:
        raise CtbasisError(f"the noise field has shape {field.shape}", expected=f"that of the series, {noisy.shape}")
    if not (np.min(ratio) > 0 and epsilon > 0):
        raise CtbasisError(f"ratio is {np.min(ratio):g} and epsilon {epsilon:g}", expected="numbers above 0")
    y, m = np.asarray(noisy, np.float64), np.asarray(field, np.float64)
    denoised = method(noisy)
    again = method(np.asarray(y + epsilon * continued_field(m, correlation), noisy.dtype))
    response = (np.asarray(again, np.float64) - denoised) / epsilon
    variance = gaussian_filter(m**2, (0, LOCAL, LOCAL)) / ratio
    return Risk(np.square(denoised - y) - variance + 2 * m * response / ratio, denoised, response)


def anatomy_correlation(
    noisy: NDArray[Any], denoised: NDArray[Any], field: NDArray[Any], response: NDArray[Any], ratio: float
) -> float | None:
    """Return the correlation of what was removed from a slice, smoothed, with its anatomy of low contrast.

    The correlation with the slice's own noise is taken off; see the module and ctbasis/report/smoothed_removal.py.

    Args:
        noisy: The slice y, HU, (rows, columns).
        denoised: f(y), HU.
        field: m, HU.
        response: `Risk.response` of the slice.
        ratio: rho.

    Returns:
        The correlation; None with too little soft tissue, or if the slice shows no more contrast than its noise has.
    """
    inside = interior(noisy)
    anatomy, measured = low_contrast(noisy, inside)
    if np.count_nonzero(measured) < FEWEST:
        return None
    soft = np.asarray(inside & (noisy > SOFT_TISSUE[0]) & (noisy < SOFT_TISSUE[1]))
    y, own = anatomy[measured], between_scales(field, soft)[measured]
    removed, follows = (smoothed(image)[measured] for image in (noisy - denoised, field - response))
    variance = float(np.var(y, dtype=np.float64) - np.var(own, dtype=np.float64) / ratio) * float(np.var(removed))
    if variance <= 0:
        return None
    return float(np.cov(removed, y)[0, 1] - np.cov(follows, own)[0, 1] / ratio) / math.sqrt(variance)


def continued_field(field: Volume, correlation: Sequence[float]) -> NDArray[np.float64]:
    """Return a noise field with its expectation in the slices where it is zero, given the slices where it is not.

    Args:
        field: m, HU, (slices, rows, columns).
        correlation: Correlation of the noise of a slice with that of the next, the second next ... slice.
    """
    continued = np.array(field, np.float64)
    known = np.abs(continued).max(axis=(1, 2)) > 0
    if known.all() or not known.any() or not len(correlation):
        return continued
    lags = np.abs(np.subtract.outer(np.arange(len(continued)), np.arange(len(continued))))
    R = np.append([1.0, *correlation], 0.0)[np.minimum(lags, len(correlation) + 1)]
    # The conditional expectation of Gaussian variables: R_uk R_kk^-1 m_k.
    weights = np.linalg.solve(R[np.ix_(known, known)], R[np.ix_(known, ~known)]).T
    continued[~known] = np.tensordot(weights, continued[known], axes=1)
    return continued
