"""Inserted noise has the statistics that physics predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctbasis.simulate.dose import (
    BOW_TIE_LEAST,
    CURRENT_LIMITS,
    REFERENCE_PATH,
    Dose,
    image_noise,
    photons_sent,
    projection_noise,
)
from ctbasis.simulate.projection import KERNELS, ParallelBeam, ramp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.simulate.projection import Kernel

EDGE, STEP = 96, 2.0
BEAM = ParallelBeam.around((EDGE, EDGE), (STEP, STEP))


def water(slices: int, radius: float = 70.0) -> NDArray[np.float32]:
    """Return a water cylinder in air, HU, (slices, EDGE, EDGE)."""
    axis = (np.arange(EDGE) - (EDGE - 1) / 2) * STEP
    inside = axis[:, None] ** 2 + axis**2 < radius**2
    return np.broadcast_to(np.where(inside, 0, -1000).astype(np.float32), (slices, EDGE, EDGE))


def middle(noise: NDArray[Any]) -> NDArray[Any]:
    """Return the 32 x 32 pixels around the centre of every slice."""
    return noise[:, 32:64, 32:64]


@pytest.mark.parametrize(("p", "photons", "electronic"), [(0.0, 1e4, 0), (3.0, 1e4, 0), (5.0, 1e5, 10), (4.0, 2e4, 40)])
def test_the_variance_of_a_projection_is_the_sum_of_poisson_and_read_out_noise(
    p: float, photons: float, electronic: float
) -> None:
    noise = projection_noise(np.full(400_000, p), Dose(photons, electronic), np.random.default_rng(0))
    expected = np.exp(p) / photons + (electronic * np.exp(p) / photons) ** 2
    assert noise.var() == pytest.approx(expected, rel=0.05)
    # The curvature of the logarithm causes a bias of half the variance, and no more.
    assert abs(noise.mean() - expected / 2) < 4 * np.sqrt(expected / noise.size) + 0.3 * expected


def test_the_variance_follows_the_photons_that_a_modulated_beam_sends() -> None:
    sent = np.array([[5e3], [5e4]])
    noise = projection_noise(np.full((2, 200_000), 2.0), Dose(1e9, electronic=0), np.random.default_rng(0), sent)
    np.testing.assert_allclose(noise.var(axis=1), np.exp(2.0) / sent[:, 0], rtol=0.05)


def test_full_modulation_gives_every_view_the_same_photons_behind_the_patient() -> None:
    longest = np.linspace(REFERENCE_PATH - 1, REFERENCE_PATH + 1, 9)
    p = np.outer(longest, np.ones(5)) * np.array([0.2, 0.6, 1.0, 0.6, 0.2])
    beam = ParallelBeam((4, 4), (1.0, 1.0), 9)
    behind = {m: photons_sent(p, beam, Dose(1e4, modulation=m))[:, 0] * np.exp(-longest) for m in (0.0, 0.5, 1.0)}
    np.testing.assert_allclose(behind[1.0], 1e4 * np.exp(-REFERENCE_PATH), rtol=1e-9)
    np.testing.assert_allclose(behind[0.0][0] / behind[0.0][-1], np.exp(2))
    np.testing.assert_allclose(behind[0.5][0] / behind[0.5][-1], np.exp(1))
    far = photons_sent(np.array([[0.0], [100.0]]), beam, Dose(1e4, modulation=1.0))[:, 0]
    np.testing.assert_allclose(far, 1e4 * np.array(CURRENT_LIMITS))


def test_half_modulation_needs_the_fewest_photons_for_a_given_noise() -> None:
    """The sum of exp(p) / N over views, at a given sum of N, is smallest for N ~ exp(p / 2) (Gies et al.)."""
    longest = np.linspace(REFERENCE_PATH - 1.5, REFERENCE_PATH + 1.5, 31)[:, None]
    beam = ParallelBeam((4, 4), (1.0, 1.0), 31)
    noise = {}
    for m in (0.0, 0.25, 0.5, 0.75, 1.0):
        sent = photons_sent(longest, beam, Dose(1e4, modulation=m)) * np.ones_like(longest)
        noise[m] = (np.exp(longest) / sent).sum() * sent.sum()
    assert min(noise, key=lambda m: noise[m]) == 0.5


def test_a_bow_tie_filter_compensates_its_water_cylinder_and_leaves_the_centre_unchanged() -> None:
    radius = 60.0
    sent = photons_sent(np.zeros((1, BEAM.bins)), BEAM, Dose(1e4, bow_tie=radius))[0]
    chord = 2 * np.sqrt(np.maximum(radius**2 - BEAM.positions**2, 0))
    behind = sent * np.exp(-0.02 * chord)
    inside = np.abs(BEAM.positions) < 40
    np.testing.assert_allclose(behind[inside], 1e4 * np.exp(-0.02 * 2 * radius), rtol=1e-9)
    assert sent[len(sent) // 2] == pytest.approx(1e4)
    assert sent.min() >= BOW_TIE_LEAST * 1e4
    plain, filtered = (image_noise(water(8), BEAM, Dose(1e5, bow_tie=mm)) for mm in (0.0, radius))
    rim = (slice(None), slice(44, 52), slice(17, 25))
    assert filtered[rim].std() > 1.15 * plain[rim].std()


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_noise_of_every_kernel_is_the_noise_that_its_filter_predicts(kernel: Kernel) -> None:
    """Noise at the centre of a disc is proportional to the root of the filter's power, interpolated between bins."""
    stds = [middle(image_noise(water(12), BEAM, Dose(1e5, electronic=0, kernel=k))).std() for k in ("hann", kernel)]
    f = np.fft.rfftfreq(4096)
    interpolation = (2 + np.cos(2 * np.pi * f)) / 3
    powers = [(ramp(4096, STEP, k) ** 2 * interpolation).sum() for k in ("hann", kernel)]
    assert stds[1] / stds[0] == pytest.approx(np.sqrt(powers[1] / powers[0]), rel=0.06)


def test_a_detector_that_counts_no_photon_gives_a_finite_value() -> None:
    noise = projection_noise(np.full(1000, 30.0), Dose(1e3, 10), np.random.default_rng(0))
    assert np.isfinite(noise).all()


def test_image_noise_is_inversely_proportional_to_the_root_of_the_photons() -> None:
    stds = [
        middle(image_noise(water(4), BEAM, Dose(photons, electronic=0, seed=3))).std() for photons in (1e4, 4e4, 1.6e5)
    ]
    assert stds[0] / stds[1] == pytest.approx(2, rel=0.05)
    assert stds[1] / stds[2] == pytest.approx(2, rel=0.05)


def test_image_noise_at_the_centre_of_a_disc_is_as_large_as_theory_predicts() -> None:
    """At the centre, every view contributes its filtered noise times pi / views, interpolated between bins."""
    photons, radius = 1e5, 70.0
    noise = image_noise(water(24, radius), BEAM, Dose(photons, electronic=0))[:, 44:52, 44:52]
    f = np.fft.rfftfreq(4096, 1.0)
    window = 0.5 * (1 + np.cos(2 * np.pi * f))
    # Linear interpolation between bins, averaged over the position of a voxel between them.
    interpolation = (2 + np.cos(2 * np.pi * f)) / 3
    integral = 2 * np.trapezoid((f / STEP * window) ** 2 * interpolation, f / STEP) * STEP
    variance = np.exp(2 * radius * 0.02) / photons
    expected = np.sqrt(np.pi**2 / BEAM.views * variance * integral) * 1000 / 0.02
    assert noise.std() == pytest.approx(expected, rel=0.06)


def test_inserted_noise_does_not_shift_the_mean() -> None:
    noise = middle(image_noise(water(32), BEAM, Dose(1e5, electronic=0)))
    by_slice = noise.mean(axis=(1, 2))
    assert abs(noise.mean()) < 4 * by_slice.std() / np.sqrt(len(by_slice)) + 0.02 * noise.std()


def test_the_noise_power_is_the_ramp_times_the_squared_window_of_the_filter() -> None:
    noise = middle(image_noise(water(64), BEAM, Dose(1e5, electronic=0)))
    taper = np.outer(np.hanning(32), np.hanning(32))  # keeps strong frequencies from leaking into weak ones
    power = (np.abs(np.fft.fft2((noise - noise.mean(axis=(1, 2), keepdims=True)) * taper)) ** 2).mean(axis=0)
    f = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32))
    # Power of the filter |f|^2 window^2 over the density of views in the plane 1/|f|, interpolated between bins.
    theory = f * (0.5 * (1 + np.cos(2 * np.pi * np.minimum(f, 0.5)))) ** 2 * (2 + np.cos(2 * np.pi * f)) / 3

    def band(values: NDArray[Any], low: float, high: float) -> float:
        return float(values[(f > low) & (f <= high)].mean())

    for low, high in ((0.05, 0.08), (0.15, 0.2), (0.25, 0.3), (0.3, 0.35)):
        measured, expected = (band(values, low, high) / band(values, 0.1, 0.15) for values in (power, theory))
        assert measured == pytest.approx(expected, rel=0.25)
    assert band(power, 0.02, 0.04) < 0.7 * band(power, 0.1, 0.15)
    assert band(power, 0.45, 0.5) < 0.05 * band(power, 0.1, 0.15)


def test_noise_is_white_along_z() -> None:
    noise = middle(image_noise(water(24), BEAM, Dose(1e5)))
    neighbours = np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]
    assert abs(neighbours) < 0.03


def test_a_seed_gives_the_same_noise_however_the_slices_are_batched() -> None:
    hu, dose = water(5), Dose(1e4, seed=7)
    whole = image_noise(hu, BEAM, dose)
    np.testing.assert_allclose(image_noise(hu[3:], BEAM, dose, first=3), whole[3:], atol=1e-3)
    np.testing.assert_array_equal(image_noise(hu, BEAM, dose), whole)
    other = image_noise(hu, BEAM, Dose(1e4, seed=8))
    assert abs(np.corrcoef(middle(whole).ravel(), middle(other).ravel())[0, 1]) < 0.1
