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
    "assumes that noise is white: independent from voxel to voxel and equally strong everywhere. That of reconstructed "
    "CT is neither, its correlation pushes noise above the threshold and its variation hides anatomy below it, so "
    "look at the removed component"
)
INDEPENDENT = "assumes that noise is independent from slice to slice, and knows nothing of how it is spread within one"


@dataclass(frozen=True)
class Choice:
    """What a rule chose, in words for the report.

    Attributes:
        rule: As the user may write it.
        rank: k.
        why: The threshold and how it came about.
        assumptions: What has to be true for it.
    """

    rule: str
    rank: int
    why: str
    assumptions: str


def factored_rank(rank: int | Rule, ranks: list[int], full: int) -> int:
    """Return the k to factor at, so that `rank` and every one of `ranks` can be shown without a new SVD.

    A rank of `full` = min(m, n) or more is the identity: a figure of it needs no factors, so it asks for none.
    """
    shown = [k for k in ranks if k < full]
    return min(full, max([full if isinstance(rank, Rule) else rank, *shown]))


def choose_rank(rule: Rule, s: Singular, shape: Shape) -> Choice:
    """Choose k by `rule`; 1 at least, for a series of nothing is none.

    Args:
        rule: Which, and its number.
        s: All min(m, n) singular values, descending.
        shape: (m, n).
    """
    rank, why, assumptions = RULES[rule.name](s, shape, rule.value)
    if rank < 1:
        rank, why = 1, f"{why}; none passes, and one is kept"
    return Choice(str(rule), rank, f"{why}: {rank} of {len(s)}", assumptions)


def gavish_donoho_rank(s: Singular, shape: Shape) -> int:
    """Return how many singular values pass the optimal hard threshold for white noise of unknown level, 1 at least."""
    return choose_rank(Rule("gd"), s, shape).rank


def _gavish_donoho(s: Singular, shape: Shape, noise: float | None) -> tuple[int, str, str]:
    """Count what passes the optimal hard threshold.

    Gavish and Donoho, The Optimal Hard Threshold for Singular Values is 4/sqrt(3), IEEE Trans. Inf. Theory 60(8), 2014:
    equation 11 with the noise known, divided by the root of Marchenko and Pastur's median where it is not (III-E).
    """
    m, beta = max(shape), min(shape) / max(shape)
    factor = math.sqrt(2 * (beta + 1) + 8 * beta / ((beta + 1) + math.sqrt(beta**2 + 14 * beta + 1)))
    sigma, told = _noise(s, shape, noise)
    threshold = factor * math.sqrt(m) * sigma
    why = f"the optimal hard threshold of Gavish and Donoho is {threshold:.4g}, for noise of {sigma:.3g} HU, {told}"
    return int(np.count_nonzero(s > threshold)), why, WHITE


def _marchenko_pastur(s: Singular, shape: Shape, noise: float | None) -> tuple[int, str, str]:
    sigma, told = _noise(s, shape, noise)
    edge = sigma * (math.sqrt(shape[0]) + math.sqrt(shape[1]))
    why = f"noise of {sigma:.3g} HU, {told}, has singular values up to {edge:.4g}, the edge of Marchenko and Pastur"
    return int(np.count_nonzero(s > edge)), why, WHITE


def _energy(s: Singular, shape: Shape, share: float | None) -> tuple[int, str, str]:  # noqa: ARG001 - a rule's signature
    held = np.cumsum(s**2)
    wanted = 1.0 if share is None else share
    # A share of 1 is not to be missed for the rounding of the sum.
    rank = int(np.searchsorted(held, wanted * held[-1] * (1 - 4 * np.finfo(float).eps))) + 1
    assumptions = (
        "assumes nothing of the noise and knows nothing of it; the mean HU alone holds most of the energy of a CT "
        "matrix, so shares that tell ranks apart have several nines"
    )
    return min(rank, len(s)), f"{wanted:g} of ||A||_F^2 is held", assumptions


def _noise_level(s: Singular, shape: Shape, noise: float | None) -> tuple[int, str, str]:
    """Leave out what is as strong as the noise, and no more: the discrepancy principle of Morozov.

    k directions of n take k/n of the noise along, if it is independent from column to column, however it is correlated
    within one: left out are m (n - k) sigma^2.
    """
    m, n = max(shape), min(shape)
    sigma = 0.0 if noise is None else noise
    left = np.concatenate([np.cumsum((s**2)[::-1])[::-1], [0.0]])
    allowed = sigma**2 * m * (n - np.arange(len(left)))
    rank = int(np.argmax(left <= allowed))
    return rank, f"what is left out is no stronger than noise of {sigma:g} HU (discrepancy principle)", INDEPENDENT


def _noise(s: Singular, shape: Shape, noise: float | None) -> tuple[float, str]:
    """Return the noise in HU and where it is from: the median singular value is one of noise."""
    if noise is not None:
        return noise, "as given"
    m, n = max(shape), min(shape)
    return float(np.median(s)) / math.sqrt(
        m * marchenko_pastur_median(n / m)
    ), "estimated from the median singular value"


def marchenko_pastur_median(beta: float) -> float:
    """Return the median of the Marchenko-Pastur distribution for n/m = beta in (0, 1]: of the eigenvalues of A^T A / m.

    >>> round(marchenko_pastur_median(1.0), 3)
    0.653
    """
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2
    # x = the middle + half the width times cos: the density's square roots become smooth.
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
