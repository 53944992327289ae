"""The location of zarr stores: a folder, or objects below `s3://bucket/prefix`. Other modules only pass the URI on.

The root metadata of a store is written first and marks the store as incomplete. It is deleted first and copied last.
Readers therefore refuse the remains of any interrupted operation, and the operation can be repeated.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import zarr

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ctbasis.storage.object_store import ObjectStore

ROOT = "zarr.json"
"""The key of a store's root metadata."""

PARALLEL_COPIES = 8
"""Chunks copied concurrently between S3 and a folder; all of them are in memory at once."""


def is_s3(uri: str) -> bool:
    """Tell whether `uri` is an S3 URI rather than a folder."""
    return uri.lower().startswith("s3://")


def run_folder(workspace: str, store: str, run: str) -> str:
    """Return the folder of one run's stores: the workspace, or the folder `run` below `store` if one is given."""
    return f"{store.rstrip('/')}/{run}" if store else workspace


def validate_prefix(store: str) -> None:
    """Check the S3 prefix that a user gives for the stores of a run.

    Args:
        store: `s3://bucket/prefix`, or empty for the run's workspace.

    Raises:
        CtbasisError: It is neither.
    """
    if not store:
        return
    if not is_s3(store):
        # The value is not repeated: a URI of another scheme may hold a password.
        raise CtbasisError(
            "the store is not on S3",
            expected="s3://bucket/prefix, or empty for the run's workspace",
            remedy="correct the parameter store",
        )
    from ctbasis.storage.s3 import split_uri

    _, prefix = split_uri(store, what="store")
    if {"", ".", ".."} & set(prefix.split("/")) and prefix:
        raise CtbasisError(
            f"the store is {store!r}",
            expected="s3://bucket/prefix without empty parts, . and ..",
            cause="S3 tools rewrite such a prefix and then find other objects",
            remedy="correct the parameter store",
        )


def open_group(uri: str, *, mode: Literal["r", "r+", "w"]) -> zarr.Group:
    """Open the zarr 3 group at `uri`.

    Args:
        uri: A folder, or `s3://bucket/prefix`.
        mode: `r` opens an existing group for reading, `r+` an existing group for reading and writing, which several
            processes may do concurrently; `w` deletes what exists and creates a new group.

    Raises:
        FileNotFoundError: There is no group (r, r+).
        CtbasisError: S3 denies access or does not answer.
        OSError: The folder cannot be written.
    """
    if mode == "w":
        delete(uri)
    target = _objects(uri).with_read_only(mode == "r") if is_s3(uri) else uri
    return zarr.open_group(target, mode="a" if mode == "w" else mode, zarr_format=3)


def delete(uri: str) -> bool:
    """Delete everything below `uri`; return whether anything existed.

    Raises:
        CtbasisError: `uri` is a whole bucket, or S3 denies access or does not answer.
        OSError: The folder cannot be written.
    """
    if is_s3(uri):
        objects = _objects(uri)
        objects.remove([ROOT])
        return objects.remove(objects.keys_below()) > 0
    folder = Path(uri)
    if not folder.exists():
        return False
    (folder / ROOT).unlink(missing_ok=True)
    shutil.rmtree(folder)
    return True


def copy(source: str, target: str) -> None:
    """Copy the store at `source` to `target` and replace what exists there; the root metadata is copied last.

    Chunks are copied in their encoded form, a few at a time. The server copies between two S3 prefixes; folders get
    hard links where the file system supports them.

    Raises:
        CtbasisError: S3 denies access or does not answer.
        OSError: The folder cannot be written.
    """
    delete(target)
    _copy(source, target, [key for key in keys(source) if key != ROOT])
    _copy(source, target, [ROOT])


def copy_arrays(source: str, target: str, names: Iterable[str]) -> None:
    """Copy the named arrays of the store at `source` into the store at `target`, as `copy` does.

    Raises:
        CtbasisError: S3 denies access or does not answer.
        OSError: The folder cannot be written.
    """
    for name in names:
        _copy(source, target, [key for key in keys(source) if key.startswith(f"{name}/")])


def _copy(source: str, target: str, keys: Iterable[str]) -> None:
    copy_key = _key_copier(source, target)
    with ThreadPoolExecutor(PARALLEL_COPIES) as pool:
        # Consuming the iterator drops each result at once, and raises the first error.
        for _ in pool.map(copy_key, keys):
            pass


def _key_copier(source: str, target: str) -> Callable[[str], None]:
    """Return the function that copies the object or file of one key."""
    if is_s3(source) and is_s3(target):
        origin, destination = _objects(source), _objects(target)
        return lambda key: destination.copy_from(origin, key)
    if is_s3(target):
        destination = _objects(target)
        return lambda key: destination.write(key, Path(source, key).read_bytes())
    if is_s3(source):
        origin = _objects(source)
        return lambda key: _write(Path(target, key), _existing(origin.read(key), key, source))
    return lambda key: _link_or_copy(Path(source, key), Path(target, key))


def keys(uri: str) -> Iterable[str]:
    """Return the keys of all objects, or the relative paths of all files, below `uri`."""
    if is_s3(uri):
        return _objects(uri).keys_below()
    root = Path(uri)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def _existing(content: bytes | None, key: str, uri: str) -> bytes:
    if content is None:
        raise CtbasisError(
            f"the object {key} of {uri} no longer exists",
            expected="every object that the listing named",
            cause="another process deleted it during the copy",
            remedy="run the step again",
        )
    return content


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _objects(uri: str) -> ObjectStore:
    from ctbasis.storage.object_store import ObjectStore
    from ctbasis.storage.s3 import split_uri

    if not split_uri(uri, what="store")[1]:
        raise CtbasisError(
            "the store is a whole bucket", expected="s3://bucket/prefix", remedy="add a prefix to the store's URI"
        )
    return ObjectStore(uri)
