"""Model observers have the detectability of their closed forms, and their estimates hold what they promise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from ctbasis.errors import CtbasisError
from ctbasis.score.noise_power import NoisePower
from ctbasis.score.task.channels import (
    difference_of_gaussians,
    eye_filter,
    frequencies,
    gabor,
    laguerre_gauss,
    outputs,
)
from ctbasis.score.task.observers import (
    auc_of,
    channelized,
    held_out_auc,
    hotelling,
    ideal,
    npwe,
    npwe_template,
    on_grid,
    rank_auc,
)
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.inserts import Insert, draw_inserts
from ctbasis.simulate.projection import ParallelBeam

if TYPE_CHECKING:
    from numpy.typing import NDArray

EDGE, PIXEL = 48, 0.8
PIXELS = (PIXEL, PIXEL)


def disc(diameter: float = 5.0, contrast: float = -30.0, aspect: float = 1.0) -> NDArray[np.float64]:
    image = np.zeros((1, EDGE, EDGE))
    draw_inserts(image, [Insert((EDGE - 1) / 2, (EDGE - 1) / 2, diameter, contrast, aspect=aspect)], PIXELS)
    return image[0]


def ramp_power(sigma: float = 20.0) -> NDArray[np.float64]:
    """Return a power with the shape of filtered back-projection's, HU^2 per pixel."""
    f = frequencies((EDGE, EDGE), PIXELS)
    power = (f + 0.02) * np.exp(-((f / 0.35) ** 2))
    return np.asarray(power * sigma**2 / power.mean())


def noise(power: NDArray[np.float64], count: int, seed: int = 0) -> NDArray[np.float64]:
    white = np.random.default_rng(seed).standard_normal((count, EDGE, EDGE))
    return np.asarray(np.fft.ifft2(np.fft.fft2(white, axes=(1, 2)) * np.sqrt(power), axes=(1, 2)).real)


def test_in_white_noise_all_observers_have_the_closed_form() -> None:
    sigma, s = 12.0, disc()
    expected = float(np.linalg.norm(s)) / sigma
    white = np.full((EDGE, EDGE), sigma**2)
    assert ideal(s, white) == pytest.approx(expected)
    assert channelized(s[None], s, white) == pytest.approx(expected)
    assert npwe(s, PIXELS, nps=white * PIXEL**2, eye="none") == pytest.approx(expected)
    assert channelized(npwe_template(s, PIXELS, "none"), s, white) == pytest.approx(expected)


def test_npw_has_its_closed_form_in_correlated_noise_and_is_below_the_ideal() -> None:
    s, power = disc(), ramp_power()
    spectrum = np.abs(np.fft.fft2(s)) ** 2
    closed = spectrum.mean() / math.sqrt((spectrum * power).mean())
    assert npwe(s, PIXELS, nps=power * PIXEL**2, eye="none") == pytest.approx(closed)
    assert channelized(s[None], s, power) == pytest.approx(closed)
    assert closed < 0.98 * ideal(s, power)


@pytest.mark.parametrize("eye", ["burgess", "saunders"])
def test_the_template_with_eye_filter_has_the_d_prime_of_the_integral(eye: str) -> None:
    s, power = disc(), ramp_power()
    template = npwe_template(s, PIXELS, eye)  # type: ignore[arg-type]
    integral = npwe(s, PIXELS, nps=power * PIXEL**2, eye=eye)  # type: ignore[arg-type]
    assert channelized(template, s, power) == pytest.approx(integral)
    noisy = npwe(s, PIXELS, nps=power * PIXEL**2, eye=eye, internal_noise=1.0)  # type: ignore[arg-type]
    assert noisy == pytest.approx(integral / math.sqrt(2))


def test_the_eye_filters_have_their_maxima_where_their_sources_place_them() -> None:
    per_degree = 500 * math.pi / 180
    rho = np.linspace(0.01, 20, 4000)
    for eye, peak in (("burgess", 4.0), ("saunders", (1.5 / (0.98 * 0.68)) ** (1 / 0.68))):
        response = eye_filter(rho / per_degree, eye)  # type: ignore[arg-type]
        assert rho[int(np.argmax(response))] == pytest.approx(peak, abs=0.01)
        assert response.max() == pytest.approx(1, abs=1e-4)
        # Twice the size on the display: half the frequency at the eye.
        np.testing.assert_allclose(eye_filter(2 * rho / per_degree, eye, zoom=2), response)  # type: ignore[arg-type]


def test_laguerre_gauss_channels_are_orthonormal_and_approach_the_ideal_for_symmetric_signals() -> None:
    channels = laguerre_gauss(96, 16.0, 6)
    np.testing.assert_allclose(outputs(channels, channels), np.eye(6), atol=2e-3)
    # Blurred as by a reconstruction: sharp pixels are not symmetric.
    s, power = gaussian_filter(disc(), 1.0), ramp_power()
    reached = [channelized(laguerre_gauss(EDGE, 12.0, count), s, power) / ideal(s, power) for count in (1, 3, 6, 20)]
    assert reached == sorted(reached)
    assert reached[0] < 0.9
    assert 0.99 < reached[-1] <= 1 + 1e-9


def test_only_channels_with_a_direction_discriminate_a_shape() -> None:
    power = ramp_power()
    shape = disc(8.0) - disc(8.0, aspect=2.0)
    best = ideal(shape, power)
    directed = channelized(gabor(EDGE), shape, power)
    assert directed > 0.5 * best
    for symmetric in (laguerre_gauss(EDGE, 12.0, 10), difference_of_gaussians(EDGE)):
        assert channelized(symmetric, shape, power) < 0.6 * directed
    size = gaussian_filter(disc(8.0) - disc(6.0), 1.0)
    assert channelized(laguerre_gauss(EDGE, 12.0, 20), size, power) > 0.98 * ideal(size, power)


@pytest.mark.parametrize("channels", [difference_of_gaussians(EDGE), gabor(EDGE), laguerre_gauss(EDGE, 12.0)])
def test_the_estimate_from_images_is_the_true_value(channels: NDArray[np.float64]) -> None:
    s, power = disc(), ramp_power(40.0)
    truth = channelized(channels, s, power)
    absent = outputs(noise(power, 400), channels)
    present = outputs(noise(power, 400, seed=1) + s, channels)
    measured = hotelling(present, absent)
    assert measured.low < truth < measured.high
    assert measured.d_prime == pytest.approx(truth, rel=0.15)
    assert measured.auc == pytest.approx(auc_of(truth), abs=0.04)
    assert measured.images == 800
    # Decisions themselves: the AUC of Gaussian outputs is Phi(d' / sqrt 2); a trained template is a little worse.
    assert auc_of(truth) - 0.06 < held_out_auc(present, absent) < auc_of(truth) + 0.03


def test_the_estimate_is_that_of_an_independent_implementation() -> None:
    channels = difference_of_gaussians(EDGE)
    s, power = disc(), ramp_power(40.0)
    absent, present = outputs(noise(power, 2000), channels), outputs(noise(power, 2000, 1) + s, channels)
    fitted = LinearDiscriminantAnalysis(solver="lsqr").fit(
        np.concatenate([absent, present]), np.repeat([0, 1], [2000, 2000])
    )
    more = outputs(noise(power, 2000, 2), channels), outputs(noise(power, 2000, 3) + s, channels)
    t = [fitted.decision_function(v) for v in more]
    auc = roc_auc_score(np.repeat([0, 1], [2000, 2000]), np.concatenate(t))
    measured = hotelling(present, absent)
    assert measured.auc == pytest.approx(auc, abs=0.015)
    pooled = math.sqrt((t[0].var() + t[1].var()) / 2)
    assert measured.d_prime == pytest.approx((t[1].mean() - t[0].mean()) / pooled, rel=0.05)
    assert rank_auc(t[1], t[0]) == pytest.approx(auc)


@pytest.mark.parametrize(("d_prime", "backgrounds"), [(0.0, 1), (1.5, 1), (1.5, 12)])
def test_estimates_have_no_bias_and_intervals_hold_the_true_value_as_often_as_they_promise(
    d_prime: float, backgrounds: int
) -> None:
    rng = np.random.default_rng(0)
    p, count, repeats = 5, 60, 300
    mix, step = rng.standard_normal((p, p)), np.zeros(p)
    step[0] = d_prime
    places = np.arange(count) % backgrounds
    levels = 10 * rng.standard_normal((backgrounds, p))
    squared, held = [], 0
    for _ in range(repeats):
        absent, present = (rng.standard_normal((count, p)) + levels[places] for _ in range(2))
        measured = hotelling((present + step) @ mix, absent @ mix, places=(places, places), confidence=0.9)
        squared.append(measured.d_prime**2)
        held += measured.low <= d_prime <= measured.high
    assert held / repeats == pytest.approx(0.9 if d_prime else 0.95, abs=0.04)
    if d_prime:
        assert np.mean(squared) == pytest.approx(d_prime**2, rel=0.06)


def test_internal_noise_divides_d_prime() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 80, 3))
    plain, noisy = (hotelling(one + 1, other, internal_noise=value) for value in (0.0, math.sqrt(3)))
    assert (noisy.d_prime, noisy.high) == (pytest.approx(plain.d_prime / 2), pytest.approx(plain.high / 2))


def test_internal_noise_is_noise_of_the_decision_variable() -> None:
    # Decisions with noise of their own, two standard deviations of what the images give them.
    rng = np.random.default_rng(1)
    one, other = rng.standard_normal((2, 20000, 3))
    step = np.array([1.0, -0.5, 2.0])
    t = [(v @ step) + 2 * np.linalg.norm(step) * rng.standard_normal(len(v)) for v in (one + step, other)]
    decided = (t[0].mean() - t[1].mean()) / math.sqrt((t[0].var() + t[1].var()) / 2)
    measured = hotelling(one + step, other, internal_noise=2.0)
    assert measured.d_prime == pytest.approx(decided, rel=0.03)
    assert measured.auc == pytest.approx(rank_auc(t[0], t[1]), abs=0.01)


def test_complete_channels_reach_the_known_d_prime_in_white_noise() -> None:
    edge, sigma = 5, 7.0
    rng = np.random.default_rng(2)
    complete = np.linalg.qr(rng.standard_normal((edge**2, edge**2)))[0].reshape(-1, edge, edge)
    s = 3 * rng.standard_normal((edge, edge))
    expected = float(np.linalg.norm(s)) / sigma
    assert channelized(complete, s, np.full((edge, edge), sigma**2)) == pytest.approx(expected)
    absent, present = sigma * rng.standard_normal((2, 4000, edge, edge))
    measured = hotelling(outputs(present + s, complete), outputs(absent, complete))
    assert measured.low < expected < measured.high
    assert measured.d_prime == pytest.approx(expected, rel=0.05)


def test_npwe_from_transfer_and_noise_power_is_that_of_images_of_the_dose_simulator() -> None:
    # 160 noise realisations of water: detection of -50 HU and 6 mm, and the size of two discs.
    beam = ParallelBeam.around((EDGE, EDGE), PIXELS)
    realisations = image_noise(np.zeros((160, EDGE, EDGE), np.float32), beam, Dose(3e3, seed=4)).astype(np.float64)
    power = NoisePower(PIXELS)
    for image in realisations:
        power.add(image, np.ones(image.shape, np.bool_))
    nps = on_grid(*power.radial(), (EDGE, EDGE), PIXELS)
    for s in (disc(6.0, -50.0), disc(8.0, -50.0) - disc(6.0, -50.0)):
        template = npwe_template(s, PIXELS)
        measured = hotelling(outputs(realisations[:80] + s, template), outputs(realisations[80:], template))
        assert measured.low < npwe(s, PIXELS, nps=nps) < measured.high
        assert measured.high < 1.5 * measured.low


def test_what_cannot_be_estimated_is_refused() -> None:
    rng = np.random.default_rng(0)
    v = rng.standard_normal((10, 4))
    with pytest.raises(CtbasisError, match="too few for 4 channels"):
        hotelling(v[:3], v[3:6])
    with pytest.raises(CtbasisError, match="one of the patterns only"):
        hotelling(v, v, places=(np.zeros(10, np.intp), np.ones(10, np.intp)))
    with pytest.raises(CtbasisError, match="do not vary"):
        hotelling(np.ones((10, 2)), np.zeros((10, 2)))
    with pytest.raises(CtbasisError, match="width"):
        laguerre_gauss(16, 0.0)
    with pytest.raises(CtbasisError, match="smaller than every Gabor"):
        gabor(4)
    with pytest.raises(CtbasisError, match="eye filter"):
        eye_filter(np.ones(2), "cat")  # type: ignore[arg-type]
