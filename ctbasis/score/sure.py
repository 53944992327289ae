"""Stein's unbiased risk estimate (SURE) along a given noise field: the true error of a method without a truth.

A series y = t + n with unknown anatomy t and Gaussian noise n is denoised to f(y). Its mean squared error is

    E |f(y) - t|^2 = E |f(y) - y|^2 - var n + 2 div,    div = E n . (f(y) - t) = tr(S_n J)

with the covariance S_n of the noise and the Jacobian J of f. For a field m of the same spectrum, independent of n and
rho times as strong, S_m = rho S_n, and the divergence follows from a second run on y + epsilon m:

    div = E m . (f(y + epsilon m) - f(y)) / (epsilon rho)

For a scan of which some slices exist at a lower dose too, m is the low-dose slice minus the full-dose slice: the real
noise of the scanner, with its texture and its streaks. m may be zero in all other slices.

References:
    C. M. Stein, "Estimation of the mean of a multivariate normal distribution", Ann. Statist. 9(6), 1135-1151, 1981.
    S. Ramani, T. Blu, M. Unser, "Monte-Carlo SURE: a black-box optimization of regularization parameters for general
        denoising algorithms", IEEE Trans. Image Process. 17(9), 1540-1554, 2008.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter

from ctbasis.errors import CtbasisError
from ctbasis.report.noisy_truth import LOCAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Volume = NDArray[np.floating[Any]]

EPSILON = 0.3
"""Part of the field that is added in the second run: small against the noise, large against rounding to whole HU."""


def sure(
    method: Callable[[Volume], Volume],
    noisy: Volume,
    field: Volume,
    *,
    ratio: float | NDArray[np.float64],
    epsilon: float = EPSILON,
) -> tuple[NDArray[np.float64], Volume]:
    """Estimate the squared error of a method at every voxel, from two runs.

    A single voxel says nothing: average the result over a region of at least thousands of voxels, in slices where
    `field` is not zero.

    Args:
        method: The method, a function of a volume that returns a volume of the same shape.
        noisy: The series y, HU, (slices, rows, columns).
        field: m, HU, of the same shape.
        ratio: rho, the variance of the field over that of the noise of `noisy`, for all slices or slice by slice,
            (slices, 1, 1) (`ctbasis.report.noisy_truth.FlatWindows` measures it).
        epsilon: Part of the field that is added.

    Returns:
        Estimated squared errors, HU^2, which may be negative at a voxel, and the result f(y).

    Raises:
        CtbasisError: The shapes differ, or `ratio` or `epsilon` is not positive.
    """
    if noisy.shape != field.shape:
        raise CtbasisError(f"the noise field has shape {field.shape}", expected=f"that of the series, {noisy.shape}")
    if not (np.min(ratio) > 0 and epsilon > 0):
        raise CtbasisError(f"ratio is {np.min(ratio):g} and epsilon {epsilon:g}", expected="numbers above 0")
    y, m = np.asarray(noisy, np.float64), np.asarray(field, np.float64)
    denoised = method(noisy)
    again = method(np.asarray(y + epsilon * m, noisy.dtype))
    divergence = m * (np.asarray(again, np.float64) - denoised) / (epsilon * ratio)
    variance = gaussian_filter(m**2, (0, LOCAL, LOCAL)) / ratio
    return np.square(denoised - y) - variance + 2 * divergence, denoised
