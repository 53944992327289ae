"""A folder on this machine, or on a volume mounted here: a plain path or `file://`."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ctbasis.errors import CtbasisError
from ctbasis.sources.source import RemoteObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LINK_IMPOSSIBLE = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Another volume, a kernel that protects foreign files, too many links, a file system without them."""


class Folder:
    """The regular files below a folder, or one file alone; they are linked, not copied, where they can be.

    Symbolic links to folders are not followed, and those to files only where they end inside the folder.

    Args:
        uri: A path, or `file:///path`.
        connections: Not needed here.

    Raises:
        CtbasisError: There is neither folder nor file.
    """

    def __init__(self, uri: str, connections: int) -> None:
        del connections
        path = _path(uri)
        self._only = path.name if path.is_file() else ""
        self._root = path.parent if self._only else path
        if not self._root.is_dir():
            raise CtbasisError(
                f"no folder at {self._root}",
                expected="a folder of images, or s3://bucket/prefix",
                cause="a misspelt path, or a volume that is not mounted here",
                remedy="check the source",
            )
        self.root = self._root.resolve()
        self.place = self.root / self._only

    def objects(self) -> Iterator[RemoteObject]:
        """Yield the files folder by folder, in the order of their names."""
        found = self._below(self.root) if not self._only else self._entries(self.root, [self._only])
        yield from found

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Link or copy the file to `target`; a link is the file itself and needs no check."""
        source = Path(entry.location)
        try:
            target.hardlink_to(source)
        except OSError as error:
            if error.errno not in LINK_IMPOSSIBLE:
                raise self._refusal(error, entry) from None
        else:
            return True
        try:
            # The last part may have become a link since it was listed.
            descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise self._refusal(error, entry) from None
        with os.fdopen(descriptor, "rb") as original, target.open("wb") as copy:
            shutil.copyfileobj(original, copy, 1 << 20)
        return False

    def _below(self, folder: Path) -> Iterator[RemoteObject]:
        try:
            names = sorted(entry.name for entry in folder.iterdir())
        except OSError as error:
            raise CtbasisError(
                f"the folder {folder} is not readable: {error.strerror}", remedy="check its permissions"
            ) from None
        yield from self._entries(folder, names)

    def _entries(self, folder: Path, names: Iterable[str]) -> Iterator[RemoteObject]:
        for name in names:
            entry = folder / name
            if entry.is_dir() and not entry.is_symlink():
                yield from self._below(entry)
                continue
            path = entry.resolve() if entry.is_symlink() else entry
            key = entry.relative_to(self.root).as_posix()
            if path.is_file() and path.is_relative_to(self.root):
                status = path.stat()
                yield RemoteObject(key, str(path), status.st_size, f"{status.st_mtime_ns:x}")
            elif entry.is_symlink():
                # Not by its name, which may hold a patient's.
                sys.stderr.write("WARNING: a link that leads out of the source, or to a folder, is left out\n")

    def _refusal(self, error: OSError, entry: RemoteObject) -> CtbasisError | OSError:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
            return error
        return CtbasisError(
            f"{entry.key} is not readable: {error.strerror}",
            cause="its permissions, or it was removed after it had been listed",
            remedy="check the source and run the step again",
        )


def _path(uri: str) -> Path:
    if "://" not in uri:
        return Path(uri).expanduser()
    parts = urlsplit(uri)
    if parts.netloc not in {"", "localhost"}:
        raise CtbasisError("a file:// source names another machine", expected="file:///path", remedy="mount it here")
    return Path(unquote(parts.path))
