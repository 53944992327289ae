"""File names for keys that may hold anything: below the destination, storable, and no two alike."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from itertools import accumulate, count

OWN_PREFIX = ".ctbasis-"
"""Begins the names of fetch's own notes."""

LONGEST = 200
"""Bytes of a part of a name: file systems take 255."""

DEEPEST = 3000
"""Bytes of a whole name: kernels take 4,096 with the destination before it."""

UNSAFE = re.compile(r"[\x00-\x1f\x7f%\\]|[\ud800-\udfff]")


class Names:
    """Gives each key of a listing its file name; the same listing gives the same names.

    A key keeps its own name wherever that can be stored. Otherwise what cannot is percent-encoded, and where a name is
    taken (file systems that ignore case, a key that is the folder of another), or is too long, a digest of the key is
    added.

    Args:
        opaque: Give numbers in the place of names, for keys that may name a patient.
    """

    def __init__(self, *, opaque: bool = False) -> None:
        self._numbers = count(1) if opaque else None
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def name(self, key: str) -> str:
        """Return a relative path with `/` between its parts, for a key not asked before."""
        if self._numbers is not None:
            return f"object-{next(self._numbers):06d}"
        name = "/".join(_part(part) for part in key.split("/"))
        tries = count()
        while len(name.encode()) > DEEPEST or not self._is_free(name):
            # A digest may itself be taken: by the folder that an over-long part of another key became.
            name = _with_digest(_part(key.rpartition("/")[2]), f"{next(tries)}/{key}")
        same = _same(name)
        self._files.add(same)
        self._folders.update(_folders(same))
        return name

    def _is_free(self, name: str) -> bool:
        same = _same(name)
        taken = same in self._files or same in self._folders
        return not taken and not any(folder in self._files for folder in _folders(same))


def _part(part: str) -> str:
    """Make one part of a key storable; different parts stay different."""
    encoded = UNSAFE.sub(
        lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode(errors="surrogatepass")), part
    )
    if encoded in {".", ".."} or encoded.startswith(OWN_PREFIX):
        encoded = f"%2E{encoded[1:]}"
    if len(encoded.encode()) > LONGEST:
        return _with_digest(encoded, part)
    # An empty part, as in a//b, is no name; a bare % is one that nothing else is encoded to.
    return encoded or "%"


def _with_digest(name: str, key: str) -> str:
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:16]
    stem = name.encode()[: LONGEST - 40].decode(errors="ignore")
    return f"{stem}~{digest}"


def _same(name: str) -> str:
    """Return what two names share that some file system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _folders(name: str) -> list[str]:
    return list(accumulate(name.split("/")[:-1], lambda above, part: f"{above}/{part}"))
