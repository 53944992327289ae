"""The image size stated in a compressed frame, which is compared with the header before the frame is decoded.

Decoders of JPEG-LS and JPEG 2000 return values without a shape. A frame with other sides than the header states, but as
many pixels, would be sheared into noise, and a frame that claims gigabytes would make the decoder allocate them.
"""

from __future__ import annotations

import struct

START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
"""SOC and SIZ, the first markers of a JPEG 2000 codestream (ISO 15444-1 A.4, A.5.1), with or without a JP2 file."""

MAX_BOXES_BYTES = 4096
"""Bytes of JP2 boxes before the codestream that are searched."""

START_OF_IMAGE = b"\xff\xd8"
START_OF_FRAME = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}
"""SOF markers of JPEG (ISO 10918-1 B.1.1.3) and of JPEG-LS (ISO 14495-1)."""

WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
START_OF_SCAN = 0xDA

Size = tuple[int, int, int]
"""Rows, columns and samples per pixel."""


def jpeg_size(frame: bytes) -> Size | None:
    """Return the size stated in a JPEG or JPEG-LS codestream, or None if it states none."""
    if frame[:2] != START_OF_IMAGE:
        return None
    position = 2
    while position + 4 <= len(frame):
        if frame[position] != 0xFF:  # noqa: PLR2004 - the first byte of every marker
            return None
        marker = frame[position + 1]
        if marker in START_OF_FRAME:
            if position + 10 > len(frame):
                return None
            rows, columns, samples = struct.unpack(">HHB", frame[position + 5 : position + 10])
            return rows, columns, samples
        if marker == START_OF_SCAN:
            return None
        if marker == 0xFF:  # noqa: PLR2004 - a fill byte, which may precede any marker
            position += 1
        elif marker in WITHOUT_LENGTH:
            position += 2
        else:
            position += 2 + struct.unpack(">H", frame[position + 2 : position + 4])[0]
    return None


def jpeg_2000_size(frame: bytes) -> Size | None:
    """Return the size stated in a JPEG 2000 or HTJ2K codestream, or None if it states none."""
    position = frame.find(START_OF_CODESTREAM, 0, MAX_BOXES_BYTES)
    fields = frame[position + 8 : position + 42]
    if position < 0 or len(fields) < 34:  # noqa: PLR2004 - SIZ up to the number of components
        return None
    right, bottom, left, top = struct.unpack(">4I", fields[:16])
    (samples,) = struct.unpack(">H", fields[32:34])
    return bottom - top, right - left, samples
