"""Classes of patches: a mixture of Gaussians over the leading coefficients of whitened patches.

Patches of lung, vessel, muscle and bone edges do not lie in one small subspace. They are therefore sorted into classes,
and every class gets its own basis (ctbasis/patch/learn.py). The leading coefficients suffice for the classification,
because anatomy dominates them and noise hardly changes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.patch.kernels import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEADING = 12
"""Coefficients by which patches are classified."""

MIN_PATCHES_PER_COEFFICIENT = 4
"""Patches per leading coefficient that a class needs for its covariance."""

ITERATIONS = 8
"""Iterations of k-means, and then of hard-assignment expectation-maximization."""


@dataclass(frozen=True)
class Classes:
    """A mixture of Gaussians over the leading coefficients.

    The discriminant of every class is a quadratic form. So one matrix product evaluates all of them: the product of
    `forms` with the vector of 1, all coefficients, and all products of two coefficients.

    Attributes:
        centre: Mean of all coefficients; subtracted first to avoid cancellation between large squares, (LEADING,).
        forms: Coefficients of squared Mahalanobis distance + log det - 2 log share, (1 + LEADING +
            LEADING (LEADING + 1) / 2, classes).
    """

    centre: NDArray[np.float32]
    forms: NDArray[np.float32]

    @property
    def count(self) -> int:
        """Number of classes."""
        return int(self.forms.shape[1])

    def classify(self, coefficients: NDArray[np.float32]) -> NDArray[np.intp]:
        """Return the most likely class of every row of leading coefficients, (rows,)."""
        if self.count == 1:
            return np.zeros(len(coefficients), np.intp)
        return _argmin_of_columns(self.forms.T @ _monomials((coefficients - self.centre).T))


@compiled
def _argmin_of_columns(values: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the row of the minimum of every column; several times faster than argmin, which walks along columns."""
    rows, columns = values.shape
    least, best = values[0].copy(), np.zeros(columns, np.intp)
    for row in range(1, rows):
        for column in range(columns):
            if values[row, column] < least[column]:
                least[column] = values[row, column]
                best[column] = row
    return best


def _monomials(c: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1, all coefficients and all products of two, for the columns of `c`, (1 + r + r (r + 1) / 2, columns)."""
    size = len(c)
    out = np.empty((1 + size + size * (size + 1) // 2, c.shape[1]), c.dtype)
    out[0] = 1
    out[1 : size + 1] = c
    at = size + 1
    for i in range(size):
        np.multiply(out[i + 1 : size + 1], out[i + 1], out=out[at : at + size - i])
        at += size - i
    return out


def group_by_class(labels: NDArray[np.integer], count: int) -> tuple[NDArray[np.intp], list[tuple[int, slice]]]:
    """Return the order that sorts rows by class, and the classes that occur, each with its slice of the sorted rows.

    Args:
        labels: Class of every row, from 0 to `count` - 1.
        count: Number of classes.
    """
    # NumPy sorts 16-bit integers by radix, which is faster.
    order = np.argsort(labels.astype(np.uint16), kind="stable")
    ends = np.searchsorted(labels[order], np.arange(count + 1))
    parts = [(label, slice(ends[label], ends[label + 1])) for label in range(count)]
    return order, [(label, part) for label, part in parts if part.start < part.stop]


def fit_classes(coefficients: NDArray[np.float32], max_classes: int, rng: np.random.Generator) -> Classes:
    """Fit a mixture of Gaussians by hard-assignment expectation-maximization, initialized with k-means.

    Args:
        coefficients: Leading coefficients of a sample of patches, (patches, leading).
        max_classes: Number of classes, at most. Classes with too few patches for their covariance are dropped.
        rng: Random generator that draws the initial centres.
    """
    centre = coefficients.mean(axis=0)
    sample = (coefficients - centre).astype(np.float64)
    count = max(1, min(max_classes, len(sample) // (MIN_PATCHES_PER_COEFFICIENT * sample.shape[1])))
    means = sample[rng.choice(len(sample), count, replace=False)]
    labels = np.zeros(len(sample), np.intp)
    for _ in range(ITERATIONS):
        labels = np.asarray(((means**2).sum(axis=1) - 2 * sample @ means.T).argmin(axis=1))
        means = np.stack([sample[labels == k].mean(axis=0) if (labels == k).any() else means[k] for k in range(count)])
    for _ in range(ITERATIONS):
        fitted = Classes(centre, _quadratic_forms(sample, labels))
        labels = fitted.classify(coefficients)
    return fitted


def _quadratic_forms(sample: NDArray[np.float64], labels: NDArray[np.intp]) -> NDArray[np.float32]:
    """Fit a Gaussian to every class with enough patches; its variances are at least those of the noise, which are 1."""
    size = sample.shape[1]
    enough = [label for label in np.unique(labels) if (labels == label).sum() >= MIN_PATCHES_PER_COEFFICIENT * size]
    parts = [sample[labels == label] for label in enough] or [sample]
    upper = np.triu_indices(size)
    forms = []
    for part in parts:
        mean = part.mean(axis=0)
        values, vectors = np.linalg.eigh((part - mean).T @ (part - mean) / len(part))
        values = np.maximum(values, 1.0)
        inverse = (vectors / values) @ vectors.T
        constant = mean @ inverse @ mean + np.log(values).sum() - 2 * np.log(len(part) / len(sample))
        both = np.where(upper[0] == upper[1], 1.0, 2.0) * inverse[upper]
        forms.append(np.concatenate([[constant], -2 * inverse @ mean, both]))
    return np.stack(forms, axis=1).astype(np.float32)
