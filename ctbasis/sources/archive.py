"""Zip archives among a source's objects: their members take their place, each checked before anything believes it."""

from __future__ import annotations

import stat
import sys
import uuid
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from ctbasis.sources.source import RemoteObject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctbasis.sources.source import Source

ARCHIVE = ".zip"

MOST_MEMBERS = 1_000_000
"""Members of an archive; their directory alone takes 100 MB by then."""

LARGEST_RATIO = 200
"""Times its own size that an archive may unpack to: CT shrinks to a third, an image of mere air to a fiftieth."""

PIECE = 1 << 20


class Unpacked:
    """A source whose archives are opened; those within archives are not.

    What cannot be unpacked is left out and named on standard error; an archive that does not open at all stays what it
    is, and the matrix step sets it aside.

    Args:
        source: What the objects come from.
        bring: Downloads one of them to a file, with patience.
        scratch: A folder for archives and members on their way.
        named: Whether what is left out may be called by its key, and not by its number.
    """

    def __init__(
        self, source: Source, bring: Callable[[RemoteObject, Path], object], scratch: Path, *, named: bool = True
    ) -> None:
        self._source = source
        self._bring = bring
        self._scratch = scratch
        self._named = named
        self._archives = 0
        self._members: set[str] = set()
        self.left_out: list[str] = []

    def objects(self) -> Iterator[RemoteObject]:
        """Yield the source's objects, and in place of an archive its members, `/` between the two names."""
        for entry in self._source.objects():
            if entry.key.lower().endswith(ARCHIVE):
                yield from self._unpacked(entry)
            else:
                yield entry

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Move a member that is unpacked already, or ask the source."""
        if entry.location not in self._members:
            return self._source.download(entry, target)
        Path(entry.location).replace(target)
        return True

    def _unpacked(self, entry: RemoteObject) -> Iterator[RemoteObject]:
        path = self._scratch / uuid.uuid4().hex
        self._archives += 1
        name = entry.key if self._named else f"archive {self._archives}"
        self._bring(entry, path)
        try:
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
                fault = _fault(members, path.stat().st_size)
                if fault:
                    self._leave_out(name, fault)
                    return
                for number, member in enumerate(members, start=1):
                    fault = _fault_of(member) or ""
                    unpacked = "" if fault else self._extract(archive, member)
                    if not unpacked:
                        self._leave_out(f"{name}, member {number}", fault or "it is damaged")
                        continue
                    etag = f"{member.CRC:08x} in {entry.etag}"
                    yield RemoteObject(f"{entry.key}/{member.filename}", unpacked, member.file_size, etag)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
            yield entry
        finally:
            path.unlink(missing_ok=True)

    def _extract(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
        """Unpack one member, no more of it than it claims; return its path, or nothing where it is damaged."""
        path = self._scratch / uuid.uuid4().hex
        size = 0
        try:
            with archive.open(member) as content, path.open("wb") as file:
                while piece := content.read(PIECE):
                    size += len(piece)
                    if size > member.file_size:
                        break
                    file.write(piece)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError):
            size = -1
        if size != member.file_size:
            path.unlink(missing_ok=True)
            return ""
        self._members.add(str(path))
        return str(path)

    def _leave_out(self, what: str, why: str) -> None:
        self.left_out.append(f"{what}: {why}")
        sys.stderr.write(f"WARNING: {what} is left out: {why}\n")
        sys.stderr.flush()


def _fault(members: list[zipfile.ZipInfo], size: int) -> str:
    if len(members) > MOST_MEMBERS:
        return f"it has more than {MOST_MEMBERS} members"
    claimed = sum(member.file_size for member in members)
    if claimed > LARGEST_RATIO * size:
        return f"it unpacks to more than {LARGEST_RATIO} times its size"
    return ""


def _fault_of(member: zipfile.ZipInfo) -> str:
    if member.flag_bits & 1:
        return "it is encrypted"
    kind = stat.S_IFMT(member.external_attr >> 16)
    return "" if kind in {0, stat.S_IFREG} else "it is a link or a device"
