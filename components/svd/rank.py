"""The rank k: what the user may write for it, and how `auto` finds one from the singular values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from components.errors import CtbasisError

if TYPE_CHECKING:
    from numpy.typing import NDArray

AUTO = "auto"


def parse_rank(text: str) -> int | None:
    """Read a rank as the user writes it: a whole number from 1, or `auto` (None).

    Raises:
        CtbasisError: It is neither.
    """
    if text.strip().lower() == AUTO:
        return None
    return _at_least_one(text)


def parse_ranks(text: str) -> list[int]:
    """Read a comma-separated list of ranks, such as `50,244,300`; ascending, each once.

    Raises:
        CtbasisError: It is empty or an entry is no whole number from 1.
    """
    ranks = sorted({_at_least_one(entry) for entry in text.split(",") if entry.strip()})
    if not ranks:
        raise CtbasisError("ranks is empty", expected="a comma-separated list such as 50,244,300")
    return ranks


def _at_least_one(text: str) -> int:
    try:
        rank = int(text)
    except ValueError:
        rank = 0
    if rank < 1:
        raise CtbasisError(f"rank {text.strip()!r}", expected="a whole number from 1, or auto") from None
    return rank


def factored_rank(rank: int | None, ranks: list[int], full: int) -> int:
    """Return the k to factor at, so that `rank` and every one of `ranks` can be shown without a new SVD.

    A rank of `full` = min(m, n) or more is the identity: a figure of it needs no factors, so it asks for none.
    """
    shown = [k for k in ranks if k < full]
    return min(full, max([full if rank is None else rank, *shown]))


def gavish_donoho_rank(s: NDArray[np.float64], shape: tuple[int, int]) -> int:
    """Return how many singular values pass the optimal hard threshold for white noise of unknown level.

    Args:
        s: All min(m, n) singular values, descending.
        shape: (m, n).

    Source: Gavish and Donoho, The Optimal Hard Threshold for Singular Values is 4/sqrt(3), IEEE Trans. Inf. Theory
    60(8), 2014, eq. 5, with omega(beta) by its cubic approximation (within 0.02). The noise of reconstructed CT is not
    white, so the choice is a start, usually too low.
    """
    m, n = max(shape), min(shape)
    beta = n / m
    omega = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
    return max(1, int(np.count_nonzero(s > omega * np.median(s))))
