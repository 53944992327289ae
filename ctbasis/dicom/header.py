"""A file's header: parsed from so much of the file as a header may take, and written again without its bulk."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, BinaryIO

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from ctbasis.dicom.limits import DEEPEST, LARGEST_HEADER, LARGEST_KEPT
from ctbasis.dicom.pixeldata import inflated, meta_end
from ctbasis.dicom.set_aside import UnusableFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.tag import BaseTag

    from ctbasis.dicom.hounsfield import Pixels

HEADER_READ = (1 << 16, 1 << 22, LARGEST_HEADER)
"""Bytes of a file to look for its header in: more each time that it is longer."""

HEADER_KEPT_WHOLE = HEADER_READ[0]
"""Bytes of header kept as they are; above, what is bulk (overlays, curves, icons, long private data) is dropped."""

PRIVATE_BULK = 1 << 12
"""Bytes from which a private element counts as bulk."""

BULK_GROUPS = range(0x5000, 0x6100)
"""Curves (50xx) and overlays (60xx)."""

LARGEST_META = 1 << 12
"""Bytes of meta information among which TransferSyntaxUID is looked for; a usual one has 200."""

PREAMBLE = 128
TRANSFER_SYNTAX = b"\x02\x00\x10\x00UI"
ICON = 0x00880200
ITEMS = {b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"}

TOO_DEEP = f"its sequences nest deeper than {DEEPEST} levels"


def parse(head: bytes, stream: BinaryIO) -> tuple[FileDataset, int, BinaryIO]:
    """Return the data set before PixelData, where that begins, and in what: the file, or what it inflates to.

    Args:
        head: The first bytes of the file, `HEADER_READ[0]` where it has as many.
        stream: The file behind them.

    Raises:
        UnusableFileError: It is longer or deeper than any should be, or does not inflate.
        Exception: Whatever pydicom raises of it.
    """
    deflated = head[PREAMBLE : PREAMBLE + 4] == b"DICM" and _is_deflated(head)
    return (_parse_deflated if deflated else _parse)(head, stream)


def _is_deflated(head: bytes) -> bool:
    """Tell by TransferSyntaxUID of the meta information, which is looked for before anything is parsed."""
    at = head.find(TRANSFER_SYNTAX, PREAMBLE, PREAMBLE + LARGEST_META)
    if at < 0:
        return False
    value = at + len(TRANSFER_SYNTAX) + 2
    length = int.from_bytes(head[value - 2 : value], "little")
    return head[value : value + length].rstrip(b"\0 ") == DeflatedExplicitVRLittleEndian.encode()


def _parse(head: bytes, stream: BinaryIO) -> tuple[FileDataset, int, BinaryIO]:
    """Return the data set before PixelData, where that begins, and in what.

    Parsed from memory, and from so much of the file at most as a header may take: an element that claims gigabytes has
    none to copy.
    """
    for most in HEADER_READ:
        content = head if most == len(head) or len(head) < HEADER_READ[0] else head + stream.read(most - len(head))
        whole, head = len(content) < most, content
        source = io.BytesIO(content)
        try:
            ds = pydicom.dcmread(source, stop_before_pixels=True, force=True)
        except Exception:
            if whole or most == LARGEST_HEADER:
                raise
            continue
        _refuse_deep(ds)
        if whole or source.tell() < len(content):
            return ds, source.tell(), stream
    raise UnusableFileError(f"its header is longer than {LARGEST_HEADER >> 20} MiB", broken=True)


def _parse_deflated(head: bytes, stream: BinaryIO) -> tuple[FileDataset, int, BinaryIO]:
    """The same for a file whose data set is deflated: there PixelData is in what it inflates to."""
    start = meta_end(stream)
    body = inflated(stream, start)
    source = io.BytesIO(body)
    ds = pydicom.dcmread(source, stop_before_pixels=True, force=True)
    _refuse_deep(ds)
    meta = io.BytesIO(head[PREAMBLE + 4 : start])
    ds.file_meta = FileMetaDataset(pydicom.filereader.read_dataset(meta, is_implicit_VR=False, is_little_endian=True))
    return ds, source.tell(), source


def _refuse_deep(ds: Dataset) -> None:
    """Refuse sequences within sequences beyond `DEEPEST`: later steps walk through them by recursion."""
    level: list[Dataset] = [ds]
    for _ in range(DEEPEST):
        level = [item for holder in level for sequence in _sequences(holder) for item in sequence]
        if not level:
            return
    raise UnusableFileError(TOO_DEEP, broken=True)


def _sequences(ds: Dataset) -> Iterator[Sequence]:
    for tag, element in list(ds.items()):
        value = element.value
        # Elements are parsed when they are asked for; most are no sequences and are let be.
        if isinstance(value, bytes) and value[:4] in ITEMS and element.VR in {None, "SQ", "UN"}:
            value = ds[tag].value
        if isinstance(value, Sequence):
            yield value


def slim_header(ds: Dataset, whole: FileDataset, pixels: Pixels) -> bytes:
    """Write `ds`, which is `whole` or a frame of it, as a DICOM file (Part 10) without what is bulk."""
    slim = Dataset()
    slim.update({tag: element for tag, element in ds.items() if not _is_bulk(tag, element.value)})
    if pixels.lut is not None:
        _replace_lut(slim)
    slim.file_meta = _own_meta(whole)
    # Values that were never decoded are written as they were read.
    implicit, little = whole.original_encoding
    slim.set_original_encoding(implicit, little, whole.original_character_set)
    out = io.BytesIO()
    pydicom.dcmwrite(out, slim, enforce_file_format=True)
    if out.tell() > LARGEST_KEPT:
        raise UnusableFileError(f"its header is longer than {LARGEST_KEPT >> 20} MiB without its bulk", broken=True)
    return out.getvalue()


def _is_bulk(tag: BaseTag, value: Any) -> bool:
    size = len(value) if isinstance(value, bytes) else 0
    return tag.group in BULK_GROUPS or tag == ICON or (tag.is_private and size >= PRIVATE_BULK)


def _own_meta(whole: FileDataset) -> FileMetaDataset:
    """Return the meta information of the file for a header, in the transfer syntax that the header is written in."""
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
    """Describe stored values that are the HU themselves: no rescale could take HU back through a lookup table."""
    del header.ModalityLUTSequence
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
    header.RescaleSlope, header.RescaleIntercept, header.RescaleType = 1, 0, "HU"
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if keyword in header:
            delattr(header, keyword)
