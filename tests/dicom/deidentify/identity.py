"""Sentinel values in every attribute of PS3.15 table E.1-1, and a search for sentinels that were not removed."""

from __future__ import annotations

import base64
import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import zarr
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from ctbasis.dicom.deidentify.profile import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom.dataset import FileDataset

MARK = "ZQXJKVW"
"""Prefix of all text sentinels: long enough not to occur by chance, and with a tag appended still a valid CS."""

FAMILY = "小東"
ROOT = "1.2.826.0.77777"
DATE, TIME, AGE, INTEGER, NUMBER = "19110713", "071359.7713", "097Y", "77123456", "7712345.5"

SENTINELS = [
    *(text.encode() for text in (MARK, ROOT, DATE, TIME, INTEGER, NUMBER, AGE, "Zqfamily")),
    *(FAMILY.encode(codec) for codec in ("utf-8", "gb18030", "utf-16-le", "utf-16-be")),
    # The escape sequences of JSON.
    b"\\u5c0f\\u6771",
]
"""Byte strings that must not occur in any output."""

TEXT = {"LO", "SH", "LT", "ST", "UC", "UT", "CS", "AE", "UR"}
LITERAL = {"DA": DATE, "TM": TIME, "DT": f"{DATE}{TIME}", "AS": AGE, "IS": INTEGER, "DS": NUMBER}
BINARY = {"OB", "OW", "UN", "OF", "OD", "OL", "OV"}

REQUIRED_UIDS = {"SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"}
"""UIDs that every slice needs; they get values under `ROOT`."""


@dataclass(frozen=True)
class Row:
    """A row of the table for a single tag of a data set."""

    tag: int
    name: str

    @property
    def vr(self) -> str:
        """The value representation; LO if pydicom does not know the attribute."""
        return dictionary_VR(self.tag).split(" or ")[0] if dictionary_has_tag(self.tag) else "LO"


def table_rows() -> list[Row]:
    """Return the rows of attributes in data sets, without the groups of commands and file meta information."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["tag"] != "private" and "x" not in row["tag"]]
    return [Row(int(row["tag"], 16), row["name"]) for row in rows if int(row["tag"], 16) >> 16 > 0x0007]


def value_of(row: Row) -> Any:
    """Return a sentinel for the attribute, or None if its representation is a binary number."""
    mark = f"{MARK}{row.tag:08X}"
    if row.vr in TEXT:
        return mark
    if row.vr == "PN":
        return f"Zqfamily^{mark}={FAMILY}^{mark}"
    if row.vr == "UI":
        return f"{ROOT}.{row.tag}"
    if row.vr == "SQ":
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = mark, "99ZQ", mark
        item.PersonName = f"Zqfamily^{mark}"
        item.TextValue, item.UID = mark, f"{ROOT}.{row.tag}.1"
        item.ReferencedSOPInstanceUID = f"{ROOT}.{row.tag}.2"
        return Sequence([item])
    return LITERAL.get(row.vr, mark.encode() if row.vr in BINARY else None)


def plant(dataset: FileDataset, z: int) -> None:
    """Set sentinels in all attributes of the table, at the top level and in sequences, and in attributes beyond it."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    nested = Dataset()
    for row in table_rows():
        value = value_of(row)
        keyword = Tag(row.tag)
        if value is None or (dictionary_has_tag(row.tag) and dataset.get(keyword) and _needed(dataset, row)):
            continue
        dataset.add_new(row.tag, row.vr, value)
        nested.add_new(row.tag, row.vr, value_of(row))
    for keyword in REQUIRED_UIDS:
        setattr(dataset, keyword, f"{ROOT}.1.{len(keyword)}{f'.{z + 1}' if keyword == 'SOPInstanceUID' else ''}")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.SourceApplicationEntityTitle = f"{MARK}0020016"
    dataset.preamble = f"{MARK}PREAMBLE".encode().ljust(128, b"\0")
    # A sequence that is not in the table and contains all attributes of the table, at two levels.
    inner = Dataset()
    inner.update(nested)
    nested.ProcedureCodeSequence = Sequence([inner])
    dataset.ContrastBolusAgentSequence = Sequence([nested])
    block = dataset.private_block(0x0029, f"{MARK}VENDOR", create=True)
    block.add_new(1, "LO", f"{MARK}PRIVATE")
    block.add_new(2, "PN", f"Zqfamily^{FAMILY}")
    for group in (0x5000, 0x6000, 0x6002):
        dataset.add_new((group, 0x0022), "LO", f"{MARK}{group:04X}")
        dataset.add_new((group, 0x3000), "OW", f"{MARK}{group:04X}!".encode())
    # An attribute that is in no edition of the standard, and one that is not in the CT Image IOD.
    dataset.add_new(0x00101FFE, "LO", f"{MARK}UNKNOWN")
    dataset.add_new(0x00401008, "LO", f"{MARK}FOREIGN")
    dataset.PatientBirthDateInAlternativeCalendar = f"{MARK}CALENDAR"
    dataset.PatientName = f"Zqfamily^{MARK}00100010={FAMILY}"
    dataset.PatientID = f"{MARK}0100020"
    dataset.BurnedInAnnotation = "NO"


def _needed(dataset: FileDataset, row: Row) -> bool:
    return dataset[row.tag].keyword in REQUIRED_UIDS


def leaks(folder: Path) -> list[str]:
    """Return the sentinels in names and contents of files below `folder`, including decoded zarr arrays."""
    leaked = []
    for path in folder.rglob("*"):
        leaked += [f"the name {path.name}" for _ in sentinels_in(str(path.relative_to(folder)).encode())]
        if path.is_file():
            leaked += [f"{path.name}: {sentinel!r}" for sentinel in sentinels_in(path.read_bytes())]
    for group in folder.rglob("zarr.json"):
        array = zarr.open(str(group.parent), mode="r")
        if isinstance(array, zarr.Array):
            leaked += [
                f"{group.parent.name}: {sentinel!r}" for sentinel in sentinels_in(memoryview(array[...]).tobytes())
            ]
    return leaked


EMBEDDED = re.compile(rb"data:[a-z/]+;base64,([A-Za-z0-9+/=]+)")
"""Images embedded in a page. Their base64 text may match by chance, so the decoded bytes are searched."""


def sentinels_in(content: bytes) -> Iterator[bytes]:
    """Yield the sentinels that occur in `content`, in upper or lower case."""
    images = [base64.b64decode(encoded) for encoded in EMBEDDED.findall(content)]
    lower = b"".join([EMBEDDED.sub(b"", content), *images]).lower()
    yield from (sentinel for sentinel in SENTINELS if sentinel.lower() in lower)
