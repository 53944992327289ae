"""One DICOM file: is it a slice of a CT series, what does its header say, where are its stored values."""

from __future__ import annotations

import io
import math
import struct
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pydicom
from pydicom import config
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
)

from components.matrix.hounsfield import Pixels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import FileDataset

OTHER_OBJECTS = {
    MediaStorageDirectoryStorage: "a DICOMDIR, the index of a medium",
    EnhancedCTImageStorage: "a multi-frame CT object, which is not read yet",
    LegacyConvertedEnhancedCTImageStorage: "a multi-frame CT object, which is not read yet",
}

NOT_AXIAL = {
    "LOCALIZER": "a localizer",
    "REFORMATTED": "a reformat",
    "MPR": "a reformat",
    "CSA MPR": "a reformat",
    "PROJECTION IMAGE": "a projection",
    "MAX_IP": "a projection",
    "MIN_IP": "a projection",
    "SCREEN SAVE": "a screen capture",
}
"""Values of ImageType that say an image is no reconstructed slice of the volume, and what it is instead."""

HEADER_KEPT_WHOLE = 1 << 16
"""Bytes of header kept as they are; above, what is bulk (overlays, curves, icons, long private data) is dropped."""

PRIVATE_BULK = 1 << 12
"""Bytes from which a private element counts as bulk."""

BULK_GROUPS = range(0x5000, 0x6100)
"""Curves (50xx) and overlays (60xx)."""

ORTHONORMAL_TOLERANCE = 1e-2
"""By how much direction cosines may miss unit length or a right angle."""

PREAMBLE = 128
UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_DATA = {struct.pack("<HH", 0x7FE0, 0x0010), struct.pack(">HH", 0x7FE0, 0x0010)}
FIRST_GROUPS = {struct.pack("<H", group) for group in (0x0002, 0x0008)}


@dataclass(frozen=True)
class SetAside:
    """A file that takes no column of A.

    Attributes:
        file: Its path in the folder.
        reason: Why, in words for the user.
        broken: Whether it was meant to be a slice and could not be read: that is worth a warning.
    """

    file: str
    reason: str
    broken: bool = False


@dataclass(frozen=True)
class NativeValues:
    """Where the stored values lie in a file that does not compress them.

    Attributes:
        offset: Bytes before the first value.
        dtype: Of a value, little endian.
    """

    offset: int
    dtype: str


@dataclass(frozen=True)
class Slice:
    """One slice, read but for its stored values; attributes in capitals are the DICOM ones.

    Attributes:
        file: Its path in the folder.
        native: Where its values lie, None where a decoder of pydicom has to be asked.
        pixels: What its values mean.
        oddities: What was tolerated in its header, in words for the user.
    """

    file: str
    SOPInstanceUID: str
    SeriesInstanceUID: str
    SeriesNumber: int
    Rows: int
    Columns: int
    ImageOrientationPatient: tuple[float, ...]
    ImagePositionPatient: tuple[float, ...]
    PixelSpacing: tuple[float, ...]
    native: NativeValues | None
    pixels: Pixels
    oddities: tuple[str, ...] = ()


class _UnfitError(ValueError):
    """Why a file is set aside; never leaves this module."""

    def __init__(self, reason: str, *, broken: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.broken = broken


def read_slice(folder: Path, file: str) -> tuple[Slice, bytes] | SetAside:
    """Read the header of one file, tolerantly.

    Args:
        folder: Where the files are.
        file: Path of the file in it.

    Returns:
        The slice and its header, a DICOM file (Part 10) without pixel data; or why it is none.
    """
    try:
        with _tolerant(), (folder / file).open("rb") as stream:
            return _read(stream, file)
    except _UnfitError as unfit:
        return SetAside(file, unfit.reason, unfit.broken)
    except OSError as error:
        # Without strerror it is pydicom's own: the file ended inside an element.
        return SetAside(file, f"not readable: {error.strerror or 'its header breaks off'}", broken=True)
    except Exception as error:  # noqa: BLE001 - whatever a hostile file makes a parser raise, it is set aside by name
        return SetAside(file, f"its header does not parse ({type(error).__name__})", broken=True)


def read_values(folder: Path, entry: Slice) -> NDArray[Any]:
    """Return the stored values of a slice, (Rows, Columns).

    Raises:
        ValueError: They do not decode; the message holds nothing of the file's content.
    """
    shape = entry.Rows, entry.Columns
    if entry.native is not None:
        count = entry.Rows * entry.Columns
        values = np.fromfile(folder / entry.file, entry.native.dtype, count, offset=entry.native.offset)
        if values.size != count:
            raise ValueError("truncated while it was being read")
        return values.reshape(shape)
    syntax = "in no transfer syntax"
    try:
        with _tolerant():
            ds = _with_file_meta(pydicom.dcmread(folder / entry.file, force=True))
            syntax = UID(ds.file_meta.TransferSyntaxUID).name
            decoded: NDArray[Any] = ds.pixel_array
    except Exception as error:
        # Decoders raise what they like, and some put bytes of the file into their words.
        raise ValueError(f"its pixels ({syntax}) do not decode ({type(error).__name__})") from error
    if decoded.shape != shape or decoded.dtype.kind not in "iu":
        raise ValueError(f"its pixels decode to {decoded.dtype} of shape {decoded.shape}, the header says {shape}")
    return decoded


@contextmanager
def _tolerant() -> Iterator[None]:
    """Keep pydicom from judging values that are not used: its warnings quote them, and they may be a patient's."""
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def _read(stream: BinaryIO, file: str) -> tuple[Slice, bytes]:
    head = stream.read(HEADER_KEPT_WHOLE)
    part_10 = head[PREAMBLE : PREAMBLE + 4] == b"DICM"
    if not part_10 and head[:2] not in FIRST_GROUPS:
        raise _UnfitError("not DICOM" if head else "an empty file", broken=not head)
    ds, end = _parse(head, stream)
    _refuse_other_objects(ds)
    entry = _describe(ds, file, stream, end, () if part_10 else ("no Part 10 preamble and meta information",))
    return entry, head[:end] if part_10 and 0 < end < len(head) else _slim_header(ds)


def _parse(head: bytes, stream: BinaryIO) -> tuple[FileDataset, int]:
    """Return the data set before PixelData and where in the file that begins; 0 where the whole is deflated."""
    whole = len(head) < HEADER_KEPT_WHOLE
    try:
        source = io.BytesIO(head)
        ds = pydicom.dcmread(source, stop_before_pixels=True, force=True)
    except Exception:
        if whole:
            raise
    else:
        if whole or (source.tell() < len(head) and not _deflated(ds)):
            return ds, 0 if _deflated(ds) else source.tell()
    stream.seek(0)
    ds = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    return ds, 0 if _deflated(ds) else stream.tell()


def _deflated(ds: FileDataset) -> bool:
    return bool(ds.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian)


def _refuse_other_objects(ds: FileDataset) -> None:
    kind = UID(ds.get("SOPClassUID") or ds.file_meta.get("MediaStorageSOPClassUID") or "")
    if kind != CTImageStorage:
        raise _UnfitError(OTHER_OBJECTS.get(kind) or (f"{kind.name}, not a CT image" if kind else "no SOPClassUID"))
    image_type = ds.get("ImageType") or []
    for value in [image_type] if isinstance(image_type, str) else image_type:
        if value.strip().upper() in NOT_AXIAL:
            raise _UnfitError(f"{NOT_AXIAL[value.strip().upper()]} (ImageType {value.strip().upper()})")
    if int(ds.get("NumberOfFrames") or 1) != 1:
        raise _UnfitError("a multi-frame image, which is not read yet")
    if int(ds.get("SamplesPerPixel") or 1) != 1 or ds.get("PhotometricInterpretation", "MONOCHROME2") not in {
        "MONOCHROME1",
        "MONOCHROME2",
    }:
        raise _UnfitError("a colour image")


def _describe(ds: FileDataset, file: str, stream: BinaryIO, end: int, oddities: tuple[str, ...]) -> Slice:
    try:
        pixels = Pixels.of(ds)
    except ValueError as error:
        raise _UnfitError(str(error), broken=True) from error
    Rows, Columns = int(_required(ds, "Rows")), int(_required(ds, "Columns"))
    if Rows < 1 or Columns < 1:
        raise _UnfitError(f"Rows {Rows}, Columns {Columns}: no image", broken=True)
    if ds.get("PhotometricInterpretation") == "MONOCHROME1":
        oddities += ("MONOCHROME1: a display inverts it, HU do not",)
    if ds.get("PixelSpacing") is None:
        oddities += ("PixelSpacing is absent, taken as 1 mm",)
        PixelSpacing: tuple[float, ...] = (1.0, 1.0)
    else:
        PixelSpacing = _numbers(ds, "PixelSpacing", 2)
    return Slice(
        file=file,
        SOPInstanceUID=str(_required(ds, "SOPInstanceUID")),
        SeriesInstanceUID=str(_required(ds, "SeriesInstanceUID")),
        SeriesNumber=int(ds.get("SeriesNumber") or 0),
        Rows=Rows,
        Columns=Columns,
        ImageOrientationPatient=_orientation(ds),
        ImagePositionPatient=_numbers(ds, "ImagePositionPatient", 3),
        PixelSpacing=PixelSpacing,
        native=_native_values(ds, stream, end, Rows * Columns, pixels),
        pixels=pixels,
        oddities=(*oddities, *pixels.oddities),
    )


def _required(ds: FileDataset, keyword: str) -> Any:
    value = ds.get(keyword)
    if value is None or value == "":
        raise _UnfitError(f"{keyword} is absent", broken=True)
    return value


def _numbers(ds: FileDataset, keyword: str, count: int) -> tuple[float, ...]:
    values = _required(ds, keyword)
    numbers = tuple(float(value) for value in (values if isinstance(values, pydicom.multival.MultiValue) else [values]))
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise _UnfitError(f"{keyword} has {len(numbers)} values, {count} numbers expected", broken=True)
    return numbers


def _orientation(ds: FileDataset) -> tuple[float, ...]:
    cosines = _numbers(ds, "ImageOrientationPatient", 6)
    row, column = cosines[:3], cosines[3:]
    # Plain arithmetic, for this is done for every file and six numbers are no array.
    off = math.hypot(*row) - 1, math.hypot(*column) - 1, sum(a * b for a, b in zip(row, column, strict=True))
    if max(map(abs, off)) > ORTHONORMAL_TOLERANCE:
        raise _UnfitError("ImageOrientationPatient is not two directions at a right angle", broken=True)
    return cosines


def _native_values(ds: FileDataset, stream: BinaryIO, end: int, count: int, pixels: Pixels) -> NativeValues | None:
    """Find the values where they can be read in place, and refuse a file that breaks off before their end."""
    if _deflated(ds):
        return None
    stream.seek(end)
    tag = stream.read(12)
    if tag[:4] not in PIXEL_DATA:
        raise _UnfitError("it holds no PixelData", broken=True)
    syntax = ds.file_meta.get("TransferSyntaxUID")
    implicit, little = ds.original_encoding
    if syntax not in {ImplicitVRLittleEndian, ExplicitVRLittleEndian, None} or not little:
        return None
    if not implicit and tag[4:6] not in {b"OW", b"OB"}:
        return None
    value = end + (8 if implicit else 12)
    length = struct.unpack("<I", tag[4:8] if implicit else tag[8:12])[0]
    size = pixels.BitsAllocated // 8
    if length == UNDEFINED_LENGTH or size not in {1, 2, 4}:
        return None
    there = min(length, stream.seek(0, io.SEEK_END) - value)
    if there < count * size:
        raise _UnfitError(f"truncated: PixelData has {max(there, 0)} of {count * size} bytes", broken=True)
    return NativeValues(value, f"<{'i' if pixels.PixelRepresentation else 'u'}{size}")


def _with_file_meta(ds: FileDataset) -> FileDataset:
    """Give a data set without meta information the transfer syntax that it was found to be in."""
    if "TransferSyntaxUID" not in ds.file_meta:
        implicit, little = ds.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return ds


def _slim_header(ds: FileDataset) -> bytes:
    """Write the data set as a DICOM file (Part 10), without what is bulk."""
    for tag in list(ds.keys()):
        element = ds.get_item(tag)
        size = len(element.value) if isinstance(element.value, bytes) else 0
        if tag.group in BULK_GROUPS or (tag.is_private and size >= PRIVATE_BULK):
            del ds[tag]
    if "IconImageSequence" in ds:
        del ds.IconImageSequence
    out = io.BytesIO()
    _with_file_meta(ds).save_as(out, enforce_file_format=True)
    return out.getvalue()
