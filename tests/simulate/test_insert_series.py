"""The phantom with inserts as a series: its verb, its list, and the sharpness that `ctbasis score` measures on it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

from ctbasis.cli import main
from ctbasis.errors import CtbasisError
from ctbasis.matrix.read import load
from ctbasis.score.score import score_image
from ctbasis.simulate.inserts import CONTRASTS, INSERTS, Insert, insert_phantom, read_inserts, write_inserts

if TYPE_CHECKING:
    from pathlib import Path


def test_score_gives_the_ttf_by_contrast_on_the_series_of_the_verb(tmp_path: Path) -> None:
    folder = tmp_path / "phantom"
    line = ["simulate-inserts", "--out", str(folder), "--slices", "2"]
    done = CliRunner().invoke(main, [*line, "--json", str(tmp_path / "made.json")])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed == json.loads((tmp_path / "made.json").read_text())
    assert (printed["slices"], len(printed["inserts"])) == (2, 12)
    assert read_inserts(folder / INSERTS) == list(insert_phantom(2).inserts)
    ds = pydicom.dcmread(min(folder.glob("*.dcm")))
    assert (str(ds.PatientName), ds.SeriesDescription) == ("Phantom^Insert", "Insert phantom")
    truth = load(folder)
    np.testing.assert_allclose(truth.hu[0][10:-10, 128], insert_phantom(2).hu[0][10:-10, 128], atol=0.5)
    # A Gaussian of 1.2 mm and the aperture of the pixels, at half the contrast to water.
    mm, pixel = 1.2, truth.spacing[1]
    body = gaussian_filter(truth.hu.astype(np.float64), (0, mm / pixel, mm / pixel))
    scores = score_image(str(folder), truth.with_hu(np.asarray(body / 2, np.float32)), truth)
    f = np.linspace(0.01, 0.3, 2000)
    f50 = float(np.interp(-0.5, -np.exp(-2 * (np.pi * mm * f) ** 2) * np.sinc(pixel * f), f))
    assert [one["contrast_hu"] for one in scores["inserts"]] == list(CONTRASTS)
    for one in scores["inserts"]:
        assert one["recovered"] == pytest.approx(0.5, abs=0.03)
        assert one["f50"] == pytest.approx(f50, rel=0.08)
    assert [one["recovered"] for one in scores["before"]["inserts"]] == pytest.approx([1.0] * 4, abs=0.02)
    plain = score_image(truth, truth)
    assert "inserts" not in plain
    refused = CliRunner().invoke(main, line)
    assert refused.exit_code == 2
    assert "is not empty" in refused.output or "holds" in refused.output


def test_a_list_of_inserts_is_read_as_it_was_written_and_no_other_file_is_one(tmp_path: Path) -> None:
    path = tmp_path / INSERTS
    inserts = [Insert(1.5, 2.0, 10.0, -50.0), Insert(3.0, 4.0, 8.0, 20.0, range(2, 5), 2.0)]
    write_inserts(inserts, path)
    assert read_inserts(path) == inserts
    bad: list[Any] = [{}, [], {"inserts": []}, {"inserts": [{"row": 1}]}]
    bad += [{"inserts": [{"row": 1, "column": math.nan, "diameter_mm": 5, "contrast_hu": 5}]}]
    for content in bad:
        path.write_text(json.dumps(content))
        with pytest.raises(CtbasisError, match="insert"):
            read_inserts(path)
