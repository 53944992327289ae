"""The files of a result beside those of its source, and their pixels."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from ctbasis.errors import CtbasisError
from ctbasis.viewer.images import PLANES, Images
from ctbasis.viewer.result import open_result, open_series
from tests.viewer.files import write_files

if TYPE_CHECKING:
    from pathlib import Path

    from tests.viewer.conftest import Run


def test_every_plane_shows_the_voxels_of_the_files(run: Run) -> None:
    images = Images(open_result(run.out, run.source))
    volumes = (run.before, run.after, np.rint(run.sigma * 100))
    assert images.steps == {"before": 1.0, "after": 1.0, "sigma": 0.01}
    for number, volume in enumerate(volumes):
        assert (images.images("axial", 3)[number] == volume[3]).all()
        assert (images.images("coronal", 12)[number] == volume[::-1, 12]).all()
        assert (images.images("sagittal", 21)[number] == volume[::-1, :, 21]).all()
    assert [images.count(plane) for plane in PLANES] == [12, 48, 40]
    assert [images.edges(plane) for plane in PLANES] == [("R", "A"), ("R", "H"), ("A", "H")]


def test_a_slice_is_decoded_alone(run: Run) -> None:
    images = Images(open_result(run.out, run.source))
    assert images.decoded == 0
    images.images("axial", 5)
    assert images.decoded == 1


def test_files_with_other_names_are_found_by_their_positions(run: Run, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(run.source.iterdir(), reverse=True)):
        shutil.copyfile(path, tmp_path / f"{number}.ima")
    images = Images(open_result(run.out, tmp_path))
    assert (images.images("axial", 0)[0] == run.before[0]).all()


def test_hu_that_are_not_whole_numbers_keep_a_quarter(run: Run, tmp_path: Path) -> None:
    for path in run.source.iterdir():
        ds = pydicom.dcmread(path)
        ds.RescaleSlope = 0.5
        ds.save_as(tmp_path / path.name)
    images = Images(open_result(run.out, tmp_path))
    assert images.steps["before"] == 0.25
    assert (images.images("axial", 2)[0] * 0.25 == run.before[2] / 2).all()


def test_another_series_is_refused(run: Run, tmp_path: Path) -> None:
    write_files(tmp_path / "shorter", run.before[:5])
    with pytest.raises(CtbasisError, match="does not hold the series"):
        open_result(run.out, tmp_path / "shorter")
    # The same names at other positions.
    for path in run.source.iterdir():
        ds = pydicom.dcmread(path)
        ds.ImagePositionPatient[2] += 7
        (tmp_path / "moved").mkdir(exist_ok=True)
        ds.save_as(tmp_path / "moved" / path.name)
    images = Images(open_result(run.out, tmp_path / "moved"))
    with pytest.raises(CtbasisError, match=r"lies 7 mm from the denoised one") as caught:
        images.images("axial", 0)
    assert "remedy" in str(caught.value)


def test_a_damaged_file_is_named_by_what_it_lacks_and_not_by_its_content(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.source, tmp_path / "source")
    path = tmp_path / "source" / "slice-0004.dcm"
    path.write_bytes(path.read_bytes()[:-100])
    images = Images(open_result(run.out, tmp_path / "source"))
    images.images("axial", 2)
    with pytest.raises(CtbasisError, match=r"cannot be (decoded|shown)|can be shown"):
        images.images("axial", 3)


@pytest.mark.parametrize("fault", ["nothing", "no qc.json", "no JSON", "a list", "no series", "no slices"])
def test_a_folder_that_is_no_result_is_refused(run: Run, tmp_path: Path, fault: str) -> None:
    out = tmp_path / "out"
    if fault != "nothing":
        shutil.copytree(run.out, out)
    qc = out / "qc.json"
    if fault == "no qc.json":
        qc.unlink()
    elif fault == "no JSON":
        qc.write_text("{")
    elif fault == "a list":
        qc.write_text("[]")
    elif fault == "no series":
        qc.write_text(json.dumps({"series": [{}]}))
    elif fault == "no slices":
        shutil.rmtree(out / "denoised")
    with pytest.raises(CtbasisError, match="is no result of a run"):
        open_result(out, run.source)


def test_a_name_in_qc_json_that_leads_out_of_the_source_is_not_followed(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.out, tmp_path / "out")
    qc = json.loads((tmp_path / "out" / "qc.json").read_text())
    (tmp_path / "other").mkdir()
    for entry in qc["slices"]:
        entry["file"] = f"{run.source}/{entry['file']}"
    (tmp_path / "out" / "qc.json").write_text(json.dumps(qc))
    with pytest.raises(CtbasisError, match="does not hold the series"):
        open_result(tmp_path / "out", tmp_path / "other")


def test_a_run_has_the_series_that_it_has(run: Run) -> None:
    with pytest.raises(CtbasisError, match="no series 2"):
        open_result(run.out, run.source, series=2)


def test_one_of_several_series_is_shown_by_its_number(run: Run, tmp_path: Path) -> None:
    for kind in ("denoised", "noise"):
        shutil.copytree(run.out / kind, tmp_path / kind / "series-02")
    qc = json.loads((run.out / "qc.json").read_text())
    (only,) = qc["series"]
    qc["series"] = [only, {**only, "first": only["count"]}]
    qc["slices"] = [{**entry, "file": "absent"} for entry in qc["slices"]] + qc["slices"]
    (tmp_path / "qc.json").write_text(json.dumps(qc))
    shutil.copyfile(run.out / "metrics.json", tmp_path / "metrics.json")
    images = Images(open_result(tmp_path, run.source, series=2))
    before, after, _ = images.images("axial", 4)
    assert (before == run.before[4]).all()
    assert (after == run.after[4]).all()


def test_of_several_series_at_the_same_positions_the_one_with_the_number_is_shown(run: Run, tmp_path: Path) -> None:
    for number, shift in enumerate((0, 100), start=1):
        for path in run.source.iterdir():
            ds = pydicom.dcmread(path)
            ds.SeriesInstanceUID, ds.SOPInstanceUID = f"2.25.{number}", generate_uid()
            ds.SeriesNumber, ds.RescaleIntercept = number, shift
            ds.save_as(tmp_path / f"{number}-{path.name}")
    for number, shift in enumerate((0, 100), start=1):
        images = Images(open_series(tmp_path, run.out / "denoised", run.out / "noise", number=number))
        before, after, sigma = images.images("axial", 4)
        assert (before == run.before[4] + shift).all()
        assert (after == run.after[4]).all()
        assert (sigma == np.rint(run.sigma[4] * 100)).all()
    with pytest.raises(CtbasisError, match="is 2 volumes"):
        open_series(run.source, tmp_path, None)
