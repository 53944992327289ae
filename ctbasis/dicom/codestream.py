"""The image size that a compressed frame itself states, to be compared before a decoder takes memory for it.

Decoders of JPEG-LS and JPEG 2000 give values without a shape, so a frame that is as large but of other sides than the
header says would be sheared into noise; and one that claims gigabytes would have them allocated.
"""

from __future__ import annotations

import struct

START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
"""SOC and SIZ: how a JPEG 2000 codestream begins (ISO 15444-1 A.4, A.5.1), be it bare or in a JP2 file."""

BOXES = 4096
"""Bytes of a JP2 file's boxes before the codestream."""

START_OF_IMAGE = b"\xff\xd8"
START_OF_FRAME = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}
"""SOF markers of JPEG (ISO 10918-1 B.1.1.3) and of JPEG-LS (ISO 14495-1)."""

STANDING_ALONE = {0x01, *range(0xD0, 0xD8)}
START_OF_SCAN = 0xDA

Size = tuple[int, int, int]


def jpeg_size(frame: bytes) -> Size | None:
    """Return rows, columns and samples that a JPEG or JPEG-LS codestream states, None where it states none."""
    if frame[:2] != START_OF_IMAGE:
        return None
    at = 2
    while at + 4 <= len(frame):
        if frame[at] != 0xFF:  # noqa: PLR2004 - how every marker begins
            return None
        marker = frame[at + 1]
        if marker in START_OF_FRAME:
            if at + 10 > len(frame):
                return None
            rows, columns, samples = struct.unpack(">HHB", frame[at + 5 : at + 10])
            return rows, columns, samples
        if marker == START_OF_SCAN:
            return None
        # A marker may be preceded by fill bytes, which look like markers of nothing.
        lone = marker in STANDING_ALONE
        at += 1 if marker == 0xFF else 2 if lone else 2 + struct.unpack(">H", frame[at + 2 : at + 4])[0]  # noqa: PLR2004
    return None


def jpeg_2000_size(frame: bytes) -> Size | None:
    """Return rows, columns and samples that a JPEG 2000 or HTJ2K codestream states, None where it states none."""
    at = frame.find(START_OF_CODESTREAM, 0, BOXES)
    stated = frame[at + 8 : at + 42]
    if at < 0 or len(stated) < 34:  # noqa: PLR2004 - SIZ up to the number of components
        return None
    right, bottom, left, top = struct.unpack(">4I", stated[:16])
    (samples,) = struct.unpack(">H", stated[32:34])
    return bottom - top, right - left, samples
