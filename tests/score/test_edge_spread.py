"""The measured sharpness of the skin's edge is the sharpness with which the image was made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ctbasis.score.edge_spread import EdgeSpread, skin

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP = 0.8
SHAPE = (200, 240)
CENTRE, AXES = (99.3, 118.8), (62.0, 78.0)


def body(samples: int = 8) -> NDArray[np.float64]:
    """Return an anti-aliased ellipse of water in air, HU, with semi-axes AXES in mm."""
    y, x = (((np.arange(edge * samples) + 0.5) / samples - 0.5 - c) * STEP / a
            for edge, c, a in zip(SHAPE, CENTRE, AXES, strict=True))  # fmt: skip
    inside = (y[:, None] ** 2 + x**2 < 1).reshape(SHAPE[0], samples, SHAPE[1], samples).mean(axis=(1, 3))
    return np.asarray(-1000 + 1000 * inside)


def gaussian_f50(mm: float) -> float:
    """Return the frequency at which exp(-2 pi^2 mm^2 f^2) is one half, 1/mm."""
    return math.sqrt(math.log(2) / 2) / (math.pi * mm)


def test_distances_from_the_skin_are_those_of_the_ellipse() -> None:
    edge = skin(body(), (STEP, STEP))
    assert edge is not None
    rows, columns, distance = edge
    # To first order, the distance to an ellipse is the value of its equation divided by the gradient.
    y, x = (rows - CENTRE[0]) * STEP, (columns - CENTRE[1]) * STEP
    value = (y / AXES[0]) ** 2 + (x / AXES[1]) ** 2 - 1
    gradient = 2 * np.hypot(y / AXES[0] ** 2, x / AXES[1] ** 2)
    near = np.abs(distance) < 2
    assert np.abs(distance + value / gradient)[near].max() < 0.2 * STEP
    assert len(rows) > 5000


@pytest.mark.parametrize("mm", [0.8, 1.2, 1.6])
def test_the_mtf_of_a_blurred_edge_is_that_of_the_gaussian_times_that_of_the_pixel(mm: float) -> None:
    edges = EdgeSpread((STEP, STEP))
    edges.add(body(), gaussian_filter(body(), mm / STEP))
    f, mtf = edges.mtf("image")
    theory = np.exp(-2 * (np.pi * mm * f) ** 2) * np.sinc(STEP * f)  # aperture of the pixel along an axis
    assert np.abs(mtf - theory)[f < 0.4].max() < 0.04
    assert edges.f50("image") == pytest.approx(gaussian_f50(mm), rel=0.1)
    assert edges.transfer50("image") == pytest.approx(gaussian_f50(mm), rel=0.04)


def test_two_blurs_add_in_quadrature_and_the_transfer_is_that_of_the_second_blur() -> None:
    truth = gaussian_filter(body(), 0.8 / STEP)
    edges = EdgeSpread((STEP, STEP))
    edges.add(truth, gaussian_filter(truth, 1.2 / STEP))
    assert edges.f50("image") == pytest.approx(gaussian_f50(math.hypot(0.8, 1.2)), rel=0.06)
    assert edges.transfer50("image") == pytest.approx(gaussian_f50(1.2), rel=0.04)


def test_an_image_as_sharp_as_the_truth_has_the_same_mtf_under_noise() -> None:
    truth = gaussian_filter(body(), 1.0)
    edges = EdgeSpread((STEP, STEP))
    rng = np.random.default_rng(0)
    for _ in range(8):
        edges.add(truth, truth + rng.normal(0, 30, SHAPE))
    assert edges.f50("image") == pytest.approx(edges.f50("truth"), rel=0.03)
    assert edges.to_dict()["image"]["transfer50"] is None


def test_skin_that_touches_other_objects_is_ignored() -> None:
    truth = body()
    truth[165:, :] = np.maximum(truth[165:, :], -600.0)  # a mattress
    edge = skin(truth, (STEP, STEP))
    assert edge is not None
    rows, _, distance = edge
    assert rows.max() < 172
    assert (distance < 0).any()


@pytest.mark.parametrize("hu", [-1000.0, 0.0])
def test_without_skin_there_is_no_mtf(hu: float) -> None:
    edges = EdgeSpread((STEP, STEP))
    image = np.full(SHAPE, hu)
    edges.add(image, image)
    assert not edges.measured
    assert edges.f50("truth") is None
    assert edges.to_dict()["image"] == {"f50": None, "transfer50": None}
