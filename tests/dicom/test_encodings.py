"""Files whose encoding, numbers or units are not what they state are read right, or named for what they are."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ctbasis.dicom.derived_series import Derivation, derive
from ctbasis.dicom.instance import read_slices, read_values
from ctbasis.dicom.set_aside import SetAside
from ctbasis.dicom.stored_values import StoredImage
from ctbasis.dicom.tolerance import tolerant
from ctbasis.simulate.awkward import (
    LOSSLESS,
    PATIENT,
    ct_image,
    enhanced_ct,
    stored_values,
    to_bytes,
    without_preamble,
)
from tests.dicom.test_forms import FORMS, read, refusal

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def with_syntax(content: bytes, syntax: str) -> bytes:
    """Return a DICOM file whose TransferSyntaxUID is replaced, and whose data set is not."""
    length = struct.unpack("<I", content[140:144])[0]
    meta = pydicom.dcmread(io.BytesIO(content)).file_meta
    meta.TransferSyntaxUID = UID(syntax)
    out = DicomBytesIO()
    pydicom.filewriter.write_file_meta_info(out, meta)
    return content[:132] + out.getvalue() + content[144 + length :]


def of_size(edge: int, syntax: str) -> tuple[bytes, NDArray[np.uint16]]:
    """Return a file with sequences, and its stored values, (edge, edge)."""
    values = stored_values(1, edge, edge)[0]
    ds = ct_image(values, syntax)
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "DCM", "nested"
    item.PurposeOfReferenceCodeSequence = [Dataset()]
    item.PurposeOfReferenceCodeSequence[0].CodeValue = "deeper"
    ds.ProcedureCodeSequence = [item]
    return to_bytes(ds), values


@pytest.mark.parametrize("edge", [16, 96, 512])
@pytest.mark.parametrize(
    ("real", "stated"),
    [
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        (ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, ExplicitVRLittleEndian),
    ],
)
def test_values_and_header_are_read_in_the_encoding_that_the_data_set_has(
    edge: int, real: str, stated: str, tmp_path: Path
) -> None:
    content, values = of_size(edge, real)
    ((entry, header),) = read(with_syntax(content, stated), tmp_path)
    np.testing.assert_array_equal(read_values(tmp_path, entry), values)
    assert any("TransferSyntaxUID states" in remark for remark in entry.tolerated) == (real != stated)
    with warnings.catch_warnings():
        # pydicom would warn of a header whose encoding is not the one that it states.
        warnings.simplefilter("error")
        parsed = pydicom.dcmread(io.BytesIO(header))
        assert parsed.file_meta.TransferSyntaxUID == stated
        assert parsed.ProcedureCodeSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "deeper"
        assert parsed.PatientID == PATIENT
        derived = derive(
            parsed,
            StoredImage(values.ravel().astype("<i2"), 1.0, -1024.0),
            Derivation(rank=1, version="1", description="", fingerprint=""),
        )
        again = pydicom.dcmread(io.BytesIO(to_bytes(derived)))
    np.testing.assert_array_equal(again.pixel_array, values)
    assert again.ProcedureCodeSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "deeper"


@pytest.mark.parametrize("form", ["RLE", "JPEG-LS"])
def test_a_compressed_file_whose_data_set_has_implicit_vr_is_read(form: str, tmp_path: Path) -> None:
    values = stored_values(1)[0]
    ds = ct_image(values, LOSSLESS[form])
    fragments = ds.PixelData
    del ds.PixelData
    data_set = without_preamble(ds)
    meta = FORMS[form][: 144 + struct.unpack("<I", FORMS[form][140:144])[0]]
    pixels = bytes.fromhex("e07f1000ffffffff") + fragments + bytes.fromhex("feffdde000000000")
    ((entry, header),) = read(meta + data_set + pixels, tmp_path)
    np.testing.assert_array_equal(read_values(tmp_path, entry), values)
    assert pydicom.dcmread(io.BytesIO(header)).PatientID == PATIENT


@pytest.mark.parametrize("stated", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_another_byte_order_than_stated_is_refused_as_such(stated: str, tmp_path: Path) -> None:
    content, _ = of_size(16, ExplicitVRBigEndian)
    assert "byte order" in refusal(with_syntax(content, stated), tmp_path)


def with_commas(ds: Dataset, **values: str) -> bytes:
    """Return a file in which some numbers have a decimal comma."""
    with tolerant():
        for keyword, value in values.items():
            ds[keyword] = pydicom.dataelem.RawDataElement(
                Tag(keyword),
                "DS",
                len(value) + len(value) % 2,
                (value + " " * (len(value) % 2)).encode(),
                0,
                False,
                True,
            )
        return to_bytes(ds)


def test_decimal_commas_are_read_as_points_with_a_remark(tmp_path: Path) -> None:
    values = stored_values(1)[0]
    commas = {
        "PixelSpacing": "0,7\\0,7",
        "ImagePositionPatient": "-10,5\\-10\\2,500",
        "RescaleSlope": "1,0",
        "RescaleIntercept": "-1024,0",
        "KVP": "120,0",
    }
    ((entry, header),) = read(with_commas(ct_image(values), **commas), tmp_path)
    assert (entry.PixelSpacing, entry.ImagePositionPatient) == ((0.7, 0.7), (-10.5, -10.0, 2.5))
    assert (entry.pixels.RescaleSlope, entry.pixels.RescaleIntercept) == (1.0, -1024.0)
    assert entry.tolerated == (f"decimal commas instead of points in {', '.join(sorted(commas))}",)
    parsed = pydicom.dcmread(io.BytesIO(header))
    assert (parsed.KVP, parsed.PixelSpacing, parsed.RescaleIntercept) == (120, [0.7, 0.7], -1024)


def test_decimal_commas_in_functional_groups_are_read_as_points(tmp_path: Path) -> None:
    ds = enhanced_ct(stored_values(2))
    content = to_bytes(ds)
    assert content.count(b"0.7\\0.7") == 1
    results = read(content.replace(b"0.7\\0.7", b"0,7\\0,7"), tmp_path)
    assert [entry.PixelSpacing for entry, _ in results] == [(0.7, 0.7)] * 2
    assert all("decimal commas instead of points in PixelSpacing" in entry.tolerated for entry, _ in results)


def test_a_comma_that_may_separate_thousands_is_refused(tmp_path: Path) -> None:
    content = with_commas(ct_image(stored_values(1)[0]), RescaleIntercept="-1,024")
    assert refusal(content, tmp_path) == "RescaleIntercept is not one number"


@pytest.mark.parametrize("kind", ["mg/ml", "MGML", "Z_EFF", "mg/cm3", "normalized", "PCT", "keV", "HU*100", "SUV"])
def test_every_other_quantity_is_set_aside_as_such(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(to_bytes(ct_image(stored_values(1)[0], RescaleType=kind)))
    (result,) = read_slices(tmp_path, "file")
    assert isinstance(result, SetAside)
    assert "units other than HU" in result.reason
    assert not result.broken


@pytest.mark.parametrize("kind", ["HU", "hu", "US", "Hounsfield Units", "HU_MOD", "unspecified", ""])
def test_every_spelling_of_hu_and_unspecified_units_are_read(kind: str, tmp_path: Path) -> None:
    ((entry, _),) = read(to_bytes(ct_image(stored_values(1)[0], RescaleType=kind)), tmp_path)
    assert (entry.tolerated == ()) == (kind in {"HU", ""} or kind == "hu")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gzip", gzip.compress(b"x" * 100, mtime=0)),
        ("bzip2", bz2.compress(b"x" * 100)),
        ("xz", lzma.compress(b"x" * 100)),
        ("tar", b"a".ljust(257, b"\0") + b"ustar\00000" + bytes(300)),
        ("7z", b"7z\xbc\xaf\x27\x1c" + bytes(40)),
        ("RAR", b"Rar!\x1a\x07\x01\x00" + bytes(40)),
        ("Zstandard", b"\x28\xb5\x2f\xfd" + bytes(40)),
    ],
)
def test_an_archive_that_is_not_unpacked_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    reason = refusal(content, tmp_path)
    assert name in reason
    assert "only .zip archives are" in reason
