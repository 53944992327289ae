"""The location of stores: a folder, or objects below `s3://bucket/prefix`. Other modules only pass the URI on.

A store is recognized by its root metadata (ctbasis/storage/root.py), which is written first and deleted last. Only
objects whose keys are keys of a store are ever deleted or replaced; anything else at the location is kept, and the
operation is refused by name.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from shlex import quote
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.storage.array_layout import ROOT
from ctbasis.storage.objects import KEY, PARTIAL, FolderObjects, is_s3, open_objects
from ctbasis.storage.root import encode_root, is_marked
from ctbasis.storage.schemas import MATRIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ctbasis.storage.objects import Objects

MARK = ".ctbasis-run.json"
"""Object in the folder of a run on S3 that marks the folder as ours; see ctbasis/storage/run_folders.py."""

PARALLEL_COPIES = 8
"""Chunks copied concurrently between S3 and a folder; all of them are in memory at once."""


class ForeignFilesError(CtbasisError):
    """A location holds files or objects that are not those of a store of ctbasis; nothing was deleted."""


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


def delete(uri: str) -> bool:
    """Delete the store at `uri`; return whether there was one. An empty folder is kept.

    The root is marked as incomplete first and deleted last: what an interruption leaves is refused by readers and
    deleted by the next call.

    Raises:
        ForeignFilesError: There are files or objects at `uri` that are not those of a store. Nothing is deleted.
        CtbasisError: `uri` is a whole bucket or no location of a store, or S3 denies access or does not answer.
        OSError: The folder cannot be written.
    """
    objects = open_objects(uri)
    found = _own_keys(objects, uri)
    if not found:
        return False
    objects.write(ROOT, encode_root(MATRIX, {}, None))
    objects.remove(key for key in found if key != ROOT)
    objects.remove([ROOT])
    return True


def refuse_foreign(uri: str) -> None:
    """Refuse a location that `delete` would refuse, before the work for what is to be written there.

    Raises:
        ForeignFilesError: There are files or objects at `uri` that are not those of a store.
        CtbasisError: As `delete`.
    """
    _own_keys(open_objects(uri), uri)


def _own_keys(objects: Objects, uri: str) -> list[str]:
    """Return the keys of the store at `uri`; none if nothing is there."""
    if isinstance(objects, FolderObjects) and objects.root.exists() and not objects.root.is_dir():
        raise _foreign(uri, "is a file")
    found = list(objects.sizes())
    if foreign := [key for key in found if not is_key(key)]:
        raise _foreign(uri, f"holds {foreign[0]!r}, which is not part of a store of ctbasis")
    if found and not is_marked(objects.read(ROOT)):
        state = "is damaged" if ROOT in found else "is missing"
        remove = f"aws s3 rm --recursive {quote(uri)}" if is_s3(uri) else f"rm -r -- {quote(uri)}"
        raise _foreign(
            uri,
            f"holds {found[0]!r}, which is not part of a store of ctbasis that can be recognised: {ROOT} {state}",
            remedy=f"choose another folder or prefix; if this was a store of ctbasis, remove it: {remove}",
        )
    return found


def delete_run(folder: str) -> tuple[list[str], list[str]]:
    """Delete the stores directly below `folder` and then its mark, and nothing else.

    Returns:
        The names of the stores, and the keys of what is not part of a store and is kept.

    Raises:
        CtbasisError: `folder` is a whole bucket, or S3 denies access or does not answer.
        OSError: The folder cannot be written.
    """
    found = list(open_objects(folder).sizes())
    removed: list[str] = []
    kept: list[str] = []
    for name in dict.fromkeys(key.partition("/")[0] for key in found):
        below = [key for key in found if key.startswith(f"{name}/")]
        if not below or name in {"", ".", ".."}:
            kept += below or [name]
            continue
        try:
            delete(f"{folder}/{name}")
            removed.append(name)
        except ForeignFilesError:
            kept += below
    if MARK in kept:
        # Last: whatever interrupts this, the rest is still marked.
        open_objects(folder).remove([MARK])
        kept.remove(MARK)
    return removed, kept


def delete_runs(folder: str) -> None:
    """Delete the stores of every run whose folder lies directly below `folder`, and nothing else.

    Raises:
        CtbasisError: `folder` is a whole bucket, or S3 denies access or does not answer.
        OSError: The folder cannot be written.
    """
    keys = open_objects(folder).sizes()
    for run in dict.fromkeys(key.partition("/")[0] for key in keys if "/" in key):
        delete_run(f"{folder}/{run}")


def is_key(key: str) -> bool:
    """Tell whether `key` is a key of a store, or of a file of a store that was being written."""
    return KEY.fullmatch(PARTIAL.sub("", key)) is not None


def _foreign(
    uri: str, found: str, *, remedy: str = "choose another folder or prefix, or remove its content"
) -> ForeignFilesError:
    return ForeignFilesError(
        f"{uri} {found}",
        expected="an empty or new folder or prefix, or a former store of ctbasis, which is replaced",
        cause="the path names a folder with other files",
        remedy=remedy,
    )


def copy_keys(source: str, target: str, keys: Iterable[str]) -> None:
    """Copy objects of the store at `source` to `target` in their encoded form, a few at a time.

    The server copies between two S3 prefixes; folders get hard links where the file system supports them.

    Raises:
        CtbasisError: A key is not one of a store, or an object no longer exists.
        OSError: The folder cannot be written.
    """
    copy_key = _key_copier(source, target)

    def copy(key: str) -> None:
        if KEY.fullmatch(key) is None:
            raise _foreign(source, f"names {key!r}, which is no key of a store")
        copy_key(key)

    with ThreadPoolExecutor(PARALLEL_COPIES) as pool:
        # Consuming the iterator drops each result at once, and raises the first error.
        for _ in pool.map(copy, keys):
            pass


def _key_copier(source: str, target: str) -> Callable[[str], None]:
    """Return the function that copies the object or file of one key."""
    from ctbasis.storage.object_store import ObjectStore

    origin, destination = open_objects(source), open_objects(target)
    if isinstance(origin, ObjectStore) and isinstance(destination, ObjectStore):
        return lambda key: destination.copy_from(origin, key)
    if isinstance(origin, FolderObjects) and isinstance(destination, FolderObjects):
        return lambda key: destination.link(key, origin.root / key)
    return lambda key: destination.write(key, _existing(origin.read(key), key, source))


def keys(uri: str) -> Iterable[str]:
    """Return the keys of all objects, or the relative paths of all files, below `uri`."""
    return list(open_objects(uri).sizes())


def _existing(content: bytes | None, key: str, uri: str) -> bytes:
    if content is None:
        raise CtbasisError(
            f"the object {key} of {uri} no longer exists",
            expected="every object that the manifest lists",
            cause="another process deleted it during the copy",
            remedy="run the step again",
        )
    return content
