"""Reading one DICOM file: values, headers, damaged files, and objects that are not CT slices."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import compress
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from ctbasis.dicom.header import HEADER_KEPT_WHOLE
from ctbasis.dicom.instance import Slice, read_slices, read_values
from ctbasis.dicom.set_aside import SetAside

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import WriteSeries

PATIENT = "Made^Up"


@pytest.fixture
def volume(volume: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return a volume in HU, (6, 64, 48), large enough for the usual number of JPEG 2000 resolution levels."""
    return np.tile(volume, (1, 2, 2))


@pytest.fixture
def write_one(tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]) -> Callable[..., Path]:
    """Return a function that writes one slice of `volume`; it takes the arguments of `write_series`."""

    def write(**tags: Any) -> Path:
        return write_series(tmp_path, volume[2:3], **tags)[0]

    return write


def read(path: Path) -> tuple[Slice, Dataset]:
    (result,) = read_slices(path.parent, path.name)
    assert not isinstance(result, SetAside), result
    return result[0], pydicom.dcmread(io.BytesIO(result[1]))


def set_aside(path: Path) -> SetAside:
    (result,) = read_slices(path.parent, path.name)
    assert isinstance(result, SetAside)
    assert PATIENT not in result.reason
    return result


def stored(volume: NDArray[np.int16]) -> NDArray[np.int64]:
    return volume[2].astype(np.int64) + 1024


def test_an_uncompressed_slice_is_read_in_place(write_one: Callable[..., Path], volume: NDArray[np.int16]) -> None:
    path = write_one()
    entry, header = read(path)
    assert entry.stored.in_place
    np.testing.assert_array_equal(read_values(path.parent, entry), stored(volume))
    assert (entry.Rows, entry.Columns) == volume.shape[1:]
    assert entry.ImagePositionPatient == (-10, -10, -100)
    assert entry.tolerated == ()
    assert header.PatientName == PATIENT


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEG2000Lossless,
        JPEGLSLossless,
    ],
)
def test_every_transfer_syntax_gives_the_same_values_and_a_header_without_pixel_data(
    write_one: Callable[..., Path], volume: NDArray[np.int16], syntax: str
) -> None:
    path = write_one()
    ds = pydicom.dcmread(path)
    if syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        compress(ds, syntax)
        ds.save_as(path)
    else:
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = ds.pixel_array.astype(">i2").tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
        # Elements that pydicom has not parsed would keep their byte order.
        list(ds.iterall())
        pydicom.dcmwrite(
            path, ds, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian
        )
    entry, header = read(path)
    np.testing.assert_array_equal(read_values(path.parent, entry), stored(volume))
    assert "PixelData" not in header
    for keyword in ("SOPInstanceUID", "RescaleIntercept", "BitsStored", "Rows", "PatientID"):
        assert header[keyword].value == ds[keyword].value


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, None])
def test_a_file_without_a_preamble_is_read_and_its_header_gets_one(
    write_one: Callable[..., Path], volume: NDArray[np.int16], syntax: str | None
) -> None:
    path = write_one()
    ds = pydicom.dcmread(path)
    bare = io.BytesIO()
    body = Dataset()
    body.update(ds)
    body.save_as(bare, implicit_vr=syntax is not None, little_endian=True)
    path.write_bytes(bare.getvalue())
    entry, header = read(path)
    assert any("preamble" in remark for remark in entry.tolerated)
    np.testing.assert_array_equal(read_values(path.parent, entry), stored(volume))
    assert header.SOPInstanceUID == ds.SOPInstanceUID


def test_only_bulk_data_is_removed_from_a_long_header(write_one: Callable[..., Path]) -> None:
    def fill(ds: Dataset, _: int) -> None:
        ds.add_new(0x60000010, "US", 64)
        ds.add_new(0x60000011, "US", 48)
        ds.add_new(0x60003000, "OW", bytes(50_000))
        ds.add_new(0x00090010, "LO", "VENDOR")
        ds.add_new(0x00091001, "OB", bytes(40_000))
        ds.add_new(0x00091002, "LO", "short")
        icon = Dataset()
        icon.BitsAllocated = 8
        icon.PixelData = bytes(5000)
        ds.IconImageSequence = Sequence([icon])

    path = write_one(edit=fill)
    assert path.stat().st_size > HEADER_KEPT_WHOLE
    (result,) = read_slices(path.parent, path.name)
    assert not isinstance(result, SetAside)
    entry, header = result[0], pydicom.dcmread(io.BytesIO(result[1]))
    assert len(result[1]) < 5000
    assert 0x60003000 not in header
    assert 0x00091001 not in header
    assert header[0x00091002].value == "short"
    assert "IconImageSequence" not in header
    original = pydicom.dcmread(path)
    kept = {
        element.tag
        for element in original
        if element.tag.group < 0x5000 and len(bytes(str(element.value), "utf8")) < 1000
    }
    assert {element.tag for element in header} >= kept - {original["IconImageSequence"].tag, 0x00091001}
    assert read_values(path.parent, entry).shape == (64, 48)


def test_a_short_overlay_stays_in_the_header(write_one: Callable[..., Path]) -> None:
    path = write_one(edit=lambda ds, _: ds.add_new(0x60003000, "OW", bytes(96)))
    assert 0x60003000 in read(path)[1]


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.999])
def test_a_file_truncated_anywhere_is_set_aside_as_broken(write_one: Callable[..., Path], keep: float) -> None:
    path = write_one()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    result = set_aside(path)
    assert result.broken
    if keep > 0.5:
        assert "truncated" in result.reason


def test_a_file_truncated_at_any_byte_of_its_header_is_set_aside(write_one: Callable[..., Path]) -> None:
    path = write_one()
    content = path.read_bytes()
    header = content.index(b"\xe0\x7f\x10\x00")
    for end in [*range(0, header + 20, 7), len(content) - 1]:
        path.write_bytes(content[:end])
        set_aside(path)


def test_a_flipped_byte_anywhere_in_a_header_does_not_crash_the_reader(write_one: Callable[..., Path]) -> None:
    path = write_one()
    content = bytearray(path.read_bytes())
    header = content.index(b"\xe0\x7f\x10\x00")
    for place in range(128, header + 12):
        content[place] ^= 0xFF
        path.write_bytes(content)
        content[place] ^= 0xFF
        (result,) = read_slices(path.parent, path.name)
        if isinstance(result, SetAside):
            continue
        try:
            read_values(path.parent, result[0])
        except ValueError as error:
            assert PATIENT not in str(error)  # noqa: PT017 - an error is optional, but must not show this


def test_decoding_a_damaged_compressed_frame_raises_an_error(write_one: Callable[..., Path]) -> None:
    path = write_one()
    ds = pydicom.dcmread(path)
    compress(ds, JPEG2000Lossless)
    ds.save_as(path)
    content = path.read_bytes()
    path.write_bytes(content[:-400] + bytes(392) + content[-8:])
    entry, _ = read(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"JPEG 2000.*cannot be decoded"):
        read_values(path.parent, entry)


@pytest.mark.parametrize(
    ("tags", "reason", "broken"),
    [
        ({"SOPClassUID": MRImageStorage}, "MR Image Storage", False),
        ({"SOPClassUID": EnhancedCTImageStorage}, "PerFrameFunctionalGroupsSequence has 0 items", True),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer", False),
        ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]}, "reformat", False),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "reformat", False),
        ({"NumberOfFrames": 2}, "multi-frame", False),
        ({"PhotometricInterpretation": "RGB"}, "colour", False),
        ({"SamplesPerPixel": 3}, "colour", False),
        ({"ImagePositionPatient": None}, "ImagePositionPatient", True),
        ({"ImagePositionPatient": [1, 2]}, "ImagePositionPatient", True),
        ({"ImageOrientationPatient": None}, "ImageOrientationPatient", True),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "ImageOrientationPatient", True),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "ImageOrientationPatient", True),
        ({"RescaleSlope": 1, "RescaleIntercept": None}, None, False),
        ({"SeriesInstanceUID": None}, "SeriesInstanceUID", True),
    ],
)
def test_objects_that_are_not_slices_are_set_aside_with_a_reason(
    write_one: Callable[..., Path], tags: dict[str, Any], reason: str | None, *, broken: bool
) -> None:
    def edit(ds: Dataset, _: int) -> None:
        for keyword, value in tags.items():
            setattr(ds, keyword, value)

    path = write_one(edit=edit)
    if reason is None:
        assert read(path)[0].tolerated
        return
    result = set_aside(path)
    assert reason in result.reason
    assert result.broken == broken


def test_a_slice_without_pixel_data_is_set_aside_as_broken(write_one: Callable[..., Path]) -> None:
    def edit(ds: Dataset, _: int) -> None:
        del ds.PixelData

    result = set_aside(write_one(edit=edit))
    assert "PixelData" in result.reason
    assert result.broken


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(500), b"not an image", b"<xml/>", bytes(1000)])
def test_a_file_that_is_not_dicom_is_reported_as_such(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    result = set_aside(tmp_path / "file")
    assert result.reason == "not DICOM"
    assert not result.broken


def test_an_empty_file_is_set_aside_as_broken(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert set_aside(tmp_path / "file").broken


def test_monochrome1_changes_no_value_and_is_reported(
    write_one: Callable[..., Path], volume: NDArray[np.int16]
) -> None:
    path = write_one(PhotometricInterpretation="MONOCHROME1")
    entry, _ = read(path)
    np.testing.assert_array_equal(read_values(path.parent, entry), stored(volume))
    assert any("MONOCHROME1" in remark for remark in entry.tolerated)
