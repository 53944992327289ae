"""A score's numbers are those of its parts, its page stands alone, and what cannot be compared is refused."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

from ctbasis.cli import main
from ctbasis.errors import CtbasisError
from ctbasis.report.quality import compare
from ctbasis.score.score import compare_with_truth, score_image
from ctbasis.score.score_page import render
from ctbasis.simulate.nodules import InsertedNodule, insert, write_nodules
from ctbasis.simulate.phantom import chest

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SPACING = (4.0, 1.5, 1.5)
TAGS: dict[str, Any] = {"PixelSpacing": [1.5, 1.5]}
NODULE = InsertedNodule(3.0, 120.0, 72.0, 8.0, 600.0)


def volumes() -> dict[str, NDArray[np.float64]]:
    """Return a chest with a nodule, the chest with noise, and the noisy chest blurred: HU, (7, 256, 256)."""
    # The blur brings f50 of the truth below the Nyquist frequency of the pixels.
    clean = gaussian_filter(chest(7, 256, 256, spacing=4.0).hu.astype(np.float64), (0, 0.8, 0.8))
    insert(clean, [NODULE], SPACING)
    noisy = clean + np.random.default_rng(0).normal(0, 25, clean.shape)
    images = {"truth": clean, "noisy": noisy, "image": gaussian_filter(noisy, (0, 0.8, 0.8))}
    return {name: np.round(hu) for name, hu in images.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, write_series: Any) -> Path:
    """Return a folder with the DICOM series truth, noisy and image; truth also holds nodules.json."""
    root = tmp_path_factory.mktemp("scored")
    for name, hu in volumes().items():

        def at(ds: Any, z: int) -> None:
            ds.ImagePositionPatient = [0, 0, SPACING[0] * z]

        write_series(root / name, hu, edit=at, **TAGS)
    write_nodules([NODULE], root / "truth" / "nodules.json")
    return root


@pytest.fixture(scope="module")
def scores(folders: Path) -> dict[str, Any]:
    return score_image(folders / "truth", folders / "image", folders / "noisy")


def test_errors_and_similarity_are_those_of_the_report(scores: dict[str, Any]) -> None:
    hu = volumes()
    for measured, name in ((scores, "image"), (scores["before"], "noisy")):
        expected = compare(hu["truth"], hu[name]).to_dict()
        for key, value in expected.items():
            assert measured[key] == pytest.approx(value, rel=1e-4)
    assert scores["before"]["rmse_bone"] == pytest.approx(25, rel=0.1)
    assert scores["before"]["rmse_edges"] == pytest.approx(25, rel=0.1)
    assert scores["rmse_edges"] > 1.5 * scores["rmse_body"] * 0.9


def test_a_blur_lowers_mean_frequency_sharpness_and_contrast_and_shows_in_the_removed_component(
    scores: dict[str, Any],
) -> None:
    before = scores["before"]
    assert scores["nps"]["mean_frequency"] < before["nps"]["mean_frequency"]
    assert before["nps"]["std"] == pytest.approx(25, rel=0.1)
    mtf = scores["mtf"]
    assert mtf["image"]["f50"] < 0.9 * mtf["truth"]["f50"]
    assert mtf["noisy"]["f50"] == pytest.approx(mtf["truth"]["f50"], rel=0.1)
    (kept,), (lost,) = before["nodules"], scores["nodules"]
    assert kept["recovered"] == pytest.approx(1, abs=0.1)
    assert lost["recovered"] < kept["recovered"] - 0.05
    removed = scores["removed"]
    assert removed["noise_edge_ratio"] == pytest.approx(1, abs=0.1)
    assert removed["edge_ratio"] > 1.5
    assert abs(removed["with_detail"]["noise"]) < 0.02
    assert removed["with_detail"]["z"] > 10


def test_a_truth_compared_with_itself_has_no_error(folders: Path) -> None:
    same = score_image(folders / "truth", folders / "truth")
    assert (same["rmse"], same["rmse_bone"], same["psnr"], same["ssim"]) == (0, 0, None, pytest.approx(1))
    assert same["nodules"][0]["recovered"] == pytest.approx(1)
    assert same["mtf"]["image"]["f50"] == same["mtf"]["truth"]["f50"]
    assert same["nps"]["mean_frequency"] is None
    assert "removed" not in same
    assert "before" not in same
    json.dumps(same, allow_nan=False)


def test_the_page_is_self_contained_and_warns_of_lost_structures(folders: Path) -> None:
    page = render(compare_with_truth(folders / "truth", folders / "image", folders / "noisy"))
    assert page.count("data:image/png;base64,") == 3
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "edges became softer (z =" in page
    assert "+600" in page
    without = render(
        compare_with_truth(folders / "truth", folders / "truth", nodules=folders / "truth" / "nodules.json")
    )
    assert "Removed component" not in without


def test_the_verb_prints_json_and_writes_page_and_folder(folders: Path, tmp_path: Path) -> None:
    arguments = ["--truth", folders / "truth", "--image", folders / "noisy", "--out", tmp_path / "out"]
    done = CliRunner().invoke(main, ["score", *map(str, [*arguments, "--page", tmp_path / "page.html"])])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "score.json").read_text())
    assert (tmp_path / "page.html").read_text() == (tmp_path / "out" / "score.html").read_text()


def test_series_of_different_geometry_are_refused(folders: Path, write_series: Any, tmp_path: Path) -> None:
    hu = volumes()["truth"]
    write_series(tmp_path / "short", hu[:5], **TAGS)
    with pytest.raises(CtbasisError, match="slices, rows and columns"):
        score_image(folders / "truth", tmp_path / "short")
    write_series(tmp_path / "near", hu, **TAGS)  # 2.5 mm between slices
    with pytest.raises(CtbasisError, match="mm apart"):
        score_image(folders / "truth", tmp_path / "near")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CtbasisError):
        score_image(folders / "truth", tmp_path / "empty")
    with pytest.raises(CtbasisError, match="is no folder"):
        score_image(folders / "truth", tmp_path / "absent")
    write_series(tmp_path / "tiny", hu[:, :8, :8], **TAGS)
    with pytest.raises(CtbasisError, match="8 x 8 pixels"):
        score_image(tmp_path / "tiny", tmp_path / "tiny")


def moved(**tags: Any) -> Any:
    """Return an edit that places slices as those of `folders`, then sets attributes of each data set."""

    def edit(ds: Any, z: int) -> None:
        ds.ImagePositionPatient = [0, 0, SPACING[0] * z]
        for keyword, value in tags.items():
            setattr(ds, keyword, value(z) if callable(value) else value)

    return edit


@pytest.mark.parametrize(
    ("tags", "difference"),
    [
        (
            {"ImagePositionPatient": lambda z: [0, 0, 60 + 4 * z]},
            r"ImagePositionPatient is \(0, 0, 0\) and \(0, 0, 60\) mm",
        ),
        ({"ImagePositionPatient": lambda z: [0.1, 0, 4 * z]}, "ImagePositionPatient is"),
        (
            {"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]},
            r"ImageOrientationPatient is \(1, 0, 0, 0, 1, 0\) and \(-1",
        ),
        ({"ImageOrientationPatient": [1, 0, 0, 0, -1, 0]}, "ImageOrientationPatient is"),
        ({"FrameOfReferenceUID": "2.25.77"}, "another frame of reference"),
        ({"PatientID": "TEST-2"}, "another patient"),
    ],
)
def test_a_series_of_another_place_or_patient_is_refused_by_name(
    folders: Path, write_series: Any, tmp_path: Path, tags: dict[str, Any], difference: str
) -> None:
    write_series(tmp_path / "other", volumes()["image"], edit=moved(**tags), **TAGS)
    with pytest.raises(CtbasisError, match=difference) as refused:
        score_image(folders / "truth", tmp_path / "other")
    assert "TEST-" not in str(refused.value)
    with pytest.raises(CtbasisError, match=difference):
        score_image(folders / "truth", folders / "image", tmp_path / "other")


@pytest.mark.parametrize(
    "tags",
    [{"FrameOfReferenceUID": ""}, {"PatientIdentityRemoved": "YES", "PatientID": "x", "FrameOfReferenceUID": "2.25.7"}],
)
def test_an_unknown_or_removed_identity_is_not_compared(
    folders: Path, write_series: Any, tmp_path: Path, scores: dict[str, Any], tags: dict[str, Any]
) -> None:
    write_series(tmp_path / "other", volumes()["image"], edit=moved(**tags), **TAGS)
    assert score_image(folders / "truth", tmp_path / "other")["rmse"] == scores["rmse"]


def test_series_in_another_order_are_matched_by_position(write_series: Any, tmp_path: Path) -> None:
    hu = volumes()["truth"]
    halves = {"upper": (slice(0, 3), 0), "lower": (slice(3, 7), 100)}
    for folder, numbers, added in (("truth", (1, 2), 0), ("image", (2, 1), 5)):
        for (name, (part, start)), number in zip(halves.items(), numbers, strict=True):

            def at(ds: Any, z: int, start: int = start) -> None:
                ds.ImagePositionPatient = [0, 0, start + SPACING[0] * z]

            write_series(tmp_path / folder / name, hu[part] + added, edit=at, SeriesNumber=number, **TAGS)
    assert score_image(tmp_path / "truth", tmp_path / "image")["rmse"] == pytest.approx(5, abs=1e-3)


def test_nodules_of_another_series_are_refused(folders: Path, tmp_path: Path) -> None:
    write_nodules([InsertedNodule(90.0, 10.0, 10.0, 5.0, 150.0)], tmp_path / "other.json")
    with pytest.raises(CtbasisError, match="outside the 7 slices"):
        compare_with_truth(folders / "truth", folders / "image", nodules=tmp_path / "other.json")
