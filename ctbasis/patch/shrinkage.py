"""Shrinkage of patch coefficients: hard thresholding, Wiener shrinkage and a matched filter.

Every function modifies the coefficients in place and returns the aggregation weight of each patch,
1 / (1 + sum of the squared gains). An estimate that rests on few coefficients holds little noise, so it gets a large
weight. The functions are compiled because every patch passes through them once per stage.

References:
    D. L. Donoho, I. M. Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81(3), 425-455, 1994.
    J. Baik, J. W. Silverstein, "Eigenvalues of large sample covariance matrices of spiked population models", J.
        Multivar. Anal. 97(6), 1382-1408, 2006 (the bias of measured energies).
    D. O. North, "An analysis of the factors which determine signal/noise discrimination in pulsed-carrier systems",
        Proc. IEEE 51(7), 1016-1027, 1963 (the matched filter).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctbasis.patch.kernels import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASS_WEIGHT = 3.0
"""Weight of the energy of the class against that of a faint coefficient of the pilot. On a real series, the error in
soft tissue falls with it up to here, and by one percent more up to 10."""

FEWEST_CLASSES = 32
"""Number of classes of a noise texture from which on their energies are used. A real series of 41 slices has
90 to 113. With few, edges and uniform tissue share a class, whose energy is that of the edges."""

CERTAIN_ENERGY = 5.5
"""Squared coefficient of the pilot, in noise variances, from which on the pilot counts for more than it does where it
is faint. It keeps rare structures, such as nodules, which the other patches of a class do not have."""

TEMPLATE_ENERGY = 64.0
"""Squared norm of a template, in noise variances, at which the matched filter keeps half of the signal that Wiener
shrinkage would remove: eight standard deviations of noise."""

MAX_DIMENSION_RATIO = 0.16
"""Largest ratio of voxels to independent patches that is assumed for a class. A smallest variance that would imply more
is that of a direction in which the kernel leaves less noise than the model has."""


def anatomy_energies(variances: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the energy of anatomy in every coefficient of a class, in noise variances, (classes, voxels).

    The variances are measured on a finite number of patches, so those of pure noise scatter about 1, from (1 - r)^2 to
    (1 + r)^2 with r^2 the number of voxels over that of independent patches. The basis puts the largest first, where
    they look like anatomy. The smallest variance of a class gives r; variances up to (1 + r)^2 are noise. Larger ones,
    v, belong to a true variance t with v = t + r^2 t / (t - 1).

    Args:
        variances: Variance of the coefficients over the patches of each class, noise (1) included, (classes, voxels).
    """
    v = np.asarray(variances, np.float64)
    least = np.clip(v.min(axis=1, keepdims=True), 0.0, 1.0)
    ratio = np.minimum((1 - np.sqrt(least)) ** 2, MAX_DIMENSION_RATIO)
    middle = v + 1 - ratio
    true = (middle + np.sqrt(np.maximum(middle**2 - 4 * v, 0.0))) / 2
    return np.where(v > (1 + np.sqrt(ratio)) ** 2, true - 1, 0.0).astype(np.float32)


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
    energy: NDArray[np.float32],
    start: NDArray[np.float32],
    ones: NDArray[np.float32],
    matched: NDArray[np.bool_],
    class_weight: float = CLASS_WEIGHT,
) -> NDArray[np.float32]:
    """Multiply every coefficient by its Wiener gain, and preserve the template of `matched` patches.

    The Wiener gain is e / (e + 1), where e is the expected energy of the anatomy in the coefficient. The pilot alone
    gives e = d^2. That is zero for most coefficients: the first stage removes faint ones, anatomy included. The energy
    that the patches of the class have on average is never that wrong, and never that precise. So e is their mean,

        e = ((1 + r) d^2 + class_weight energy) / (1 + r + class_weight),    r = (d^2 / CERTAIN_ENERGY)^2,

    which is d^2 where the pilot shows a coefficient clearly.

    The template is the pilot's patch without its mean value: u = f - (f.o / o.o) o, where f = d + start are the
    coefficients of the pilot's patch and o = `ones` those of a constant patch. Wiener shrinkage removes a part of the
    component of c along u. For matched patches, a share 1 / (1 + |u|^2 / TEMPLATE_ENERGY) of that part is removed and
    the rest is kept.

    Args:
        c: Coefficients of patches about the mean of their class, unit noise variance, (patches, voxels); modified in
            place.
        d: Coefficients of the same patches of the pilot, (patches, voxels).
        energy: Mean energy of the anatomy in each coefficient over the patches of the class, (voxels,).
        start: Coefficients of the mean patch of the class, (voxels,).
        ones: Coefficients of a patch of ones, (voxels,).
        matched: Patches to which the matched filter is applied, (patches,).
        class_weight: Weight of `energy`; 0 leaves the pilot alone.

    Returns:
        Aggregation weights, (patches,).
    """
    rows, size = c.shape
    weights = np.empty(rows, np.float32)
    template, gain = np.zeros(size, np.float32), np.zeros(size, np.float32)
    prior, certain = np.float32(class_weight), np.float32(CERTAIN_ENERGY)
    level = np.float32(0)
    for i in range(size):
        level += ones[i] * ones[i]
    for row in range(rows):
        for i in range(size):
            power = d[row, i] * d[row, i]
            trust = 1 + (power / certain) * (power / certain)
            expected = (trust * power + prior * energy[i]) / (trust + prior)
            gain[i] = expected / (expected + 1)
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
                # The part of c along the template that shrinkage removes.
                lost += u * c[row, i] * (1 - gain[i])
            share = norm / (norm + np.float32(TEMPLATE_ENERGY))
            along = share * lost / norm
        kept = np.float32(1)
        for i in range(size):
            kept += gain[i] * gain[i]
            c[row, i] = gain[i] * c[row, i] + along * template[i]
        weights[row] = 1 / (kept + share)
    return weights
