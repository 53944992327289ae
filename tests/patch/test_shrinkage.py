"""Shrinkage of coefficients, against the formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from ctbasis.patch.shrinkage import TEMPLATE_ENERGY, hard_threshold, wiener_shrinkage

SIZE = 75


def rows(number: int, seed: int, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (number, SIZE)).astype(np.float32)


@pytest.mark.parametrize("tau", [0.0, 2.5])
def test_hard_threshold_keeps_coefficients_above_tau_and_the_weight_counts_them(tau: float) -> None:
    c = rows(40, 0)
    kept = np.where(np.abs(c) > tau, c, 0)
    weights = hard_threshold(changed := c.copy(), tau)
    np.testing.assert_array_equal(changed, kept)
    np.testing.assert_allclose(weights, 1 / (1 + (kept != 0).sum(axis=1)), rtol=1e-6)


def test_without_matched_patches_every_coefficient_has_its_own_wiener_gain() -> None:
    c, d = rows(40, 0), rows(40, 1)
    gain = d**2 / (d**2 + 1)
    weights = wiener_shrinkage(changed := c.copy(), d, *rows(2, 2), np.zeros(40, np.bool_))
    np.testing.assert_allclose(changed, gain * c, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(weights, 1 / (1 + (gain**2).sum(axis=1)), rtol=1e-5)


def test_matched_filter_keeps_the_component_along_the_template_and_no_other() -> None:
    c, d, start, ones = rows(40, 0), rows(40, 1), rows(1, 2)[0], rows(1, 3)[0]
    changed = c.copy()
    wiener_shrinkage(changed, d, start, ones, np.ones(40, np.bool_))
    whole = d + start
    template = whole - np.outer(whole @ ones / (ones @ ones), ones)
    norm = (template**2).sum(axis=1)
    assert (norm > 5 * TEMPLATE_ENERGY).all()
    shrunk = d**2 / (d**2 + 1) * c
    amplitude = [np.einsum("ij,ij->i", template, one) / norm for one in (c, shrunk, changed)]
    share = norm / (norm + TEMPLATE_ENERGY)
    np.testing.assert_allclose(amplitude[2], share * amplitude[0] + (1 - share) * amplitude[1], atol=1e-4)
    # The component orthogonal to the template is the same as without the matched filter.
    rest = changed - shrunk
    across = rest - (np.einsum("ij,ij->i", template, rest) / norm)[:, None] * template
    np.testing.assert_allclose(across, 0, atol=1e-4)


def test_a_template_as_faint_as_noise_changes_little() -> None:
    c, d = rows(40, 0), rows(40, 1, 0.1)
    changed, alone = c.copy(), c.copy()
    wiener_shrinkage(changed, d, np.zeros(SIZE, np.float32), np.ones(SIZE, np.float32), np.ones(40, np.bool_))
    wiener_shrinkage(alone, d, np.zeros(SIZE, np.float32), np.ones(SIZE, np.float32), np.zeros(40, np.bool_))
    assert np.square(changed - alone).sum() < 1e-3 * np.square(c).sum()
