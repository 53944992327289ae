"""All encodings of a CT slice give the same values, geometry and header; inconsistent files are refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from ctbasis.dicom import ct_image as iod
from ctbasis.dicom import header as header_module
from ctbasis.dicom import pixeldata
from ctbasis.dicom.derived_series import reference_to
from ctbasis.dicom.hounsfield import Pixels, to_hounsfield
from ctbasis.dicom.instance import Slice, read_slices, read_values
from ctbasis.dicom.resource_limits import MAX_IMAGE_VOXELS, MAX_SEQUENCE_DEPTH
from ctbasis.dicom.set_aside import SetAside
from ctbasis.simulate.awkward import (
    LOSSLESS,
    LOSSY,
    NATIVE,
    PATIENT,
    ct_image,
    enhanced_ct,
    forms,
    stored_values,
    to_bytes,
)

if TYPE_CHECKING:
    from pathlib import Path


FORMS = forms()
LOSSES = {"JPEG baseline": 4, "JPEG extended": 8, "JPEG-LS near": 2, "JPEG 2000": 40, "HTJ2K": 0}
"""Largest error of the values of each lossy form."""


def read(content: bytes, folder: Path) -> list[tuple[Slice, bytes]]:
    (folder / "file").write_bytes(content)
    results = read_slices(folder, "file")
    slices = [entry for entry in results if not isinstance(entry, SetAside)]
    assert len(slices) == len(results), results
    return slices


def refusal(content: bytes, folder: Path) -> str:
    (folder / "file").write_bytes(content)
    (result,) = read_slices(folder, "file")
    assert isinstance(result, SetAside)
    assert result.broken
    assert PATIENT not in result.reason
    return result.reason


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_values_geometry_and_header(form: str, tmp_path: Path) -> None:
    slices = read(FORMS[form], tmp_path)
    expected = stored_values(len(slices)) if form.startswith("enhanced") else stored_values()
    if form == "JPEG baseline":
        expected = expected >> 4
    for number, ((entry, header), values) in enumerate(zip(slices, expected, strict=True), start=1):
        error = np.abs(read_values(tmp_path, entry).astype(int) - values)
        assert error.max() <= LOSSES.get(form, 0)
        assert entry.ImagePositionPatient == (-10, -10, 2.5 * number)
        kept = pydicom.dcmread(io.BytesIO(header))
        assert "PixelData" not in kept
        assert kept.PatientName == PATIENT
        assert Pixels.of(kept) == entry.pixels
        assert tuple(kept.ImagePositionPatient) == entry.ImagePositionPatient


def test_every_supported_transfer_syntax_is_tested() -> None:
    syntaxes = {*NATIVE.values(), *LOSSLESS.values(), *LOSSY.values()}
    assert syntaxes == {*pixeldata.NATIVE, *pixeldata.DECODERS}
    assert {*NATIVE, *LOSSLESS, *LOSSY} <= FORMS.keys()


@given(
    values=st.lists(st.integers(0, 2**16 - 1), min_size=64, max_size=64),
    stored=st.integers(8, 16),
    signed=st.booleans(),
    syntax=st.sampled_from(
        [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEGLosslessSV1]
    ),
    slope=st.sampled_from([1, 2, 0.5, -1]),
    intercept=st.integers(-8192, 1024),
)
def test_written_values_are_read_as_hounsfield_units(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[int],
    stored: int,
    *,
    signed: bool,
    syntax: str,
    slope: float,
    intercept: int,
) -> None:
    mask = (1 << stored) - 1
    bits = np.reshape(np.asarray(values) & mask, (8, 8))
    signed_values = np.where(bits >> (stored - 1), bits - (1 << stored), bits) if signed else bits
    # A JPEG codestream does not define a sign; PixelRepresentation does.
    written = (
        bits.astype(np.uint16) if syntax == JPEGLosslessSV1 else signed_values.astype(np.int16 if signed else np.uint16)
    )
    ds = ct_image(
        written,
        syntax,
        BitsStored=stored,
        HighBit=stored - 1,
        PixelRepresentation=int(signed),
        RescaleSlope=slope,
        RescaleIntercept=intercept,
    )
    folder = tmp_path_factory.mktemp("one")
    ((entry, _),) = read(to_bytes(ds), folder)
    hu = np.empty((8, 8), np.float32)
    to_hounsfield(read_values(folder, entry), entry.pixels, hu)
    np.testing.assert_array_equal(hu, (signed_values * slope + intercept).astype(np.float32))


def test_each_frame_of_an_enhanced_object_has_a_separate_header(tmp_path: Path) -> None:
    slices = read(FORMS["enhanced"], tmp_path)
    assert [entry.frame for entry, _ in slices] == [1, 2, 3]
    assert len({entry.SOPInstanceUID for entry, _ in slices}) == 1
    for entry, header in slices:
        kept = pydicom.dcmread(io.BytesIO(header))
        assert kept.InstanceNumber == entry.frame
        assert kept.ImageType == ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        assert (kept.KVP, kept.ConvolutionKernel, kept.AcquisitionNumber) == (120, "B30f", 1)
        assert not {"NumberOfFrames", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"} & {
            element.keyword for element in kept
        }


def test_frames_that_are_not_slices_are_set_aside_individually(tmp_path: Path) -> None:
    ds = enhanced_ct(stored_values(3))
    ds.PerFrameFunctionalGroupsSequence[1].CTImageFrameTypeSequence[0].FrameType[2] = "LOCALIZER"
    del ds.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    (tmp_path / "file").write_bytes(to_bytes(ds))
    first, second, third = read_slices(tmp_path, "file")
    assert not isinstance(first, SetAside)
    assert isinstance(second, SetAside)
    assert (second.frame, second.broken) == (2, False)
    assert isinstance(third, SetAside)
    assert (third.frame, third.broken, third.reason) == (3, True, "ImagePositionPatient is absent")


def test_a_legacy_converted_object_keeps_attributes_without_a_functional_group(tmp_path: Path) -> None:
    ds = enhanced_ct(stored_values(2))
    unassigned = Dataset()
    unassigned.PatientPosition, unassigned.Rows = "HFS", 7
    ds.SharedFunctionalGroupsSequence[0].UnassignedSharedConvertedAttributesSequence = [unassigned]
    entry, header = read(to_bytes(ds), tmp_path)[1]
    assert pydicom.dcmread(io.BytesIO(header)).PatientPosition == "HFS"
    assert entry.Rows == stored_values().shape[1]


def test_the_identity_of_an_object_is_never_taken_from_its_functional_groups(tmp_path: Path) -> None:
    ds = enhanced_ct(stored_values(2))
    ds.PatientID, ds.SeriesDescription = "OWN", "own"
    modules = {"patient", "patient-study", "general-study", "general-series", "sop-common", "frame-of-reference"}
    names = {entry.keyword for entry in iod.attributes().values() if entry.module in modules}
    strings = {name for name in names if dictionary_VR(name) in {"LO", "SH", "CS", "UI", "PN", "LT", "ST"}}
    assert {"PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"} <= strings
    for keyword in strings:
        if keyword not in ds and keyword != "SpecificCharacterSet":
            setattr(ds, keyword, "1.2.3" if dictionary_VR(keyword) == "UI" else "OWN")
    own = {keyword: ds[keyword].value for keyword in strings & {element.keyword for element in ds}}
    for group, name in (
        (ds.SharedFunctionalGroupsSequence[0], "UnassignedSharedConvertedAttributesSequence"),
        (ds.PerFrameFunctionalGroupsSequence[1], "UnassignedPerFrameConvertedAttributesSequence"),
    ):
        unassigned = Dataset()
        for keyword in own:
            setattr(unassigned, keyword, "1.9.9" if dictionary_VR(keyword) == "UI" else "OLD")
        unassigned.ImageComments = "taken over"
        setattr(group, name, [unassigned])
    for entry, header in read(to_bytes(ds), tmp_path):
        parsed = pydicom.dcmread(io.BytesIO(header))
        assert {keyword: parsed[keyword].value for keyword in own} == own
        assert parsed.ImageComments == "taken over"
        assert (entry.SOPInstanceUID, entry.SeriesInstanceUID) == (ds.SOPInstanceUID, ds.SeriesInstanceUID)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_ct_image_storage_object_with_functional_groups_is_read(frames: int, tmp_path: Path) -> None:
    ds = enhanced_ct(stored_values(frames))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    results = read(to_bytes(ds), tmp_path)
    assert [entry.frame for entry, _ in results] == list(range(1, frames + 1))
    for (entry, header), values in zip(results, stored_values(frames), strict=True):
        np.testing.assert_array_equal(read_values(tmp_path, entry), values)
        assert "CT Image Storage with functional groups" in str(entry.tolerated)
        reference = reference_to(pydicom.dcmread(io.BytesIO(header)))
        assert (reference.ReferencedFrameNumber, reference.ReferencedSOPClassUID) == (entry.frame, CTImageStorage)


def test_a_multi_frame_object_without_functional_groups_is_set_aside_as_such(tmp_path: Path) -> None:
    ds = enhanced_ct(stored_values(2))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    del ds.PerFrameFunctionalGroupsSequence
    (tmp_path / "file").write_bytes(to_bytes(ds))
    assert read_slices(tmp_path, "file") == [SetAside("file", "a multi-frame image without the geometry of its frames")]


def test_a_modality_lut_is_applied_and_removed_from_the_header(tmp_path: Path) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 0, 16])
    item.ModalityLUTType = "HU"
    table = (np.arange(256) ** 2 // 40).astype(np.uint16)
    item.add_new("LUTData", "OW", table.tobytes())
    values = stored_values(bits=8)[0]
    ds = ct_image(values, ModalityLUTSequence=[item])
    del ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType
    ((entry, header),) = read(to_bytes(ds), tmp_path)
    hu = np.empty(values.shape, np.int16)
    assert to_hounsfield(read_values(tmp_path, entry), entry.pixels, hu).fits
    np.testing.assert_array_equal(hu, table[values])
    kept = Pixels.of(pydicom.dcmread(io.BytesIO(header)))
    assert (kept.lut, kept.RescaleSlope, kept.RescaleIntercept, kept.PixelRepresentation) == (None, 1, 0, 1)
    assert "Modality LUT" in str(entry.tolerated)


@pytest.mark.parametrize("kind", ["Z_EFF", "ED", "MGML"])
def test_quantities_other_than_hounsfield_units_are_set_aside(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(to_bytes(ct_image(stored_values()[0], RescaleType=kind)))
    (result,) = read_slices(tmp_path, "file")
    assert isinstance(result, SetAside)
    assert (result.reason, result.broken) == (
        f"RescaleType {kind} states units other than HU: no Hounsfield units",
        False,
    )


def patched(content: bytes, keyword: str, value: bytes) -> bytes:
    """Replace the value of an element with explicit VR and a short length field."""
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    at = content.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF)) + 8
    return content[:at] + value + content[at + len(value) :]


def test_a_small_file_that_claims_a_terabyte_is_refused_before_memory_is_allocated(tmp_path: Path) -> None:
    ds = enhanced_ct(stored_values(1, 8, 8))
    ds.NumberOfFrames = 1000
    content = patched(patched(to_bytes(ds), "Rows", b"\xff\xff"), "Columns", b"\xff\xff")
    assert "NumberOfFrames is 1000" in refusal(content, tmp_path)
    single = to_bytes(ct_image(stored_values(1, 8, 8)[0]))
    reason = refusal(patched(patched(single, "Rows", b"\xff\xff"), "Columns", b"\xff\xff"), tmp_path)
    assert f"the limits are {MAX_IMAGE_VOXELS} voxels per frame" in reason


@pytest.mark.parametrize("form", ["JPEG lossless", "JPEG-LS", "JPEG 2000 lossless", "HTJ2K lossless", "JPEG extended"])
def test_a_codestream_whose_size_differs_from_the_header_is_not_decoded(form: str, tmp_path: Path) -> None:
    rows, columns = stored_values().shape[1:]
    for size in ((columns, rows), (rows // 2, columns * 2), (rows - 1, columns), (4096, 4096)):
        content = patched(FORMS[form], "Rows", struct.pack("<H", size[0]))
        ((entry, _),) = read(patched(content, "Columns", struct.pack("<H", size[1])), tmp_path)
        with pytest.raises(ValueError, match=f"is {rows} x {columns} with 1 samples per pixel"):
            read_values(tmp_path, entry)


@pytest.mark.parametrize("fewer", [1, 24])
def test_excess_values_of_a_whole_image_are_refused_and_a_few_bytes_are_reported(fewer: int, tmp_path: Path) -> None:
    rows = stored_values().shape[1]
    content = patched(FORMS["explicit"], "Rows", struct.pack("<H", rows - fewer))
    if fewer == 1:
        ((entry, _),) = read(content, tmp_path)
        assert "80 bytes after the pixels" in str(entry.tolerated)
    else:
        assert "Rows, Columns and BitsAllocated describe" in refusal(content, tmp_path)


def nested(levels: int) -> Dataset:
    ds = ct_image(stored_values()[0])
    holder = ds
    for _ in range(levels):
        item = Dataset()
        item.ReferencedSOPClassUID = CTImageStorage
        holder.SourceImageSequence = [item]
        holder = item
    return ds


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_sequences_are_read_up_to_the_depth_limit(syntax: str, tmp_path: Path) -> None:
    for levels in (MAX_SEQUENCE_DEPTH - 1, MAX_SEQUENCE_DEPTH + 1):
        ds = nested(levels)
        ds.file_meta.TransferSyntaxUID = syntax
        out = io.BytesIO()
        pydicom.dcmwrite(out, ds, enforce_file_format=True)
        if levels < MAX_SEQUENCE_DEPTH:
            read(out.getvalue(), tmp_path)
        else:
            assert "nest deeper" in refusal(out.getvalue(), tmp_path)


def test_a_bomb_of_nested_sequences_is_refusal(tmp_path: Path) -> None:
    nested_items = b"\x08\x00\x12\x21SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 100_000
    assert "nest deeper" in refusal(bytes(128) + b"DICM" + nested_items, tmp_path)


def test_a_deflated_bomb_is_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixeldata, "MAX_INFLATED_BYTES", 1 << 22)
    content = FORMS["deflated"]
    start = 144 + struct.unpack("<I", content[140:144])[0]
    compressor = zlib.compressobj(wbits=-15)
    body = compressor.compress(b"\x08\x00\x08\x00CS\x00\x00" + bytes(1 << 24)) + compressor.flush()
    assert len(body) < 1 << 15
    assert "larger than 4 MiB" in refusal(content[:start] + body, tmp_path)


def test_an_element_that_claims_four_gigabytes_is_refused_without_allocating_them(tmp_path: Path) -> None:
    at = FORMS["explicit"].index(b"\x10\x00\x10\x00")
    element = b"\x09\x00\x10\x10OB\0\0\xfe\xff\xff\xff"
    refusal(FORMS["explicit"][:at] + element + FORMS["explicit"][at:], tmp_path)


def test_a_header_without_end_is_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_module, "HEADER_READ", (1 << 16, 1 << 17))
    monkeypatch.setattr(header_module, "MAX_HEADER_BYTES", 1 << 17)
    ds = ct_image(stored_values()[0])
    ds.add_new(0x00091001, "OB", bytes(1 << 18))
    (tmp_path / "file").write_bytes(to_bytes(ds))
    (result,) = read_slices(tmp_path, "file")
    assert isinstance(result, SetAside)
    assert result.broken


@pytest.mark.parametrize("offsets", ["none", "basic", "extended", "wrong"])
def test_frames_of_several_fragments_are_located_by_the_offset_table(offsets: str, tmp_path: Path) -> None:
    frames = stored_values(2)
    ds = enhanced_ct(frames, JPEG2000Lossless)
    parts = list(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=2))
    halves = [_halved(part) for part in parts]
    if offsets == "extended":
        items, table, lengths = pydicom.encaps.encapsulate_extended(parts)
        ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = items, table, lengths
    else:
        table = [] if offsets == "none" else [0, len(halves[0]) + (2 if offsets == "wrong" else 0)]
        ds.PixelData = _item(struct.pack(f"<{len(table)}I", *table)) + b"".join(halves) + b"\xfe\xff\xdd\xe0" + bytes(4)
    ds["PixelData"].is_undefined_length = True
    if offsets == "none":
        assert "no offset table" in refusal(to_bytes(ds), tmp_path)
    elif offsets == "wrong":
        assert "contradicts its fragments" in refusal(to_bytes(ds), tmp_path)
    else:
        read_back = [read_values(tmp_path, entry) for entry, _ in read(to_bytes(ds), tmp_path)]
        np.testing.assert_array_equal(read_back, frames)


def _item(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content


def _halved(frame: bytes) -> bytes:
    middle = len(frame) // 4 * 2
    return _item(frame[:middle]) + _item(frame[middle:])
