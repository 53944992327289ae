"""Stored pixels and the derived data set, against PS3.3 and pydicom's reading."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
)

from components.matrix.hounsfield import Pixels
from components.reconstruct.derived_series import Derivation, derive, read_header, stored_pixels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

DERIVATION = Derivation(rank=3, version="1.0", description="Rank-3 approximation", fingerprint="f" * 64)


formats = st.builds(
    Pixels,
    BitsAllocated=st.just(16),
    BitsStored=st.just(12) | st.integers(8, 16),
    HighBit=st.just(15),
    PixelRepresentation=st.sampled_from([0, 1]),
    RescaleSlope=st.sampled_from([1.0, 2.0, 0.5, 0.1, 0.0244140625, -1.0]),
    RescaleIntercept=st.sampled_from([0.0, -1024.0, -8192.0, 12.5]),
    padding=st.none() | st.just((-2000, -2000)),
)


def nothing_aside(hu: NDArray[Any]) -> NDArray[Any]:
    return np.full(hu.shape, np.nan, np.float32)


@given(formats, st.data())
def test_every_stored_value_survives_the_way_to_hu_and_back(pixels: Pixels, data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(st.integers(*pixels.stored_range), min_size=1)))
    hu = values * pixels.RescaleSlope + pixels.RescaleIntercept
    assert stored_pixels(hu, nothing_aside(hu), pixels).tolist() == values.tolist()


@given(formats, st.lists(st.floats(-1e6, 1e6, width=32), min_size=1))
def test_a_computed_value_is_clipped_to_the_stored_bits_and_never_wraps_round(pixels: Pixels, hu: list[float]) -> None:
    image = np.array(hu, np.float32)
    stored = stored_pixels(image, nothing_aside(image), pixels).astype(np.int64)
    least, most = pixels.stored_range
    assert least <= stored.min()
    assert stored.max() <= most
    exact = np.clip((np.array(hu) - pixels.RescaleIntercept) / pixels.RescaleSlope, least, most)
    # Half a step of rounding, and what float32 leaves of the HU.
    slack = 0.5 + np.abs(image).max() * 2.0**-22 / abs(pixels.RescaleSlope)
    assert np.abs(stored - exact).max() <= slack


def test_padding_beyond_the_stored_bits_comes_back_and_a_computed_value_does_not_follow_it_there() -> None:
    pixels = Pixels(16, 12, 11, 0, RescaleIntercept=-1024.0, padding=(63536, 63536))
    hu = np.array([62512.0, 9999.0])
    assert stored_pixels(hu, np.array([62512.0, np.nan]), pixels).tolist() == [63536, 4095]


@pytest.fixture
def source(write_series: Callable[..., list[Path]], volume: NDArray[np.int16], tmp_path: Path) -> Dataset:
    return pydicom.dcmread(write_series(tmp_path / "source", volume[:1], WindowCenter=-600, WindowWidth=1500)[0])


def header(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """Return `dataset` without its pixels after a round trip through a file of transfer syntax `syntax`."""
    if "PixelData" in dataset:
        del dataset.PixelData
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return read_header(buffer.getvalue())


def derived(source: Dataset, pixels: NDArray[Any] | None = None, derivation: Derivation = DERIVATION) -> Dataset:
    """Return what pydicom reads after `derive` and a save."""
    if pixels is None:
        pixels = np.zeros((source.Rows, source.Columns), "<i2")
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, derive(source, pixels, derivation), enforce_file_format=True)
    return pydicom.dcmread(BytesIO(buffer.getvalue()))


def test_the_derived_instance_is_new_and_points_to_its_source(source: Dataset) -> None:
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
    assert image.DerivationDescription == DERIVATION.description
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
def test_what_places_the_image_beside_its_source_stays(source: Dataset, keyword: str) -> None:
    assert derived(header(source))[keyword].value == source[keyword].value


def test_what_was_true_of_the_old_pixels_alone_goes(source: Dataset) -> None:
    source.SmallestImagePixelValue, source.LargestImagePixelValue = 3, 4
    source["SmallestImagePixelValue"].VR = source["LargestImagePixelValue"].VR = "SS"
    source.InstanceCreationDate = "20200101"
    source.private_block(0x0009, "VENDOR", create=True).add_new(0x01, "LO", "statistics")
    image = derived(header(source))
    for keyword in ("SmallestImagePixelValue", "LargestImagePixelValue", "InstanceCreationDate", "ContentDate"):
        assert keyword not in image
    assert not [element for element in image if element.tag.is_private]


def test_an_overlay_in_the_pixels_goes_and_one_beside_them_stays(source: Dataset) -> None:
    source.add_new((0x6000, 0x0010), "US", 8)
    source.add_new((0x6000, 0x0102), "US", 12)
    source.add_new((0x6002, 0x0010), "US", 8)
    source.add_new((0x6002, 0x3000), "OW", b"\1\0")
    image = derived(header(source))
    assert (0x6000, 0x0010) not in image
    assert image[0x6002, 0x3000].value == b"\1\0"


@pytest.mark.parametrize(
    ("syntax", "said", "expected"),
    [
        (ExplicitVRLittleEndian, None, None),
        (JPEG2000Lossless, None, None),
        (ExplicitVRLittleEndian, "00", "00"),
        (ExplicitVRLittleEndian, "01", "01"),
        (JPEGExtended12Bit, None, "01"),
    ],
)
def test_a_lossy_past_is_never_forgotten(source: Dataset, syntax: str, said: str | None, expected: str | None) -> None:
    if said is not None:
        source.LossyImageCompression = said
    original = header(source)
    original.file_meta.TransferSyntaxUID = UID(syntax)
    assert derived(original).get("LossyImageCompression") == expected


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_any_encoding_of_the_source_becomes_explicit_little_endian_with_the_pixels_intact(
    source: Dataset, syntax: str
) -> None:
    pixels = np.arange(source.Rows * source.Columns, dtype="<i2").reshape(source.Rows, source.Columns)
    image = derived(header(source, syntax), pixels)
    assert image.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert image["PixelData"].VR == "OW"
    np.testing.assert_array_equal(image.pixel_array, pixels)
    assert image.PixelSpacing == source.PixelSpacing


def test_padding_written_with_the_wrong_sign_is_written_with_the_right_one(source: Dataset) -> None:
    source.add_new("PixelPaddingValue", "US", 63536)
    image = derived(header(source))
    assert image["PixelPaddingValue"].VR == "SS"
    assert image.PixelPaddingValue == -2000


@pytest.mark.parametrize("described", ["", "Chest 1.0 B30f", "x" * 64])
def test_the_series_description_names_the_rank_and_fits_its_64_characters(source: Dataset, described: str) -> None:
    source.SeriesDescription = described
    image = derived(header(source))
    assert image.SeriesDescription.endswith("SVD rank 3")
    assert image.SeriesDescription.startswith(described[:20])
    assert len(image.SeriesDescription) <= 64


def test_equipment_that_contributed_before_stays_on_the_list(source: Dataset) -> None:
    scanner = Dataset()
    scanner.Manufacturer = "earlier"
    source.ContributingEquipmentSequence = Sequence([scanner])
    assert [item.Manufacturer for item in derived(header(source)).ContributingEquipmentSequence] == [
        "earlier",
        "ctbasis",
    ]


def test_the_same_factors_give_the_same_bytes_and_others_give_other_uids(source: Dataset) -> None:
    def saved(derivation: Derivation) -> tuple[bytes, str]:
        buffer = BytesIO()
        image = derive(header(source), np.zeros((source.Rows, source.Columns), "<i2"), derivation)
        pydicom.dcmwrite(buffer, image, enforce_file_format=True)
        return buffer.getvalue(), image.SOPInstanceUID

    other = Derivation(rank=3, version="1.0", description="Rank-3 approximation", fingerprint="e" * 64)
    assert saved(DERIVATION) == saved(DERIVATION)
    assert saved(DERIVATION)[1] != saved(other)[1]
