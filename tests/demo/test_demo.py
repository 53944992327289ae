"""The demo denoises one phantom in both modes and compares the results with the truth."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ctbasis.cli import main
from ctbasis.demo.comparison import HEADER, Scores, table
from ctbasis.demo.picture import middle_slice, write_picture
from ctbasis.errors import CtbasisError
from ctbasis.storage.outputs import Results

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SCORES = {"rmse_body": 141.2, "rmse_lung": 75.4, "psnr": 27.3, "ssim": 0.712}


def test_the_table_has_a_row_for_each_series_and_seconds_for_each_run() -> None:
    rows = {"low dose": Scores.of(SCORES), "patch mode (numpy)": Scores.of({**SCORES, "rmse_body": 48.6}, 61.4)}
    header, noisy, patch = table(rows).splitlines()
    assert header.split("  ")[-1] == HEADER[-1] == "seconds"
    assert noisy.split() == ["low", "dose", "141.2", "75.4", "27.3", "0.712"]
    assert patch.split() == ["patch", "mode", "(numpy)", "48.6", "75.4", "27.3", "0.712", "61"]
    assert len(header) == len(patch)


def test_the_picture_shows_one_slice_of_every_series(
    write_series: Any, volume: NDArray[np.int16], tmp_path: Path
) -> None:
    names = ("truth", "noisy", "global", "patch")
    for number, name in enumerate(names):
        write_series(tmp_path / name, volume + number)
    np.testing.assert_array_equal(middle_slice(tmp_path / "patch"), volume[3] + 3)
    scores = {name: Scores.of(SCORES) for name in names[1:]}
    write_picture(tmp_path / "demo.png", {name: tmp_path / name for name in names}, scores)
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.width > 2 * picture.height / 1.5
    (tmp_path / "empty").mkdir()
    with pytest.raises(CtbasisError, match="holds no DICOM file"):
        middle_slice(tmp_path / "empty")


@pytest.mark.java
def test_a_small_demo_leaves_both_runs_their_comparison_and_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = CliRunner().invoke(main, ["demo", "--out", str(out), "--slices", "60", "--edge", "64"])
    assert done.exit_code == 0, done.output
    for folder in (out, out / "patch"):
        assert len(list((folder / "denoised").iterdir())) == 60
        assert {"basis", "figure1.png", "report.html", "metrics.json", "qc.json"} <= {p.name for p in folder.iterdir()}
    with Image.open(out / "demo.png") as picture:
        picture.verify()
    # Another demo may replace the folder.
    assert Results().foreign(out) is None
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    rows = json.loads((out / "demo.json").read_text())["scores"]
    noisy, by_rank, by_patches = rows.values()
    assert list(rows) == ["low dose", "global mode, rank 50 (mahout)", "patch mode (numpy)"]
    assert by_patches["rmse_body"] < noisy["rmse_body"]
    assert by_patches["rmse_body"] < by_rank["rmse_body"]
    assert by_rank["seconds"] > 0
    assert json.loads((out / "metrics.json").read_text())["rank"] == 50
    assert json.loads((out / "patch" / "metrics.json").read_text())["mode"] == "patch"
    for name in rows:
        assert name in done.stdout
