"""Members of zip archives that stay in the source: listed and read by ranges, without fetching the archives."""

from __future__ import annotations

import threading
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from ctbasis.errors import CtbasisError
from ctbasis.sources.ranged_file import RangedFile
from ctbasis.sources.source import RemoteObject
from ctbasis.sources.zip_archive import DAMAGED, archive_fault, member_fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from ctbasis.sources.source import Source

MAX_OPEN = 16
"""Archives whose directories are kept in memory."""


class DamagedMemberError(Exception):
    """Raised if a member cannot be unpacked."""


@dataclass
class _Archive:
    """An open archive. Its members are read one at a time."""

    content: zipfile.ZipFile
    files: list[zipfile.ZipInfo]
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Member:
    """A member of an archive.

    Attributes:
        entry: The member as an object; its key is `archive/member`, as `UnzippedSource` names it.
        fault: Why the member, or the whole archive, cannot be unpacked; empty if it can be read.
    """

    entry: RemoteObject
    fault: str = ""


class ZipMembers:
    """The members of the zip archives in a source, for reading headers.

    Bytes at the start of a member cost a range of about as many bytes of the archive. Those further behind in a
    compressed member cost everything before them, because it has to be unpacked.

    Args:
        source: The source with the archives.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Archive] = OrderedDict()

    def members(self, archive: RemoteObject) -> Iterator[Member]:
        """Yield the members of an archive; one member with a fault for an archive that is refused as a whole.

        Raises:
            zipfile.BadZipFile: The object is no zip archive, or its directory is damaged.
            UnreachableError: The source does not answer.
            CtbasisError: The source refuses to read it.
        """
        files = self._opened(archive).files
        fault = archive_fault(files, archive.size or 0)
        if fault:
            yield Member(archive, fault)
            return
        names: set[str] = set()
        for number, member in enumerate(files):
            # An archive may hold several members of one name.
            name = member.filename if member.filename not in names else f"{member.filename}~{number}"
            names.add(name)
            etag = f"{member.CRC:08x} in {archive.etag}"
            entry = RemoteObject(f"{archive.key}/{name}", str(number), member.file_size, etag)
            yield Member(entry, member_fault(member))

    def read(self, archive: RemoteObject, entry: RemoteObject, start: int, stop: int) -> bytes:
        """Return a range of an unpacked member.

        Raises:
            DamagedMemberError: The member cannot be unpacked.
            UnreachableError: The source does not answer.
            CtbasisError: The source refuses to read it.
        """
        opened = self._opened(archive)
        try:
            with opened.lock, opened.content.open(opened.files[int(entry.location)]) as member:
                member.seek(start)
                return member.read(max(0, min(stop, entry.size or 0) - start))
        except CtbasisError:
            raise
        except DAMAGED as error:
            raise DamagedMemberError from error

    def _opened(self, archive: RemoteObject) -> _Archive:
        with self._lock:
            if archive.key not in self._open:
                file = cast("BinaryIO", RangedFile(self._source, archive, archive.size or 0))
                try:
                    content = zipfile.ZipFile(file)
                except CtbasisError:
                    raise
                except DAMAGED as error:
                    raise zipfile.BadZipFile from error
                files = [member for member in content.infolist() if not member.is_dir()]
                self._open[archive.key] = _Archive(content, files)
                if len(self._open) > MAX_OPEN:
                    self._open.popitem(last=False)
            self._open.move_to_end(archive.key)
            return self._open[archive.key]
