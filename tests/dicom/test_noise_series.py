"""DICOM output of patch mode: the denoised series, and noise maps registered with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest

from ctbasis.dicom.noise_series import noise_slope
from ctbasis.matrix.ingest import ingest
from ctbasis.matrix.store import MatrixStore
from ctbasis.patch.matrix import denoise_matrix
from ctbasis.patch.plan import PatchPlan
from ctbasis.patch.result import PatchStore
from ctbasis.steps.reconstruct import reconstruct_patches
from tests.dicom.test_conformance import errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    WriteSeries = Callable[..., list[Path]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, write_series: WriteSeries) -> Path:
    """Return a folder with the source, its matrices, and the DICOM series written from them."""
    place = tmp_path_factory.mktemp("patches")
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    chest = np.where(x**2 + y**2 < 0.7, 40.0, -1000.0)
    hu = chest + np.random.default_rng(0).normal(0, 20, (5, 96, 96))
    windows = {"WindowCenter": [40, -600], "WindowWidth": [400, 1500], "WindowCenterWidthExplanation": ["A", "B"]}
    write_series(place / "source", np.maximum(hu, -1024), SeriesDescription="Chest", **windows)
    ingest(place / "source", str(place / "matrix.zarr"), place / "qc.json", workers=1)
    plan = PatchPlan(engine="numpy", tau=2.3, wiener=False, stride=2, classes=4)
    denoise_matrix(str(place / "matrix.zarr"), str(place / "denoised.zarr"), str(place / "bases.zarr"), plan)
    reconstruct_patches(str(place / "denoised.zarr"), place / "out", noise=place / "noise")
    return place


def images(folder: Path) -> list[pydicom.FileDataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]


def hounsfield(image: pydicom.Dataset) -> NDArray[Any]:
    return np.asarray(image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept))


def test_the_denoised_series_holds_the_denoised_matrix_and_describes_its_derivation(written: Path) -> None:
    store = PatchStore.open(str(written / "denoised.zarr"))
    source = MatrixStore.open(str(written / "matrix.zarr"))
    for column, image in enumerate(images(written / "out")):
        A = source.read_columns(slice(column, column + 1))
        expected = store.read_columns(slice(column, column + 1)).reshape(store.image)
        # Voxels below AIR keep their original values.
        kept = (A > -1000).reshape(store.image)
        assert np.abs(hounsfield(image) - expected)[kept].max() <= 0.5
        assert image.SeriesDescription == "Chest - SVD of patches"
        assert "whitened by the estimated noise" in image.DerivationDescription
        assert image.DerivationCodeSequence[0].CodeValue == "PATCH-SVD"


def test_a_noise_map_holds_sigma_in_hu_on_the_grid_of_the_slice(written: Path) -> None:
    store = PatchStore.open(str(written / "denoised.zarr"))
    sources = images(written / "source")
    for column, image in enumerate(images(written / "noise")):
        assert np.abs(hounsfield(image) - store.sigma_image(column)).max() <= 0.0051
        for keyword in ("ImagePositionPatient", "PixelSpacing", "FrameOfReferenceUID", "StudyInstanceUID"):
            assert image[keyword].value == sources[column][keyword].value


def test_a_noise_map_is_marked_as_not_anatomy(written: Path) -> None:
    noise, denoised = images(written / "noise"), images(written / "out")
    assert {tuple(image.ImageType) for image in noise} == {("DERIVED", "SECONDARY", "AXIAL", "NOISE")}
    assert noise[0].SeriesDescription == "Chest - noise sigma (HU)"
    assert noise[0].ImageComments.startswith("No image of the patient")
    assert "WindowCenterWidthExplanation" not in noise[0]
    assert len({image.SeriesInstanceUID for image in [*noise, *denoised]}) == 2
    assert len({image.SOPInstanceUID for image in [*noise, *denoised]}) == 10
    assert noise[0].SeriesNumber != denoised[0].SeriesNumber


def test_both_series_are_valid(written: Path) -> None:
    assert errors(sorted((written / "noise").iterdir()) + sorted((written / "out").iterdir())) == {}


def test_writing_again_gives_the_same_bytes_and_replaces_the_series(written: Path) -> None:
    before = {path.name: path.read_bytes() for path in (written / "out").iterdir()}
    reconstruct_patches(str(written / "denoised.zarr"), written / "out", noise=written / "noise")
    assert {path.name: path.read_bytes() for path in (written / "out").iterdir()} == before


def test_the_slope_of_a_noise_map_grows_only_with_large_sigma(written: Path) -> None:
    noise = PatchStore.open(str(written / "denoised.zarr")).noise(0)
    assert noise_slope(noise.sigma) == 0.01
    noise.sigma[0, 0, 0] = 2000.0
    assert noise_slope(noise.sigma) == 0.1
