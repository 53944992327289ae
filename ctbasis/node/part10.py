"""The begin of a DICOM file (PS3.10): preamble and file meta information, read before the data set has arrived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom.uid import UID
from pynetdicom.dsutils import create_file_meta, encode_file_meta

from ctbasis.node.spool import PREFIX
from ctbasis.node.status import NotStoredError, Status

if TYPE_CHECKING:
    from typing import Self

MOST_META_BYTES = 64 << 10
"""Bytes of preamble and file meta information at most. Usual ones have less than 1 KiB."""

META_GROUP = b"\x02\x00"

LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""Value representations whose length has 4 bytes, after 2 reserved ones (PS3.5 7.1.2)."""

CLASS_TAG, INSTANCE_TAG, SYNTAX_TAG = b"\x02\x00\x02\x00", b"\x02\x00\x03\x00", b"\x02\x00\x10\x00"


@dataclass(frozen=True)
class FileStart:
    """What the begin of a file says.

    Attributes:
        sop_class: MediaStorageSOPClassUID.
        sop: MediaStorageSOPInstanceUID.
        syntax: TransferSyntaxUID.
        size: Bytes before the data set.
    """

    sop_class: str
    sop: str
    syntax: str
    size: int

    @classmethod
    def parse(cls, start: bytes | bytearray) -> Self | None:
        """Return what the begin of a file says; None if more of it must arrive.

        A file without preamble, as dicomweb-client sends a data set that has none, is accepted.

        Args:
            start: The bytes that have arrived.

        Raises:
            NotStoredError: It is no DICOM file, or its file meta information is damaged or endless.
        """
        known = min(len(start), len(META_GROUP))
        at = 0 if start[:known] == META_GROUP[:known] else len(PREFIX)
        if at and len(start) >= at and start[at - 4 : at] != PREFIX[-4:]:
            raise NotStoredError(Status.CANNOT_UNDERSTAND, "the part is no DICOM file")
        found: dict[bytes, str] = {}
        while True:
            if len(start) > MOST_META_BYTES and at > MOST_META_BYTES:
                raise NotStoredError(Status.CANNOT_UNDERSTAND, "the file meta information does not end")
            if len(start) < at + 2:
                return None
            if start[at : at + 2] != META_GROUP:
                break
            if len(start) < at + 12:
                return None
            long = bytes(start[at + 4 : at + 6]) in LONG
            head = 12 if long else 8
            length = int.from_bytes(start[at + 8 : at + 12] if long else start[at + 6 : at + 8], "little")
            if length > MOST_META_BYTES:
                raise NotStoredError(Status.CANNOT_UNDERSTAND, "the file meta information is damaged")
            tag = bytes(start[at : at + 4])
            if tag in {CLASS_TAG, INSTANCE_TAG, SYNTAX_TAG}:
                value = bytes(start[at + head : at + head + length])
                found[tag] = value.decode("ascii", "replace").strip("\0 ")
            at += head + length
        return cls(found.get(CLASS_TAG, ""), found.get(INSTANCE_TAG, ""), found.get(SYNTAX_TAG, ""), at)

    def meta(self) -> bytes:
        """Return file meta information as the node writes it, like that of an instance that came by C-STORE."""
        return encode_file_meta(
            create_file_meta(
                sop_class_uid=UID(self.sop_class), sop_instance_uid=UID(self.sop), transfer_syntax=UID(self.syntax)
            )
        )
