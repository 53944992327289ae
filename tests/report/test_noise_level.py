"""The global noise level against images of known noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ctbasis.report.noise_level import noise_levels


def chest(edge: int) -> np.ndarray:
    """Return a slice of soft tissue of 40 HU in air, with two lungs and a spine, HU."""
    y, x = np.mgrid[-1 : 1 : edge * 1j, -1 : 1 : edge * 1j]
    image = np.where(x**2 + 1.4 * y**2 < 0.8, 40.0, -1000.0)
    image[(np.abs(x) - 0.4) ** 2 + y**2 < 0.08] = -850
    image[x**2 + (y - 0.5) ** 2 < 0.01] = 400
    return image


def noise(edge: int, sigma: float, correlation: float = 0.0) -> np.ndarray:
    white = np.random.default_rng(3).normal(size=(4, edge, edge))
    grains = np.stack([gaussian_filter(slice_, correlation) for slice_ in white]) if correlation else white
    return grains * sigma / grains.std()


@pytest.mark.parametrize(("edge", "pixel"), [(512, 0.7), (128, 2.8), (48, 7.0)])
@pytest.mark.parametrize("sigma", [10, 40, 100])
def test_white_noise_of_every_strength_is_measured_within_5_percent(edge: int, pixel: float, sigma: float) -> None:
    image, added = chest(edge), noise(edge, sigma)
    levels = noise_levels(image + added, image + 0.3 * added, [(pixel, pixel)] * 4)
    assert levels["noise_before_hu"] == pytest.approx(sigma, rel=0.05)
    assert levels["noise_after_hu"] == pytest.approx(0.3 * sigma, rel=0.05)


def test_correlated_noise_is_measured_too_low_by_the_same_fraction_before_and_after() -> None:
    image, added = chest(256), noise(256, 40, 1.0)
    levels = noise_levels(image + added, image + 0.3 * added, [(1.4, 1.4)] * 4)
    before, after = levels["noise_before_hu"], levels["noise_after_hu"]
    assert before is not None
    assert after is not None
    assert 20 < before < 40
    assert after / before == pytest.approx(0.3, rel=0.05)


def test_an_image_without_noise_has_none_and_edges_of_anatomy_count_as_none() -> None:
    images = np.stack([chest(256)] * 4)
    assert noise_levels(images, images, [(1.4, 1.4)] * 4) == {"noise_before_hu": 0, "noise_after_hu": 0}


def test_slices_without_soft_tissue_have_no_noise_level() -> None:
    air = np.full((2, 64, 64), -1000.0)
    assert noise_levels(air, air, [(1.0, 1.0)] * 2) == {"noise_before_hu": None, "noise_after_hu": None}
