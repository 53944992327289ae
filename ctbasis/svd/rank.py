"""The rank k: rules that choose it from the singular values, and the rank that a factorization needs for them.

`ctbasis/parsing.py` gives the syntax of the rules as the user writes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.parsing import Rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Singular = NDArray[np.float64]
    Shape = tuple[int, int]

WHITE = (
    "assumes white noise: independent from voxel to voxel and equally strong everywhere. The noise of reconstructed CT "
    "is neither: its correlation lifts noise above the threshold, and its variation hides anatomy below it, so look at "
    "the removed component"
)
INDEPENDENT = "assumes that noise is independent from slice to slice, and nothing about its correlation within a slice"


@dataclass(frozen=True)
class Choice:
    """The rank that a rule chose, with its reasons for the report.

    Attributes:
        rule: The rule as the user may write it.
        rank: k.
        why: The threshold and how it was computed.
        assumptions: What must be true for the rule to hold.
    """

    rule: str
    rank: int
    why: str
    assumptions: str


def factored_rank(rank: int | Rule, ranks: list[int], full: int) -> int:
    """Return the k of a factorization from which `rank` and each of `ranks` can be shown without a new SVD.

    Args:
        rank: Rank of the denoised series, or the rule that chooses it, which needs all singular values.
        ranks: Further ranks that figures show. A rank of `full` or more is the identity and needs no factors.
        full: min(m, n).
    """
    shown = [k for k in ranks if k < full]
    return min(full, max([full if isinstance(rank, Rule) else rank, *shown]))


def choose_rank(rule: Rule, s: Singular, shape: Shape) -> Choice:
    """Choose k by `rule`, at least 1, because rank 0 is an empty series.

    Args:
        rule: The rule and its number.
        s: All min(m, n) singular values in descending order.
        shape: (m, n).
    """
    rank, why, assumptions = RULES[rule.name](s, shape, rule.value)
    if rank < 1:
        rank, why = 1, f"{why}; none passes, and one is kept"
    return Choice(str(rule), rank, f"{why}: {rank} of {len(s)}", assumptions)


def _gavish_donoho(s: Singular, shape: Shape, noise: float | None) -> tuple[int, str, str]:
    """Count the singular values above the optimal hard threshold.

    Gavish and Donoho, The Optimal Hard Threshold for Singular Values is 4/sqrt(3), IEEE Trans. Inf. Theory 60(8), 2014:
    equation 11 for known noise; for unknown noise, divided by the root of the Marchenko-Pastur median (III-E).
    """
    m, beta = max(shape), min(shape) / max(shape)
    factor = math.sqrt(2 * (beta + 1) + 8 * beta / ((beta + 1) + math.sqrt(beta**2 + 14 * beta + 1)))
    sigma, origin = _noise(s, shape, noise)
    threshold = factor * math.sqrt(m) * sigma
    why = f"the optimal hard threshold of Gavish and Donoho is {threshold:.4g}, for noise of {sigma:.3g} HU, {origin}"
    return int(np.count_nonzero(s > threshold)), why, WHITE


def _marchenko_pastur(s: Singular, shape: Shape, noise: float | None) -> tuple[int, str, str]:
    """Count the singular values above the largest one of white noise alone."""
    sigma, origin = _noise(s, shape, noise)
    edge = sigma * (math.sqrt(shape[0]) + math.sqrt(shape[1]))
    why = f"noise of {sigma:.3g} HU, {origin}, has singular values up to {edge:.4g}, the edge of Marchenko and Pastur"
    return int(np.count_nonzero(s > edge)), why, WHITE


def _energy(s: Singular, shape: Shape, share: float | None) -> tuple[int, str, str]:  # noqa: ARG001 - a rule's signature
    """Return the smallest rank that holds a share of ||A||_F^2."""
    cumulative = np.cumsum(s**2)
    share = 1.0 if share is None else share
    # The tolerance keeps the rounding of the sum from exceeding a share of 1.
    rank = int(np.searchsorted(cumulative, share * cumulative[-1] * (1 - 4 * np.finfo(float).eps))) + 1
    assumptions = (
        "assumes nothing about the noise and does not measure it; the mean HU alone holds most of the energy of a CT "
        "matrix, so useful shares have several nines"
    )
    return min(rank, len(s)), f"{share:g} of ||A||_F^2 is held", assumptions


def _noise_level(s: Singular, shape: Shape, noise: float | None) -> tuple[int, str, str]:
    """Return the smallest rank whose residual is no stronger than the noise: the discrepancy principle of Morozov.

    If the noise is independent from column to column, k directions of n contain k/n of its energy, whatever its
    correlation within a column is. The noise in the residual is therefore m (n - k) sigma^2.
    """
    m, n = max(shape), min(shape)
    sigma = 0.0 if noise is None else noise
    residual = np.concatenate([np.cumsum((s**2)[::-1])[::-1], [0.0]])
    noise_energy = sigma**2 * m * (n - np.arange(len(residual)))
    rank = int(np.argmax(residual <= noise_energy))
    return rank, f"the residual is no stronger than noise of {sigma:g} HU (discrepancy principle)", INDEPENDENT


def _noise(s: Singular, shape: Shape, noise: float | None) -> tuple[float, str]:
    """Return the noise in HU and its origin; if it is not given, the median singular value is taken as one of noise."""
    if noise is not None:
        return noise, "as given"
    m, n = max(shape), min(shape)
    sigma = float(np.median(s)) / math.sqrt(m * marchenko_pastur_median(n / m))
    return sigma, "estimated from the median singular value"


def marchenko_pastur_median(beta: float) -> float:
    """Return the median of the Marchenko-Pastur distribution, that of the eigenvalues of A^T A / m for white noise A.

    Args:
        beta: n/m, in (0, 1].

    >>> round(marchenko_pastur_median(1.0), 3)
    0.653
    """
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2
    # The substitution x = middle + half the width times cos makes the square roots of the density smooth.
    angle = (np.arange(20_000) + 0.5) * math.pi / 20_000
    x = (low + high) / 2 - (high - low) / 2 * np.cos(angle)
    mass = np.cumsum(np.sin(angle) ** 2 / x)
    return float(x[np.searchsorted(mass, mass[-1] / 2)])


RULES: dict[str, Callable[[Singular, Shape, float | None], tuple[int, str, str]]] = {
    "gd": _gavish_donoho,
    "mp": _marchenko_pastur,
    "energy": _energy,
    "noise": _noise_level,
}
"""Each rule returns the rank, the reason and the assumptions."""
