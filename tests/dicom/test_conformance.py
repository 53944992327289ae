"""Validity of all written files, by a validator (dciodvfy of dicom3tools) and by reading them with other libraries."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from ctbasis.choices import COMPRESSIONS
from ctbasis.dicom import ct_image
from ctbasis.dicom.deidentify.deidentification import Deidentification
from ctbasis.dicom.deidentify.profile import OPTIONS
from ctbasis.matrix.ingest import ingest
from ctbasis.parameters import SvdPlan
from ctbasis.simulate.low_dose_series import simulate_low_dose
from ctbasis.steps.reconstruct import reconstruct
from ctbasis.steps.svd import factorize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import FileDataset

    WriteSeries = Callable[..., list[Path]]

VALIDATOR = "dciodvfy"


def errors(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Return the errors that the validator reports, by file name. Skip the test if the validator is not installed."""
    if shutil.which(VALIDATOR) is None:
        pytest.skip(f"{VALIDATOR} is not on PATH; it is in Debian's package dicom3tools")
    errors_by_file = {}
    for path in paths:
        run = subprocess.run([VALIDATOR, str(path)], capture_output=True, check=False)
        output = (run.stderr + run.stdout).decode(errors="replace")
        # The validator names the IOD that it recognized; otherwise it did not read the file.
        assert "CTImage" in output, output
        errors_by_file[path.name] = [line for line in output.splitlines() if line.startswith("Error")]
    return {name: lines for name, lines in errors_by_file.items() if lines}


def write_derived(
    source: Path, place: Path, *, rank: int = 3, compression: str = "none", retain: str | None = None
) -> list[Path]:
    """Return all DICOM files that the steps write from `source`, de-identified if `retain` is given."""
    deidentification = None if retain is None else Deidentification.of(retain)
    ingest(source, str(place / "matrix.zarr"), place / "qc.json", workers=1, deidentification=deidentification)
    matrix, factors = str(place / "matrix.zarr"), str(place / "factors.zarr")
    outcome = factorize(matrix, factors, SvdPlan.of(rank=str(rank), ranks=str(rank), engine="numpy"))
    reconstruct(factors, place / "out", rank=outcome.rank, compression=compression, basis_images=place / "basis-images")
    return sorted((place / "out").rglob("*.dcm")) + sorted((place / "basis-images").rglob("*.dcm"))


def bare(dataset: FileDataset, _: int) -> None:
    """Remove the attributes that many anonymizers remove."""
    for keyword in ("PatientName", "PatientID", "StudyDate", "StudyTime"):
        delattr(dataset, keyword)


def awkward(dataset: FileDataset, _: int) -> None:
    """Add irregular attributes that scanners and gateways leave in files."""
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    dataset.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER", "CT_SOM5 SPI"]
    dataset.SpacingBetweenSlices = -2.5
    dataset.DeidentificationMethod = ""
    dataset.PatientIdentityRemoved = "YES"
    dataset.EchoTime = 3
    dataset.add_new("PixelPaddingValue", "US", 63536)
    dataset.add_new("SmallestImagePixelValue", "SS", -5)
    dataset.private_block(0x0029, "VENDOR", create=True).add_new(1, "OB", b"\1\2")
    dataset.add_new((0x6000, 0x0010), "US", 8)
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = dataset.SOPClassUID, "1.2.3"
    dataset.SourceImageSequence = [source]
    dataset.DigitalSignaturesSequence = [Dataset()]
    incomplete = Dataset()
    incomplete.ReferencedSOPInstanceUID = "1.2.3"
    dataset.ReferencedStudySequence = [incomplete]
    dataset.ReferencedImageSequence = [source, incomplete]
    dataset.WindowCenter, dataset.WindowWidth = [40, -600], [400, 1500]


def personal(dataset: FileDataset, _: int) -> None:
    """Add attributes of a valid file that identify patient, staff, place, time and machine."""
    dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientAge = "19500101", "F", "070Y"
    dataset.ReferringPhysicianName, dataset.AccessionNumber, dataset.StudyID = "Who^Else", "4711", "12"
    dataset.InstitutionName, dataset.StationName, dataset.DeviceSerialNumber = "General", "CT-7", "0815"
    dataset.AcquisitionDateTime, dataset.AcquisitionNumber = "20200101120000", 1
    dataset.SeriesDescription, dataset.ProtocolName = "Thorax 1.0 B30f", "Thorax for Who"
    dataset.ClinicalTrialSponsorName, dataset.ClinicalTrialProtocolID = "Sponsor", "P-1"
    dataset.ClinicalTrialSubjectID = "S-1"
    dataset.ClinicalTrialProtocolEthicsCommitteeName = "Committee"
    dataset.ClinicalTrialProtocolEthicsCommitteeApprovalNumber = "E-1"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = dataset.SOPClassUID, "1.2.3"
    dataset.ReferencedImageSequence = [reference]
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99SITE", "a site's own"
    dataset.ProcedureCodeSequence = [code]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_series_derived_from_a_valid_series_are_valid(
    write_series: WriteSeries, tmp_path: Path, volume: NDArray[np.int16], compression: str
) -> None:
    write_series(tmp_path / "source", np.pad(volume, ((0, 0), (0, 0), (4, 4)), mode="edge"))
    assert errors(write_derived(tmp_path / "source", tmp_path, compression=compression)) == {}


@pytest.mark.parametrize("edit", [bare, awkward])
def test_series_derived_from_an_invalid_series_are_valid(
    write_series: WriteSeries, tmp_path: Path, volume: NDArray[np.int16], edit: Callable[..., None]
) -> None:
    write_series(tmp_path / "source", volume, edit=edit)
    assert errors(write_derived(tmp_path / "source", tmp_path)) == {}


def test_a_series_of_simulated_dose_is_valid(
    write_series: WriteSeries, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    write_series(tmp_path / "source", volume, edit=personal)
    simulate_low_dose(tmp_path / "source", tmp_path / "noisy", views=16)
    assert errors((tmp_path / "noisy").glob("*.dcm")) == {}


@pytest.mark.parametrize("retain", ["", *OPTIONS])
def test_a_de_identified_series_is_valid(
    write_series: WriteSeries, tmp_path: Path, volume: NDArray[np.int16], retain: str
) -> None:
    write_series(tmp_path / "source", volume, edit=personal)
    assert errors(write_derived(tmp_path / "source", tmp_path, retain=retain)) == {}


@pytest.mark.parametrize(
    "tags",
    [
        {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0},
        {"PixelRepresentation": 0},
        {"RescaleSlope": 0.1, "RescaleIntercept": 0},
    ],
)
def test_series_with_any_pixel_format_are_valid(
    write_series: WriteSeries, tmp_path: Path, volume: NDArray[np.int16], tags: dict[str, Any]
) -> None:
    write_series(tmp_path / "source", volume, **tags)
    assert errors(write_derived(tmp_path / "source", tmp_path)) == {}


def test_every_file_has_the_mandatory_attributes_and_no_others(
    write_series: WriteSeries, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    write_series(tmp_path / "source", volume, edit=bare)
    paths = write_derived(tmp_path / "source", tmp_path)
    assert len(paths) == len(volume) + 3
    for path in paths:
        dataset = pydicom.dcmread(path)
        assert ct_image.missing_attributes(dataset) == []
        kept = [element for element in dataset if element.keyword != "PixelData"]
        ct_image.drop_other_attributes(dataset)
        assert [element for element in dataset if element.keyword != "PixelData"] == kept


@pytest.mark.data
@pytest.mark.parametrize("retain", [None, "", "modified-dates,clean-descriptors,patient-characteristics"])
def test_series_derived_from_a_real_series_are_valid(
    real_data: Callable[[str], Path], tmp_path: Path, retain: str | None
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in sorted(real_data("lidc-idri-0001").rglob("*.dcm"), key=_height)[60:66]:
        shutil.copy(path, source)
    assert errors(write_derived(source, tmp_path, retain=retain)) == {}


def _height(path: Path) -> float:
    return float(pydicom.dcmread(path, specific_tags=["ImagePositionPatient"]).ImagePositionPatient[2])


def test_simpleitk_reads_the_geometry_of_the_source(
    write_series: WriteSeries, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is a development package and not installed")
    # Oblique and away from the origin, so that a transposed or negated axis is detected.
    write_series(
        tmp_path / "source", volume, edit=_oblique, PixelSpacing=[0.7, 0.9], SeriesDescription="oblique", KVP=120
    )
    write_derived(tmp_path / "source", tmp_path, rank=len(volume))

    def read(folder: Path) -> Any:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        return reader.Execute()

    before, after = read(tmp_path / "source"), read(tmp_path / "out")
    for method in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(after, method)() == getattr(before, method)()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(after), sitk.GetArrayFromImage(before))


def test_highdicom_reads_the_geometry_of_the_source(
    write_series: WriteSeries, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    pytest.importorskip("highdicom", reason="highdicom is a development package and not installed")
    from highdicom import get_volume_from_series

    write_series(tmp_path / "source", volume, edit=_oblique, PixelSpacing=[0.7, 0.9])
    write_derived(tmp_path / "source", tmp_path, rank=len(volume))

    def read(folder: Path) -> Any:
        return get_volume_from_series([pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))])

    before, after = read(tmp_path / "source"), read(tmp_path / "out")
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(after.array, before.array)
    assert after.frame_of_reference_uid == before.frame_of_reference_uid


def _oblique(dataset: FileDataset, z: int) -> None:
    row, column = np.array([0.8, 0.6, 0.0]), np.array([0.0, 0.0, -1.0])
    dataset.ImageOrientationPatient = [*row, *column]
    dataset.ImagePositionPatient = list(np.array([-31.5, 12.25, 740.0]) + 2.5 * z * np.cross(row, column))
