"""Inserted noise has the statistics that physics gives it, and a low-dose series is the same series otherwise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner

from ctbasis.cli import main
from ctbasis.errors import CtbasisError
from ctbasis.simulate.dose import (
    BOW_TIE_LEAST,
    CURRENT_LIMITS,
    REFERENCE_PATH,
    Dose,
    image_noise,
    photons_sent,
    projection_noise,
    simulate_low_dose,
)
from ctbasis.simulate.nodules import read_nodules
from ctbasis.simulate.projection import KERNELS, ParallelBeam, ramp

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.simulate.projection import Kernel

EDGE, STEP = 96, 2.0
BEAM = ParallelBeam.around((EDGE, EDGE), (STEP, STEP))


def water(slices: int, radius: float = 70.0) -> NDArray[np.float32]:
    """Return a water cylinder in air, HU, (slices, EDGE, EDGE)."""
    axis = (np.arange(EDGE) - (EDGE - 1) / 2) * STEP
    inside = axis[:, None] ** 2 + axis**2 < radius**2
    return np.broadcast_to(np.where(inside, 0, -1000).astype(np.float32), (slices, EDGE, EDGE))


def middle(noise: NDArray[Any]) -> NDArray[Any]:
    """Return the 32 x 32 pixels around the centre of every slice."""
    return noise[:, 32:64, 32:64]


@pytest.mark.parametrize(("p", "photons", "electronic"), [(0.0, 1e4, 0), (3.0, 1e4, 0), (5.0, 1e5, 10), (4.0, 2e4, 40)])
def test_the_variance_of_a_projection_is_that_of_poisson_and_read_out(
    p: float, photons: float, electronic: float
) -> None:
    noise = projection_noise(np.full(400_000, p), Dose(photons, electronic), np.random.default_rng(0))
    expected = np.exp(p) / photons + (electronic * np.exp(p) / photons) ** 2
    assert noise.var() == pytest.approx(expected, rel=0.05)
    # The logarithm's curvature leaves half the variance as a bias, and no more.
    assert abs(noise.mean() - expected / 2) < 4 * np.sqrt(expected / noise.size) + 0.3 * expected


def test_a_modulated_beam_has_the_variance_of_the_photons_that_it_sends() -> None:
    sent = np.array([[5e3], [5e4]])
    noise = projection_noise(np.full((2, 200_000), 2.0), Dose(1e9, electronic=0), np.random.default_rng(0), sent)
    np.testing.assert_allclose(noise.var(axis=1), np.exp(2.0) / sent[:, 0], rtol=0.05)


def test_full_modulation_gives_every_view_the_same_photons_behind_the_patient() -> None:
    longest = np.linspace(REFERENCE_PATH - 1, REFERENCE_PATH + 1, 9)
    p = np.outer(longest, np.ones(5)) * np.array([0.2, 0.6, 1.0, 0.6, 0.2])
    beam = ParallelBeam((4, 4), (1.0, 1.0), 9)
    behind = {m: photons_sent(p, beam, Dose(1e4, modulation=m))[:, 0] * np.exp(-longest) for m in (0.0, 0.5, 1.0)}
    np.testing.assert_allclose(behind[1.0], 1e4 * np.exp(-REFERENCE_PATH), rtol=1e-9)
    np.testing.assert_allclose(behind[0.0][0] / behind[0.0][-1], np.exp(2))
    np.testing.assert_allclose(behind[0.5][0] / behind[0.5][-1], np.exp(1))
    far = photons_sent(np.array([[0.0], [100.0]]), beam, Dose(1e4, modulation=1.0))[:, 0]
    np.testing.assert_allclose(far, 1e4 * np.array(CURRENT_LIMITS))


def test_half_modulation_needs_the_fewest_photons_for_its_noise() -> None:
    """Over views, sum exp(p) / N at a given sum of N is least for N ~ exp(p / 2) (Gies et al.)."""
    longest = np.linspace(REFERENCE_PATH - 1.5, REFERENCE_PATH + 1.5, 31)[:, None]
    beam = ParallelBeam((4, 4), (1.0, 1.0), 31)
    noise = {}
    for m in (0.0, 0.25, 0.5, 0.75, 1.0):
        sent = photons_sent(longest, beam, Dose(1e4, modulation=m)) * np.ones_like(longest)
        noise[m] = (np.exp(longest) / sent).sum() * sent.sum()
    assert min(noise, key=lambda m: noise[m]) == 0.5


def test_a_bow_tie_evens_out_its_water_cylinder_and_leaves_the_centre_alone() -> None:
    radius = 60.0
    sent = photons_sent(np.zeros((1, BEAM.bins)), BEAM, Dose(1e4, bow_tie=radius))[0]
    chord = 2 * np.sqrt(np.maximum(radius**2 - BEAM.positions**2, 0))
    behind = sent * np.exp(-0.02 * chord)
    inside = np.abs(BEAM.positions) < 40
    np.testing.assert_allclose(behind[inside], 1e4 * np.exp(-0.02 * 2 * radius), rtol=1e-9)
    assert sent[len(sent) // 2] == pytest.approx(1e4)
    assert sent.min() >= BOW_TIE_LEAST * 1e4
    plain, filtered = (image_noise(water(8), BEAM, Dose(1e5, bow_tie=mm)) for mm in (0.0, radius))
    rim = (slice(None), slice(44, 52), slice(17, 25))
    assert filtered[rim].std() > 1.15 * plain[rim].std()


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_noise_of_every_kernel_is_that_of_its_filter(kernel: Kernel) -> None:
    """Noise at the centre of a disc goes with the root of the filter's power, interpolated between bins."""
    stds = [middle(image_noise(water(12), BEAM, Dose(1e5, electronic=0, kernel=k))).std() for k in ("hann", kernel)]
    f = np.fft.rfftfreq(4096)
    interpolation = (2 + np.cos(2 * np.pi * f)) / 3
    powers = [(ramp(4096, STEP, k) ** 2 * interpolation).sum() for k in ("hann", kernel)]
    assert stds[1] / stds[0] == pytest.approx(np.sqrt(powers[1] / powers[0]), rel=0.06)


def test_a_detector_that_counts_nothing_still_gives_a_finite_value() -> None:
    noise = projection_noise(np.full(1000, 30.0), Dose(1e3, 10), np.random.default_rng(0))
    assert np.isfinite(noise).all()


def test_image_noise_falls_with_the_root_of_the_photons() -> None:
    stds = [
        middle(image_noise(water(4), BEAM, Dose(photons, electronic=0, seed=3))).std() for photons in (1e4, 4e4, 1.6e5)
    ]
    assert stds[0] / stds[1] == pytest.approx(2, rel=0.05)
    assert stds[1] / stds[2] == pytest.approx(2, rel=0.05)


def test_image_noise_has_the_size_that_theory_gives_the_centre_of_a_disc() -> None:
    """At the centre every view adds its filtered noise, pi / views each, interpolated between bins."""
    photons, radius = 1e5, 70.0
    noise = image_noise(water(24, radius), BEAM, Dose(photons, electronic=0))[:, 44:52, 44:52]
    f = np.fft.rfftfreq(4096, 1.0)
    window = 0.5 * (1 + np.cos(2 * np.pi * f))
    # Linear interpolation between bins, averaged over where between them a voxel falls.
    interpolation = (2 + np.cos(2 * np.pi * f)) / 3
    integral = 2 * np.trapezoid((f / STEP * window) ** 2 * interpolation, f / STEP) * STEP
    variance = np.exp(2 * radius * 0.02) / photons
    expected = np.sqrt(np.pi**2 / BEAM.views * variance * integral) * 1000 / 0.02
    assert noise.std() == pytest.approx(expected, rel=0.06)


def test_inserted_noise_does_not_shift_the_mean() -> None:
    noise = middle(image_noise(water(32), BEAM, Dose(1e5, electronic=0)))
    by_slice = noise.mean(axis=(1, 2))
    assert abs(noise.mean()) < 4 * by_slice.std() / np.sqrt(len(by_slice)) + 0.02 * noise.std()


def test_the_noise_power_is_the_ramp_times_the_squared_window_of_the_filter() -> None:
    noise = middle(image_noise(water(64), BEAM, Dose(1e5, electronic=0)))
    taper = np.outer(np.hanning(32), np.hanning(32))  # so that the strong frequencies do not leak into the weak ones
    power = (np.abs(np.fft.fft2((noise - noise.mean(axis=(1, 2), keepdims=True)) * taper)) ** 2).mean(axis=0)
    f = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32))
    # Power of the filter |f|^2 window^2 over the density of views in the plane 1/|f|, interpolated between bins.
    theory = f * (0.5 * (1 + np.cos(2 * np.pi * np.minimum(f, 0.5)))) ** 2 * (2 + np.cos(2 * np.pi * f)) / 3

    def band(values: NDArray[Any], low: float, high: float) -> float:
        return float(values[(f > low) & (f <= high)].mean())

    for low, high in ((0.05, 0.08), (0.15, 0.2), (0.25, 0.3), (0.3, 0.35)):
        found, expected = (band(values, low, high) / band(values, 0.1, 0.15) for values in (power, theory))
        assert found == pytest.approx(expected, rel=0.25)
    assert band(power, 0.02, 0.04) < 0.7 * band(power, 0.1, 0.15)
    assert band(power, 0.45, 0.5) < 0.05 * band(power, 0.1, 0.15)


def test_noise_is_white_along_z() -> None:
    noise = middle(image_noise(water(24), BEAM, Dose(1e5)))
    neighbours = np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]
    assert abs(neighbours) < 0.03


def test_a_seed_gives_the_same_noise_however_the_slices_are_batched() -> None:
    hu, dose = water(5), Dose(1e4, seed=7)
    whole = image_noise(hu, BEAM, dose)
    np.testing.assert_allclose(image_noise(hu[3:], BEAM, dose, first=3), whole[3:], atol=1e-3)
    np.testing.assert_array_equal(image_noise(hu, BEAM, dose), whole)
    other = image_noise(hu, BEAM, Dose(1e4, seed=8))
    assert abs(np.corrcoef(middle(whole).ravel(), middle(other).ravel())[0, 1]) < 0.1


@pytest.mark.parametrize(
    "settings",
    [{"photons": 0}, {"photons": -1}, {"photons": float("nan")}, {"photons": float("inf")}, {"electronic": -1},
     {"views": 0}, {"seed": -1}, {"modulation": -0.1}, {"modulation": 1.5}, {"bow_tie": -1}, {"kernel": "b70f"},
     {"workers": 0}],
)  # fmt: skip
def test_an_impossible_dose_is_refused_before_anything_is_read(tmp_path: Path, settings: dict[str, Any]) -> None:
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
    found = (pydicom.dcmread(path) for path in folder.glob("*.dcm"))
    return sorted(
        (ds for ds in found if "ImagePositionPatient" in ds), key=lambda ds: float(ds.ImagePositionPatient[2])
    )


def test_a_low_dose_series_is_the_same_series_but_for_noise_and_names(
    write_series: Any, padded: NDArray[np.float64], tmp_path: Path
) -> None:
    tags = {"PixelPaddingValue": -2000, "PixelSpacing": [STEP, STEP], "SeriesDescription": "Chest phantom"}
    write_series(tmp_path / "clean", padded, **tags)
    said = simulate_low_dose(tmp_path / "clean", tmp_path / "noisy", photons=2e4, seed=5)
    clean, noisy = read(tmp_path / "clean"), read(tmp_path / "noisy")
    assert len(noisy) == said["slices"] == 4
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
        outside = before.pixel_array == -2000
        assert outside.any()
        np.testing.assert_array_equal(after.pixel_array == -2000, outside)
    noise = np.stack([after.pixel_array for after in noisy]).astype(float) - [ds.pixel_array for ds in clean]
    expected = image_noise(np.maximum(padded, -1000).astype(np.float32), BEAM, Dose(2e4, seed=5))
    seen = padded > -2000
    assert np.abs(noise - expected)[seen].max() <= 0.5 + 1e-3
    assert said["noise_hu"]["body"] == pytest.approx(noise[padded > -300].std(), rel=0.01)
    assert said["noise_hu"]["lung"] is None


def test_the_same_call_gives_the_same_files_and_another_seed_others(
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


def test_nodules_are_in_the_truth_and_under_the_noise(chest_of_water: Path, tmp_path: Path) -> None:
    out, truth = tmp_path / "noisy", tmp_path / "truth"
    said = simulate_low_dose(chest_of_water, out, photons=1e6, electronic=0, nodules=1, truth=truth)
    listed = read_nodules(truth / "nodules.json")
    assert said["nodules"] == len(listed) >= 2
    clean, with_nodules, noisy = (
        np.stack([ds.pixel_array.astype(float) for ds in read(folder)]) for folder in (chest_of_water, truth, out)
    )
    added = with_nodules - clean
    for nodule in listed:
        z, y, x = round(nodule.slice), round(nodule.row), round(nodule.column)
        around = added[max(0, z - 2) : z + 3, y - 4 : y + 5, x - 4 : x + 5]
        volume = np.pi / 6 * nodule.diameter_mm**3 / (STEP * STEP * 2.5)
        assert around.sum() == pytest.approx(nodule.contrast_hu * volume, rel=0.05)
    assert abs((noisy - with_nodules)[added > 50].mean()) < 10
    first = read(truth)[0]
    assert first.SeriesDescription.endswith("synthetic nodules")
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
    with pytest.raises(CtbasisError, match="nodules without a folder"):
        simulate_low_dose(chest_of_water, out, nodules=1)
    with pytest.raises(CtbasisError, match="nodules is 0"):
        simulate_low_dose(chest_of_water, out, nodules=0, truth=truth)
    assert not out.exists()
    assert not truth.exists()


def test_the_verb_takes_every_setting_and_refuses_in_words(chest_of_water: Path, tmp_path: Path) -> None:
    out, truth = tmp_path / "noisy", tmp_path / "truth"
    chosen = "--photons 1e5 --electronic 5 --views 9 --modulation 0.5 --bow-tie 80 --kernel cosine --nodules 1 --seed 2"
    arguments = ["simulate-dose", str(chest_of_water), "--out", str(out), "--truth-out", str(truth), *chosen.split()]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["views"], said["kernel"], said["modulation"], said["bow_tie"]) == (9, "cosine", 0.5, 80)
    description = read(out)[0].DerivationDescription
    assert "modulation 0.5, bow-tie 80 mm, kernel cosine" in description
    again = CliRunner().invoke(main, [*arguments[:3], str(tmp_path / "other"), "--nodules", str(tmp_path / "absent")])
    assert again.exit_code == 2
    assert "nodules without a folder" in again.stderr


def test_nodules_need_slices_enough(write_series: Any, tmp_path: Path) -> None:
    write_series(tmp_path / "clean", water(2).astype(np.float64))
    with pytest.raises(CtbasisError, match="nodules into 2 slices"):
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
        assert (ds.pixel_array[4:] == 1).any()  # noise that would have gone below what 12 bits hold


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

    monkeypatch.setattr("ctbasis.simulate.dose.derive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate_low_dose(tmp_path / "clean", tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["clean"]


def test_what_is_there_is_not_overwritten(write_series: Any, volume: NDArray[np.int16], tmp_path: Path) -> None:
    write_series(tmp_path / "clean", volume)
    with pytest.raises(CtbasisError, match="is not empty"):
        simulate_low_dose(tmp_path / "clean", tmp_path / "clean")


def test_a_clinical_series_gets_a_noise_that_falls_with_the_photons(real_data: Any, tmp_path: Path) -> None:
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
