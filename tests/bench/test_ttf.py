"""The bench of the TTF: inserts in a phantom and in a chest, known blurs, their errors, and a page."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

from ctbasis.bench import ttf as bench
from ctbasis.bench.denoisers import Denoiser
from ctbasis.bench.quality_cases import Truth
from ctbasis.bench.task_cases import TaskSettings
from ctbasis.bench.ttf import BLUR, DIAMETER, DOSES, LENGTH, TRUTH, InsertCase, drawn_case, measured, phantom_case
from ctbasis.bench.ttf_page import write_ttf_page
from ctbasis.cli import main
from ctbasis.errors import CtbasisError
from ctbasis.simulate.inserts import CONTRASTS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PIXEL = 0.9
SETTINGS = TaskSettings(methods=("tv",))


def tissue(slices: int = 19, edge: int = 200) -> Truth:
    """Return a square of soft tissue with texture, in air."""
    hu = np.full((slices, edge, edge), -1000.0)
    texture = gaussian_filter(np.random.default_rng(0).standard_normal((slices, edge - 20, edge - 20)), (0, 2, 2))
    hu[:, 10:-10, 10:-10] = 40 + 100 * texture
    return Truth("tissue", hu.astype(np.float32), (2.5, PIXEL, PIXEL))


@pytest.fixture(scope="module")
def case() -> InsertCase:
    return drawn_case(tissue(), SETTINGS)


def blurred(image: NDArray[np.float32], mm: float) -> NDArray[np.float32]:
    return np.asarray(gaussian_filter(image, (0, mm / PIXEL, mm / PIXEL)), np.float32)


def test_rods_of_all_contrasts_lie_apart_in_soft_tissue(case: InsertCase) -> None:
    background = tissue().hu
    assert {one.contrast_hu for one in case.inserts} == set(CONTRASTS)
    assert len(case.inserts) % len(CONTRASTS) == 0
    for one in case.inserts:
        assert one.slices is not None
        assert len(one.slices) == LENGTH
        drawn = (case.sharp - background)[one.slices.start, round(one.row), round(one.column)]
        assert drawn == pytest.approx(one.contrast_hu, rel=1e-4)
        for other in case.inserts:
            if other is not one and other.slices == one.slices:
                assert math.hypot(one.row - other.row, one.column - other.column) * PIXEL > DIAMETER + 9
    with pytest.raises(CtbasisError, match="has room for 0 rods"):
        drawn_case(Truth("lung", np.full((19, 96, 96), -850, np.float32), (2.5, PIXEL, PIXEL)), SETTINGS)


def test_a_blur_has_its_f50_with_a_small_error_and_noise_has_an_error_that_holds_the_truth(case: InsertCase) -> None:
    # The blur of the inserts alone: the background is subtracted.
    background = tissue().hu
    image = background + blurred(case.hu - background, 1.0)
    mm = math.hypot(1.0, BLUR)
    f = np.linspace(0.01, 0.5, 4000)
    expected = float(np.interp(-0.5, -np.exp(-2 * (np.pi * mm * f) ** 2) * np.sinc(PIXEL * f), f))
    for row in measured(case, image):
        assert row["f50"] == pytest.approx(expected, rel=0.06)
        assert row["f50_error"] < 0.02 * expected
    clean = {row["contrast_hu"]: row for row in measured(case, image)}
    noise = np.random.default_rng(1).normal(0, 20, image.shape).astype(np.float32)
    for row in measured(case, image + noise):
        same = clean[row["contrast_hu"]]
        assert abs(row["f50"] - same["f50"]) < 4 * row["f50_error"]
        assert row["f50_error"] > 2 * same["f50_error"] or row["contrast_hu"] > 500


def test_the_verb_measures_both_backgrounds_and_writes_a_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small, case = phantom_case(SETTINGS, 4, 200), drawn_case(tissue(LENGTH, 120), SETTINGS)
    monkeypatch.setattr(bench, "GROUPS", 4)
    monkeypatch.setattr(bench, "phantom_background", lambda _: tissue(LENGTH, 120))
    monkeypatch.setattr(bench, "phantom_case", lambda _: small)
    blur = Denoiser("patch", lambda noisy, _: (blurred(noisy.hu, 1.5), len(noisy.hu)))
    monkeypatch.setattr(bench, "methods_of", lambda _, __: [blur, Denoiser("bm3d", blur.run, module="no_such_module")])
    done = CliRunner().invoke(
        main, ["bench", "ttf", "--noise", "10", "--page", str(tmp_path), "--json", str(tmp_path / "rows")]
    )
    assert done.exit_code == 0, done.output
    page = (tmp_path / "ttf.md").read_text(encoding="utf-8")
    assert "bm3d: no_such_module is not installed." in page
    assert "phantom with inserts, the full dose: patch mode has " in page
    for line in ("| truth |  |  |", "| input |  | 1 |", "| patch |  | 0.25 |"):
        assert line in page
    assert page.count("### f10") == 2
    rows = json.loads((tmp_path / "rows").read_text())["rows"]
    by = {(row["background"], row["method"], row["dose"], row["contrast_hu"]): row for row in rows if "f50" in row}
    for name in (small.name, case.name):
        for contrast in CONTRASTS[1:]:
            assert by[name, TRUTH, None, contrast]["recovered"] == pytest.approx(1, abs=0.02)
            for dose in DOSES:
                assert by[name, "patch", dose, contrast]["f50"] < 0.6 * by[name, TRUTH, None, contrast]["f50"]
    write_ttf_page([{**row, "series": True} for row in rows], tmp_path)
    told = (tmp_path / "ttf-series.md").read_text(encoding="utf-8")
    assert "Written by `ctbasis bench ttf --series DIR --method bm3d --method patch --page`" in told
