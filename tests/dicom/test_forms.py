"""Every form that a CT slice comes in gives the same values, geometry and header; what lies about itself is refused."""

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

from ctbasis.dicom import header as header_module
from ctbasis.dicom import pixeldata
from ctbasis.dicom.hounsfield import Pixels, to_hounsfield
from ctbasis.dicom.instance import Slice, read_slices, read_values
from ctbasis.dicom.limits import DEEPEST, LARGEST_IMAGE
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
"""By how much values of a lossy form may be off."""


def read(content: bytes, folder: Path) -> list[tuple[Slice, bytes]]:
    (folder / "file").write_bytes(content)
    found = read_slices(folder, "file")
    slices = [entry for entry in found if not isinstance(entry, SetAside)]
    assert len(slices) == len(found), found
    return slices


def refused(content: bytes, folder: Path) -> str:
    (folder / "file").write_bytes(content)
    (found,) = read_slices(folder, "file")
    assert isinstance(found, SetAside)
    assert found.broken
    assert PATIENT not in found.reason
    return found.reason


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_values_the_geometry_and_a_header_without_pixels(form: str, tmp_path: Path) -> None:
    slices = read(FORMS[form], tmp_path)
    expected = stored_values(len(slices)) if form.startswith("enhanced") else stored_values()
    if form == "JPEG baseline":
        expected = expected >> 4
    for number, ((entry, header), values) in enumerate(zip(slices, expected, strict=True), start=1):
        off = np.abs(read_values(tmp_path, entry).astype(int) - values)
        assert off.max() <= LOSSES.get(form, 0)
        assert entry.ImagePositionPatient == (-10, -10, 2.5 * number)
        kept = pydicom.dcmread(io.BytesIO(header))
        assert "PixelData" not in kept
        assert kept.PatientName == PATIENT
        assert Pixels.of(kept) == entry.pixels
        assert tuple(kept.ImagePositionPatient) == entry.ImagePositionPatient


def test_there_is_a_form_for_every_transfer_syntax_that_has_a_decoder() -> None:
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
def test_what_is_written_is_read_in_hounsfield_units(
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
    meant = np.where(bits >> (stored - 1), bits - (1 << stored), bits) if signed else bits
    # A codestream of JPEG holds the bits alone and leaves the sign to PixelRepresentation.
    written = bits.astype(np.uint16) if syntax == JPEGLosslessSV1 else meant.astype(np.int16 if signed else np.uint16)
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
    np.testing.assert_array_equal(hu, (meant * slope + intercept).astype(np.float32))


def test_each_frame_of_an_enhanced_object_has_a_header_of_its_own(tmp_path: Path) -> None:
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


def test_frames_that_are_no_slices_are_set_aside_one_by_one(tmp_path: Path) -> None:
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


def test_a_legacy_converted_object_keeps_what_had_no_functional_group(tmp_path: Path) -> None:
    ds = enhanced_ct(stored_values(2))
    unassigned = Dataset()
    unassigned.PatientPosition, unassigned.Rows = "HFS", 7
    ds.SharedFunctionalGroupsSequence[0].UnassignedSharedConvertedAttributesSequence = [unassigned]
    entry, header = read(to_bytes(ds), tmp_path)[1]
    assert pydicom.dcmread(io.BytesIO(header)).PatientPosition == "HFS"
    assert entry.Rows == stored_values().shape[1]


def test_a_modality_lut_gives_hounsfield_units_and_a_header_that_needs_none(tmp_path: Path) -> None:
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
def test_another_quantity_than_hounsfield_units_is_set_aside(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(to_bytes(ct_image(stored_values()[0], RescaleType=kind)))
    (found,) = read_slices(tmp_path, "file")
    assert isinstance(found, SetAside)
    assert (found.reason, found.broken) == (f"RescaleType {kind}: no Hounsfield units", False)


def patched(content: bytes, keyword: str, value: bytes) -> bytes:
    """Put `value` in place of that of an explicit, short element."""
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    at = content.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF)) + 8
    return content[:at] + value + content[at + len(value) :]


def test_a_hundred_bytes_that_claim_a_terabyte_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    ds = enhanced_ct(stored_values(1, 8, 8))
    ds.NumberOfFrames = 1000
    content = patched(patched(to_bytes(ds), "Rows", b"\xff\xff"), "Columns", b"\xff\xff")
    assert "frames" in refused(content, tmp_path)
    single = to_bytes(ct_image(stored_values(1, 8, 8)[0]))
    said = refused(patched(patched(single, "Rows", b"\xff\xff"), "Columns", b"\xff\xff"), tmp_path)
    assert f"at most {LARGEST_IMAGE} voxels" in said


@pytest.mark.parametrize("form", ["JPEG lossless", "JPEG-LS", "JPEG 2000 lossless", "HTJ2K lossless", "JPEG extended"])
def test_a_codestream_of_another_size_than_the_header_says_is_not_decoded(form: str, tmp_path: Path) -> None:
    rows, columns = stored_values().shape[1:]
    for said in ((columns, rows), (rows // 2, columns * 2), (rows - 1, columns), (4096, 4096)):
        content = patched(FORMS[form], "Rows", struct.pack("<H", said[0]))
        ((entry, _),) = read(patched(content, "Columns", struct.pack("<H", said[1])), tmp_path)
        with pytest.raises(ValueError, match=f"are {rows} x {columns} of 1 samples"):
            read_values(tmp_path, entry)


@pytest.mark.parametrize("fewer", [1, 24])
def test_values_of_more_than_one_image_are_refused_and_a_few_bytes_more_are_remarked_on(
    fewer: int, tmp_path: Path
) -> None:
    rows = stored_values().shape[1]
    content = patched(FORMS["explicit"], "Rows", struct.pack("<H", rows - fewer))
    if fewer == 1:
        ((entry, _),) = read(content, tmp_path)
        assert "80 bytes behind the pixels" in str(entry.tolerated)
    else:
        assert "make the image that the header says" in refused(content, tmp_path)


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
def test_sequences_nest_as_deep_as_any_file_needs_and_no_deeper(syntax: str, tmp_path: Path) -> None:
    for levels in (DEEPEST - 1, DEEPEST + 1):
        ds = nested(levels)
        ds.file_meta.TransferSyntaxUID = syntax
        out = io.BytesIO()
        pydicom.dcmwrite(out, ds, enforce_file_format=True)
        if levels < DEEPEST:
            read(out.getvalue(), tmp_path)
        else:
            assert "nest deeper" in refused(out.getvalue(), tmp_path)


def test_a_bomb_of_nested_sequences_is_refused(tmp_path: Path) -> None:
    opened = b"\x08\x00\x12\x21SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 100_000
    assert "nest deeper" in refused(bytes(128) + b"DICM" + opened, tmp_path)


def test_a_deflated_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixeldata, "LARGEST_INFLATED", 1 << 22)
    content = FORMS["deflated"]
    start = 144 + struct.unpack("<I", content[140:144])[0]
    squeeze = zlib.compressobj(wbits=-15)
    body = squeeze.compress(b"\x08\x00\x08\x00CS\x00\x00" + bytes(1 << 24)) + squeeze.flush()
    assert len(body) < 1 << 15
    assert "larger than 4 MiB" in refused(content[:start] + body, tmp_path)


def test_an_element_that_claims_four_gigabytes_takes_none(tmp_path: Path) -> None:
    at = FORMS["explicit"].index(b"\x10\x00\x10\x00")
    lie = b"\x09\x00\x10\x10OB\0\0\xfe\xff\xff\xff"
    refused(FORMS["explicit"][:at] + lie + FORMS["explicit"][at:], tmp_path)


def test_a_header_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_module, "HEADER_READ", (1 << 16, 1 << 17))
    monkeypatch.setattr(header_module, "LARGEST_HEADER", 1 << 17)
    ds = ct_image(stored_values()[0])
    ds.add_new(0x00091001, "OB", bytes(1 << 18))
    (tmp_path / "file").write_bytes(to_bytes(ds))
    (found,) = read_slices(tmp_path, "file")
    assert isinstance(found, SetAside)
    assert found.broken


@pytest.mark.parametrize("offsets", ["none", "basic", "extended", "wrong"])
def test_frames_in_several_fragments_are_found_by_their_offsets(offsets: str, tmp_path: Path) -> None:
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
        assert "no offset table" in refused(to_bytes(ds), tmp_path)
    elif offsets == "wrong":
        assert "contradicts its fragments" in refused(to_bytes(ds), tmp_path)
    else:
        read_back = [read_values(tmp_path, entry) for entry, _ in read(to_bytes(ds), tmp_path)]
        np.testing.assert_array_equal(read_back, frames)


def _item(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content


def _halved(frame: bytes) -> bytes:
    middle = len(frame) // 4 * 2
    return _item(frame[:middle]) + _item(frame[middle:])
