"""Thumbnails: what the three panes show."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ctbasis.matrix.slice_store import Series
from ctbasis.report.overview import overview
from ctbasis.report.thumbnail import EDGE, smaller, thumbnail


def panes(strip: bytes) -> list[np.ndarray]:
    """Return the grey values of the panes."""
    with Image.open(BytesIO(strip)) as image:
        return np.split(np.asarray(image.convert("L")).astype(float), 3, axis=1)


def test_the_panes_are_before_after_and_the_removed_component() -> None:
    after = np.full((64, 64), -400.0)
    before = after + np.where(np.arange(64) < 32, 37.5, -37.5)
    first, second, removed = panes(thumbnail(before, after, (1, 1)))
    assert first[:, :40].mean() == pytest.approx((-362.5 + 1000) / 1200 * 255, abs=3)
    assert first[:, -40:].mean() == pytest.approx((-437.5 + 1000) / 1200 * 255, abs=3)
    assert second.mean() == pytest.approx(0.5 * 255, abs=3)
    assert (removed[:, :40] > 250).all()
    assert (removed[:, -40:] < 5).all()


def test_a_faint_removed_component_is_as_visible_as_a_strong_one_but_rounding_is_not() -> None:
    after = np.full((96, 96), -400.0)
    pattern = np.where(np.arange(96) < 48, 1.0, -1.0)
    for strength, contrast in ((50, 255), (2, 255), (0.1, 25)):
        removed = panes(thumbnail(after + strength * pattern, after, (1, 1)))[2]
        assert removed[:, :40].mean() - removed[:, -40:].mean() == pytest.approx(contrast, abs=6)


def test_a_patient_keeps_the_proportions_of_the_pixel_spacing() -> None:
    image = np.full((32, 64), -1000.0)
    image[4:-4, 4:-4] = 200
    for pane in panes(thumbnail(image, image, (1.0, 2.0)))[:2]:
        across, down = (pane > 128).any(axis=0).sum(), (pane > 128).any(axis=1).sum()
        assert across / down == pytest.approx(56 * 2 / 24, rel=0.05)
        assert pane.shape == (EDGE, EDGE)


def test_a_smaller_thumbnail_shows_the_same() -> None:
    image = np.linspace(-1000, 200, 4096).reshape(64, 64)
    strip = thumbnail(image, image, (1, 1))
    small = smaller(strip, 48)
    assert [pane.shape for pane in panes(small)] == [(48, 48)] * 3
    assert [pane.mean() for pane in panes(small)] == pytest.approx([pane.mean() for pane in panes(strip)], abs=2)
    assert len(small) < len(strip) < 5000


def test_the_overview_uses_the_pixel_spacing_of_the_series_of_each_slice() -> None:
    white = np.random.default_rng(0).normal(40, 20, (2, 64, 64)).astype(np.float32)
    series = [Series("1.1", 0, 1, pixel_spacing=(1.0, 1.0)), Series("1.2", 1, 1, pixel_spacing=(1.0, 2.0))]
    shown = overview(white, white, np.array([0, 1]), series)
    assert shown["noise_before_hu"] == shown["noise_after_hu"] == pytest.approx(20, rel=0.05)
    assert len(panes(b64decode(shown["thumbnail"]))) == 3
