"""Scores against a noisy truth equal the true errors, which simulated pairs know."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, median_filter

from ctbasis.report.noisy_truth import (
    REGIONS,
    FlatWindows,
    TwinErrors,
    noisy_truth_warning,
    paired_scores,
    smooth_regions,
)
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.phantom import chest
from ctbasis.simulate.projection import ParallelBeam

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Image = NDArray[np.float64]


FULL = 1e5
"""Photons of the full dose: noise of about 20 HU in soft tissue."""


@functools.cache
def anatomy() -> Image:
    """Return 2 slices of a chest with structured soft tissue, HU, (2, 512, 512)."""
    drawn = chest(2, 512, 512, spacing=20.0, structured=True).hu.astype(np.float64)
    # A scanner shows nothing finer than its kernel passes.
    return gaussian_filter(drawn, (0, 0.8, 0.8))


@functools.cache
def noise(photons: float, seed: int) -> Image:
    """Return noise of a scan of the anatomy, HU, (2, 512, 512), with little read-out noise."""
    beam = ParallelBeam.around((512, 512), (0.75, 0.75), 300)
    return image_noise(anatomy().astype(np.float32), beam, Dose(photons, electronic=2.0, seed=seed)).astype(np.float64)


def pair(kind: str) -> tuple[Image, Image]:
    """Return a noisy truth and an input: as simulated, as a scanner inserts noise, or two scans of one patient."""
    full = anatomy() + noise(FULL, 1)
    if kind == "inserted":
        return full, full + noise(FULL / 3, 2)
    if kind == "inserted, correlated":
        return full, full + noise(FULL / 3, 2) - 0.15 * noise(FULL, 1)
    if kind == "inserted, three times the dose":
        return full, full + noise(FULL, 2)
    return full, anatomy() + noise(FULL / 4, 2)


METHODS: dict[str, Callable[[Image], Image]] = {
    "nothing": lambda image: image,
    "gaussian": lambda image: gaussian_filter(image, (0, 0.8, 0.8)),
    "strong gaussian": lambda image: gaussian_filter(image, (0, 1.6, 1.6)),
    "median": lambda image: median_filter(image, (1, 3, 3)),
    "shrinkage": lambda image: anatomy() + 0.3 * (image - anatomy()),
}


def true_errors(image: Image) -> dict[str, float]:
    """Return the root mean square error of an image against the anatomy, by the name of the score."""
    masks = [smooth_regions(true) for true in anatomy()]
    errors = {}
    for region in REGIONS:
        inside = np.stack([mask[region] for mask in masks])
        errors[f"rmse_{region}"] = float(np.sqrt(np.square(image - anatomy())[inside].mean()))
    return errors


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["inserted", "inserted, correlated", "inserted, three times the dose", "two scans"])
def test_the_twin_estimate_is_the_true_error(kind: str, name: str) -> None:
    truth, noisy = pair(kind)
    image = METHODS[name](noisy)
    scores = paired_scores(truth, noisy, image)
    for corrected, of in ((scores["noise_corrected"], image), (scores["noise_corrected"]["before"], noisy)):
        true = true_errors(of)
        # Starved rays make rho in soft tissue larger than in the lung, which shows where little error is left.
        for key in ("rmse_body", "rmse_soft", *(["rmse_lung"] if name != "shrinkage" else [])):
            # The estimate is a difference: where little error is left, it is uncertain by a few percent of the noise.
            assert corrected[key] == pytest.approx(true[key], rel=0.05, abs=0.05 * true_errors(truth)[key]), key
        if name != "shrinkage":
            assert corrected["rmse_edges"] == pytest.approx(true["rmse_edges"], rel=0.1)


def test_an_error_against_the_noisy_truth_itself_would_be_far_off() -> None:
    truth, noisy = pair("inserted, three times the dose")
    image = METHODS["shrinkage"](noisy)
    inside = np.stack([smooth_regions(true)["soft"] for true in truth])
    against = float(np.sqrt(np.square(image - truth)[inside].mean()))
    assert against > 1.3 * true_errors(image)["rmse_soft"]


@pytest.mark.parametrize("kind", ["inserted", "inserted, correlated", "two scans"])
def test_ratio_and_covariance_are_those_of_the_noise(kind: str) -> None:
    truth, noisy = pair(kind)
    n, m = truth - anatomy(), noisy - truth
    soft = np.stack([smooth_regions(true)["soft"] for true in anatomy()])
    windows = FlatWindows()
    for one, other in zip(truth, noisy, strict=True):
        windows.add(one, other)
    found = windows.measure()
    assert found is not None
    assert found.ratio == pytest.approx(np.mean(m[soft] ** 2) / np.mean(n[soft] ** 2), rel=0.08)
    assert found.covariance == pytest.approx(np.mean((n * m)[soft]) / np.mean(n[soft] ** 2), abs=0.09)
    assert found.sigma == pytest.approx(n[soft].std(), rel=0.08)
    # The noise of the twin is uncorrelated with that of the input, which is what its weight is for.
    twin = n - found.weight * m
    assert abs(np.corrcoef(twin[soft], (n + m)[soft])[0, 1]) < 0.06
    given = windows.measure(float(n[soft].std()))
    assert given is not None
    assert given.given
    assert given.ratio == pytest.approx(np.mean(m[soft] ** 2) / np.mean(n[soft] ** 2), rel=0.08)


def test_a_truth_without_noise_is_not_called_noisy_and_a_noisy_one_is_noticed() -> None:
    clean, full = anatomy(), anatomy() + noise(FULL, 1)
    added = noise(FULL / 4, 2)
    quiet = paired_scores(clean, clean + added, clean)
    assert quiet["noise_corrected"] is None
    assert quiet["truth_noise"]["sigma_soft_hu"] < 5
    noticed = paired_scores(full, full + added, full)
    assert noticed["truth_noise"]["given"] is False
    assert "rmse_soft" in noticed["noise_corrected"]
    assert f"{noticed['truth_noise']['sigma_soft_hu']:.1f} HU" in noisy_truth_warning(noticed)


def test_what_cannot_be_measured_is_none() -> None:
    clean = anatomy()
    assert paired_scores(clean, clean, clean) == {"truth_noise": None, "noise_corrected": None}
    air = np.full_like(clean, -1000.0)
    assert paired_scores(air, air + noise(FULL / 4, 2), air)["truth_noise"] is None
    windows = FlatWindows()
    assert windows.measure() is None
    full = anatomy() + noise(FULL, 1)
    for one, other in zip(full, full + noise(FULL / 4, 2), strict=True):
        windows.add(one, other)
    found = windows.measure()
    assert found is not None
    assert TwinErrors(found).rmse("image") == dict.fromkeys((f"rmse_{region}" for region in REGIONS), None)
