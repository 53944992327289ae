"""The rules find the rank of a low-rank signal in noise."""

from __future__ import annotations

import numpy as np
import pytest

from ctbasis.parsing import RULE_NAMES, Rule
from ctbasis.svd.rank import RULES, choose_rank, factored_rank, marchenko_pastur_median


def test_every_rule_of_the_syntax_is_implemented() -> None:
    assert tuple(RULES) == RULE_NAMES


def test_ranks_of_min_m_n_or_more_need_no_factors() -> None:
    assert factored_rank(50, [50, 244, 300], full=133) == 50
    assert factored_rank(50, [50, 244, 300], full=301) == 300
    assert factored_rank(200, [50], full=133) == 133
    assert factored_rank(Rule("gd"), [50], full=133) == 133


@pytest.mark.parametrize("true_rank", [1, 5, 12])
def test_auto_finds_the_rank_of_a_strong_signal_in_white_noise(true_rank: int) -> None:
    rng = np.random.default_rng(true_rank)
    m, n = 2000, 100
    U, _ = np.linalg.qr(rng.standard_normal((m, true_rank)))
    V, _ = np.linalg.qr(rng.standard_normal((n, true_rank)))
    A = 1000 * U @ V.T + rng.standard_normal((m, n))
    assert choose_rank(Rule("gd"), np.linalg.svd(A, compute_uv=False), (m, n)).rank == true_rank


def noisy(true_rank: int, *, sigma: float = 3.0, m: int = 4000, n: int = 100) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the singular values of a strong signal in white noise, and the shape of the matrix."""
    rng = np.random.default_rng(true_rank)
    U, _ = np.linalg.qr(rng.standard_normal((m, true_rank)))
    V, _ = np.linalg.qr(rng.standard_normal((n, true_rank)))
    A = 5000 * U @ V.T + sigma * rng.standard_normal((m, n))
    return np.linalg.svd(A, compute_uv=False), (m, n)


@pytest.mark.parametrize("rule", [Rule("gd"), Rule("gd", 3.0), Rule("mp"), Rule("mp", 3.1), Rule("noise", 3.02)])
def test_every_noise_rule_finds_a_strong_signal_in_white_noise_and_states_its_assumptions(rule: Rule) -> None:
    choice = choose_rank(rule, *noisy(7))
    assert choice.rank == 7
    assert "HU" in choice.why
    assert "assumes" in choice.assumptions


def test_the_noise_is_estimated_from_the_median_singular_value() -> None:
    assert "noise of 3 HU" in choose_rank(Rule("mp"), *noisy(3, m=40_000)).why


def test_the_noise_rule_finds_the_rank_in_noise_that_is_correlated_within_a_slice() -> None:
    rng = np.random.default_rng(1)
    m, n, k = 4000, 60, 5
    noise = rng.standard_normal((m, n))
    smooth = sum(np.roll(noise, shift, axis=0) for shift in range(8)) / np.sqrt(8)
    U, _ = np.linalg.qr(rng.standard_normal((m, k)))
    V, _ = np.linalg.qr(rng.standard_normal((n, k)))
    s = np.linalg.svd(5000 * U @ V.T + 3 * smooth, compute_uv=False)
    assert choose_rank(Rule("noise", 3.02), s, (m, n)).rank == k
    # Correlated noise has larger singular values than white noise of the same level.
    assert choose_rank(Rule("mp", 3.02), s, (m, n)).rank > k


@pytest.mark.parametrize(("share", "rank"), [(0.5, 1), (0.8, 1), (0.81, 2), (0.99, 3), (1.0, 4)])
def test_the_energy_rule_keeps_the_smallest_rank_that_holds_the_share(share: float, rank: int) -> None:
    s = np.sqrt([80.0, 15.0, 4.0, 1.0])
    assert choose_rank(Rule("energy", share), s, (10, 4)).rank == rank


def test_a_rule_keeps_one_singular_value_if_none_passes_and_says_so() -> None:
    choice = choose_rank(Rule("gd", 1e6), np.array([3.0, 2.0, 1.0]), (9, 3))
    assert choice.rank == 1
    assert "none passes" in choice.why


@pytest.mark.parametrize("beta", [0.01, 0.3, 1.0])
def test_the_marchenko_pastur_median_is_that_of_random_matrices(beta: float) -> None:
    n = 400
    m = round(n / beta)
    eigenvalues = np.linalg.svd(np.random.default_rng(0).standard_normal((m, n)), compute_uv=False) ** 2 / m
    assert marchenko_pastur_median(beta) == pytest.approx(np.median(eigenvalues), rel=0.02)
