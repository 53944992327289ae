"""Shrinkage of coefficients, against the formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from ctbasis.patch.shrinkage import (
    CERTAIN_ENERGY,
    CLASS_WEIGHT,
    TEMPLATE_ENERGY,
    anatomy_energies,
    hard_threshold,
    wiener_shrinkage,
)

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


def energies(seed: int) -> np.ndarray:
    return np.asarray(rows(1, seed)[0] ** 2)


def wiener_gain(d: np.ndarray, energy: np.ndarray) -> np.ndarray:
    trust = 1 + (d**2 / CERTAIN_ENERGY) ** 2
    expected = (trust * d**2 + CLASS_WEIGHT * energy) / (trust + CLASS_WEIGHT)
    return np.asarray(expected / (expected + 1))


def test_without_matched_patches_every_coefficient_has_its_own_wiener_gain() -> None:
    c, d, energy = rows(40, 0), rows(40, 1), energies(4)
    gain = wiener_gain(d, energy)
    start, ones = rows(2, 2)
    weights = wiener_shrinkage(changed := c.copy(), d, energy, start, ones, np.zeros(40, np.bool_))
    np.testing.assert_allclose(changed, gain * c, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(weights, 1 / (1 + (gain**2).sum(axis=1)), rtol=1e-5)


def test_the_pilot_decides_about_clear_coefficients_and_the_class_about_those_that_the_pilot_lost() -> None:
    d = np.array([[0.0, 0.0, 6.0, 6.0]], np.float32)
    energy = np.array([0.0, 9.0, 0.0, 9.0], np.float32)
    c = np.ones((1, 4), np.float32)
    wiener_shrinkage(c, d, energy, np.zeros(4, np.float32), np.ones(4, np.float32), np.zeros(1, np.bool_))
    assert c[0, 0] == 0
    assert c[0, 1] > 0.8, "anatomy of the class, below the threshold of the first stage"
    assert c[0, 2] == pytest.approx(36 / 37, abs=0.01), "a structure that the class does not have"
    assert c[0, 3] == pytest.approx(36 / 37, abs=0.01)


def test_matched_filter_keeps_the_component_along_the_template_and_no_other() -> None:
    c, d, energy, start, ones = rows(40, 0), rows(40, 1), energies(4), rows(1, 2)[0], rows(1, 3)[0]
    changed = c.copy()
    wiener_shrinkage(changed, d, energy, start, ones, np.ones(40, np.bool_))
    whole = d + start
    template = whole - np.outer(whole @ ones / (ones @ ones), ones)
    norm = (template**2).sum(axis=1)
    assert (norm > 5 * TEMPLATE_ENERGY).all()
    shrunk = wiener_gain(d, energy) * c
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
    nothing, ones = np.zeros(SIZE, np.float32), np.ones(SIZE, np.float32)
    wiener_shrinkage(changed, d, nothing, nothing, ones, np.ones(40, np.bool_))
    wiener_shrinkage(alone, d, nothing, nothing, ones, np.zeros(40, np.bool_))
    assert np.square(changed - alone).sum() < 1e-3 * np.square(c).sum()


@pytest.mark.parametrize("patches", [600, 6000])
def test_noise_has_no_energy_of_anatomy_and_anatomy_has_its_true_energy(patches: int) -> None:
    strength = np.zeros(SIZE)
    noise = rows(patches, 5, 1.0).astype(np.float64)
    variances = np.linalg.eigvalsh(noise.T @ noise / patches)[::-1]
    assert variances[0] > 1.15, "the scatter of a finite sample"
    assert anatomy_energies(variances[None]).max() < 0.1
    strength[:3] = 20.0, 8.0, 4.0
    mixed = noise + np.random.default_rng(6).normal(0, np.sqrt(strength), noise.shape)
    measured = anatomy_energies(np.linalg.eigvalsh(mixed.T @ mixed / patches)[::-1][None])[0]
    np.testing.assert_allclose(measured[:3], strength[:3], rtol=0.2)
    assert measured[4:].max() < 0.1
