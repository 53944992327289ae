"""Ranks are read as users write them; `auto` finds the rank of a low-rank signal in white noise."""

from __future__ import annotations

import numpy as np
import pytest

from components.errors import CtbasisError
from components.svd.rank import factored_rank, gavish_donoho_rank, parse_rank, parse_ranks


def test_a_rank_is_a_number_or_auto() -> None:
    assert parse_rank("50") == 50
    assert parse_rank("AUTO ") is None


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "", "many"])
def test_anything_else_is_no_rank(text: str) -> None:
    with pytest.raises(CtbasisError, match="expected: a whole number from 1"):
        parse_rank(text)


def test_ranks_come_back_ascending_and_once() -> None:
    assert parse_ranks("300, 50,244,50") == [50, 244, 300]


@pytest.mark.parametrize("text", ["", ",", "50,0"])
def test_an_empty_or_wrong_list_of_ranks_is_refused(text: str) -> None:
    with pytest.raises(CtbasisError):
        parse_ranks(text)


def test_ranks_that_are_the_identity_cost_no_factors() -> None:
    assert factored_rank(50, [50, 244, 300], full=133) == 50
    assert factored_rank(50, [50, 244, 300], full=301) == 300
    assert factored_rank(200, [50], full=133) == 133
    assert factored_rank(None, [50], full=133) == 133


@pytest.mark.parametrize("true_rank", [1, 5, 12])
def test_auto_finds_the_rank_of_a_strong_signal_in_white_noise(true_rank: int) -> None:
    rng = np.random.default_rng(true_rank)
    m, n = 2000, 100
    U, _ = np.linalg.qr(rng.standard_normal((m, true_rank)))
    V, _ = np.linalg.qr(rng.standard_normal((n, true_rank)))
    A = 1000 * U @ V.T + rng.standard_normal((m, n))
    assert gavish_donoho_rank(np.linalg.svd(A, compute_uv=False), (m, n)) == true_rank
