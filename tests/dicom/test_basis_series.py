"""Basis images as a DICOM series: values, geometry, and the attributes of patient and study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from ctbasis.dicom.basis_series import basis_images_hu
from ctbasis.steps.reconstruct import reconstruct
from ctbasis.svd.factors import FactorStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import FileDataset

    WriteSeries = Callable[..., list[Path]]
    WriteBasis = Callable[..., str]


def write_basis_images(basis: str, place: Path, rank: int) -> list[FileDataset]:
    reconstruct(basis, place / "out", rank=rank, basis_images=place / "basis-images")
    return [pydicom.dcmread(path) for path in sorted((place / "basis-images").iterdir())]


def hounsfield(image: pydicom.Dataset) -> NDArray[np.float64]:
    return image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)


@pytest.fixture
def basis(write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]) -> str:
    return write_basis(write_series(tmp_path / "source", volume, SeriesDescription="Chest"), rank=4)


def test_each_image_is_a_column_of_u_scaled_to_hu(basis: str, tmp_path: Path) -> None:
    images = write_basis_images(basis, tmp_path, rank=3)
    store = FactorStore.open(basis)
    assert len(images) == 3
    for index, image in enumerate(images):
        expected = store.read_basis_image(index) * store.s[index] / np.sqrt(store.cols)
        assert np.abs(hounsfield(image) - expected).max() <= float(image.RescaleSlope) / 2 * (1 + 1e-5)
        # The full 16-bit range is used, so the rounding error is small.
        assert float(image.RescaleSlope) <= 1.001 * np.ptp(expected) / 65533


def test_the_images_belong_to_the_study_and_have_a_separate_frame_of_reference(basis: str, tmp_path: Path) -> None:
    images = write_basis_images(basis, tmp_path, rank=3)
    source = pydicom.dcmread(next((tmp_path / "source").iterdir()))
    denoised = pydicom.dcmread(next((tmp_path / "out").iterdir()))
    assert {image.StudyInstanceUID for image in images} == {source.StudyInstanceUID}
    assert {image.PatientID for image in images} == {source.PatientID}
    (frame,) = {image.FrameOfReferenceUID for image in images}
    assert frame not in {source.FrameOfReferenceUID, denoised.FrameOfReferenceUID}
    (series,) = {image.SeriesInstanceUID for image in images}
    assert series not in {source.SeriesInstanceUID, denoised.SeriesInstanceUID}
    assert [image.ImagePositionPatient[2] for image in images] == [0, 1, 2]
    assert len({image.SOPInstanceUID for image in images}) == 3
    assert images[0].SeriesNumber != denoised.SeriesNumber


def test_the_images_describe_their_derivation_and_refer_to_their_sources(basis: str, tmp_path: Path) -> None:
    image = write_basis_images(basis, tmp_path, rank=2)[1]
    assert list(image.ImageType) == ["DERIVED", "SECONDARY", "AXIAL", "BASIS"]
    assert image.SeriesDescription == "Chest - SVD rank 2 basis"
    assert image.DerivationDescription.startswith("Basis image 2:")
    assert image.DerivationCodeSequence[0].CodeValue == "BASIS"
    sources = {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "source").iterdir()}
    assert {item.ReferencedSOPInstanceUID for item in image.SourceImageSequence} == sources


def test_images_derived_from_several_patients_name_no_patient(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    both = [
        write_series(
            tmp_path / name,
            part,
            PatientID=name,
            PatientName=f"{name}^Somebody",
            StudyInstanceUID=generate_uid(),
        )
        for name, part in (("a", volume[:3]), ("b", volume[3:]))
    ]
    images = write_basis_images(write_basis(*both, rank=2), tmp_path, rank=2)
    studies = {pydicom.dcmread(path).StudyInstanceUID for paths in both for path in paths}
    assert len(studies) == 2
    for image in images:
        assert image.StudyInstanceUID not in studies
        assert not image.PatientID
        assert not image.PatientName


def test_more_of_them_than_are_held_at_once_are_all_write_basis_images(
    basis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FactorStore.open(basis)
    expected = list(basis_images_hu(store, 4))
    monkeypatch.setattr("ctbasis.dicom.basis_series.IMAGES_IN_MEMORY", 3)
    images: list[NDArray[Any]] = list(basis_images_hu(store, 4))
    np.testing.assert_array_equal(images, expected)
