"""The folders of runs below an S3 prefix: marked when a run begins to write to its folder, and listed.

A folder below `--store` belongs to a run if it holds the object `.ctbasis-run.json`, which names the folder itself.
Only such a folder is ever listed here, and of its content only stores of ctbasis and the mark are removed. A basis that
a user keeps below the same prefix has no mark, and stays.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctbasis.storage.object_store import ObjectStore
from ctbasis.storage.stores import MARK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

OURS = "ctbasis"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run on S3.

    Attributes:
        uri: Its URI.
        run: Id of the run, the name of the folder.
        on_kubeflow: Whether the run is one of a Kubeflow server, rather than of `ctbasis run`.
        written: When the newest object below it was written.
    """

    uri: str
    run: str
    on_kubeflow: bool
    written: datetime


def mark(folder: str, run: str, *, on_kubeflow: bool) -> None:
    """Mark a folder on S3 as that of a run, before the run writes to it.

    Args:
        folder: `s3://bucket/prefix/RUN`.
        run: Id of the run, the last part of `folder`.
        on_kubeflow: Whether the run is one of a Kubeflow server.

    Raises:
        CtbasisError: There is no such bucket, S3 denies access, or it does not answer.
    """
    objects = ObjectStore(folder)
    # A listing refuses a bucket that does not exist; a write makes some servers create it.
    next(objects.keys_below(), None)
    content = {"written_by": OURS, "run": run, "on_kubeflow": on_kubeflow}
    objects.write(MARK, json.dumps(content).encode())


def marked(prefix: str) -> list[RunFolder]:
    """Return the marked folders at any depth below `prefix`, `s3://bucket/prefix`, in the order of their names.

    Raises:
        CtbasisError: `prefix` is no S3 URI, S3 denies access, or it does not answer.
    """
    objects = ObjectStore(prefix)
    written = objects.written()
    newest = {path: written[f"{path}/{MARK}"] for path in sorted(_marked_paths(written))}
    for key, time in written.items():
        for parent in _parents(key):
            if parent in newest:
                newest[parent] = max(newest[parent], time)
    folders = []
    for path, time in newest.items():
        run = path.rpartition("/")[2]
        on_kubeflow = _on_kubeflow(objects.read(f"{path}/{MARK}"), run)
        if on_kubeflow is not None:
            folders.append(RunFolder(f"{prefix.rstrip('/')}/{path}", run, on_kubeflow, time))
    return folders


def _marked_paths(keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        path, _, name = key.rpartition("/")
        if name == MARK and path.rpartition("/")[2]:
            yield path


def _parents(key: str) -> Iterator[str]:
    """Yield the folders above a key, the nearest first."""
    while key := key.rpartition("/")[0]:
        yield key


def _on_kubeflow(content: bytes | None, run: str) -> bool | None:
    """Return what the mark of the run's folder says; None if it is not the mark of this run."""
    try:
        stored = json.loads(content or b"")
        ours = (stored["written_by"], stored["run"]) == (OURS, run)
        return bool(stored["on_kubeflow"]) if ours else None
    except (ValueError, KeyError, TypeError):
        return None
