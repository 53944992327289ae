"""What is kept of the weights of patches: every one alone, and in the lung what the patch as a whole shows.

Compiled, for every patch goes through it twice; weights are changed in place. All return how certain what is left is,
1 / (1 + sum of the squares of the gains): what rests on few weights holds little noise.

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

TEMPLATE = 64.0
"""Squared norm of a template, in variances of noise, at which half of what it shows is believed: eight sigma."""


@compiled
def keep_above(c: NDArray[np.float32], tau: float) -> NDArray[np.float32]:
    """Drop the weights of magnitude `tau` or less; 0 keeps all.

    Args:
        c: Weights of rows of patches, noise of variance one in each, (rows, voxels), changed.
        tau: Standard deviations of noise.
    """
    rows, size = c.shape
    certainty = np.empty(rows, np.float32)
    for row in range(rows):
        kept = 0
        for i in range(size):
            if tau > 0 and abs(c[row, i]) <= tau:
                c[row, i] = 0
            else:
                kept += 1
        certainty[row] = 1 / (1 + kept)
    return certainty


@compiled
def wiener(
    c: NDArray[np.float32],
    d: NDArray[np.float32],
    start: NDArray[np.float32],
    flat: NDArray[np.float32],
    matched: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Shrink every weight by d^2 / (d^2 + 1), and by less along the template where patches are `matched`.

    The template is what the pilot shows of the patch beside its mean: u = f - (f.o / o.o) o, f = d + start its weights
    and o = `flat` those of a patch of ones. Of what c would lose along it, 1 / (1 + |u|^2 / TEMPLATE) is lost.

    Args:
        c: Weights of rows of patches less the mean of their class, noise of variance one, (rows, voxels), changed.
        d: The same of the pilot.
        start: Weights of the class's mean, (voxels,).
        flat: Weights of a patch of ones, (voxels,).
        matched: Which rows, (rows,).
    """
    rows, size = c.shape
    certainty = np.empty(rows, np.float32)
    template = np.zeros(size, np.float32)
    level = np.float32(0)
    for i in range(size):
        level += flat[i] * flat[i]
    for row in range(rows):
        along, share = np.float32(0), np.float32(0)
        if matched[row]:
            mean = np.float32(0)
            for i in range(size):
                mean += (d[row, i] + start[i]) * flat[i]
            mean /= level
            norm, lost = np.float32(1e-9), np.float32(0)
            for i in range(size):
                u = d[row, i] + start[i] - mean * flat[i]
                template[i] = u
                norm += u * u
                # 1 minus the gain.
                lost += u * c[row, i] / (d[row, i] * d[row, i] + 1)
            share = norm / (norm + np.float32(TEMPLATE))
            along = share * lost / norm
        kept = np.float32(1)
        for i in range(size):
            power = d[row, i] * d[row, i]
            gain = power / (power + 1)
            kept += gain * gain
            c[row, i] = gain * c[row, i] + along * template[i]
        certainty[row] = 1 / (kept + share)
    return certainty
