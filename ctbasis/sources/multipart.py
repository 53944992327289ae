"""Messages of type multipart/related (RFC 2046), read and written as they come.

An answer of WADO-RS has one instance as its only part, and a request of STOW-RS has several. Python's own parser keeps
the whole message in memory.
"""

from __future__ import annotations

from email.message import Message
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_HEAD_BYTES = 64 << 10
"""Bytes before the content of a part, at most: a preamble and the header of the part."""

MAX_BOUNDARY = 70
"""Characters of a boundary at most (RFC 2046, section 5.1.1)."""


class MultipartError(Exception):
    """A message that is not multipart as expected; its text continues a sentence such as "the answer ..."."""


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a Content-Type header names.

    Raises:
        MultipartError: It names another type, or no boundary.
    """
    message = Message()
    message["Content-Type"] = content_type
    boundary = str(message.get_param("boundary", ""))
    if (
        message.get_content_maintype() != "multipart"
        or not 1 <= len(boundary) <= MAX_BOUNDARY
        or not boundary.isascii()
    ):
        raise MultipartError("is not of the type multipart/related with a boundary")
    return boundary.encode()


class Part(Enum):
    """What a `PartReader` finds besides content."""

    BEGIN = "begin"
    END = "end"


class PartReader:
    """Splits a message into its parts while it arrives.

    Attributes:
        ended: Whether the last boundary has arrived.

    Args:
        boundary: Boundary of the message.
    """

    def __init__(self, boundary: bytes) -> None:
        self.ended = False
        self._opening, self._delimiter = b"--" + boundary, b"\r\n--" + boundary
        self._waiting = bytearray()
        self._in_content = False
        self._after_boundary = False

    def feed(self, piece: bytes) -> Iterator[bytes | Part]:
        """Yield what a piece of the message completes.

        Yields:
            `Part.BEGIN`, the content in pieces, and `Part.END`, for each part.

        Raises:
            MultipartError: The head of a part, or what is before the first, is longer than 64 KiB.
        """
        if self.ended:
            # An epilogue, which has no meaning.
            return
        self._waiting += piece
        while not self.ended:
            if self._in_content:
                found = self._waiting.find(self._delimiter)
                # A boundary may lie across two pieces, so that many bytes are held back.
                ready = found if found >= 0 else len(self._waiting) - len(self._delimiter) + 1
                if ready > 0:
                    yield bytes(self._waiting[:ready])
                    del self._waiting[:ready]
                if found < 0:
                    return
                yield Part.END
                del self._waiting[: len(self._delimiter)]
                self._in_content, self._after_boundary = False, True
            elif not self._read_head():
                return
            elif not self.ended:
                self._in_content = True
                yield Part.BEGIN

    def _read_head(self) -> bool:
        """Remove the head of a part, or find the end of the message; return False if more of it must arrive."""
        if self._after_boundary:
            if len(self._waiting) < len(b"--"):
                return False
            self.ended = self._waiting.startswith(b"--")
            if self.ended:
                return True
            start = 0
        else:
            start = self._waiting.find(self._opening)
        line = self._waiting.find(b"\r\n", start) if start >= 0 else -1
        # The header of a part may be empty, and then the empty line follows at once.
        end = self._waiting.find(b"\r\n\r\n", line) if line >= 0 else -1
        if end < 0:
            if len(self._waiting) > MAX_HEAD_BYTES:
                raise MultipartError("has no part in its first 64 KiB" if start < 0 else "has a head of over 64 KiB")
            return False
        del self._waiting[: end + len(b"\r\n\r\n")]
        return True


def only_part(pieces: Iterable[bytes], boundary: bytes) -> Iterator[bytes]:
    """Yield the content of the only part of an answer, piece by piece.

    Args:
        pieces: The answer, as it arrives.
        boundary: Its boundary.

    Raises:
        MultipartError: The answer has no part or several, or ends before its last boundary.
    """
    reader = PartReader(boundary)
    parts = 0
    # The connection serves further requests only after the whole answer has been read.
    for piece in pieces:
        for found in reader.feed(piece):
            if isinstance(found, bytes):
                yield found
            elif found is Part.BEGIN:
                parts += 1
                if parts > 1:
                    raise MultipartError("has more than one part")
    if not reader.ended:
        raise MultipartError("ends before its last boundary")
