"""The data set of an instance while it is received: a file instead of memory."""

from __future__ import annotations

import hashlib
import os
import uuid
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = b"\0" * 128 + b"DICM"


class Spool(BytesIO):
    """A file that receives a data set. pynetdicom writes the fragments of a C-STORE request to it.

    A write that fails is remembered in `fault` and raises nothing: the rest of the data set is then read from the
    network and dropped, so that the sender can be told why.

    Attributes:
        path: The file.
        fault: Why the data set is not whole; empty if it is.
        size: Bytes of the data set so far.

    Args:
        folder: Folder for the file.
        meta: Encoded file meta information (group 0002), with its group length.
        syntax: TransferSyntaxUID of the data set.
        limit: Bytes of a data set at most.
        fault: Why nothing is to be written from the start.
    """

    def __init__(self, folder: Path, meta: bytes, syntax: str, *, limit: int, fault: str = "") -> None:
        super().__init__()
        self.path = folder / f"{uuid.uuid4().hex}.part"
        self.fault = fault
        self.size = 0
        self._limit = limit
        self._digest = hashlib.sha256(syntax.encode())
        self._file = None
        with self._remembered():
            if not fault:
                self._file = self.path.open("wb")
                self._file.write(PREFIX + meta)

    def write(self, data: Any) -> int:
        """Append a fragment."""
        count = len(data)
        self.size += count
        if self.size > self._limit:
            self.fault = self.fault or f"the data set is larger than {self._limit} bytes"
        if self._file is not None and not self.fault:
            with self._remembered():
                self._file.write(data)
            self._digest.update(data)
        return count

    def complete(self) -> str:
        """Bring the file to the disk and return the SHA-256 of transfer syntax and data set; see `fault` afterwards."""
        with self._remembered():
            if self._file is not None:
                self._file.flush()
                os.fsync(self._file.fileno())
        self._close()
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Remove the file, if it was not moved elsewhere."""
        self._close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file is not None:
            # What is still buffered is written here, and may fail again.
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _remembered(self) -> _Remembered:
        return _Remembered(self)


class _Remembered:
    """A context that turns an OSError into the `fault` of a spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, OSError):
            return False
        self._spool.fault = self._spool.fault or f"the disk refuses to write ({error.strerror or 'unknown reason'})"
        return True
