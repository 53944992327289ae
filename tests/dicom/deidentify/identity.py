"""A patient who can be found again: a sentinel in every attribute of PS3.15 table E.1-1, and a search for them."""

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
"""Begins every sentinel of text; long enough to be found nowhere by chance, and with a tag behind it a CS still."""

FAMILY = "小東"
ROOT = "1.2.826.0.77777"
DATE, TIME, AGE, WHOLE, NUMBER = "19110713", "071359.7713", "097Y", "77123456", "7712345.5"

SENTINELS = [
    *(text.encode() for text in (MARK, ROOT, DATE, TIME, WHOLE, NUMBER, AGE, "Zqfamily")),
    *(FAMILY.encode(codec) for codec in ("utf-8", "gb18030", "utf-16-le", "utf-16-be")),
    # As JSON writes it.
    b"\\u5c0f\\u6771",
]
"""What must be found nowhere."""

TEXT = {"LO", "SH", "LT", "ST", "UC", "UT", "CS", "AE", "UR"}
LITERAL = {"DA": DATE, "TM": TIME, "DT": f"{DATE}{TIME}", "AS": AGE, "IS": WHOLE, "DS": NUMBER}
BINARY = {"OB", "OW", "UN", "OF", "OD", "OL", "OV"}

OF_THE_PIXELS = {"SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"}
"""Attributes that a slice needs to be one: the writer's own, under `ROOT`."""


@dataclass(frozen=True)
class Row:
    """A row of the table that names one tag of a data set."""

    tag: int
    name: str

    @property
    def vr(self) -> str:
        """Its value representation; text where this pydicom does not know the attribute."""
        return dictionary_VR(self.tag).split(" or ")[0] if dictionary_has_tag(self.tag) else "LO"


def listed() -> list[Row]:
    """Return the rows whose attribute may stand in a data set: not those of command and file meta groups."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["tag"] != "private" and "x" not in row["tag"]]
    return [Row(int(row["tag"], 16), row["name"]) for row in rows if int(row["tag"], 16) >> 16 > 0x0007]


def value_of(row: Row) -> Any:
    """Return a sentinel for the attribute, None where its representation holds only binary numbers."""
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
    """Put a sentinel into every attribute of the table, at the top and in sequences, and where no table looks."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    nested = Dataset()
    for row in listed():
        value = value_of(row)
        keyword = Tag(row.tag)
        if value is None or (dictionary_has_tag(row.tag) and dataset.get(keyword) and _needed(dataset, row)):
            continue
        dataset.add_new(row.tag, row.vr, value)
        nested.add_new(row.tag, row.vr, value_of(row))
    for keyword in OF_THE_PIXELS:
        setattr(dataset, keyword, f"{ROOT}.1.{len(keyword)}{f'.{z + 1}' if keyword == 'SOPInstanceUID' else ''}")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.SourceApplicationEntityTitle = f"{MARK}0020016"
    dataset.preamble = f"{MARK}PREAMBLE".encode().ljust(128, b"\0")
    # A sequence that the table does not list, and in which everything is listed; and one more level.
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
    # What no edition of the standard knows, and what is no attribute of a CT image.
    dataset.add_new(0x00101FFE, "LO", f"{MARK}UNKNOWN")
    dataset.add_new(0x00401008, "LO", f"{MARK}FOREIGN")
    dataset.PatientBirthDateInAlternativeCalendar = f"{MARK}CALENDAR"
    dataset.PatientName = f"Zqfamily^{MARK}00100010={FAMILY}"
    dataset.PatientID = f"{MARK}0100020"
    dataset.BurnedInAnnotation = "NO"


def _needed(dataset: FileDataset, row: Row) -> bool:
    return dataset[row.tag].keyword in OF_THE_PIXELS


def leaks(folder: Path) -> list[str]:
    """Return which sentinels are in names or contents of files below `folder`, zarr arrays unpacked."""
    found = []
    for path in folder.rglob("*"):
        found += [f"the name {path.name}" for _ in sentinels_in(str(path.relative_to(folder)).encode())]
        if path.is_file():
            found += [f"{path.name}: {sentinel!r}" for sentinel in sentinels_in(path.read_bytes())]
    for group in folder.rglob("zarr.json"):
        array = zarr.open(str(group.parent), mode="r")
        if isinstance(array, zarr.Array):
            found += [
                f"{group.parent.name}: {sentinel!r}" for sentinel in sentinels_in(memoryview(array[...]).tobytes())
            ]
    return found


EMBEDDED = re.compile(rb"data:[a-z/]+;base64,([A-Za-z0-9+/=]+)")
"""Pictures in a page: their letters may be anything, so what they stand for is searched."""


def sentinels_in(content: bytes) -> Iterator[bytes]:
    """Yield the sentinels that `content` holds, in whatever case."""
    pictures = [base64.b64decode(found) for found in EMBEDDED.findall(content)]
    lower = b"".join([EMBEDDED.sub(b"", content), *pictures]).lower()
    yield from (sentinel for sentinel in SENTINELS if sentinel.lower() in lower)
