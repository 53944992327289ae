"""A folder on this machine, or on a volume mounted here: a plain path or `file://`."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from components.errors import CtbasisError
from components.fetch.source import RemoteObject

if TYPE_CHECKING:
    from collections.abc import Iterator

LINK_IMPOSSIBLE = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Another volume, a kernel that protects foreign files, too many links, a file system without them."""


class Folder:
    """The regular files below a folder; they are linked, not copied, where they can be.

    Symbolic links to folders are not followed, and those to files only where they end inside the folder.

    Args:
        uri: A path, or `file:///path`.
        connections: Not needed here.

    Raises:
        CtbasisError: There is no such folder.
    """

    def __init__(self, uri: str, connections: int) -> None:
        del connections
        self._root = _path(uri)
        if not self._root.is_dir():
            raise CtbasisError(
                f"no folder at {self._root}",
                expected="a folder of images, or s3://bucket/prefix",
                cause="a misspelt path, or a volume that is not mounted here",
                remedy="check the source",
            )
        self.root = self._root.resolve()

    def objects(self) -> Iterator[RemoteObject]:
        """Yield the files folder by folder, in the order of their names."""
        yield from self._below(self.root)

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
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise CtbasisError(
                f"the folder {folder} is not readable: {error.strerror}", remedy="check its permissions"
            ) from None
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._below(Path(entry.path))
                continue
            path = Path(entry.path).resolve() if entry.is_symlink() else Path(entry.path)
            if path.is_file() and path.is_relative_to(self.root):
                status = path.stat()
                key = Path(entry.path).relative_to(self.root).as_posix()
                yield RemoteObject(key, str(path), status.st_size, f"{status.st_mtime_ns:x}")

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
