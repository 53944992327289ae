"""Zip archives in a source: each is replaced by its members, which are checked before they are used."""

from __future__ import annotations

import lzma
import stat
import struct
import uuid
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from ctbasis.printable import say
from ctbasis.sources.disk_space import require_space
from ctbasis.sources.source import RemoteObject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctbasis.sources.source import Source

ZIP_SUFFIX = ".zip"

MAX_MEMBERS = 1_000_000
"""Members of an archive at most; the central directory of such an archive takes 100 MB of memory."""

MAX_RATIO = 200
"""Largest ratio of unpacked to packed size: CT compresses to a third, an image of air alone to a fiftieth."""

READ_BYTES = 1 << 20

METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
"""Compression methods that Python unpacks."""

METHOD_NAMES = {
    1: "Shrink",
    6: "Implode",
    9: "Deflate64",
    93: "Zstandard",
    95: "XZ",
    97: "WavPack",
    98: "PPMd",
    99: "AES encryption",
}
"""Names of other methods, as in section 4.4.5 of PKWARE's APPNOTE.TXT."""

DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""Exceptions of zipfile and its decompressors for a damaged archive, an unknown method or a wrong size; bz2 raises
OSError."""


class UnzippedSource:
    """A source in which each zip archive is replaced by its members. Archives inside of archives are not opened.

    A member that cannot be unpacked is left out and reported on standard error. An archive that cannot be opened at all
    is passed on as a file; the matrix step then sets it aside.

    Attributes:
        left_out: Archives and members that were left out, each with the reason.

    Args:
        source: The source with the archives.
        download: Downloads an object of that source to a file, with retries.
        scratch: Folder for temporary files.
        show_keys: Whether messages may name an archive by its key, rather than by a number.
    """

    def __init__(
        self,
        source: Source,
        download: Callable[[RemoteObject, Path], object],
        scratch: Path,
        *,
        show_keys: bool = True,
    ) -> None:
        self._source = source
        self._download = download
        self._scratch = scratch
        self._show_keys = show_keys
        self._archives = 0
        self._members: set[str] = set()
        self.left_out: list[str] = []

    def objects(self) -> Iterator[RemoteObject]:
        """Yield the objects of the source; the members of an archive get the keys `archive/member`."""
        for entry in self._source.objects():
            if entry.key.lower().endswith(ZIP_SUFFIX):
                yield from self._unpacked(entry)
            else:
                yield entry

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Move an unpacked member to `target`, or download another object from the source."""
        if entry.location not in self._members:
            return self._source.download(entry, target)
        Path(entry.location).replace(target)
        return True

    def read(self, entry: RemoteObject, start: int, stop: int) -> bytes:
        """Return a range of an unpacked member, or of another object of the source."""
        if entry.location not in self._members:
            return self._source.read(entry, start, stop)
        with Path(entry.location).open("rb") as file:
            file.seek(start)
            return file.read(max(0, stop - start))

    def _unpacked(self, entry: RemoteObject) -> Iterator[RemoteObject]:
        path = self._scratch / uuid.uuid4().hex
        self._archives += 1
        name = entry.key if self._show_keys else f"archive {self._archives}"
        self._download(entry, path)
        try:
            archive = _opened(path)
            if archive is None:
                # The matrix step sets the file aside, and names what it is.
                yield entry
                return
            with archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
                fault = archive_fault(members, path.stat().st_size)
                if fault:
                    self._leave_out(name, fault)
                    return
                size = sum(member.file_size for member in members)
                require_space(size, self._scratch, f"the content of {name}")
                for number, member in enumerate(members, start=1):
                    fault = member_fault(member)
                    unpacked = "" if fault else self._extract(archive, member)
                    if not unpacked:
                        self._leave_out(f"{name}, member {number}", fault or "it is damaged")
                        continue
                    etag = f"{member.CRC:08x} in {entry.etag}"
                    yield RemoteObject(f"{entry.key}/{member.filename}", unpacked, member.file_size, etag)
        finally:
            path.unlink(missing_ok=True)

    def _extract(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
        """Unpack a member to a file, at most to its declared size; return the path, or "" if it is damaged.

        Raises:
            OSError: The file cannot be written.
        """
        path = self._scratch / uuid.uuid4().hex
        size = 0
        with path.open("wb") as file:
            for data in _content(archive, member):
                if data is None or size + len(data) > member.file_size:
                    size = -1
                    break
                size += len(data)
                file.write(data)
        if size != member.file_size:
            path.unlink(missing_ok=True)
            return ""
        self._members.add(str(path))
        return str(path)

    def _leave_out(self, name: str, reason: str) -> None:
        self.left_out.append(f"{name}: {reason}")
        say(f"WARNING: {name} is left out: {reason}")


def _opened(path: Path) -> zipfile.ZipFile | None:
    """Return the opened archive, or None if it is no zip archive or its directory is damaged."""
    try:
        return zipfile.ZipFile(path)
    except DAMAGED:
        return None


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes | None]:
    """Yield the content of a member in pieces, and None in place of a piece that is damaged."""
    try:
        with archive.open(member) as content:
            while data := content.read(READ_BYTES):
                yield data
    except DAMAGED:
        yield None


def archive_fault(members: list[zipfile.ZipInfo], size: int) -> str:
    """Return why an archive is not unpacked; empty if it is.

    Args:
        members: Its members, folders not counted.
        size: Its size in bytes.
    """
    if not members:
        return "it holds no file"
    if len(members) > MAX_MEMBERS:
        return f"it has more than {MAX_MEMBERS} members"
    unpacked = sum(member.file_size for member in members)
    if unpacked > MAX_RATIO * size:
        return f"it unpacks to more than {MAX_RATIO} times its size"
    return ""


def member_fault(member: zipfile.ZipInfo) -> str:
    """Return why a member is not unpacked; empty if it is."""
    if member.flag_bits & 1:
        return "it is encrypted"
    if member.compress_type not in METHODS:
        method = METHOD_NAMES.get(member.compress_type, "a method")
        return f"it is compressed by {method} (method {member.compress_type}), which ctbasis cannot unpack"
    kind = stat.S_IFMT(member.external_attr >> 16)
    return "" if kind in {0, stat.S_IFREG} else "it is a link or a device"
