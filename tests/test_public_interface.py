"""The public interface `import ctbasis`: which names it has, what they do, and that importing it is cheap."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import inspect
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest

import ctbasis
from ctbasis.dicom.excluded_voxels import excluded_voxels
from ctbasis.errors import CtbasisError
from ctbasis.parameters import PARAMETER
from ctbasis.simulate.phantom import PIXEL_PADDING
from ctbasis.svd.factors import FactorStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctbasis.demo.s3server import S3Server
    from ctbasis.dicom.volume import Volume
    from tests.conftest import WriteSeries

PACKAGE = Path(ctbasis.__file__).parent
PAGE = PACKAGE.parent / "docs" / "reference" / "python.md"

HEAVY = {
    *("kfp", "kubernetes", "pyspark", "matplotlib", "numba", "scipy", "skimage", "zarr", "boto3", "pydicom", "numpy"),
    *("xarray", "dask", "ray", "click", "cloup"),
}

SIGNATURES = {
    "chest_phantom": "slices, rows, columns, *, spacing, seed, structured",
    "denoise": "image, *, spacing, mode, basis, keep_basis, rank, oversample, power_iters, method, tau, wiener, "
    "stride, target_noise, seed, engine, memory",
    "estimate_noise": "image, spacing",
    "factor": "matrix, rank, *, engine, oversample, power_iters, seed, method, memory, cluster, keep",
    "read": "source, *, series",
    "read_all": "source, *, series",
    "score_image": "truth, image, noisy, *, spacing, truth_noise",
    "simulate_dose": "image, photons, *, spacing, electronic, views, seed, modulation, bow_tie, kernel",
    "write_series": "volume, folder, *, description, compression",
}
"""Parameters of the functions, and which of them are given by keyword alone. A change here breaks notebooks."""

FIELDS = {
    "Denoised": "volume, mode, rank, noise, notes",
    "Factors": "U, s, V, accuracy, engine, note",
    "NoiseEstimate": "sigma, soft_tissue, correlation, scanner, notes",
    "Volume": "hu, spacing, origin, direction, set_aside, headers, qc, derivation",
}
"""Fields of the results."""

MEMBERS = {
    "Denoised": {"hu", "sigma"},
    "Factors": {"approximation"},
    "NoiseEstimate": {"covariance"},
    "Volume": {
        *("shape", "SeriesInstanceUID", "affine", "with_hu", "clipped_hu", "fingerprint", "to_xarray", "from_xarray"),
    },
}
"""Their properties and methods."""


def parameters_of(function: Callable[..., Any]) -> str:
    """Return the names of parameters as a signature without types and defaults."""
    parameters = inspect.signature(function).parameters.values()
    first = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    by_keyword = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    return ", ".join([*first, *(["*", *by_keyword] if by_keyword else [])])


def test_the_names_their_parameters_and_their_fields_are_those_that_the_page_promises() -> None:
    assert set(ctbasis.__all__) == {*SIGNATURES, *FIELDS, "CtbasisError", "__version__"}
    assert dir(ctbasis) == sorted(ctbasis.__all__)
    assert {name: parameters_of(getattr(ctbasis, name)) for name in SIGNATURES} == SIGNATURES
    fields = {name: ", ".join(one.name for one in dataclasses.fields(getattr(ctbasis, name))) for name in FIELDS}
    assert fields == FIELDS
    for name, members in MEMBERS.items():
        own = {member for member in vars(getattr(ctbasis, name)) if not member.startswith("_")}
        assert own - set(FIELDS[name].split(", ")) == members
    page = PAGE.read_text(encoding="utf-8")
    for name in ctbasis.__all__:
        assert f"`{name}" in page or f"`ctbasis.{name}" in page


def test_no_name_of_the_interface_is_the_name_of_a_room() -> None:
    """A room that is imported becomes an attribute of the package and would hide the name."""
    rooms = {path.stem for path in PACKAGE.iterdir()}
    assert not rooms & set(ctbasis.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'denoize'"):
        ctbasis.denoize  # type: ignore[attr-defined]  # noqa: B018 - the access is the test


@pytest.mark.parametrize("name", [name for name in ctbasis.__all__ if not name.startswith("_")])
def test_every_name_is_documented_with_an_example(name: str) -> None:
    documented = inspect.getdoc(getattr(ctbasis, name)) or ""
    assert len(documented.splitlines()[0]) > 20
    if name != "CtbasisError":
        assert ">>> " in documented
    if name in SIGNATURES:
        for section in ("Args:", "Returns:", "Raises:"):
            assert section in documented
        for parameter in SIGNATURES[name].replace("*, ", "").split(", "):
            assert f"        {parameter}:" in (getattr(ctbasis, name).__doc__ or "")
    if name in FIELDS:
        for field in FIELDS[name].split(", "):
            assert f"        {field}:" in (getattr(ctbasis, name).__doc__ or "")


def test_type_checkers_see_the_names_in_the_modules_that_they_are_imported_from() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name))
    seen = {
        alias.name: (node.module or "").removeprefix("ctbasis.")
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == ctbasis._MODULES
    assert (PACKAGE / "py.typed").is_file()


def test_importing_takes_less_than_a_third_of_a_second_and_imports_nothing_heavy() -> None:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import ctbasis"], check=True)
        # The start of the interpreter included.
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3
    code = "import sys, ctbasis; ctbasis.CtbasisError; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "ctbasis" in loaded
    assert not HEAVY & set(loaded)


def test_no_name_needs_kubeflow_spark_pictures_or_s3_before_it_is_used() -> None:
    code = (
        "import sys, ctbasis; [getattr(ctbasis, name) for name in ctbasis.__all__]; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"kfp", "kubernetes", "pyspark", "matplotlib", "xarray", "boto3"} & set(loaded)


def documented_modules() -> list[str]:
    """Return the modules of ctbasis that hold an example."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


@pytest.mark.parametrize("module", documented_modules())
def test_the_examples_in_docstrings_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted
    assert not result.failed


def test_the_examples_on_the_page_run() -> None:
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 10
    assert not result.failed


@pytest.fixture(scope="module")
def phantom() -> Volume:
    return ctbasis.chest_phantom(slices=6, rows=96, columns=96)


@pytest.fixture(scope="module")
def noisy(phantom: Volume) -> Volume:
    return ctbasis.simulate_dose(phantom, photons=4e3)


def test_a_notebook_reads_denoises_scores_writes_and_reads_back(noisy: Volume, phantom: Volume, tmp_path: Path) -> None:
    ctbasis.write_series(noisy, tmp_path / "noisy")
    volume = ctbasis.read(tmp_path / "noisy")
    noise = ctbasis.estimate_noise(volume)
    denoised = ctbasis.denoise(volume)
    scores = ctbasis.score_image(phantom, denoised.volume, volume)
    assert scores["rmse_body"] < 0.75 * scores["before"]["rmse_body"]
    assert denoised.hu.dtype == np.float32
    assert denoised.sigma is not None
    np.testing.assert_array_equal(denoised.sigma, noise.sigma)
    files = ctbasis.write_series(denoised.volume, tmp_path / "denoised", compression="jpeg-ls")
    again = ctbasis.read(tmp_path / "denoised")
    assert [file.parent for file in files] == [tmp_path / "denoised"] * 6
    assert np.abs(again.hu - denoised.hu).max() <= 0.5
    assert (again.spacing, again.origin) == (phantom.spacing, phantom.origin)
    assert again.SeriesInstanceUID not in {volume.SeriesInstanceUID, phantom.SeriesInstanceUID}
    header = pydicom.dcmread(files[0])
    # The noisy series was read from files, so the denoised one is derived from it alone.
    assert "3-D patches" in header.DerivationDescription
    assert header.SeriesDescription.endswith("SVD of patches")


def test_a_series_says_every_step_that_was_done_in_memory(noisy: Volume, tmp_path: Path) -> None:
    denoised = ctbasis.denoise(noisy, mode="global", rank=2)
    header = pydicom.dcmread(ctbasis.write_series(denoised.volume, tmp_path / "denoised")[0])
    assert header.DerivationDescription.index("4000 photons") < header.DerivationDescription.index("Rank-2")
    assert (
        header.StudyInstanceUID == pydicom.dcmread(ctbasis.write_series(noisy, tmp_path / "noisy")[0]).StudyInstanceUID
    )


def test_what_is_read_is_written_and_read_again_value_by_value(
    write_series: WriteSeries, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    hu = volume.copy()
    hu[:, 0, :5] = -3024
    hu[:, -1, :] = -1010
    write_series(tmp_path / "source", hu, PixelPaddingValue=-2000)
    read = ctbasis.read(tmp_path / "source")
    np.testing.assert_array_equal(read.hu, hu)
    excluded = np.stack([excluded_voxels(image, read.spacing[1:]) for image in hu])
    assert excluded[:, 0, :5].all()
    assert excluded[:, -1, :].all()
    np.testing.assert_array_equal(read.set_aside, excluded)
    assert read.hu.dtype == np.int16
    ctbasis.write_series(read, tmp_path / "copy")
    copy = ctbasis.read(tmp_path / "copy")
    np.testing.assert_array_equal(copy.hu, hu)
    # Written again, the files are the same.
    first = (tmp_path / "copy" / "slice-0001.dcm").read_bytes()
    ctbasis.write_series(read, tmp_path / "copy")
    assert (tmp_path / "copy" / "slice-0001.dcm").read_bytes() == first


def test_the_affine_gives_the_position_that_each_header_states(write_series: WriteSeries, tmp_path: Path) -> None:
    cosines = [0.8, 0.6, 0.0, 0.0, 0.0, -1.0]
    normal = np.cross(cosines[:3], cosines[3:])

    def place(dataset: Any, z: int) -> None:
        dataset.ImagePositionPatient = [round(float(mm), 6) for mm in (10, -20, 30) + 2.5 * z * normal]

    hu = np.zeros((4, 20, 30), np.int16)
    write_series(tmp_path, hu, edit=place, ImageOrientationPatient=cosines, PixelSpacing=[0.7, 0.9])
    volume = ctbasis.read(tmp_path)
    assert volume.spacing == pytest.approx((2.5, 0.7, 0.9))
    np.testing.assert_allclose(volume.affine @ [0, 0, 0, 1], [10, -20, 30, 1], atol=1e-6)
    np.testing.assert_allclose((volume.affine @ [3, 0, 0, 1])[:3], (10, -20, 30) + 7.5 * normal, atol=1e-5)
    # ImageOrientationPatient: first the direction of a row, in which the column number increases.
    np.testing.assert_allclose((volume.affine @ [0, 0, 2, 1])[:3], (10 + 1.44, -20 + 1.08, 30), atol=1e-5)
    np.testing.assert_allclose((volume.affine @ [0, 5, 0, 1])[:3], (10, -20, 30 - 3.5), atol=1e-5)


def test_a_part_of_a_volume_is_where_it_was(phantom: Volume) -> None:
    part = phantom[2:5, 10:50, 20:]
    np.testing.assert_array_equal(part.hu, phantom.hu[2:5, 10:50, 20:])
    np.testing.assert_array_equal(part.set_aside, phantom.set_aside[2:5, 10:50, 20:])
    np.testing.assert_allclose(part.affine @ [0, 0, 0, 1], phantom.affine @ [2, 10, 20, 1])
    assert part.headers == ()
    assert phantom[2:5].headers == phantom.headers[2:5]
    assert [entry["column"] for entry in phantom[2:5].qc["slices"]] == [2, 3, 4]
    with pytest.raises(CtbasisError, match="ranges"):
        phantom[3]  # type: ignore[index]
    with pytest.raises(CtbasisError, match="empty or has a step"):
        phantom[::2]


def test_a_slice_range_is_written_with_its_own_headers(phantom: Volume, tmp_path: Path) -> None:
    ctbasis.write_series(phantom[2:5], tmp_path / "part")
    part = ctbasis.read(tmp_path / "part")
    np.testing.assert_array_equal(part.hu, phantom.hu[2:5])
    assert part.origin == pytest.approx(phantom[2:5].origin)


def test_several_series_are_named_and_one_can_be_chosen(
    write_series: WriteSeries, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    uids = []
    for number, slices in ((1, 6), (2, 4)):
        paths = write_series(tmp_path / str(number), volume[:slices], SeriesNumber=number)
        uids.append(pydicom.dcmread(paths[0]).SeriesInstanceUID)
    with pytest.raises(CtbasisError, match="2 CT series") as refused:
        ctbasis.read(tmp_path)
    for uid in uids:
        assert uid in str(refused.value)
    assert "series=SeriesInstanceUID" in refused.value.remedy
    assert [len(one.hu) for one in ctbasis.read_all(tmp_path)] == [6, 4]
    chosen = ctbasis.read(tmp_path, series=uids[1])
    assert (chosen.SeriesInstanceUID, chosen.shape) == (uids[1], (4, 32, 24))
    assert len(chosen.qc["set_aside"]) == 6
    with pytest.raises(CtbasisError, match=r"no CT series 1\.2\.3") as unknown:
        ctbasis.read(tmp_path, series="1.2.3")
    assert uids[0] in str(unknown.value)


def test_series_of_different_image_sizes_are_read_one_by_one(
    write_series: WriteSeries, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    write_series(tmp_path / "large", volume)
    small = write_series(tmp_path / "small", volume[:, ::2, ::2])
    with pytest.raises(CtbasisError, match="Rows x Columns"):
        ctbasis.read_all(tmp_path)
    uid = pydicom.dcmread(small[0]).SeriesInstanceUID
    assert ctbasis.read(tmp_path, series=uid).shape == (6, 16, 12)


def test_a_series_is_read_from_s3(aws: S3Server, series: Path, volume: NDArray[np.int16]) -> None:
    aws.put_folder(series, "s3://notebook/ct")
    np.testing.assert_array_equal(ctbasis.read("s3://notebook/ct").hu, volume)


def test_a_folder_without_ct_is_refused_with_the_reasons_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "notes.txt").write_text("no image")
    with pytest.raises(CtbasisError, match="no CT image among 1 files"):
        ctbasis.read(tmp_path / "ct")
    with pytest.raises(CtbasisError, match="no folder"):
        ctbasis.read(tmp_path / "nothing")
    assert not list((tmp_path / "scratch").iterdir())


def test_what_was_set_aside_and_tolerated_goes_with_the_volume(
    write_series: WriteSeries, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    def edit(dataset: Any, z: int) -> None:
        if z == 3:
            dataset.PhotometricInterpretation = "MONOCHROME1"

    write_series(tmp_path, volume, edit=edit)
    (tmp_path / "damaged.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    qc = ctbasis.read(tmp_path).qc
    assert [entry["file"] for entry in qc["set_aside"]] == ["damaged.dcm"]
    assert any("MONOCHROME1" in text for text in qc["slices"][3]["tolerated"])


def test_arrays_are_volumes_of_the_spacing_that_is_given(noisy: Volume) -> None:
    # An array declares no padding: what is set aside is found in the HU alone.
    plain = ctbasis.Volume(noisy.hu, noisy.spacing)
    hu = noisy.hu
    of_array = ctbasis.denoise(hu, spacing=noisy.spacing, stride=3, wiener=False)
    np.testing.assert_array_equal(of_array.hu, ctbasis.denoise(plain, stride=3, wiener=False).hu)
    of_volume = ctbasis.denoise(noisy, stride=3, wiener=False)
    # Voxels that are set aside come back as they were.
    np.testing.assert_array_equal(of_volume.hu[noisy.set_aside], noisy.hu[noisy.set_aside])
    np.testing.assert_array_equal(np.asarray(noisy), noisy.hu)
    with pytest.raises(CtbasisError, match="spacing is given"):
        ctbasis.denoise(noisy, spacing=(1, 1, 1))
    with pytest.raises(CtbasisError, match="without spacing"):
        ctbasis.denoise(hu)


@pytest.mark.parametrize(
    ("hu", "said"),
    [
        (np.zeros((4, 8)), r"shape \(4, 8\)"),
        (np.zeros((0, 8, 8)), r"shape \(0, 8, 8\)"),
        (np.full((2, 8, 8), np.nan), r"HU at \(0, 0, 0\) .* is nan"),
        (np.zeros((2, 8, 8), complex), "dtype complex128"),
        ("<no folder>", "no folder"),
        (7, "type int"),
    ],
)
def test_what_is_no_image_is_refused(hu: Any, said: str) -> None:
    with pytest.raises(CtbasisError, match=said):
        ctbasis.estimate_noise(hu, (1.0, 0.7, 0.7) if isinstance(hu, np.ndarray) else None)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing is"),
        ({"spacing": (1.0, 1.0)}, "spacing is"),
        ({"origin": (1.0, np.inf, 1.0)}, "origin is"),
        ({"direction": np.ones((3, 3))}, "right angles"),
        ({"set_aside": np.zeros((1, 8, 8), bool)}, "set_aside has the shape"),
        ({"headers": (b"one",)}, "1 headers for 2 slices"),
    ],
)
def test_attributes_that_do_not_fit_the_array_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(CtbasisError, match=said):
        ctbasis.Volume(np.zeros((2, 8, 8)), **{"spacing": (1.0, 0.7, 0.7), **wrong})


def test_whole_numbers_are_kept_as_int16_where_they_fit() -> None:
    for hu, dtype in (
        (np.zeros((1, 2, 2), np.int64), np.int16),
        (np.full((1, 2, 2), 40_000), np.float32),
        (np.full((1, 2, 2), -32_768, np.int16), np.float32),
        (np.zeros((1, 2, 2), np.float64), np.float32),
    ):
        assert ctbasis.Volume(hu, (1.0, 0.7, 0.7)).hu.dtype == dtype


def test_xarray_labels_the_axes_in_mm_and_goes_both_ways(phantom: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled = phantom.to_xarray()
    assert labelled.sizes == {"z": 6, "y": 96, "x": 96}
    assert float(labelled.y[10]) == pytest.approx(10 * phantom.spacing[1])
    assert labelled.attrs["units"] == "HU"
    back = ctbasis.Volume.from_xarray(labelled.transpose("x", "z", "y"))
    np.testing.assert_array_equal(back.hu, phantom.hu)
    np.testing.assert_array_equal(back.set_aside, phantom.set_aside)
    np.testing.assert_allclose(back.affine, phantom.affine)
    noise = ctbasis.estimate_noise(labelled)
    np.testing.assert_array_equal(noise.sigma, ctbasis.estimate_noise(phantom).sigma)
    with pytest.raises(CtbasisError, match="dimensions"):
        ctbasis.Volume.from_xarray(labelled.rename(z="slice"))
    with pytest.raises(CtbasisError, match="dimension y has no coordinate"):
        ctbasis.Volume.from_xarray(labelled.drop_vars("y"))
    assert ctbasis.Volume.from_xarray(labelled[:1]).spacing == pytest.approx((4, 4, 4))
    with pytest.raises(CtbasisError, match="equal steps"):
        ctbasis.Volume.from_xarray(labelled.assign_coords(z=[0.0, 1, 2, 3, 4, 9]))
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(CtbasisError, match="xarray is not installed") as missing:
        phantom.to_xarray()
    assert "ctbasis[xarray]" in missing.value.remedy


def test_the_noise_estimate_is_that_of_the_noise_that_was_added(phantom: Volume, noisy: Volume) -> None:
    draws = [ctbasis.simulate_dose(phantom, photons=4e3, seed=seed).hu - phantom.hu for seed in range(20)]
    true_sigma = np.std(draws, axis=0)
    soft = (np.abs(phantom.hu) < 100) & ~phantom.set_aside
    noise = ctbasis.estimate_noise(noisy)
    assert noise.soft_tissue == pytest.approx(np.median(true_sigma[soft]), rel=0.15)
    assert noise.sigma.shape == noisy.shape
    # Sigma is higher where the body is thicker, as the true one is.
    assert np.corrcoef(noise.sigma[soft], true_sigma[soft])[0, 1] > 0.5
    assert noise.correlation.shape == (9, 9, 9)
    assert noise.correlation[4, 4, 4] == pytest.approx(1)
    assert noise.covariance[4, 4, 4] == pytest.approx(noise.soft_tissue**2)
    # Slices are reconstructed one by one: neighbours within a slice are correlated, slices are not.
    assert noise.correlation[4, 4, 5] > 0.2 > abs(noise.correlation[5, 4, 4])


def test_a_simulated_dose_is_that_of_the_command(phantom: Volume, tmp_path: Path) -> None:
    from ctbasis.simulate.low_dose_series import simulate_low_dose

    ctbasis.write_series(phantom, tmp_path / "phantom")
    source = ctbasis.read(tmp_path / "phantom")
    settings: dict[str, Any] = {"photons": 1e4, "seed": 3, "modulation": 0.5, "bow_tie": 150.0, "kernel": "cosine"}
    simulate_low_dose(tmp_path / "phantom", tmp_path / "noisy", **settings)
    command = ctbasis.read(tmp_path / "noisy")
    noisy = ctbasis.simulate_dose(source, **settings)
    assert np.abs(command.hu - noisy.hu).max() <= 0.5
    padding = phantom.hu < -1000
    np.testing.assert_array_equal(noisy.hu[padding], phantom.hu[padding])


def test_a_score_of_volumes_is_that_of_their_folders(phantom: Volume, tmp_path: Path) -> None:
    brighter = phantom.with_hu(phantom.hu + 7)
    ctbasis.write_series(phantom, tmp_path / "truth")
    ctbasis.write_series(brighter, tmp_path / "image")
    assert ctbasis.score_image(tmp_path / "truth", tmp_path / "image") == ctbasis.score_image(phantom, brighter)
    # The voxels that are set aside keep their values.
    scored = phantom.hu > PIXEL_PADDING
    changed = np.mean(~phantom.set_aside[scored])
    assert ctbasis.score_image(phantom, brighter)["rmse"] == pytest.approx(7 * np.sqrt(changed))
    with pytest.raises(CtbasisError, match="slices, rows and columns"):
        ctbasis.score_image(phantom, brighter[1:])
    of_arrays = ctbasis.score_image(phantom.hu, brighter.hu, spacing=phantom.spacing)
    assert of_arrays == ctbasis.score_image(phantom, brighter)


def test_a_kept_basis_denoises_again_to_the_same_values(noisy: Volume, tmp_path: Path) -> None:
    options: dict[str, Any] = {"stride": 3, "wiener": False}
    first = ctbasis.denoise(noisy, keep_basis=tmp_path / "patch", **options)
    again = ctbasis.denoise(noisy, basis=tmp_path / "patch", **options)
    np.testing.assert_array_equal(first.hu, again.hu)
    ctbasis.denoise(noisy, mode="global", rank=3, keep_basis=tmp_path / "global")
    projected = ctbasis.denoise(noisy, mode="global", rank=3, basis=tmp_path / "global")
    assert np.abs(projected.hu - ctbasis.denoise(noisy, mode="global", rank=3).hu).max() < 0.01
    assert any("leave out" in note for note in projected.notes)
    for mode, wrong in ({"mode": "patch"}, "global"), ({"mode": "global", "rank": 2}, "patch"):
        with pytest.raises(CtbasisError, match="basis"):
            ctbasis.denoise(noisy, basis=tmp_path / wrong, **mode)


def test_global_mode_is_the_low_rank_approximation_of_the_matrix_of_slices(noisy: Volume) -> None:
    A = noisy.clipped_hu().reshape(len(noisy.hu), -1).T.astype(np.float64)
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    expected = ((U[:, :2] * s[:2]) @ Vt[:2]).T.reshape(noisy.shape)
    denoised = ctbasis.denoise(noisy, mode="global", rank=2)
    assert np.abs(denoised.hu - expected)[~noisy.set_aside].max() < 0.01
    assert (denoised.rank, denoised.sigma) == (2, None)
    chosen = ctbasis.denoise(noisy, mode="global", rank="auto:energy=0.9")
    assert (chosen.rank, any("energy" in note or "||A||" in note for note in chosen.notes)) == (1, True)


@pytest.mark.parametrize("wrong", [{"rank": 3}, {"mode": "global"}])
def test_a_rank_goes_with_global_mode_and_only_with_it(noisy: Volume, wrong: dict[str, Any]) -> None:
    with pytest.raises(CtbasisError, match="rank"):
        ctbasis.denoise(noisy, **wrong)


def test_defaults_are_those_of_the_pipeline() -> None:
    """But for the mode, which is patch where no rank says otherwise, and for the engine, which needs no Java."""
    own = {"mode": "patch", "engine": "numpy", "seed": None, "rank": None}
    for function in (ctbasis.denoise, ctbasis.factor):
        for one in inspect.signature(function).parameters.values():
            if one.name in PARAMETER and one.name not in own:
                assert one.default == PARAMETER[one.name].default, one.name
    assert inspect.signature(ctbasis.factor).parameters["rank"].default == int(PARAMETER["rank"].default)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mode": "wavelet"}, "mode is 'wavelet'"),
        ({"tau": -1.0}, "tau is"),
        ({"stride": 9}, "stride is 9"),
        ({"engine": "abacus"}, "engine"),
        ({"memory": "much"}, "memory"),
        ({"basis": "/nowhere"}, "no basis at"),
    ],
)
def test_parameters_are_those_of_the_command_line_and_refused_as_there(
    noisy: Volume, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(CtbasisError, match=said):
        ctbasis.denoise(noisy, **wrong)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.int64, np.uint8])
@pytest.mark.parametrize("shape", [(700, 24), (16, 40), (5, 1)])
def test_factors_are_those_of_numpy_and_the_report_bounds_their_error(shape: tuple[int, int], dtype: type) -> None:
    A = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    factors = ctbasis.factor(A, rank=4)
    k = min(4, *shape)
    exact = A.astype(np.float64)
    np.testing.assert_allclose(factors.s, np.linalg.svd(exact, compute_uv=False)[:k], rtol=1e-6)
    np.testing.assert_allclose(factors.U.T @ factors.U, np.eye(k), atol=1e-5)
    np.testing.assert_allclose(factors.V.T @ factors.V, np.eye(k), atol=1e-9)
    error = exact - factors.approximation()
    # A matrix of full rank leaves nothing but the rounding of U.
    slack = factors.accuracy.rounding + 1e-6 * factors.accuracy.norm
    assert np.linalg.norm(error) == pytest.approx(factors.accuracy.residual, rel=1e-4, abs=slack)
    assert np.linalg.norm(error, 2) <= factors.accuracy.spectral_error + slack
    assert factors.approximation(1).shape == shape


@pytest.mark.java
def test_mahout_factors_an_array_as_the_numpy_engine_does() -> None:
    A = np.random.default_rng(0).normal(size=(2000, 16)) @ np.diag(0.5 ** np.arange(16))
    mahout, exact = (ctbasis.factor(A, rank=4, engine=engine, seed=1) for engine in ("mahout", "numpy"))
    assert (mahout.engine, exact.engine) == ("mahout", "numpy")
    np.testing.assert_allclose(mahout.s, exact.s, rtol=1e-4)
    left_out = np.linalg.norm(A - mahout.approximation())
    assert left_out == pytest.approx(mahout.accuracy.residual, rel=1e-3)


def test_the_matrix_of_a_volume_has_a_row_a_voxel_and_a_column_a_slice(phantom: Volume) -> None:
    factors = ctbasis.factor(phantom, rank=2, method="randomized", seed=5)
    assert (factors.U.shape, factors.V.shape) == ((96 * 96, 2), (6, 2))
    assert "5" in factors.note
    again = ctbasis.factor(phantom, rank=2, method="randomized", seed=5)
    np.testing.assert_array_equal(factors.U, again.U)


def test_kept_factors_are_a_basis_and_a_stored_matrix_is_factored_where_it_is(phantom: Volume, place: str) -> None:
    from ctbasis.matrix.volumes import write_volume

    write_volume(phantom, f"{place}/matrix.zarr")
    factors = ctbasis.factor(f"{place}/matrix.zarr", rank=3, keep=f"{place}/basis")
    stored = FactorStore.open(f"{place}/basis")
    np.testing.assert_array_equal(stored.s, factors.s)
    denoised = ctbasis.denoise(phantom, mode="global", rank=3, basis=f"{place}/basis")
    assert denoised.hu.shape == phantom.shape


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (np.zeros(3), r"shape \(3,\)"),
        (np.zeros((2, 3, 4)), "Volume"),
        (np.array([[1.0, np.nan]]), "row 0, column 1"),
        (np.array([["a"]]), "dtype"),
        ("/nowhere", "no matrix at /nowhere"),
    ],
)
def test_what_is_no_matrix_is_refused(matrix: Any, said: str) -> None:
    with pytest.raises(CtbasisError, match=said):
        ctbasis.factor(matrix)


def test_a_series_is_written_whole_or_not_at_all(
    phantom: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctbasis.write_series(phantom, tmp_path / "series")
    before = {path: path.read_bytes() for path in (tmp_path / "series").iterdir()}
    write = pydicom.dcmwrite

    def full_disk(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "slice-0004.dcm":
            raise OSError(28, "No space left on device")
        write(path, *arguments, **options)

    monkeypatch.setattr(pydicom, "dcmwrite", full_disk)
    with pytest.raises(CtbasisError, match="No space left"):
        ctbasis.write_series(phantom.with_hu(phantom.hu + 1), tmp_path / "series")
    assert {path: path.read_bytes() for path in (tmp_path / "series").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["series"]


def test_a_folder_of_others_is_not_replaced_and_an_array_has_no_headers(phantom: Volume, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(CtbasisError, match=r"mine\.txt, which ctbasis did not write"):
        ctbasis.write_series(phantom, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "kept"
    with pytest.raises(CtbasisError, match="no DICOM headers") as refused:
        ctbasis.write_series(ctbasis.Volume(phantom.hu, phantom.spacing), tmp_path / "new")
    assert "with_hu" in refused.value.remedy


def test_computed_hu_are_described_by_the_user_and_keep_padding_apart(
    write_series: WriteSeries, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    hu = np.maximum(volume, -600)
    hu[:, 0, :4] = -999
    # Padding whose value means -999 HU, which computed values can reach.
    write_series(tmp_path / "source", hu, PixelPaddingValue=25)
    source = ctbasis.read(tmp_path / "source")
    assert source.set_aside.sum() == 6 * 4
    computed = source.hu.astype(np.float32)
    computed[:, 5, 5] = -999
    written = ctbasis.write_series(source.with_hu(computed), tmp_path / "out", description="Smoothed by hand")
    assert pydicom.dcmread(written[0]).DerivationDescription.startswith("Smoothed by hand")
    back = ctbasis.read(tmp_path / "out")
    np.testing.assert_array_equal(back.set_aside, source.set_aside)
    np.testing.assert_array_equal(back.hu[:, 5, 5], -998)
