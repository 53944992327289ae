"""Shrinkage of patch coefficients: hard thresholding, Wiener shrinkage and a matched filter.

Every function modifies the coefficients in place and returns the aggregation weight of each patch,
1 / (1 + sum of the squared gains). An estimate that rests on few coefficients holds little noise, so it gets a large
weight. The functions are compiled because every patch passes through them once per stage.

References:
    D. L. Donoho, I. M. Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81(3), 425-455, 1994.
    D. O. North, "An analysis of the factors which determine signal/noise discrimination in pulsed-carrier systems",
        Proc. IEEE 51(7), 1016-1027, 1963 (the matched filter).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctbasis.patch.kernels import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEMPLATE_ENERGY = 64.0
"""Squared norm of a template, in noise variances, at which the matched filter keeps half of the signal that Wiener
shrinkage would remove: eight standard deviations of noise."""


@compiled
def hard_threshold(c: NDArray[np.float32], tau: float) -> NDArray[np.float32]:
    """Set coefficients of magnitude `tau` or less to zero.

    Args:
        c: Coefficients of patches with unit noise variance, (patches, voxels); modified in place.
        tau: Threshold in standard deviations of noise; 0 keeps all coefficients.

    Returns:
        Aggregation weights, 1 / (1 + number of coefficients kept), (patches,).
    """
    rows, size = c.shape
    weights = np.empty(rows, np.float32)
    for row in range(rows):
        kept = 0
        for i in range(size):
            if tau > 0 and abs(c[row, i]) <= tau:
                c[row, i] = 0
            else:
                kept += 1
        weights[row] = 1 / (1 + kept)
    return weights


@compiled
def wiener_shrinkage(
    c: NDArray[np.float32],
    d: NDArray[np.float32],
    start: NDArray[np.float32],
    ones: NDArray[np.float32],
    matched: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Multiply every coefficient by the Wiener gain d^2 / (d^2 + 1), and preserve the template of `matched` patches.

    The template is the pilot's patch without its mean value: u = f - (f.o / o.o) o, where f = d + start are the
    coefficients of the pilot's patch and o = `ones` those of a constant patch. Wiener shrinkage removes a part of the
    component of c along u. For matched patches, a share 1 / (1 + |u|^2 / TEMPLATE_ENERGY) of that part is removed and
    the rest is kept.

    Args:
        c: Coefficients of patches about the mean of their class, unit noise variance, (patches, voxels); modified in
            place.
        d: Coefficients of the same patches of the pilot, (patches, voxels).
        start: Coefficients of the mean patch of the class, (voxels,).
        ones: Coefficients of a patch of ones, (voxels,).
        matched: Patches to which the matched filter is applied, (patches,).

    Returns:
        Aggregation weights, (patches,).
    """
    rows, size = c.shape
    weights = np.empty(rows, np.float32)
    template = np.zeros(size, np.float32)
    level = np.float32(0)
    for i in range(size):
        level += ones[i] * ones[i]
    for row in range(rows):
        along, share = np.float32(0), np.float32(0)
        if matched[row]:
            mean = np.float32(0)
            for i in range(size):
                mean += (d[row, i] + start[i]) * ones[i]
            mean /= level
            norm, lost = np.float32(1e-9), np.float32(0)
            for i in range(size):
                u = d[row, i] + start[i] - mean * ones[i]
                template[i] = u
                norm += u * u
                # 1 - gain = 1 / (d^2 + 1): the part of c along the template that shrinkage removes.
                lost += u * c[row, i] / (d[row, i] * d[row, i] + 1)
            share = norm / (norm + np.float32(TEMPLATE_ENERGY))
            along = share * lost / norm
        kept = np.float32(1)
        for i in range(size):
            power = d[row, i] * d[row, i]
            gain = power / (power + 1)
            kept += gain * gain
            c[row, i] = gain * c[row, i] + along * template[i]
        weights[row] = 1 / (kept + share)
    return weights
