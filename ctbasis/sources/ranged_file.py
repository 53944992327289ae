"""An object of a source as a file: it is read by ranges, in windows of which the last ones are kept."""

from __future__ import annotations

import errno
import io
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from ctbasis.errors import UnreachableError
from ctbasis.sources.retries import repeat

if TYPE_CHECKING:
    from ctbasis.errors import CtbasisError
    from ctbasis.sources.source import RemoteObject, Source

WINDOW_BYTES = 1 << 16
"""Bytes per read from the source."""

MAX_WINDOWS = 32
"""Windows that are kept: 2 MiB."""


def read_with_retries(source: Source, entry: RemoteObject, start: int, stop: int) -> bytes:
    """Return a range of an object, in several attempts if necessary; see `Source.read` and `repeat`.

    Raises:
        UnreachableError: Every attempt failed.
        CtbasisError: The source refuses the read.
    """
    return repeat(partial(source.read, entry, start, stop), partial(_exhausted, entry))


def _exhausted(entry: RemoteObject, reason: str) -> CtbasisError:
    return UnreachableError(
        f"{entry.key!r} could not be read: {reason}",
        expected="the bytes of its header",
        cause="the server is overloaded, the network drops connections, or somebody writes to the source",
        remedy="run the command again; it continues where it stopped",
    )


class RangedFile(io.RawIOBase):
    """A file whose content is that of an object of known size.

    Args:
        source: The source.
        entry: The object.
        size: Its size in bytes.
    """

    def __init__(self, source: Source, entry: RemoteObject, size: int) -> None:
        self._source = source
        self._entry = entry
        self._size = size
        self._position = 0
        self._windows: OrderedDict[int, bytes] = OrderedDict()

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
        """Move to a position, and return it.

        Raises:
            OSError: The position is negative, as of a file.
        """
        position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence] + offset
        if position < 0:
            raise OSError(errno.EINVAL, "negative position")
        self._position = position
        return position

    def read(self, size: int | None = -1) -> bytes:
        """Return the next `size` bytes, fewer at the end of the file.

        Raises:
            UnreachableError: The source does not answer.
            CtbasisError: The source refuses the read.
        """
        stop = self._size if size is None or size < 0 else min(self._size, self._position + size)
        pieces = []
        while self._position < stop:
            number, offset = divmod(self._position, WINDOW_BYTES)
            piece = self._window(number)[offset : offset + stop - self._position]
            if not piece:
                break
            pieces.append(piece)
            self._position += len(piece)
        return b"".join(pieces)

    def _window(self, number: int) -> bytes:
        if number not in self._windows:
            start = number * WINDOW_BYTES
            self._windows[number] = read_with_retries(self._source, self._entry, start, start + WINDOW_BYTES)
            if len(self._windows) > MAX_WINDOWS:
                self._windows.popitem(last=False)
        self._windows.move_to_end(number)
        return self._windows[number]
