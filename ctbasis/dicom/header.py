"""Headers of DICOM files: parsing them with bounded memory, and writing them again without bulk data."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import pydicom
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from ctbasis.dicom.pixeldata import inflated, meta_end
from ctbasis.dicom.resource_limits import MAX_HEADER_BYTES, MAX_KEPT_HEADER_BYTES, MAX_SEQUENCE_DEPTH
from ctbasis.dicom.set_aside import UnusableFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.tag import BaseTag

    from ctbasis.dicom.hounsfield import Pixels

HEADER_READ = (1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, MAX_HEADER_BYTES)
"""Bytes of a file that are parsed: first the smallest number, then more if the header is longer. Where headers are read
from a server, no more than four times the length of a long header is transferred."""

HEADER_KEPT_WHOLE = HEADER_READ[0]
"""Bytes up to which a header is kept unchanged; longer ones lose overlays, curves, icons and long private elements."""

PRIVATE_BULK = 1 << 12
"""Bytes from which a private element counts as bulk data."""

BULK_GROUPS = range(0x5000, 0x6100)
"""Curves (50xx) and overlays (60xx)."""

MAX_META_BYTES = 1 << 12
"""Bytes of file meta information in which TransferSyntaxUID is searched; 200 are typical."""

PREAMBLE = 128
TRANSFER_SYNTAX = b"\x02\x00\x10\x00UI"
ICON = 0x00880200
RESCALE_INTERCEPT = 0x00281052
MAX_DS = 1 << 12
"""Bytes of a value in which a decimal comma is searched."""

DECIMAL = re.compile(rb" *[+-]?\d*[.,]?\d*([eE][+-]?\d+)? *")
THOUSANDS = re.compile(rb" *[+-]?\d{1,3},\d{3} *")
"""Numbers with a comma that may separate thousands: -1,024 is -1024 or -1.024."""

ITEMS = {b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"}

TOO_DEEP = f"its sequences nest deeper than {MAX_SEQUENCE_DEPTH} levels"


class ParsedHeader(NamedTuple):
    """The data set before PixelData.

    Attributes:
        ds: The data set. Its `original_encoding` is the encoding that it really has, whatever TransferSyntaxUID states.
        end: Offset of the PixelData element.
        data: The stream to which `end` refers: the file itself, or the inflated data set of a deflated file.
        tolerated: Deviations of the encoding that were tolerated, as text for the user. With any, the bytes of the file
            are not a valid header.
    """

    ds: FileDataset
    end: int
    data: BinaryIO
    tolerated: tuple[str, ...]


def parse(head: bytes, stream: BinaryIO) -> ParsedHeader:
    """Parse the data set before PixelData.

    Args:
        head: The first bytes of the file, `HEADER_READ[0]` of them or the whole file.
        stream: The file, positioned after these bytes.

    Raises:
        UnusableFileError: The header is too long or too deeply nested, cannot be inflated, or has another byte order
            than TransferSyntaxUID states.
        Exception: Any exception of pydicom.
    """
    deflated = head[PREAMBLE : PREAMBLE + 4] == b"DICM" and _is_deflated(head)
    ds, end, data = (_parse_deflated if deflated else _parse)(head, stream)
    return ParsedHeader(ds, end, data, (*_set_real_encoding(ds), *_replace_decimal_commas(ds)))


def _set_real_encoding(ds: FileDataset) -> Iterator[str]:
    """Set `original_encoding` to the encoding in which pydicom parsed the elements; it finds out explicit VRs itself.

    Yields:
        A remark if it is not the encoding that TransferSyntaxUID states.
    """
    first = next(iter(ds.keys()), None)
    if first is not None and first.group and first.group & 0xFF == 0:
        raise UnusableFileError("its byte order is not the one that its TransferSyntaxUID states", broken=True)
    implicit, little = ds.original_encoding
    found = next((element.is_implicit_VR for element in ds.values() if isinstance(element, RawDataElement)), implicit)
    if found != implicit:
        ds.set_original_encoding(found, little, ds.original_character_set)
        stated, has = ("explicit", "implicit") if found else ("implicit", "explicit")
        yield f"TransferSyntaxUID states {stated} VR, but the data set has {has} VR"


def _replace_decimal_commas(ds: Dataset) -> Iterator[str]:
    """Replace decimal commas in numbers (VR DS) by points, in the data set and in its sequences, in place.

    A comma that may separate thousands stays, so that the number is refused.

    Yields:
        A remark if there are any.
    """
    replaced = set()
    level: list[Dataset] = [ds]
    while level:
        for parent in level:
            for tag, element in list(parent.items()):
                if not isinstance(element, RawDataElement) or not element.value or b"," not in element.value[:MAX_DS]:
                    continue
                numbers = element.value.rstrip(b"\0 ").split(b"\\")
                if not all(map(DECIMAL.fullmatch, numbers)) or _vr_of(element) != "DS":
                    continue
                if tag == RESCALE_INTERCEPT and any(map(THOUSANDS.fullmatch, numbers)):
                    continue
                parent[tag] = element._replace(value=element.value.replace(b",", b"."))
                replaced.add(keyword_for_tag(tag) or "a private element")
        level = [item for parent in level for sequence in _sequences(parent) for item in sequence]
    if replaced:
        yield f"decimal commas instead of points in {', '.join(sorted(replaced))}"


def _vr_of(element: RawDataElement) -> str:
    try:
        return element.VR if element.VR not in {None, "UN"} else dictionary_VR(element.tag)
    except KeyError:
        return ""


def _is_deflated(head: bytes) -> bool:
    """Return whether TransferSyntaxUID is Deflated Explicit VR Little Endian; searched before anything is parsed."""
    position = head.find(TRANSFER_SYNTAX, PREAMBLE, PREAMBLE + MAX_META_BYTES)
    if position < 0:
        return False
    value = position + len(TRANSFER_SYNTAX) + 2
    length = int.from_bytes(head[value - 2 : value], "little")
    return head[value : value + length].rstrip(b"\0 ") == DeflatedExplicitVRLittleEndian.encode()


def _parse(head: bytes, stream: BinaryIO) -> tuple[FileDataset, int, BinaryIO]:
    """Parse a file that is not deflated; see `parse`.

    At most `MAX_HEADER_BYTES` are parsed, from memory. An element that claims gigabytes then has no data to copy.
    """
    for limit in HEADER_READ:
        content = head if limit == len(head) or len(head) < HEADER_READ[0] else head + stream.read(limit - len(head))
        whole, head = len(content) < limit, content
        source = io.BytesIO(content)
        try:
            ds = pydicom.dcmread(source, stop_before_pixels=True, force=True)
        except Exception:
            if whole or limit == MAX_HEADER_BYTES:
                raise
            continue
        _check_depth(ds)
        if whole or source.tell() < len(content):
            return ds, source.tell(), stream
    raise UnusableFileError(f"its header is longer than {MAX_HEADER_BYTES >> 20} MiB", broken=True)


def _parse_deflated(head: bytes, stream: BinaryIO) -> tuple[FileDataset, int, BinaryIO]:
    """Parse a deflated file; see `parse`."""
    start = meta_end(stream)
    body = inflated(stream, start)
    source = io.BytesIO(body)
    ds = pydicom.dcmread(source, stop_before_pixels=True, force=True)
    _check_depth(ds)
    meta = io.BytesIO(head[PREAMBLE + 4 : start])
    ds.file_meta = FileMetaDataset(pydicom.filereader.read_dataset(meta, is_implicit_VR=False, is_little_endian=True))
    return ds, source.tell(), source


def _check_depth(ds: Dataset) -> None:
    """Refuse sequences nested deeper than `MAX_SEQUENCE_DEPTH`, because later steps process them by recursion."""
    level: list[Dataset] = [ds]
    for _ in range(MAX_SEQUENCE_DEPTH):
        level = [item for parent in level for sequence in _sequences(parent) for item in sequence]
        if not level:
            return
    raise UnusableFileError(TOO_DEEP, broken=True)


def _sequences(ds: Dataset) -> Iterator[Sequence]:
    for tag, element in list(ds.items()):
        value = element.value
        # pydicom parses an element when it is accessed; elements other than sequences are left unparsed.
        if isinstance(value, bytes) and value[:4] in ITEMS and element.VR in {None, "SQ", "UN"}:
            value = ds[tag].value
        if isinstance(value, Sequence):
            yield value


def slim_header(ds: Dataset, whole: FileDataset, pixels: Pixels) -> bytes:
    """Return a header as a DICOM file (Part 10) without bulk data.

    Args:
        ds: Data set of the slice, without PixelData: `whole` itself or one frame of it.
        whole: Data set of the file.
        pixels: Pixel format of the slice.

    Raises:
        UnusableFileError: The header is longer than `MAX_KEPT_HEADER_BYTES` without its bulk data.
    """
    slim = Dataset()
    slim.update({tag: element for tag, element in ds.items() if not _is_bulk(tag, element.value)})
    if pixels.lut is not None:
        _replace_lut(slim)
    slim.file_meta = _own_meta(whole)
    # Elements that pydicom has not parsed are written in the encoding in which they were read.
    implicit, little = whole.original_encoding
    syntax = UID(slim.file_meta.TransferSyntaxUID)
    if syntax.is_transfer_syntax and not syntax.is_private and syntax.is_implicit_VR != implicit:
        # The header gets the encoding that its TransferSyntaxUID states, so all elements are parsed.
        for _ in slim.iterall():
            pass
        implicit = syntax.is_implicit_VR
    slim.set_original_encoding(implicit, little, whole.original_character_set)
    out = io.BytesIO()
    pydicom.dcmwrite(out, slim, enforce_file_format=True)
    if out.tell() > MAX_KEPT_HEADER_BYTES:
        raise UnusableFileError(
            f"its header is longer than {MAX_KEPT_HEADER_BYTES >> 20} MiB without bulk data", broken=True
        )
    return out.getvalue()


def _is_bulk(tag: BaseTag, value: Any) -> bool:
    size = len(value) if isinstance(value, bytes) else 0
    return tag.group in BULK_GROUPS or tag == ICON or (tag.is_private and size >= PRIVATE_BULK)


def _own_meta(whole: FileDataset) -> FileMetaDataset:
    """Return the file meta information for a header, with the transfer syntax in which the header is written."""
    meta = FileMetaDataset()
    meta.update(whole.file_meta)
    syntax = meta.get("TransferSyntaxUID")
    if syntax is None:
        implicit, little = whole.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    elif syntax == DeflatedExplicitVRLittleEndian:
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def _replace_lut(header: Dataset) -> None:
    """Describe stored values that are HU: after a Modality LUT, no rescale could convert HU back to stored values."""
    del header.ModalityLUTSequence
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
    header.RescaleSlope, header.RescaleIntercept, header.RescaleType = 1, 0, "HU"
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if keyword in header:
            delattr(header, keyword)
