"""Headers with a sentinel in every attribute of pydicom's dictionary: at the top, in items, and in items of items."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom.datadict import DicomDictionary, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import BaseTag

from ctbasis.dicom.deidentify.allow_list import (
    CODE_SEQUENCES,
    NUMBERS,
    REFERENCE_SEQUENCES,
    RETAINED_CODE_SEQUENCES,
)
from tests.dicom.deidentify.identity import AGE, BINARY, DATE, MARK, TEXT, TIME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydicom.dataset import FileDataset

STANDARD_ROOT = "1.2.840.10008.77777"
"""A root that begins like that of the standard's UIDs; PS3.6 registers no UID below it."""

NUMBER = "7712345"
NUMBER_BYTES = {"FL": struct.pack("<f", 77123.456), "FD": struct.pack("<d", 77123.456789)}
"""Binary numbers that are quantities; they are searched for outside of the attributes whose numbers are kept."""

SENTINELS = (MARK.encode(), STANDARD_ROOT.encode(), DATE.encode(), TIME.encode(), AGE.encode(), *NUMBER_BYTES.values())

PURPOSE, MODIFIER = 0x0040A170, 0x00082220
"""Tags of sequences that are kept within items: PurposeOfReferenceCodeSequence, AnatomicRegionModifierSequence."""

NEEDED = {"SOPClassUID"}
"""Attributes without which a header is no CT image."""


@dataclass(frozen=True)
class Attribute:
    """An attribute of the dictionary."""

    tag: int
    vr: str
    keyword: str


def attributes() -> list[Attribute]:
    """Return the attributes of data sets, without commands, file meta information and pixels."""
    return [
        Attribute(tag, vr.split(" or ")[0], keyword)
        for tag, (vr, _, _, _, keyword) in DicomDictionary.items()
        if 0x0007 < tag >> 16 < 0x7FE0 and vr != "NONE"
    ]


def sentinel(attribute: Attribute, *, valid: bool) -> bytes:
    """Return the encoded sentinel of an attribute.

    Args:
        attribute: The attribute.
        valid: Whether the value follows the grammar of its VR; otherwise text stands behind it, or instead of it.
    """
    mark = f"{MARK}{attribute.tag:08X}"
    behind = "" if valid else mark
    values = {
        "DA": DATE,
        "TM": TIME,
        "DT": f"{DATE}{TIME}+0100",
        "AS": AGE,
        "UI": f"{STANDARD_ROOT}.{attribute.tag}",
    }
    if attribute.vr in values:
        return _even(f"{values[attribute.vr]}{behind}")
    if attribute.vr in {"IS", "DS"}:
        return _even("7" if valid and attribute.keyword in NUMBERS else NUMBER if valid else mark)
    if attribute.vr in TEXT or attribute.vr == "PN":
        return _even(mark if valid else mark.lower())
    if attribute.vr in BINARY:
        return _even(mark)
    if valid and attribute.vr in NUMBER_BYTES:
        return (
            NUMBER_BYTES[attribute.vr] if attribute.keyword not in NUMBERS else bytes(len(NUMBER_BYTES[attribute.vr]))
        )
    # Binary numbers whose bytes are letters: US, SS, AT, UL, SL, UV, SV, and, as invalid values, FL and FD.
    return mark.encode().ljust(16, b"!")


def _even(text: str) -> bytes:
    return text.encode() + b" " * (len(text) % 2)


def element(attribute: Attribute, *, valid: bool) -> RawDataElement:
    """Return an element that is written as it is, whatever its value."""
    value = sentinel(attribute, valid=valid)
    return RawDataElement(BaseTag(attribute.tag), attribute.vr, len(value), value, 0, False, True)


def filled(chosen: Iterable[Attribute], *, valid: bool) -> Dataset:
    """Return a data set with a sentinel in each of `chosen` that is no sequence, and with private elements."""
    dataset = Dataset()
    for attribute in chosen:
        if attribute.vr != "SQ":
            dataset[BaseTag(attribute.tag)] = element(attribute, valid=valid)
    for tag, vr, text in ((0x00290010, "LO", f"{MARK}VENDOR"), (0x00291001, "LO", f"{MARK}PRIVATE")):
        dataset[BaseTag(tag)] = RawDataElement(BaseTag(tag), vr, len(_even(text)), _even(text), 0, False, True)
    return dataset


def item(chosen: list[Attribute], *, valid: bool) -> Dataset:
    """Return an item that is also a code of a standard scheme with another meaning, and a reference."""
    dataset = filled(chosen, valid=valid)
    dataset.CodeValue, dataset.CodingSchemeDesignator, dataset.CodeMeaning = "44588005", "SCT", f"{MARK}MEANING"
    dataset.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.ReferencedSOPInstanceUID = f"{STANDARD_ROOT}.1"
    return dataset


def representatives() -> list[Attribute]:
    """Return one attribute of every VR."""
    return list({attribute.vr: attribute for attribute in attributes()}.values())


def sequence(tag: int, item: bytes) -> bytes:
    """Return the encoding of a sequence with one item, explicit VR little endian."""
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"SQ", 0, len(item)) + item


def raw_sequence(tag: int, item: bytes) -> RawDataElement:
    """Return a sequence with one item that is written as it is."""
    value = sequence(tag, item)[12:]
    return RawDataElement(BaseTag(tag), "SQ", len(value), value, 0, False, True)


def encoded(dataset: Dataset) -> bytes:
    """Return the encoding of a data set, explicit VR little endian."""
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    write_dataset(out, dataset)
    return out.getvalue()


def planted(image: FileDataset, *, valid: bool) -> Iterator[FileDataset]:
    """Yield headers that together hold a sentinel in every attribute, in every sequence, at three depths.

    Args:
        image: A CT image.
        valid: Whether the values follow the grammar of their VR.
    """
    known = attributes()
    few = encoded(item(representatives(), valid=valid))
    whole = filled((entry for entry in known if entry.keyword not in NEEDED), valid=valid)
    # Every sequence with an attribute of every VR, at two depths below the top.
    for entry in known:
        if entry.vr == "SQ":
            whole[BaseTag(entry.tag)] = raw_sequence(
                entry.tag, few + sequence(PURPOSE, few) + sequence(entry.tag, few + sequence(PURPOSE, few))
            )
    yield _with(image, whole)
    # Every attribute in an item and in an item of an item, below the sequences of which anything is kept.
    every = encoded(item(known, valid=valid))
    nested = every + sequence(PURPOSE, every) + sequence(MODIFIER, every + sequence(MODIFIER, few))
    for keyword in sorted(CODE_SEQUENCES | RETAINED_CODE_SEQUENCES | REFERENCE_SEQUENCES):
        tag = tag_for_keyword(keyword) or 0
        dataset = Dataset()
        dataset[BaseTag(tag)] = raw_sequence(tag, nested)
        yield _with(image, dataset)


def _with(image: FileDataset, sentinels: Dataset) -> FileDataset:
    """Return a copy of `image` with the elements of `sentinels`."""
    from copy import deepcopy

    copy = deepcopy(image)
    copy.update(sentinels)
    return copy
