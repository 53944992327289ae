"""Where zarr stores are: a folder, or objects below `s3://bucket/prefix`; the rest of the code only passes the URI on.

A store's root metadata is written first and says it is not complete; it is removed first and copied last. So whatever
is interrupted, what is left is refused by readers and can be begun again.
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

COPIES = 8
"""Chunks on their way at once between S3 and a folder: what a copy holds in memory."""


def is_s3(uri: str) -> bool:
    """Tell whether `uri` names objects and not a folder."""
    return uri.lower().startswith("s3://")


def run_folder(workspace: str, store: str, run: str) -> str:
    """Return where the stores of one run belong: in its workspace, or below `store` in a folder of the run's own."""
    return f"{store.rstrip('/')}/{run}" if store else workspace


def check(store: str) -> None:
    """Refuse a place for stores that is none.

    Args:
        store: Empty, for the run's workspace, or `s3://bucket/prefix`.

    Raises:
        CtbasisError: It is something else.
    """
    if not store:
        return
    if not is_s3(store):
        # Not repeated: a URI of another scheme may carry a password.
        raise CtbasisError("the store is not on S3", expected="s3://bucket/prefix, or nothing for the run's workspace")
    from ctbasis.storage.s3 import split

    _, prefix = split(store, what="store")
    if {"", ".", ".."} & set(prefix.split("/")) and prefix:
        raise CtbasisError(f"the store is {store!r}", expected="s3://bucket/prefix without empty parts, . and ..")


def open_group(uri: str, *, mode: Literal["r", "r+", "w"]) -> zarr.Group:
    """Open the zarr 3 group at `uri`: to read (r), to write what others write too (r+), or afresh (w).

    Raises:
        FileNotFoundError: There is none (r, r+).
        CtbasisError: S3 refuses or stays away.
        OSError: The folder cannot be written.
    """
    if mode == "w":
        delete(uri)
    target = _objects(uri).with_read_only(mode == "r") if is_s3(uri) else uri
    return zarr.open_group(target, mode="a" if mode == "w" else mode, zarr_format=3)


def delete(uri: str) -> bool:
    """Remove all that is below `uri`, of S3 or a folder, and say whether there was anything.

    Raises:
        CtbasisError: `uri` is a whole bucket, or S3 refuses or stays away.
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
    """Copy the store at `source` to `target`, replacing what was there, its root metadata last.

    Chunks are copied as they are stored, a few at a time: between objects by the server, between folders by hard links
    where the file system has them.

    Raises:
        CtbasisError: S3 refuses or stays away.
        OSError: The folder cannot be written.
    """
    delete(target)
    _copy(source, target, [key for key in keys(source) if key != ROOT])
    _copy(source, target, [ROOT])


def copy_arrays(source: str, target: str, names: Iterable[str]) -> None:
    """Copy arrays of the store at `source` into the one at `target`, in the same way.

    Raises:
        CtbasisError: S3 refuses or stays away.
        OSError: The folder cannot be written.
    """
    for name in names:
        _copy(source, target, [key for key in keys(source) if key.startswith(f"{name}/")])


def _copy(source: str, target: str, keys: Iterable[str]) -> None:
    one = _one_copied(source, target)
    with ThreadPoolExecutor(COPIES) as pool:
        # Lazily: what is done is forgotten, and the first error ends it.
        for _ in pool.map(one, keys):
            pass


def _one_copied(source: str, target: str) -> Callable[[str], None]:
    """Return what copies the object or file of a key."""
    if is_s3(source) and is_s3(target):
        objects, others = _objects(source), _objects(target)
        return lambda key: others.copy_from(objects, key)
    if is_s3(target):
        objects = _objects(target)
        return lambda key: objects.write(key, Path(source, key).read_bytes())
    if is_s3(source):
        objects = _objects(source)
        return lambda key: _write(Path(target, key), _present(objects.read(key), key, source))
    return lambda key: _link_or_copy(Path(source, key), Path(target, key))


def keys(uri: str) -> Iterable[str]:
    """Return the keys of all objects or files below `uri`."""
    if is_s3(uri):
        return _objects(uri).keys_below()
    root = Path(uri)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def _present(content: bytes | None, key: str, uri: str) -> bytes:
    if content is None:
        raise CtbasisError(
            f"{key} of {uri} is gone", cause="somebody deleted it meanwhile", remedy="run the step again"
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
    from ctbasis.storage.s3 import split

    if not split(uri, what="store")[1]:
        raise CtbasisError("the store is a whole bucket", expected="s3://bucket/prefix")
    return ObjectStore(uri)
