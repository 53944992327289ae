"""The objects of a store by key: files below a folder, or objects below `s3://bucket/prefix`.

A location is a folder, `file:///path` or `s3://bucket/prefix`. No other scheme is opened: a library that opens any URL
would also open `ftp://user:password@host`, archives and memory.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import uuid
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from ctbasis.errors import CtbasisError
from ctbasis.storage.unreadable import MAX_OBJECT_BYTES, too_large, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

CHECKSUM_BYTES = 4
"""Size in bytes of the CRC-32C at the end of a chunk, little-endian."""

KEY = re.compile(r"(?:[1-9][0-9]*/)?(?:[A-Za-z][A-Za-z0-9_-]*/)?(?:zarr\.json|c(?:/[0-9]+)+)", re.ASCII)
"""Keys of a store: metadata of groups and arrays, and chunks; of the store itself or of a store inside it."""

PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial", re.ASCII)
"""End of the name of a file that was being written when its writer was killed."""


class Objects(Protocol):
    """The objects below one location.

    Attributes:
        parallel: Number of requests that may run at the same time with profit.
    """

    parallel: int

    def read(self, key: str, *, most: int = MAX_OBJECT_BYTES) -> bytes | None:
        """Return the content of an object; None if there is none.

        Raises:
            UnreadableError: It has more than `most` bytes, or cannot be read.
        """
        ...

    def read_into(self, key: str, buffer: NDArray[np.uint8]) -> int | None:
        """Read an object into `buffer`; return its size in bytes, or None if there is no object.

        `buffer` holds the whole object only if the returned size is that of the buffer.
        """
        ...

    def read_end(self, key: str, count: int) -> bytes:
        """Return the last `count` bytes of an object; empty if there is no object."""
        ...

    def write(self, key: str, content: bytes) -> None:
        """Create or replace an object; readers see the former or the new content, never a part."""
        ...

    def write_chunk(self, key: str, values: NDArray[Any], checksum: bytes) -> None:
        """Create or replace an object that holds the bytes of `values` and a checksum."""
        ...

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of every object by its key."""
        ...

    def remove(self, keys: Iterable[str]) -> int:
        """Delete objects and return their number."""
        ...


def is_s3(uri: str) -> bool:
    """Tell whether `uri` is an S3 URI rather than a folder."""
    return uri.lower().startswith("s3://")


def folder_of(uri: str) -> Path:
    """Return the folder that `uri`, a path or `file:///path`, names.

    Raises:
        CtbasisError: `uri` is empty or has another scheme. The error does not repeat the URI, which may hold a
            password.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.:-]*)://", uri)
    if not uri or "\0" in uri or (scheme and scheme[1].lower() != "file"):
        raise CtbasisError(
            f"the URI of the store has the scheme {scheme[1].rpartition(':')[2]}" if scheme else "no store is named",
            expected="a folder, file:///path or s3://bucket/prefix",
            remedy="correct the URI",
        )
    if not scheme:
        return Path(uri)
    parts = urlsplit(uri)
    if parts.netloc not in {"", "localhost"}:
        raise CtbasisError(
            "the file:// URI of the store names another machine",
            expected="file:///path",
            cause="its part after file:// is a host name",
            remedy="mount the folder on this machine",
        )
    return Path(unquote(parts.path))


def open_objects(uri: str) -> Objects:
    """Return the objects below `uri`.

    Raises:
        CtbasisError: `uri` is a whole bucket, or neither a folder nor on S3.
    """
    if not is_s3(uri):
        return FolderObjects(folder_of(uri))
    from ctbasis.storage.object_store import ObjectStore
    from ctbasis.storage.s3 import split_uri

    if not split_uri(uri, what="store")[1]:
        raise CtbasisError(
            "the store is a whole bucket", expected="s3://bucket/prefix", remedy="add a prefix to the store's URI"
        )
    return ObjectStore(uri)


class FolderObjects:
    """The files below a folder, by their relative paths. Symbolic links below the folder are not followed by listings.

    Attributes:
        root: The folder.
        parallel: See `Objects`.

    Args:
        root: The folder, which need not exist.
    """

    parallel = 1

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, key: str, *, most: int = MAX_OBJECT_BYTES) -> bytes | None:
        """Return the content of a file; see `Objects`."""

        def whole(file: FileIO, size: int) -> bytes:
            if size > most:
                raise too_large(str(self.root / key), size, most)
            return file.read()

        return self._with_file(key, whole)

    def read_into(self, key: str, buffer: NDArray[np.uint8]) -> int | None:
        """Read a file into `buffer`; see `Objects`."""
        return self._with_file(key, lambda file, size: file.readinto(buffer.data) if size == buffer.size else size)

    def read_end(self, key: str, count: int) -> bytes:
        """Return the last `count` bytes of a file; see `Objects`."""

        def end(file: FileIO, size: int) -> bytes:
            file.seek(max(0, size - count))
            return file.read(count)

        return self._with_file(key, end) or b""

    def _with_file(self, key: str, read: Callable[[FileIO, int], T]) -> T | None:
        """Call `read` with the file of a key and its size in bytes; return None if there is no file.

        Raises:
            UnreadableError: It is no regular file (a FIFO would block for ever, a device would never end), this user
                may not read it, or the disk fails.
        """
        path = self.root / key
        try:
            # Opening a FIFO would wait for a writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                status = os.fstat(descriptor)
                if stat.S_ISDIR(status.st_mode):
                    return None
                if not stat.S_ISREG(status.st_mode):
                    raise unreadable(path, "it is no regular file")
                return read(FileIO(descriptor, closefd=False), status.st_size)
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(path, error.strerror or str(error)) from error

    def write(self, key: str, content: bytes) -> None:
        """Create or replace a file.

        Raises:
            OSError: The folder cannot be written; an incomplete file is removed.
        """
        self._write(key, content)

    def write_chunk(self, key: str, values: NDArray[Any], checksum: bytes) -> None:
        """Create or replace a file that holds the bytes of `values` and a checksum; raises as `write` does."""
        self._write(key, values.data, checksum)

    def link(self, key: str, source: Path) -> None:
        """Create or replace a file by a hard link to `source`, or by a copy where the file system has no links.

        Raises:
            OSError: The folder cannot be written; an incomplete file is removed.
        """
        with self._replaced(key) as temporary:
            try:
                temporary.hardlink_to(source)
            except OSError:
                shutil.copyfile(source, temporary)

    def _write(self, key: str, *parts: bytes | memoryview) -> None:
        with self._replaced(key) as temporary, temporary.open("wb") as file:
            for part in parts:
                file.write(part)

    @contextmanager
    def _replaced(self, key: str) -> Iterator[Path]:
        """Return a path beside the file of `key`, which it replaces at the end; an error removes it."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            yield temporary
            temporary.replace(path)
        finally:
            # Also after a rename between two links of one file, which does nothing.
            temporary.unlink(missing_ok=True)

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of every file by its relative path."""
        return dict(_files(str(self.root), ""))

    def remove(self, keys: Iterable[str]) -> int:
        """Delete files and the folders that become empty; return the number of files."""
        count = 0
        for key in keys:
            path = self.root / key
            path.unlink(missing_ok=True)
            count += 1
            for folder in path.parents:
                try:
                    folder.rmdir()
                except OSError:
                    break
                if folder == self.root:
                    break
        return count


def _files(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield relative path and size of all files below a folder, in the order of their names."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise unreadable(Path(folder), error.strerror or str(error)) from error
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry.stat(follow_symlinks=False).st_size
