"""Pure noise does not look like anatomy, and removed anatomy is detected however it was removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ctbasis.score.regions import RegionErrors, Regions
from ctbasis.score.structure import StructureContent, correlation
from ctbasis.simulate.phantom import chest

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SIGMA = 20.0


@pytest.fixture(scope="module")
def truth() -> NDArray[np.float64]:
    """Return 16 slices of a chest, HU."""
    return chest(16, 96, 96, spacing=4.0).hu.astype(np.float64)


def content(
    truth: NDArray[np.float64], removed: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
) -> dict[str, dict[str, float]]:
    """Return the correlations if a method removes `removed(truth, noise)`."""
    rng = np.random.default_rng(1)
    structure = StructureContent()
    for image in truth:
        noise = gaussian_filter(rng.normal(0, 2 * SIGMA, image.shape), 0.7)
        structure.add(Regions(image), removed(image, noise), noise)
    return structure.to_dict()


def test_correlations_of_pure_noise_are_near_zero_and_equal_those_of_the_true_noise(
    truth: NDArray[np.float64],
) -> None:
    rng = np.random.default_rng(3)
    correlations = content(truth, lambda _, noise: noise + rng.normal(0, SIGMA / 2, noise.shape))
    for entry in correlations.values():
        assert abs(entry["removed"]) < 0.02
        assert abs(entry["z"]) < 4


def test_a_blur_removes_detail(truth: NDArray[np.float64]) -> None:
    correlations = content(truth, lambda image, noise: noise + 0.5 * (image - gaussian_filter(image, 0.7)))
    assert correlations["with_detail"]["removed"] > 0.3
    assert correlations["with_detail"]["z"] > 10
    assert correlations["with_gradient"]["z"] > 10


def test_a_change_of_grey_scale_correlates_with_the_truth(truth: NDArray[np.float64]) -> None:
    correlations = content(truth, lambda image, noise: noise + 0.05 * image)
    assert correlations["with_truth"]["removed"] > 0.3
    assert correlations["with_truth"]["z"] > 10


def test_removing_exactly_the_noise_or_nothing_gives_no_z(truth: NDArray[np.float64]) -> None:
    assert content(truth, lambda _, noise: noise)["with_truth"]["z"] is None
    nothing = content(truth, lambda _, noise: np.zeros_like(noise))
    assert nothing["with_detail"] == {"removed": None, "noise": None, "z": None}
    air = content(np.full((2, 32, 32), -1000.0), lambda _, noise: noise)
    assert air["with_truth"] == {"removed": None, "noise": None, "z": None}


def test_correlation_is_pearsons() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=200), rng.normal(size=200)
    assert correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert correlation(x, -3 * x + 5) == pytest.approx(-1)
    assert correlation(x, np.ones(200)) == 0


def test_edges_are_the_steepest_twentieth_and_errors_are_summed_by_region(truth: NDArray[np.float64]) -> None:
    regions = Regions(truth[8])
    patient = np.count_nonzero(regions.patient)
    assert np.count_nonzero(regions.edges) == pytest.approx(0.05 * patient, rel=0.05)
    assert np.count_nonzero(regions.flat) == pytest.approx(0.5 * patient, rel=0.05)
    assert regions.gradient[regions.edges].min() > regions.gradient[regions.flat].max()
    errors = RegionErrors()
    errors.add(regions, np.where(regions.bone, 4.0, np.where(regions.edges, 3.0, 50.0)))
    assert errors.rms["bone"] == pytest.approx(4)
    assert 3 <= errors.rms["edges"] <= 4  # type: ignore[operator]
    assert RegionErrors().rms == {"bone": None, "edges": None}
