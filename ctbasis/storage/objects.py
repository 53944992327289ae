"""The objects of a store by key: files below a folder, or objects below `s3://bucket/prefix`.

A location is a folder, `file:///path` or `s3://bucket/prefix`. No other scheme is opened: a library that opens any URL
would also open `ftp://user:password@host`, archives and memory.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

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

    def read(self, key: str) -> bytes | None:
        """Return the content of an object; None if there is none."""
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

    def read(self, key: str) -> bytes | None:
        """Return the content of a file; None if there is none.

        Raises:
            OSError: The file cannot be read.
        """
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def read_into(self, key: str, buffer: NDArray[np.uint8]) -> int | None:
        """Read a file into `buffer`; see `Objects`."""
        try:
            with (self.root / key).open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size != buffer.size:
                    return size
                return file.readinto(buffer.data)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def read_end(self, key: str, count: int) -> bytes:
        """Return the last `count` bytes of a file; see `Objects`."""
        try:
            with (self.root / key).open("rb", buffering=0) as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - count))
                return file.read(count)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return b""

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
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry.stat(follow_symlinks=False).st_size
