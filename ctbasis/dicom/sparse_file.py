"""A file of which only some ranges of bytes are at hand: headers are read without transferring the pixel data."""

from __future__ import annotations

import io
from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ENDLESS = 1 << 62
"""Size of a file whose size is not known: it is taken as complete."""


class MissingBytesError(Exception):
    """Raised by a read of bytes that are not at hand.

    Args:
        start: Offset of the first byte that the reader needs.
        stop: Offset after the last one.
    """

    def __init__(self, start: int, stop: int) -> None:
        super().__init__(start, stop)
        self.start = start
        self.stop = stop


class SparseFile(io.RawIOBase):
    """A file of known size and some of its ranges. A read of any other byte raises `MissingBytesError`.

    Args:
        size: Size in bytes; None if it is not known.
        ranges: Offset and content of each range; they do not overlap.
    """

    def __init__(self, size: int | None, ranges: Iterable[tuple[int, bytes]]) -> None:
        self._size = ENDLESS if size is None else size
        self._ranges = sorted(ranges)
        self._starts = [start for start, _ in self._ranges]
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return the next `size` bytes, fewer at the end of the file.

        Raises:
            MissingBytesError: Some of them are not at hand.
        """
        stop = self._size if size is None or size < 0 else min(self._size, self._position + size)
        pieces = []
        position = self._position
        while position < stop:
            piece = self._from(position, stop)
            pieces.append(piece)
            position += len(piece)
        self._position = max(self._position, position)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _from(self, position: int, stop: int) -> bytes:
        at = bisect_right(self._starts, position) - 1
        if at >= 0:
            start, content = self._ranges[at]
            if position < start + len(content):
                return content[position - start : stop - start]
        raise MissingBytesError(position, stop)
