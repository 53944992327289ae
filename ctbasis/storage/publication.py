"""Result folders put in their place whole: in a folder by one rename, on S3 with the object that completes them last.

S3 has no rename. A result there is complete if it has its last object, whose name the caller chooses: a reader looks
for it first. What an interruption leaves has the list of its files and no last object, and the next publication to the
same prefix replaces it.
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ctbasis.errors import CtbasisError
from ctbasis.storage.object_store import ObjectStore
from ctbasis.storage.objects import is_s3, open_objects
from ctbasis.storage.outputs import RESULT, Results, list_files, replaced, write_file

PARALLEL_UPLOADS = 8
"""Files that are uploaded at the same time; a large one is sent in parts besides."""


def publish(result: Path, target: str, *, last: str) -> None:
    """Put the files of the folder `result` at `target`, and remove a former result there.

    Args:
        result: A folder; it is moved, or can be removed afterwards.
        target: A folder, or `s3://bucket/prefix`.
        last: Name of the file that completes the result. Nobody else may write to `target` meanwhile.

    Raises:
        CtbasisError: `target` holds files that ctbasis did not write, another process writes to it, or S3 denies access
            or does not answer.
        OSError: The file system refuses to write.
    """
    list_files(result)
    if is_s3(target):
        _upload(result, ObjectStore(target), last)
        return
    with replaced([Path(target)], ours=Results()) as (new,):
        shutil.move(result, new)


def read_published(target: str, last: str) -> bytes | None:
    """Return the content of the last file of the complete result at `target`; None if there is none.

    Raises:
        CtbasisError: S3 denies access or does not answer, or the file cannot be read.
    """
    return open_objects(target).read(last)


def write_whole(target: str, content: bytes) -> None:
    """Write a single file, or an object at `s3://bucket/key`, completely or not at all.

    Raises:
        CtbasisError: It cannot be written.
    """
    if is_s3(target):
        folder, _, name = target.rpartition("/")
        ObjectStore(folder).write(name, content)
    else:
        write_file(Path(target), content)


def _upload(result: Path, objects: ObjectStore, last: str) -> None:
    files = {path.relative_to(result).as_posix(): path for path in sorted(result.rglob("*")) if path.is_file()}
    present = objects.sizes()
    listed = _listed(objects.read(RESULT)) if RESULT in present else set()
    if foreign := sorted(set(present) - listed - {RESULT, last}):
        raise CtbasisError(
            f"{objects.uri} holds {foreign[0]!r}, which ctbasis did not write",
            expected="a new or empty prefix, or a former result of ctbasis alone, which is replaced",
            remedy="choose another prefix, or move what it holds elsewhere",
        )
    # Without its last object the former result is no result any more, before any of its other objects changes.
    objects.remove([last] if last in present else [])
    objects.remove(key for key in present if key not in {*files, RESULT, last})
    objects.abort_uploads()
    objects.write(RESULT, files[RESULT].read_bytes())
    with ThreadPoolExecutor(PARALLEL_UPLOADS) as pool:
        # Consuming the iterator raises the first error.
        for _ in pool.map(lambda key: objects.upload(key, files[key]), sorted(set(files) - {RESULT, last})):
            pass
    objects.write(last, files[last].read_bytes())


def _listed(content: bytes | None) -> set[str]:
    try:
        return set(map(str, json.loads(content or b"{}")["files"]))
    except (ValueError, KeyError, TypeError):
        return set()
