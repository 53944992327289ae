"""Noise that was removed passes, removed anatomy of low contrast does not, with a truth and without one."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ctbasis.patch.noise import Noise
from ctbasis.report.smoothed_removal import (
    MOST_RATIO,
    SMOOTHING,
    Promise,
    RemovedAnatomy,
    SmoothedRemoval,
    interior,
    low_contrast,
    smoothed,
)
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.phantom import chest
from ctbasis.simulate.projection import ParallelBeam

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctbasis.simulate.projection import Kernel

SPACING = 1.5
KERNELS: tuple[Kernel, ...] = ("hann", "shepp-logan")


@functools.cache
def case(kernel: Kernel) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return 4 slices of a chest with structured soft tissue and their noise, HU, (4, 256, 256)."""
    truth = chest(4, 256, 256, spacing=20.0, structured=True).hu.astype(np.float32)
    beam = ParallelBeam.around((256, 256), (SPACING, SPACING))
    return truth, image_noise(truth, beam, Dose(3e4, kernel=kernel))


@functools.cache
def true_model(kernel: Kernel) -> Noise:
    """Return the noise of `case` as a perfect model knows it: sigma by cell, and the covariance of every slice."""
    truth, noise = case(kernel)
    sigma = np.sqrt(np.stack([gaussian_filter(np.square(image), 8.0) for image in noise]))
    inside = np.stack([interior(image) for image in truth])
    relative = np.where(inside, noise / np.maximum(sigma, 1e-3), 0.0)
    power = np.square(np.abs(np.fft.fft2(relative))).mean(axis=0)
    overlap = np.square(np.abs(np.fft.fft2(inside))).mean(axis=0)
    by_lag = np.fft.fftshift(np.fft.ifft2(power).real / np.maximum(np.fft.ifft2(overlap).real, 1))
    covariance = by_lag[124:133, 124:133, None] / by_lag[128, 128]
    cells = np.sqrt(np.square(sigma).reshape(4, 32, 8, 32, 8).mean(axis=(2, 4)))
    return Noise(np.moveaxis(cells, 0, -1).astype(np.float32), covariance, 1000)


METHODS: dict[str, Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]] = {
    "all noise": lambda _, noise: noise,
    "half of the noise": lambda _, noise: noise / 2,
    "noise of high frequency": lambda _, noise: noise - gaussian_filter(noise, 2.0),
    "blurred by 1 pixel": lambda truth, noise: truth + noise - gaussian_filter(truth + noise, 1.0),
    "all noise and a tenth of the detail": lambda truth, noise: noise + 0.1 * (truth - gaussian_filter(truth, 4.0)),
    "all noise and soft detail": lambda truth, noise: noise + soft_detail(truth),
}
INNOCENT = ("all noise", "half of the noise", "noise of high frequency")


def soft_detail(truth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a third of the low-contrast anatomy of soft tissue: the harm that a too large covariance does."""
    return low_contrast(truth, np.ones(truth.shape, np.bool_))[0] / 3 * ((truth > -150) & (truth < 150))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", METHODS)
def test_against_the_truth_noise_stays_at_most_1_and_anatomy_shows(name: str, kernel: Kernel) -> None:
    truth, noise = case(kernel)
    removal = SmoothedRemoval()
    for true, added in zip(truth, noise, strict=True):
        removal.add(true, METHODS[name](true, added), added)
    scores = removal.to_dict()
    assert scores["smoothed_noise_hu"] == pytest.approx(
        np.mean([smoothed(added)[interior(true)].std() for true, added in zip(truth, noise, strict=True)]), rel=0.1
    )
    if name in INNOCENT:
        assert scores["smoothed_removal"] <= 1 + 1e-6
        assert scores["low_contrast"]["removed"] < scores["low_contrast"]["noise"] + 0.05
    else:
        assert scores["smoothed_removal"] > 1 or scores["low_contrast"]["removed"] > 0.2
        assert scores["low_contrast"]["removed"] > scores["low_contrast"]["noise"] + 0.1


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", METHODS)
def test_without_a_truth_the_verdict_is_no_for_noise_and_possible_for_anatomy(name: str, kernel: Kernel) -> None:
    truth, noise = case(kernel)
    estimate = RemovedAnatomy()
    for index, (true, added) in enumerate(zip(truth, noise, strict=True)):
        before = true + added
        after = before - METHODS[name](true, added)
        estimate.add(index + 1, before, after, Promise.of(true_model(kernel), index))
    assert len(estimate.slices) == 4
    if name in INNOCENT:
        assert estimate.verdict == "no, in 4 slices examined"
        assert estimate.possible == []
    else:
        assert estimate.possible == [1, 2, 3, 4]
        assert estimate.verdict.startswith("possible at slices 1, 2, 3, 4, of 4")


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_promise_of_a_right_model_is_the_measured_noise(kernel: Kernel) -> None:
    truth, noise = case(kernel)
    for index, (true, added) in enumerate(zip(truth, noise, strict=True)):
        inside = interior(true)
        promised = Promise.of(true_model(kernel), index).std(inside)
        assert smoothed(added)[inside].std() == pytest.approx(promised, rel=0.1)
    assert Promise.of(true_model(kernel), 0, restored=0.5).std(inside) == pytest.approx(
        Promise.of(true_model(kernel), 0).std(inside) / 2
    )


def test_white_noise_is_reduced_by_the_gaussian_as_theory_says() -> None:
    white = np.zeros((9, 9, 1))
    white[4, 4] = 1
    noise = Noise(np.full((16, 16, 1), 20.0, np.float32), white, 100)
    promised = Promise.of(noise, 0).std(np.ones((128, 128), np.bool_))
    assert promised == pytest.approx(20 / (2 * np.sqrt(np.pi) * SMOOTHING))
    drawn = np.random.default_rng(0).normal(0, 20, (512, 512))
    assert smoothed(drawn).std() == pytest.approx(promised, rel=0.03)


def test_a_slice_without_a_body_or_without_a_removed_component_is_not_examined() -> None:
    truth, noise = case("hann")
    promise = Promise.of(true_model("hann"), 0)
    estimate, removal = RemovedAnatomy(), SmoothedRemoval()
    air = np.full_like(truth[0], -1000)
    estimate.add(1, air + noise[0], air, promise)
    estimate.add(2, truth[0] + 0.1, truth[0], promise)
    removal.add(air, noise[0], noise[0])
    assert estimate.slices == []
    assert estimate.verdict.startswith("not measured")
    assert estimate.to_dict()["smoothed_removal"] is None
    assert removal.to_dict()["smoothed_removal"] is None
    assert MOST_RATIO > 1.15 * 1.05, "a model that is wrong by 15 % raises no alarm"
