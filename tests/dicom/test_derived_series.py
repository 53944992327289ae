"""Data sets of derived images, compared with PS3.3 and read by pydicom."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
)

from ctbasis.dicom import ct_image
from ctbasis.dicom.derived_series import Derivation, derive, read_header
from ctbasis.dicom.source_series import SourceSeries, source_keys
from ctbasis.dicom.stored_values import StoredImage
from ctbasis.matrix.slice_store import Series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

DERIVATION = Derivation(rank=3, version="1.0", description="Rank-3 approximation", fingerprint="f" * 64)


@pytest.fixture
def source(write_series: Callable[..., list[Path]], volume: NDArray[np.int16], tmp_path: Path) -> Dataset:
    return pydicom.dcmread(write_series(tmp_path / "source", volume[:1], WindowCenter=-600, WindowWidth=1500)[0])


def header(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """Return `dataset` without PixelData after a round trip through a file of transfer syntax `syntax`."""
    if "PixelData" in dataset:
        del dataset.PixelData
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return read_header(buffer.getvalue())


def image_of(
    source: Dataset, pixels: NDArray[Any] | None = None, padding: tuple[int, int] | None = None
) -> StoredImage:
    """Return stored values with the slope and intercept of `source`; all zero if no pixels are given."""
    values = np.zeros(source.Rows * source.Columns, "<i2") if pixels is None else pixels.ravel()
    return StoredImage(values, float(source.RescaleSlope), float(source.RescaleIntercept), padding)


def derived(source: Dataset, image: StoredImage | None = None, derivation: Derivation = DERIVATION) -> Dataset:
    """Return the derived data set as pydicom reads it from a saved file."""
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, derive(source, image or image_of(source), derivation), enforce_file_format=True)
    return pydicom.dcmread(BytesIO(buffer.getvalue()))


def test_the_derived_instance_has_new_uids_and_refers_to_its_source(source: Dataset) -> None:
    original = header(source)
    image = derived(header(source))
    assert image.SOPInstanceUID != original.SOPInstanceUID
    assert image.SeriesInstanceUID != original.SeriesInstanceUID
    assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
    assert image.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    (reference,) = image.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == original.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == CTImageStorage
    assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert list(image.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert image.DerivationDescription.startswith(DERIVATION.description)
    assert "off by 0.5 HU at most" in image.DerivationDescription
    (code,) = image.DerivationCodeSequence
    assert code.CodingSchemeDesignator == image.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator
    assert image.ContributingEquipmentSequence[-1].SoftwareVersions == "1.0"


@pytest.mark.parametrize(
    "keyword",
    [
        "StudyInstanceUID",
        "FrameOfReferenceUID",
        "PatientID",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "InstanceNumber",
        "WindowCenter",
        "WindowWidth",
        "RescaleSlope",
        "RescaleIntercept",
        "Modality",
    ],
)
def test_geometry_patient_and_window_are_kept(source: Dataset, keyword: str) -> None:
    assert derived(header(source))[keyword].value == source[keyword].value


def test_attributes_that_describe_the_source_pixels_are_removed(source: Dataset) -> None:
    source.SmallestImagePixelValue, source.LargestImagePixelValue = 3, 4
    source["SmallestImagePixelValue"].VR = source["LargestImagePixelValue"].VR = "SS"
    source.InstanceCreationDate = "20200101"
    source.private_block(0x0009, "VENDOR", create=True).add_new(0x01, "LO", "statistics")
    image = derived(header(source))
    for keyword in ("SmallestImagePixelValue", "LargestImagePixelValue", "InstanceCreationDate", "ContentDate"):
        assert keyword not in image
    assert not [element for element in image if element.tag.is_private]


def test_overlays_in_pixel_bits_are_removed_and_separate_ones_kept(source: Dataset) -> None:
    source.add_new((0x6000, 0x0010), "US", 8)
    source.add_new((0x6000, 0x0102), "US", 12)
    source.add_new((0x6002, 0x0010), "US", 8)
    source.add_new((0x6002, 0x3000), "OW", b"\1\0")
    image = derived(header(source))
    assert (0x6000, 0x0010) not in image
    assert image[0x6002, 0x3000].value == b"\1\0"


@pytest.mark.parametrize(
    ("syntax", "source_value", "expected"),
    [
        (ExplicitVRLittleEndian, None, None),
        (JPEG2000Lossless, None, None),
        (ExplicitVRLittleEndian, "00", "00"),
        (ExplicitVRLittleEndian, "01", "01"),
        (JPEGExtended12Bit, None, "01"),
    ],
)
def test_lossy_compression_of_the_source_stays_marked(
    source: Dataset, syntax: str, source_value: str | None, expected: str | None
) -> None:
    if source_value is not None:
        source.LossyImageCompression = source_value
    original = header(source)
    original.file_meta.TransferSyntaxUID = UID(syntax)
    assert derived(original).get("LossyImageCompression") == expected


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_any_transfer_syntax_becomes_explicit_little_endian_with_unchanged_pixels(source: Dataset, syntax: str) -> None:
    pixels = np.arange(source.Rows * source.Columns, dtype="<i2").reshape(source.Rows, source.Columns)
    image = derived(header(source, syntax), image_of(source, pixels))
    assert image.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert image["PixelData"].VR == "OW"
    np.testing.assert_array_equal(image.pixel_array, pixels)
    assert image.PixelSpacing == source.PixelSpacing


def test_padding_is_declared_with_the_sign_of_the_pixels_and_its_range(source: Dataset) -> None:
    source.add_new("PixelPaddingValue", "US", 63536)
    source.add_new("PixelPaddingRangeLimit", "US", 63537)
    image = derived(header(source), image_of(source, padding=(-2000, -1999)))
    assert (image["PixelPaddingValue"].VR, image.PixelPaddingValue) == ("SS", -2000)
    assert (image["PixelPaddingRangeLimit"].VR, image.PixelPaddingRangeLimit) == ("SS", -1999)
    assert "PixelPaddingValue" not in derived(header(source))


@pytest.mark.parametrize("described", ["", "Chest 1.0 B30f", "x" * 64])
def test_the_series_description_names_the_rank_and_has_at_most_64_characters(source: Dataset, described: str) -> None:
    source.SeriesDescription = described
    image = derived(header(source))
    assert image.SeriesDescription.endswith("SVD rank 3")
    assert image.SeriesDescription.startswith(described[:20])
    assert len(image.SeriesDescription) <= 64


def test_earlier_contributing_equipment_is_kept(source: Dataset) -> None:
    scanner = Dataset()
    scanner.Manufacturer = "earlier"
    source.ContributingEquipmentSequence = Sequence([scanner])
    assert [item.Manufacturer for item in derived(header(source)).ContributingEquipmentSequence] == [
        "earlier",
        "ctbasis",
    ]


def test_equal_factors_give_equal_bytes_and_other_factors_other_uids(source: Dataset) -> None:
    def saved(derivation: Derivation) -> tuple[bytes, str]:
        buffer = BytesIO()
        image = derive(header(source), image_of(source), derivation)
        pydicom.dcmwrite(buffer, image, enforce_file_format=True)
        return buffer.getvalue(), image.SOPInstanceUID

    other = Derivation(rank=3, version="1.0", description="Rank-3 approximation", fingerprint="e" * 64)
    assert saved(DERIVATION) == saved(DERIVATION)
    assert saved(DERIVATION)[1] != saved(other)[1]


def test_slices_with_one_sop_instance_uid_get_a_derived_one_each(source: Dataset) -> None:
    def derive_at(number: int) -> Dataset:
        return derive(header(source), image_of(source), DERIVATION, number=number)

    uids = {derive_at(number).SOPInstanceUID for number in range(1, 25)}
    assert len(uids) == 24
    assert derive_at(3).SOPInstanceUID == derive_at(3).SOPInstanceUID
    assert len({derive_at(number).SeriesInstanceUID for number in range(1, 4)}) == 1


def test_slices_with_a_series_instance_uid_each_get_one_derived_series(source: Dataset) -> None:
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, header(source), enforce_file_format=True)
    series = SourceSeries.of("1.2.3", buffer.getvalue())
    source.SeriesInstanceUID, source.SeriesNumber = "1.2.4", 7
    source.SeriesDescription, source.FrameOfReferenceUID = "slice 7", "1.2.5"
    image = derive(header(source), image_of(source), DERIVATION, series=series, number=2)
    first = derive(read_header(buffer.getvalue()), image_of(source), DERIVATION, series=series, number=1)
    for keyword in ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "FrameOfReferenceUID"):
        assert image[keyword].value == first[keyword].value
    assert image.SOPInstanceUID != first.SOPInstanceUID


def test_volumes_of_one_series_get_different_keys() -> None:
    columns = [Series("1.2.3", 0, 4), Series("1.2.4", 4, 2), Series("1.2.3", 6, 4)]
    assert source_keys(columns) == ["1.2.3 volume 1", "1.2.4", "1.2.3 volume 2"]


@pytest.mark.parametrize(
    ("source_value", "expected"),
    [
        (["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "SECONDARY", "AXIAL"]),
        (["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"], ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 SPI"]),
        (["ORIGINAL", "PRIMARY", "OTHER"], ["DERIVED", "SECONDARY", "AXIAL", "OTHER"]),
        (["ORIGINAL", "PRIMARY"], ["DERIVED", "SECONDARY", "AXIAL"]),
        ("ORIGINAL", ["DERIVED", "SECONDARY", "AXIAL"]),
        (None, ["DERIVED", "SECONDARY", "AXIAL"]),
    ],
)
def test_image_type_is_derived_secondary_axial(
    source: Dataset, source_value: list[str] | str | None, expected: list[str]
) -> None:
    source.ImageType = source_value
    assert list(derived(header(source)).ImageType) == expected


def test_absent_type_2_attributes_are_added_empty_and_geometry_is_not_invented(source: Dataset) -> None:
    for keyword in ("KVP", "AcquisitionNumber", "PatientBirthDate", "StudyID", "PixelSpacing"):
        if keyword in source:
            delattr(source, keyword)
    image = derived(header(source))
    assert ct_image.missing_attributes(image) == ["PixelSpacing"]
    assert image["KVP"].is_empty


def test_attributes_outside_of_the_ct_image_iod_are_removed(source: Dataset) -> None:
    source.EchoTime = 12
    source.VerifyingObserverName = "Left^Over"
    image = derived(header(source))
    assert "EchoTime" not in image
    assert "VerifyingObserverName" not in image


@pytest.mark.parametrize("keyword", ["DigitalSignaturesSequence", "OriginalAttributesSequence", "ModalityLUTSequence"])
def test_signatures_and_lookup_tables_of_the_source_are_removed(source: Dataset, keyword: str) -> None:
    setattr(source, keyword, [Dataset()])
    assert keyword not in derived(header(source))


def test_a_value_that_ends_with_a_zero_byte_is_padded_with_a_space(source: Dataset) -> None:
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, source, enforce_file_format=True)
    spacing = b"0.7\\0.7 "
    assert buffer.getvalue().count(spacing) == 1
    image = derived(read_header(buffer.getvalue().replace(spacing, b"0.7\\0.7\0")))
    written = BytesIO()
    pydicom.dcmwrite(written, image, enforce_file_format=True)
    assert written.getvalue().count(spacing) == 1


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 192", "Wang^小东=王^小東"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 100", "Äneas^Rüdiger"),
        ("ISO_IR 144", "Пушкин^Фёдор"),
    ],
)
def test_names_in_any_character_set_are_equal_in_the_derived_series(
    source: Dataset, charset: str | list[str], name: str
) -> None:
    source.SpecificCharacterSet = charset
    source.PatientName = name
    source.SeriesDescription = "Thorax"
    image = derived(header(source))
    assert image.PatientName == name
    assert image.SeriesDescription == "Thorax - SVD rank 3"


def test_frames_of_one_object_get_separate_uids_and_refer_to_their_frame(source: Dataset) -> None:
    source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage

    def frame(number: int) -> Dataset:
        source.InstanceNumber = number
        return derived(header(source))

    first, second = frame(1), frame(2)
    assert first.SOPClassUID == first.file_meta.MediaStorageSOPClassUID == CTImageStorage
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert [image.SourceImageSequence[0].ReferencedFrameNumber for image in (first, second)] == [1, 2]
    assert first.SourceImageSequence[0].ReferencedSOPClassUID == EnhancedCTImageStorage


def test_a_source_without_a_deidentification_method_stays_valid(source: Dataset) -> None:
    source.PatientIdentityRemoved = "YES"
    image = derived(header(source))
    assert image.PatientIdentityRemoved == "YES"
    assert image.DeidentificationMethod == "Not stated by the source"
