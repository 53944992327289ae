"""The task-based transfer function of a blurred disc is that of the blur, whatever lies behind the disc."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ctbasis.errors import CtbasisError
from ctbasis.score.task.transfer import TaskTransfer, transfers_by_contrast
from ctbasis.simulate.inserts import (
    CONTRASTS,
    DIAMETERS,
    Insert,
    InsertPhantom,
    disc_coverage,
    draw_inserts,
    insert_phantom,
)

PIXEL = 0.9


@pytest.fixture(scope="module")
def phantom() -> InsertPhantom:
    return insert_phantom(3, 256)


def test_the_phantom_has_four_contrasts_in_three_sizes_around_a_uniform_centre(phantom: InsertPhantom) -> None:
    kinds = {(insert.diameter_mm, insert.contrast_hu) for insert in phantom.inserts}
    assert len(phantom.inserts) == len(kinds) == 12
    assert kinds == {(d, c) for d in DIAMETERS for c in CONTRASTS}
    assert not phantom.hu[:, phantom.uniform].any()
    assert phantom.hu[0, 0, 0] == -1000
    for insert in phantom.inserts:
        assert phantom.hu[1, round(insert.row), round(insert.column)] == insert.contrast_hu
    # No two rods overlap: all of the contrast is there.
    offset = (np.arange(256) - 127.5) * phantom.spacing[1]
    water = phantom.hu[0].astype(np.float64)[np.hypot(offset[:, None], offset) < 100]
    expected = sum(math.pi / 4 * i.diameter_mm**2 * i.contrast_hu for i in phantom.inserts)
    assert water.sum() * phantom.spacing[1] ** 2 == pytest.approx(expected, rel=5e-3)


def test_a_disc_covers_its_area_wherever_its_centre_lies() -> None:
    for row, column, aspect in ((20.0, 20.0, 1.0), (20.3, 19.6, 1.0), (20.3, 19.6, 2.0)):
        covered = disc_coverage(Insert(row, column, 10.0, 1.0, aspect=aspect), (40, 40), (0.7, 0.8))
        assert covered is not None
        assert covered[1].sum() * 0.56 == pytest.approx(math.pi * 25, rel=5e-3)
        # Second moments of an ellipse: a quarter of the squared half axes.
        rows, columns = (np.arange(along.start, along.stop) for along in covered[0])
        total = covered[1].sum()
        high = (covered[1].sum(axis=1) @ (rows - row) ** 2) / total * 0.49
        wide = (covered[1].sum(axis=0) @ (columns - column) ** 2) / total * 0.64
        assert math.sqrt(wide / high) == pytest.approx(aspect, rel=0.03)


@pytest.mark.parametrize("mm", [0.8, 1.2])
def test_the_ttf_of_a_blurred_phantom_is_that_of_the_gaussian_and_of_the_pixel(
    phantom: InsertPhantom, mm: float
) -> None:
    pixels = phantom.spacing[1:]
    blurred = gaussian_filter(phantom.hu.astype(np.float64), (0, mm / pixels[0], mm / pixels[0]))
    for transfer in transfers_by_contrast(phantom.inserts, pixels):
        for z, (truth, image) in enumerate(zip(phantom.hu, blurred, strict=True)):
            transfer.add(z, truth, image)
        f, ttf = transfer.ttf()
        theory = np.exp(-2 * (np.pi * mm * f) ** 2) * np.sinc(pixels[0] * f)
        assert np.abs(ttf - theory)[f < 0.45].max() < 0.04
        row = transfer.to_dict()
        assert row["recovered"] == pytest.approx(1, abs=0.03)
        assert row["count"] == 3
        f50 = float(np.interp(-0.5, -theory, f))
        assert row["f50"] == pytest.approx(f50, rel=0.05)


def test_a_method_that_blurs_faint_inserts_more_has_a_lower_f50_for_them(phantom: InsertPhantom) -> None:
    pixels = phantom.spacing[1:]
    truth, image = np.zeros(phantom.hu.shape), np.zeros(phantom.hu.shape)
    for contrast, mm in zip(CONTRASTS, (2.0, 1.6, 1.2, 0.8), strict=True):
        part = np.zeros(phantom.hu.shape)
        draw_inserts(part, [insert for insert in phantom.inserts if insert.contrast_hu == contrast], pixels)
        truth += part
        image += gaussian_filter(part, (0, mm / pixels[0], mm / pixels[0]))
    f50 = []
    for transfer in transfers_by_contrast(phantom.inserts, pixels):
        transfer.add(0, truth[0], image[0])
        f50.append(transfer.to_dict()["f50"])
    assert len(f50) == 4
    assert all(faint < 0.9 * strong for faint, strong in itertools.pairwise(f50))


def test_the_background_of_a_patient_does_not_count_and_noise_averages_out() -> None:
    rng = np.random.default_rng(0)
    background = 200 * gaussian_filter(rng.standard_normal((64, 96, 96)), 3)
    inserts = [Insert(30.2, 40.7, 14.0, -50.0), Insert(65.1, 60.4, 14.0, -50.0, range(8, 56))]
    signal = np.zeros(background.shape)
    draw_inserts(signal, inserts, (PIXEL, PIXEL))
    assert not signal[:8, 60:70].any()
    noise = rng.normal(0, 15, background.shape)
    transfer = TaskTransfer(inserts, (PIXEL, PIXEL))
    for z in range(64):
        kept = 0.8 * gaussian_filter(signal[z], 1.0 / PIXEL)
        transfer.add(z, background[z] + signal[z], background[z] + kept + noise[z])
    row = transfer.to_dict()
    assert row["recovered"] == pytest.approx(0.8, abs=0.03)
    assert row["f50"] == pytest.approx(math.sqrt(math.log(2) / 2) / math.pi, rel=0.12)


def test_small_discs_and_discs_outside_have_no_ttf() -> None:
    ellipse = Insert(20.0, 20.0, 20.0, -50.0, aspect=2.0)
    for insert in (Insert(20.0, 20.0, 3.0, -50.0), Insert(500.0, 20.0, 20.0, -50.0), ellipse):
        transfer = TaskTransfer([insert], (PIXEL, PIXEL))
        transfer.add(0, np.zeros((40, 40)), np.zeros((40, 40)))
        assert not transfer.measured
        row = transfer.to_dict()
        assert (row["recovered"], row["f50"], row["f10"]) == (None, None, None)


@pytest.mark.parametrize(("diameter", "contrast"), [(0.0, 10.0), (5.0, 0.0), (5.0, math.inf)])
def test_an_insert_that_cannot_be_drawn_is_refused(diameter: float, contrast: float) -> None:
    with pytest.raises(CtbasisError, match="an insert of"):
        Insert(1.0, 1.0, diameter, contrast)


def test_a_phantom_without_slices_or_pixels_is_refused() -> None:
    with pytest.raises(CtbasisError, match="insert phantom"):
        insert_phantom(0, 256)
    with pytest.raises(CtbasisError, match="insert phantom"):
        insert_phantom(2, 16)
