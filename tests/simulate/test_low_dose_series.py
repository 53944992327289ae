"""A low-dose series is the source series with more noise and with names of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner

from ctbasis.cli import main
from ctbasis.errors import CtbasisError
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.low_dose_series import simulate_low_dose
from ctbasis.simulate.nodules import read_nodules
from ctbasis.simulate.projection import ParallelBeam

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

EDGE, STEP = 96, 2.0
BEAM = ParallelBeam.around((EDGE, EDGE), (STEP, STEP))


def water(slices: int, radius: float = 70.0) -> NDArray[np.float32]:
    """Return a water cylinder in air, HU, (slices, EDGE, EDGE)."""
    axis = (np.arange(EDGE) - (EDGE - 1) / 2) * STEP
    inside = axis[:, None] ** 2 + axis**2 < radius**2
    return np.broadcast_to(np.where(inside, 0, -1000).astype(np.float32), (slices, EDGE, EDGE))


@pytest.mark.parametrize(
    "settings",
    [{"photons": 0}, {"photons": -1}, {"photons": float("nan")}, {"photons": float("inf")}, {"electronic": -1},
     {"views": 0}, {"seed": -1}, {"modulation": -0.1}, {"modulation": 1.5}, {"bow_tie": -1}, {"kernel": "b70f"},
     {"workers": 0}],
)  # fmt: skip
def test_a_setting_out_of_bounds_is_refused_before_anything_is_read(tmp_path: Path, settings: dict[str, Any]) -> None:
    name = next(iter(settings))
    with pytest.raises(CtbasisError, match=f"{name} is"):
        simulate_low_dose(tmp_path / "absent", tmp_path / "out", **settings)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def padded() -> NDArray[np.float64]:
    """Return a water cylinder with padding in the corners, HU, (4, EDGE, EDGE)."""
    hu = water(4).astype(np.float64)
    axis = np.arange(EDGE) - (EDGE - 1) / 2
    hu[:, axis[:, None] ** 2 + axis**2 > (EDGE / 2) ** 2] = -2000 - 1024
    return hu


def read(folder: Path) -> list[pydicom.FileDataset]:
    datasets = (pydicom.dcmread(path) for path in folder.glob("*.dcm"))
    return sorted(
        (ds for ds in datasets if "ImagePositionPatient" in ds), key=lambda ds: float(ds.ImagePositionPatient[2])
    )


def test_a_low_dose_series_differs_from_its_source_only_in_noise_and_names(
    write_series: Any, padded: NDArray[np.float64], tmp_path: Path
) -> None:
    tags = {"PixelPaddingValue": -2000, "PixelSpacing": [STEP, STEP], "SeriesDescription": "Chest phantom"}
    write_series(tmp_path / "clean", padded, **tags)
    summary = simulate_low_dose(tmp_path / "clean", tmp_path / "noisy", photons=2e4, seed=5)
    clean, noisy = read(tmp_path / "clean"), read(tmp_path / "noisy")
    assert len(noisy) == summary["slices"] == 4
    for before, after in zip(clean, noisy, strict=True):
        for keyword in (
            "StudyInstanceUID",
            "FrameOfReferenceUID",
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
            "RescaleSlope",
            "RescaleIntercept",
            "PixelPaddingValue",
            "BitsStored",
        ):
            assert after[keyword].value == before[keyword].value
        assert after.SOPInstanceUID != before.SOPInstanceUID
        assert after.SeriesInstanceUID != before.SeriesInstanceUID
        assert after.SeriesNumber != before.SeriesNumber
        assert after.SourceImageSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID
        assert after.ImageType[0] == "DERIVED"
        assert "Simulated dose" in after.DerivationDescription
        assert after.SeriesDescription == "Chest phantom - simulated dose, 20000 photons"
        assert [code.CodeValue for code in after.DerivationCodeSequence] == ["DOSE"]
        assert after.ContributingEquipmentSequence[-1].ContributionDescription == "Simulation of a lower dose"
        outside = before.pixel_array == -2000
        assert outside.any()
        np.testing.assert_array_equal(after.pixel_array == -2000, outside)
    noise = np.stack([after.pixel_array for after in noisy]).astype(float) - [ds.pixel_array for ds in clean]
    expected = image_noise(np.maximum(padded, -1000).astype(np.float32), BEAM, Dose(2e4, seed=5))
    measured = padded > -2000
    assert np.abs(noise - expected)[measured].max() <= 0.5 + 1e-3
    assert summary["noise_hu"]["body"] == pytest.approx(noise[padded > -300].std(), rel=0.01)
    assert summary["noise_hu"]["lung"] is None


def test_the_same_call_gives_the_same_files_and_another_seed_gives_other_files(
    write_series: Any, volume: NDArray[np.int16], tmp_path: Path
) -> None:
    write_series(tmp_path / "clean", volume)
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        simulate_low_dose(tmp_path / "clean", tmp_path / name, photons=1e4, seed=seed)
    files = {name: [path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in ("one", "again")}
    assert files["one"] == files["again"]
    uids = {ds.SOPInstanceUID for name in ("one", "other") for ds in read(tmp_path / name)}
    assert len(uids) == 2 * len(volume)


def test_the_files_do_not_depend_on_the_number_of_workers(write_series: Any, tmp_path: Path) -> None:
    write_series(tmp_path / "clean", water(3).astype(np.float64))
    for workers in (1, 2):
        simulate_low_dose(tmp_path / "clean", tmp_path / str(workers), photons=1e4, modulation=0.5, workers=workers)
    one, two = ([path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in "12")
    assert one == two


@pytest.fixture
def chest_of_water(write_series: Any, tmp_path: Path) -> Path:
    """Return a folder with a water cylinder that holds a lung, 9 slices of EDGE x EDGE."""
    hu = water(9).astype(np.float64)
    hu[:, 34:62, 34:62] = -850
    write_series(tmp_path / "clean", hu, PixelSpacing=[STEP, STEP])
    return tmp_path / "clean"


def test_nodules_are_in_the_truth_and_in_the_noisy_series(chest_of_water: Path, tmp_path: Path) -> None:
    out, truth = tmp_path / "noisy", tmp_path / "truth"
    summary = simulate_low_dose(chest_of_water, out, photons=1e6, electronic=0, nodules=1, truth=truth)
    nodules = read_nodules(truth / "nodules.json")
    assert summary["nodules"] == len(nodules) >= 2
    clean, with_nodules, noisy = (
        np.stack([ds.pixel_array.astype(float) for ds in read(folder)]) for folder in (chest_of_water, truth, out)
    )
    added = with_nodules - clean
    for nodule in nodules:
        z, y, x = round(nodule.slice), round(nodule.row), round(nodule.column)
        around = added[max(0, z - 2) : z + 3, y - 4 : y + 5, x - 4 : x + 5]
        volume = np.pi / 6 * nodule.diameter_mm**3 / (STEP * STEP * 2.5)
        assert around.sum() == pytest.approx(nodule.contrast_hu * volume, rel=0.05)
    assert abs((noisy - with_nodules)[added > 50].mean()) < 10
    first = read(truth)[0]
    assert first.SeriesDescription.endswith("synthetic nodules")
    assert [code.CodeValue for code in first.DerivationCodeSequence] == ["NODULES"]
    assert [code.CodeValue for code in read(out)[0].DerivationCodeSequence] == ["DOSE"]
    assert first.SeriesInstanceUID != read(out)[0].SeriesInstanceUID
    assert "synthetic spheres" in read(out)[0].DerivationDescription


def test_nodules_outside_the_body_or_the_volume_and_incomplete_requests_are_refused(
    chest_of_water: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "list.json"
    out, truth = tmp_path / "noisy", tmp_path / "truth"
    for row, text in ((2, "in air"), (300, "outside the 9 slices")):
        place = f'{{"slice": 4, "row": {row}, "column": 48, "diameter_mm": 5, "contrast_hu": 150}}'
        listed.write_text(f'{{"nodules": [{place}]}}')
        with pytest.raises(CtbasisError, match=text):
            simulate_low_dose(chest_of_water, out, nodules=listed, truth=truth)
    with pytest.raises(CtbasisError, match="nodules are given without truth"):
        simulate_low_dose(chest_of_water, out, nodules=1)
    with pytest.raises(CtbasisError, match="nodules is 0"):
        simulate_low_dose(chest_of_water, out, nodules=0, truth=truth)
    assert not out.exists()
    assert not truth.exists()


def test_the_verb_takes_every_setting_and_explains_a_refusal(chest_of_water: Path, tmp_path: Path) -> None:
    out, truth = tmp_path / "noisy", tmp_path / "truth"
    options = (
        "--photons 1e5 --electronic 5 --views 9 --modulation 0.5 --bow-tie 80 --kernel cosine --nodules 1 --seed 2"
    )
    arguments = [
        "simulate-dose",
        str(chest_of_water),
        "--out",
        str(out),
        "--truth-out",
        str(truth),
        *options.split(),
        "--seed",
        "2",
    ]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["views"], summary["kernel"], summary["modulation"], summary["bow_tie"]) == (9, "cosine", 0.5, 80)
    description = read(out)[0].DerivationDescription
    assert "modulation 0.5, bow-tie 80 mm, kernel cosine" in description
    again = CliRunner().invoke(main, [*arguments[:3], str(tmp_path / "other"), "--nodules", str(tmp_path / "absent")])
    assert again.exit_code == 2
    assert "nodules are given without truth" in again.stderr


def test_nodules_need_at_least_three_slices(write_series: Any, tmp_path: Path) -> None:
    write_series(tmp_path / "clean", water(2).astype(np.float64))
    with pytest.raises(CtbasisError, match="nodules are to be inserted into 2 slices"):
        simulate_low_dose(tmp_path / "clean", tmp_path / "noisy", nodules=1, truth=tmp_path / "truth")


def test_noise_is_clipped_to_the_stored_bits_and_never_becomes_padding(write_series: Any, tmp_path: Path) -> None:
    hu = water(3).astype(np.float64)
    hu[:, :4] = -1024
    tags = {"PixelRepresentation": 0, "BitsStored": 12, "HighBit": 11, "PixelPaddingValue": 0}
    write_series(tmp_path / "clean", hu, **tags)
    simulate_low_dose(tmp_path / "clean", tmp_path / "noisy", photons=500)
    for ds in read(tmp_path / "noisy"):
        assert ds.pixel_array.max() <= 4095
        padded = ds.pixel_array == 0
        assert padded[:4].all()
        assert not padded[4:].any()
        assert (ds.pixel_array[4:] == 1).any()  # noise that would have left the range of 12 bits


def test_a_folder_without_exactly_one_series_is_refused(
    write_series: Any, volume: NDArray[np.int16], tmp_path: Path
) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "notes.txt").write_text("no image")
    with pytest.raises(CtbasisError, match="holds 0 CT series"):
        simulate_low_dose(tmp_path / "study", tmp_path / "out")
    write_series(tmp_path / "study" / "one", volume)
    write_series(tmp_path / "study" / "two", volume)
    with pytest.raises(CtbasisError, match="holds 2 CT series"):
        simulate_low_dose(tmp_path / "study", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_slice_is_named_and_leaves_no_output(
    write_series: Any, volume: NDArray[np.int16], tmp_path: Path
) -> None:
    path = write_series(tmp_path / "clean", volume)[2]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CtbasisError, match=path.name):
        simulate_low_dose(tmp_path / "clean", tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["clean"]


def test_an_interrupted_run_leaves_no_output(
    write_series: Any, volume: NDArray[np.int16], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "clean", volume)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ctbasis.simulate.low_dose_series.derive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate_low_dose(tmp_path / "clean", tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["clean"]


def test_an_existing_series_is_not_overwritten(write_series: Any, volume: NDArray[np.int16], tmp_path: Path) -> None:
    write_series(tmp_path / "clean", volume)
    write_series(tmp_path / "other", volume)
    for out, message in (("clean", "lie in each other"), ("clean/noisy", "lie in each other"), ("other", "not empty")):
        with pytest.raises(CtbasisError, match=message):
            simulate_low_dose(tmp_path / "clean", tmp_path / out)
    assert len([*tmp_path.rglob("*.dcm")]) == 2 * len(volume)


def test_the_noise_in_a_clinical_series_falls_with_the_number_of_photons(real_data: Any, tmp_path: Path) -> None:
    folder = next(path.parent for path in sorted(real_data("lidc-idri-0001").rglob("*.dcm")))
    few = tmp_path / "few"
    few.mkdir()
    slices = read(folder)[60:62]
    for index, ds in enumerate(slices):
        ds.save_as(few / f"{index}.dcm")
    stds = [
        simulate_low_dose(few, tmp_path / f"{photons:g}", photons=photons, electronic=0, views=200)["noise_hu"]
        for photons in (1e5, 4e5)
    ]
    assert stds[0]["body"] > stds[0]["lung"] > 0
    assert stds[0]["body"] / stds[1]["body"] == pytest.approx(2, rel=0.1)
    for before, after in zip(slices, read(tmp_path / "100000"), strict=True):
        np.testing.assert_array_equal(after.pixel_array == -2000, before.pixel_array == -2000)
