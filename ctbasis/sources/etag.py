"""Comparing content with the ETag of a listing: an MD5, an MD5 of the MD5s of an upload's parts, a CRC-32C, or none."""

from __future__ import annotations

import hashlib
import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import google_crc32c

if TYPE_CHECKING:
    from pathlib import Path

MEBIBYTE = 1 << 20

PART_SIZES = tuple(size * MEBIBYTE for size in (5, 8, 10, 15, 16, 25, 32, 50, 64, 100, 128, 256, 512, 1024))
"""Part sizes in bytes that upload tools use; S3 does not report it. 8 MiB is the default of boto3 and the AWS CLI."""

SINGLE = re.compile(r"[0-9a-f]{32}")
MULTIPART = re.compile(r"[0-9a-f]{32}-([0-9]+)")
CRC32C = re.compile(r"crc32c-[0-9a-f]{8}")
"""The form in which sources give the CRC-32C of an object that has no MD5, such as a composed one of Google."""


class Verdict(Enum):
    """Result of the comparison of content with an ETag."""

    MATCHES = auto()
    DIFFERS = auto()
    UNKNOWN = auto()


class Digest:
    """Digests of an object's content, updated chunk by chunk, to be compared with its ETag and size.

    Args:
        etag: The ETag without quotes. A value that has not the form of a digest cannot be compared with the content.
        size: Expected size in bytes; None if it is not known.
    """

    def __init__(self, etag: str, size: int | None) -> None:
        self._etag = etag
        self._size = size
        self._received = 0
        multipart = MULTIPART.fullmatch(etag)
        parts = int(multipart[1]) if multipart else 0
        # Several part sizes may give the same number of parts, so the ETag is computed for each of them.
        self._multipart = [
            _MultipartDigest(part) for part in PART_SIZES if parts and size is not None and -(-size // part) == parts
        ]
        self._whole = _whole_digest(etag)

    def update(self, data: bytes) -> None:
        """Add the next bytes of the content."""
        self._received += len(data)
        if self._whole is not None:
            self._whole.update(data)
        for digest in self._multipart:
            digest.update(data)

    @property
    def is_comparable(self) -> bool:
        """Whether the ETag can be compared with the content, so that the content is worth reading."""
        return self._whole is not None or bool(self._multipart)

    def verdict(self) -> Verdict:
        """Compare the size, then the content with the ETag."""
        if self._size not in {None, self._received}:
            return Verdict.DIFFERS
        if self._whole is not None:
            expected = self._etag.removeprefix("crc32c-")
            return Verdict.MATCHES if self._whole.digest().hex() == expected else Verdict.DIFFERS
        # The upload may have used another part size, so a mismatch proves nothing.
        return Verdict.MATCHES if any(digest.etag() == self._etag for digest in self._multipart) else Verdict.UNKNOWN

    def update_from(self, path: Path) -> None:
        """Add the content of a file."""
        with path.open("rb") as file:
            while data := file.read(MEBIBYTE):
                self.update(data)


def _whole_digest(etag: str) -> Any:
    """Return the digest of a whole content that the form of the ETag asks for, or None."""
    if SINGLE.fullmatch(etag):
        return hashlib.md5(usedforsecurity=False)
    return google_crc32c.Checksum() if CRC32C.fullmatch(etag) else None  # type: ignore[no-untyped-call] # untyped


class _MultipartDigest:
    """The ETag of a multipart upload: the MD5 of the MD5s of its parts, and the number of parts."""

    def __init__(self, part_size: int) -> None:
        self._part_size = part_size
        self._remaining = part_size
        self._current = hashlib.md5(usedforsecurity=False)
        self._digests: list[bytes] = []

    def update(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._current.update(view[: self._remaining])
            taken = min(self._remaining, len(view))
            self._remaining -= taken
            view = view[taken:]
            if self._remaining == 0:
                self._finish_part()

    def etag(self) -> str:
        digests = [*self._digests]
        if self._remaining < self._part_size:
            digests.append(self._current.digest())
        return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"

    def _finish_part(self) -> None:
        self._digests.append(self._current.digest())
        self._current = hashlib.md5(usedforsecurity=False)
        self._remaining = self._part_size
