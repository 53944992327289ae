"""Series that are no ordinary noisy scan: patch mode ends, invents nothing, and takes little where noise is little."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_fill_holes, gaussian_filter, median_filter

import ctbasis
from ctbasis.errors import CtbasisError
from ctbasis.report.noisy_truth import smooth_regions
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.phantom import chest
from ctbasis.simulate.projection import ParallelBeam

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.float32]

SPACING = (3.0, 2.0, 2.0)


@functools.cache
def anatomy() -> Image:
    """Return 6 slices of a chest with structured soft tissue, HU, (6, 192, 192)."""
    return chest(6, 192, 192, spacing=3.0, structured=True).hu.astype(np.float32)


@functools.cache
def noisy() -> Image:
    """Return the anatomy with the noise of a low dose, about 20 HU in soft tissue."""
    beam = ParallelBeam.around(anatomy().shape[1:], SPACING[1:])
    return anatomy() + image_noise(anatomy(), beam, Dose(2e4, electronic=2.0))


def denoised(hu: Image) -> Image:
    result = ctbasis.denoise(hu, spacing=SPACING, stride=2).hu
    assert result.shape == hu.shape
    assert np.isfinite(result).all()
    return result


def rms(difference: Image, region: str = "soft") -> float:
    """Return the root mean square of a difference over a region of the anatomy, HU."""
    inside = np.stack([smooth_regions(image)[region] for image in anatomy()])[: len(difference)]
    return float(np.sqrt(np.square(difference, dtype=np.float64)[inside].mean()))


@pytest.mark.parametrize("value", [0.0, 40.0, 3071.0])
def test_a_constant_image_stays_constant(value: float) -> None:
    image = np.full((4, 64, 64), value, np.float32)
    np.testing.assert_allclose(denoised(image), image, atol=0.5)


@pytest.mark.parametrize("noise", [0.0, 15.0])
def test_air_alone_is_refused_by_its_name(noise: float) -> None:
    air = np.random.default_rng(0).normal(-1000.0, noise, (4, 96, 96)).astype(np.float32)
    with pytest.raises(CtbasisError, match="nothing but air"):
        ctbasis.denoise(air, spacing=SPACING)


@pytest.mark.parametrize("region", ["soft", "lung"])
def test_a_series_without_noise_keeps_its_anatomy(region: str) -> None:
    # A twentieth of the noise of an ordinary low dose, at most.
    assert rms(denoised(anatomy()) - anatomy(), region) < 4.0


def test_a_denoised_series_changes_by_less_than_the_noise_that_it_had() -> None:
    once = denoised(noisy())
    twice = denoised(once)
    for region in ("soft", "lung"):
        assert rms(twice - once, region) < 0.5 * rms(once - noisy(), region)


@pytest.mark.parametrize(
    "reconstruction",
    [
        lambda hu: median_filter(hu, (1, 3, 3)),
        lambda hu: np.where(np.abs(hu - gaussian_filter(hu, (0, 1, 1))) < 30, gaussian_filter(hu, (0, 1, 1)), hu),
    ],
    ids=["median", "edge-preserving"],
)
def test_non_linear_smoothing_as_of_an_iterative_reconstruction_is_not_made_worse(reconstruction: object) -> None:
    hu = np.asarray(reconstruction(noisy()), np.float32)  # type: ignore[operator]
    result = denoised(hu)
    for region in ("soft", "lung", "edges"):
        assert rms(result - anatomy(), region) < 1.1 * rms(hu - anatomy(), region)
        assert rms(result - hu, region) < 20.0, "less than the noise of the scan is removed"


def test_metal_stays_and_does_not_spoil_the_rest() -> None:
    hu = noisy().copy()
    metal = np.zeros(hu.shape, np.bool_)
    metal[1:5, 110:116, 60:66] = True
    hu[metal] = 3071.0
    result = denoised(hu)
    np.testing.assert_allclose(result[metal], 3071.0, atol=60.0)
    far = np.ones(hu.shape[1:], np.bool_)
    far[90:136, 40:86] = False
    error, before = (np.where(far, image - anatomy(), 0.0) for image in (result, hu))
    assert rms(error) < 0.9 * rms(before)


def test_one_slice_is_denoised_and_its_noise_is_not_overestimated() -> None:
    # One slice has no neighbours that share its anatomy, and hardly any of its cells of 16 mm is without an edge.
    hu, truth = noisy()[:1], anatomy()[:1]
    result = ctbasis.denoise(hu, spacing=SPACING, stride=2)
    assert result.noise is not None
    assert result.noise.soft_tissue < 1.25 * rms(hu - truth)
    for region in ("soft", "body", "lung"):
        assert rms(result.hu - truth, region) < 0.9 * rms(hu - truth, region)


def test_two_slices_are_denoised() -> None:
    hu, truth = noisy()[:2], anatomy()[:2]
    result = denoised(hu)
    for region in ("soft", "body"):
        assert rms(result - truth, region) < 0.8 * rms(hu - truth, region)


def test_a_stored_format_clipped_at_minus_1024_is_denoised_in_the_lung_and_keeps_its_floor_outside() -> None:
    truth = anatomy() - 60.0 * (anatomy() < -700)
    hu = np.maximum(truth + noisy() - anatomy(), -1024.0).astype(np.float32)
    result = denoised(hu)
    assert rms(result - truth, "lung") < 0.95 * rms(hu - truth, "lung")
    outside = np.stack([~binary_dilation(image > -900, iterations=8) for image in anatomy()])
    outside &= np.stack([~binary_fill_holes(image > -500) for image in anatomy()])
    np.testing.assert_array_equal(result[outside & (hu == -1024)], -1024.0)
