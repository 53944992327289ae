"""The source `file://` or a plain path: a folder on this machine or on a mounted volume."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from ctbasis.errors import CtbasisError
from ctbasis.printable import say
from ctbasis.sources.disk_space import require_space
from ctbasis.sources.source import RemoteObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LINK_IMPOSSIBLE = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Reasons against a hard link: another volume, a kernel that protects others' files, too many links, no support."""


class FolderSource:
    """The regular files below a folder, or a single file. Files are hard-linked if possible, and copied otherwise.

    Symbolic links to folders are not followed. Symbolic links to files are followed only if the file is in the folder.

    Attributes:
        root: The folder, resolved.
        place: The folder or the single file, resolved.

    Args:
        uri: A path, or `file:///path`.
        connections: Ignored; part of the signature of every source.

    Raises:
        CtbasisError: The folder or file does not exist.
    """

    def __init__(self, uri: str, connections: int) -> None:
        del connections
        path = _path(uri)
        try:
            self._file_name = path.name if path.is_file() else ""
            folder = path.parent if self._file_name else path
            found = folder.is_dir()
        except (OSError, ValueError):
            # A name that is too long, or a NUL: no file can have it.
            found = False
        if not found:
            raise CtbasisError(
                f"no folder at {str(path)[:200]}",
                expected="a folder of images, or s3://bucket/prefix",
                cause="the path is misspelt, or the volume is not mounted on this machine",
                remedy="check the source",
            )
        self.root = folder.resolve()
        self.place = self.root / self._file_name
        self._reported: set[Path] = set()

    def objects(self) -> Iterator[RemoteObject]:
        """Yield the files of each folder in the order of their names."""
        yield from self._entries(self.root, [self._file_name]) if self._file_name else self._below(self.root)

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Hard-link or copy the file to `target`.

        Returns:
            True for a link, whose content needs no check; False for a copy.

        Raises:
            CtbasisError: The file cannot be read.
            OSError: `target` cannot be written.
        """
        source = Path(entry.location)
        try:
            target.hardlink_to(source)
        except OSError as error:
            if error.errno not in LINK_IMPOSSIBLE:
                raise self._refusal(error, entry) from None
        else:
            return True
        with self._opened(entry) as original:
            require_space(entry.size or 0, target.parent, f"{entry.key!r}")
            with target.open("wb") as copy:
                shutil.copyfileobj(original, copy, 1 << 20)
        return False

    def read(self, entry: RemoteObject, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to before `stop` of the file; fewer at its end.

        Raises:
            CtbasisError: The file cannot be read.
        """
        with self._opened(entry) as file:
            try:
                file.seek(start)
                return file.read(max(0, stop - start))
            except OSError as error:
                raise self._refusal(error, entry) from None

    def _opened(self, entry: RemoteObject) -> BinaryIO:
        try:
            # The file may have been replaced by a symbolic link since it was listed.
            return os.fdopen(os.open(entry.location, os.O_RDONLY | os.O_NOFOLLOW), "rb")
        except OSError as error:
            raise self._refusal(error, entry) from None

    def _below(self, folder: Path) -> Iterator[RemoteObject]:
        try:
            names = sorted(entry.name for entry in folder.iterdir())
        except OSError as error:
            raise CtbasisError(
                f"the folder {folder} is not readable: {error.strerror}",
                expected="a folder that this user may read",
                cause="its permissions",
                remedy="check its permissions",
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
            elif entry.is_symlink() and entry not in self._reported:
                self._reported.add(entry)
                # The name may contain a patient's name and is not shown.
                say("WARNING: a symbolic link out of the source, or to a folder, is left out")

    def _refusal(self, error: OSError, entry: RemoteObject) -> CtbasisError | OSError:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
            return error
        return CtbasisError(
            f"{entry.key} is not readable: {error.strerror}",
            expected="a file that this user may read",
            cause="its permissions, or it was deleted after it had been listed",
            remedy="check the source and run the step again",
        )


def _path(uri: str) -> Path:
    if "://" not in uri:
        return Path(uri).expanduser()
    parts = urlsplit(uri)
    if parts.netloc not in {"", "localhost"}:
        raise CtbasisError(
            "the file:// URI of the source names another machine",
            expected="file:///path",
            cause="its part after file:// is a host name",
            remedy="mount the folder on this machine",
        )
    return Path(unquote(parts.path))
