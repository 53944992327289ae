"""Protocol data units of an association, as bytes: sound ones, and mutations of them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pydicom
from pynetdicom.sop_class import CTImageStorage

if TYPE_CHECKING:
    import random
    from pathlib import Path


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with flipped, removed, repeated or inserted pieces."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(min(len(changed), 1200)) if rng.random() < 0.8 else rng.randrange(len(changed))
        match rng.randrange(5):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at : at + 4] = rng.randbytes(4)
            case 2:
                del changed[at : at + rng.randint(1, 40)]
            case 3:
                changed[at:at] = changed[at : at + rng.randint(1, 200)]
            case _:
                changed[at:at] = rng.randbytes(rng.randint(1, 40))
    return bytes(changed)


def association_request() -> bytes:
    """Return an A-ASSOCIATE-RQ PDU for CT Image Storage, as bytes (PS3.8 9.3.2)."""

    def item(kind: int, content: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(content)) + content

    context = item(0x30, CTImageStorage.encode()) + item(0x40, b"1.2.840.10008.1.2.1")
    user = item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3.4")
    items = (
        item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, struct.pack(">BBBB", 1, 0, 0, 0) + context) + item(0x50, user)
    )
    fixed = struct.pack(">HH", 1, 0) + b"CTBASIS".ljust(16) + b"SCANNER".ljust(16) + bytes(32)
    return struct.pack(">BBL", 1, 0, len(fixed + items)) + fixed + items


def store_request(path: Path) -> bytes:
    """Return the P-DATA-TF PDUs of a C-STORE request (PS3.7 9.3.1)."""
    ds = pydicom.dcmread(path)
    offset = 128 + 4 + 12 + ds.file_meta.FileMetaInformationGroupLength
    data = path.read_bytes()[offset:]

    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, number, len(value)) + value

    def text(value: str) -> bytes:
        return value.encode() + b"\0" * (len(value) % 2)

    command = (
        element(0x0002, text(CTImageStorage))
        + element(0x0100, struct.pack("<H", 1))
        + element(0x0110, struct.pack("<H", 1))
        + element(0x0700, struct.pack("<H", 0))
        + element(0x0800, struct.pack("<H", 1))
        + element(0x1000, text(ds.SOPInstanceUID))
    )
    command = element(0x0000, struct.pack("<L", len(command))) + command

    def pdu(header: int, content: bytes) -> bytes:
        value = struct.pack(">LBB", len(content) + 2, 1, header) + content
        return struct.pack(">BBL", 4, 0, len(value)) + value

    pieces = [data[at : at + 1000] for at in range(0, len(data), 1000)]
    return pdu(3, command) + b"".join(
        pdu(2 if number == len(pieces) else 0, one) for number, one in enumerate(pieces, 1)
    )
