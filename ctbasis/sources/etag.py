"""Is this the content that the ETag was made of? S3's ETag is an MD5, a digest of MD5s, or not told."""

from __future__ import annotations

import hashlib
import re
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MEBIBYTE = 1 << 20

PART_SIZES = tuple(size * MEBIBYTE for size in (5, 8, 10, 15, 16, 25, 32, 50, 64, 100, 128, 256, 512, 1024))
"""Parts that upload tools use; S3 does not say which. 8 MiB is the default of boto3 and of AWS's command line."""

SINGLE = re.compile(r"[0-9a-f]{32}")
MULTIPART = re.compile(r"[0-9a-f]{32}-([0-9]+)")


class Verdict(Enum):
    """What an ETag says of a content."""

    MATCHES = auto()
    DIFFERS = auto()
    UNTOLD = auto()


class Digest:
    """Takes in an object's content piece by piece and compares it with what was promised.

    Args:
        etag: Without quotes. One that looks like no MD5 promises nothing.
        size: Bytes that were promised.
    """

    def __init__(self, etag: str, size: int) -> None:
        self._etag = etag
        self._size = size
        self._taken = 0
        multipart = MULTIPART.fullmatch(etag)
        parts = int(multipart[1]) if multipart else 0
        # Several part sizes may give the same number of parts: all are followed, the right one will match.
        self._parted = [_Parted(part) for part in PART_SIZES if parts and -(-size // part) == parts]
        self._whole = hashlib.md5(usedforsecurity=False) if SINGLE.fullmatch(etag) else None

    def update(self, piece: bytes) -> None:
        """Take in the next bytes."""
        self._taken += len(piece)
        if self._whole is not None:
            self._whole.update(piece)
        for parted in self._parted:
            parted.update(piece)

    @property
    def tells(self) -> bool:
        """Whether the ETag may tell the content, so that it is worth reading."""
        return self._whole is not None or bool(self._parted)

    def verdict(self) -> Verdict:
        """Compare what was taken in with what was promised: its size first, then the ETag."""
        if self._taken != self._size:
            return Verdict.DIFFERS
        if self._whole is not None:
            return Verdict.MATCHES if self._whole.hexdigest() == self._etag else Verdict.DIFFERS
        # The parts may have had any size, so that a mismatch proves nothing.
        return Verdict.MATCHES if any(parted.etag() == self._etag for parted in self._parted) else Verdict.UNTOLD

    def update_from(self, path: Path) -> None:
        """Take in the content of a file."""
        with path.open("rb") as file:
            while piece := file.read(MEBIBYTE):
                self.update(piece)


class _Parted:
    """The ETag of a multipart upload: MD5 over the MD5s of its parts, and their number."""

    def __init__(self, part: int) -> None:
        self._part = part
        self._room = part
        self._current = hashlib.md5(usedforsecurity=False)
        self._digests: list[bytes] = []

    def update(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            self._current.update(view[: self._room])
            taken = min(self._room, len(view))
            self._room -= taken
            view = view[taken:]
            if self._room == 0:
                self._close()

    def etag(self) -> str:
        digests = [*self._digests]
        if self._room < self._part:
            digests.append(self._current.digest())
        return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"

    def _close(self) -> None:
        self._digests.append(self._current.digest())
        self._current = hashlib.md5(usedforsecurity=False)
        self._room = self._part
