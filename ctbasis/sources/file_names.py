"""File names for object keys, which may hold any characters: unique, valid, and inside of the destination."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from itertools import accumulate, count

OWN_PREFIX = ".ctbasis-"
"""Prefix of the names of files and folders that the fetch step itself writes."""

MAX_PART_BYTES = 200
"""Length in bytes of one part of a path; file systems allow 255."""

MAX_PATH_BYTES = 3000
"""Length in bytes of a path relative to the destination; the kernel allows 4,096 with the destination."""

UNSAFE = re.compile(r"[\x00-\x1f\x7f%\\]|[\ud800-\udfff]")


class FileNames:
    """Assigns a file name to each key of a listing. The same listing always gives the same names.

    The name is the key itself if it is a valid path. Otherwise invalid characters are percent-encoded. A digest of the
    key is added if the name is too long or already taken, for example because file systems may ignore case, or because
    one key is the folder of another.

    Args:
        opaque: Assign numbers instead of names. For keys that may contain a patient's name.
    """

    def __init__(self, *, opaque: bool = False) -> None:
        self._numbers = count(1) if opaque else None
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def name(self, key: str) -> str:
        """Return the relative path, with `/` as the separator, for a key. Call it once per key."""
        if self._numbers is not None:
            return f"object-{next(self._numbers):06d}"
        name = "/".join(_valid_part(part) for part in key.split("/"))
        attempts = count()
        while len(name.encode()) > MAX_PATH_BYTES or not self._is_free(name):
            # The name with a digest may be taken too, by a folder whose name was shortened.
            name = _with_digest(_valid_part(key.rpartition("/")[2]), f"{next(attempts)}/{key}")
        normalized = _normalized(name)
        self._files.add(normalized)
        self._folders.update(_folders(normalized))
        return name

    def _is_free(self, name: str) -> bool:
        normalized = _normalized(name)
        taken = normalized in self._files or normalized in self._folders
        return not taken and not any(folder in self._files for folder in _folders(normalized))


def _valid_part(part: str) -> str:
    """Return a valid name for one part of a key; different parts get different names."""
    encoded = UNSAFE.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode(errors="surrogatepass")), part
    )
    if encoded in {".", ".."} or encoded.startswith(OWN_PREFIX):
        encoded = f"%2E{encoded[1:]}"
    if len(encoded.encode()) > MAX_PART_BYTES:
        return _with_digest(encoded, part)
    # An empty part, as in a//b, is not a valid name. No other part is encoded as a single %.
    return encoded or "%"


def _with_digest(name: str, key: str) -> str:
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:16]
    stem = name.encode()[: MAX_PART_BYTES - 40].decode(errors="ignore")
    return f"{stem}~{digest}"


def _normalized(name: str) -> str:
    """Return a form of the name that is equal for any two names that some file system treats as the same."""
    return unicodedata.normalize("NFC", name).casefold()


def _folders(name: str) -> list[str]:
    """Return all parent folders of a relative path."""
    return list(accumulate(name.split("/")[:-1], lambda parent, part: f"{parent}/{part}"))
