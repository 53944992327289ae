"""Fetching the objects of a source into a folder: in parallel, atomically, and without fetching an object twice."""

from __future__ import annotations

import shutil
import time
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError, TransientError, UnreachableError
from ctbasis.progress import progress
from ctbasis.sources import retries
from ctbasis.sources.disk_space import require_space
from ctbasis.sources.etag import Digest, Verdict
from ctbasis.sources.fetch_index import FetchIndex, Record
from ctbasis.sources.file_names import OWN_PREFIX, FileNames
from ctbasis.sources.folder import FolderSource
from ctbasis.sources.listed import ListedSource
from ctbasis.sources.retries import repeat
from ctbasis.sources.schemes import open_source
from ctbasis.sources.zip_archive import UnzippedSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from ctbasis.sources.source import RemoteObject, Source

UNFINISHED = f"{OWN_PREFIX}unfinished"
"""Folder for incomplete downloads. It is inside the destination, because a rename works within one volume only."""

MAX_OBJECTS = 4_000_000
"""Objects of a listing at most: names are kept in memory, and the listing of a hostile server may never end."""

AHEAD_PER_WORKER = 4
"""Objects queued per worker: enough to keep the worker busy, and few, so that a long listing takes no memory."""


@dataclass(frozen=True)
class FetchReport:
    """The result of a fetch.

    Attributes:
        objects: Number of objects in the source; all of them are in the destination.
        bytes: Their total size in bytes.
        skipped: Number of objects that were already in the destination.
        removed: Number of files deleted because their objects no longer exist in the source.
        left_out: Archives and archive members that could not be unpacked, each with the reason.
        size_only: Number of objects that could be checked by size only, because their ETag is not a content digest.
        seconds: Wall time in seconds.
    """

    objects: int
    bytes: int
    skipped: int
    removed: int
    size_only: int
    seconds: float
    left_out: tuple[str, ...] = ()


def fetch(source: str, destination: Path, *, workers: int = 8, opaque: bool = False) -> FetchReport:
    """Fetch the objects of `source` into `destination`, and delete files of an earlier fetch that it lacks now.

    Each file gets its name when it is complete. An interrupted fetch continues where it stopped.

    Args:
        source: `s3://bucket/prefix`, a path or `file:///path`; see `open_source`. Keys below the prefix become relative
            paths. An archive (.zip) becomes a folder of its members.
        destination: A folder that is new or empty, or holds an earlier fetch.
        workers: Parallel downloads. Eight saturate a disk or a line of 1 Gbit/s; more help if the latency is high.
        opaque: Number the files in the order of the listing, and name no key in any message or file. For keys that may
            contain a patient's name.

    Returns:
        Counts, sizes and the wall time.

    Raises:
        UnreachableError: The server of the source does not answer. A later call continues where this one stopped.
        CtbasisError: The source is empty or denies access, or the destination cannot be written.
    """
    start = time.monotonic()
    opened = open_source(source, workers)
    _refuse_overlap(opened, destination)
    try:
        index = _prepared(destination)
        _require_space(opened, destination, index, opaque=opaque)
        unzipped = UnzippedSource(
            opened, partial(download_with_retries, opened), destination / UNFINISHED, show_keys=not opaque
        )
        fetching = _Fetch(unzipped, destination, index, opaque)
        with ThreadPoolExecutor(workers) as pool:
            for _ in progress(fetching.run(pool, workers * AHEAD_PER_WORKER), "fetch", unit="file"):
                pass
        if not fetching.records:
            raise CtbasisError(
                "the source holds no object",
                expected="at least one object below the prefix, or one file in the folder",
                cause="the prefix or path is misspelt",
                remedy="check the source",
            )
        removed = fetching.tidy()
    except OSError as error:
        raise CtbasisError(
            f"{destination} cannot be written: {error.strerror or type(error).__name__}",
            expected="a writable folder with room for the objects of the source",
            cause="the disk is full, or the folder is read-only",
            remedy="free space or enlarge the workspace, and run the step again; it continues where it stopped",
        ) from error
    return FetchReport(
        objects=len(fetching.records),
        bytes=sum(record.size for record in fetching.records),
        skipped=fetching.skipped,
        removed=removed,
        size_only=sum(not record.checked for record in fetching.records),
        seconds=time.monotonic() - start,
        left_out=tuple(unzipped.left_out),
    )


@dataclass
class _Fetch:
    """State of one fetch: the records of the objects that are in the destination."""

    source: Source
    destination: Path
    index: FetchIndex
    opaque: bool = False
    records: list[Record] = field(default_factory=list)
    skipped: int = 0

    def run(self, pool: ThreadPoolExecutor, ahead: int) -> Iterator[Record]:
        """Fetch every object while the listing is still being read, with at most `ahead` objects queued."""
        under_way: deque[Future[tuple[Record, bool]]] = deque()
        try:
            for entry, name in list_objects(self.source, opaque=self.opaque):
                under_way.append(pool.submit(self._fetch_one, entry, name))
                if len(under_way) >= ahead:
                    yield self._counted(under_way.popleft())
            while under_way:
                yield self._counted(under_way.popleft())
        finally:
            for future in under_way:
                future.cancel()

    def tidy(self) -> int:
        """Delete files whose objects are no longer in the source, and the temporary folder; return their number."""
        removed = 0
        for name in self.index.names - {record.name for record in self.records}:
            path = self.destination / name
            # The file is gone if its name now belongs to a folder, or lies below a file.
            if path.is_file():
                path.unlink()
                removed += 1
                _remove_empty(path.parent, self.destination)
        self.index.rewrite(self.records)
        shutil.rmtree(self.destination / UNFINISHED)
        return removed

    def _counted(self, arrival: Future[tuple[Record, bool]]) -> Record:
        record, skipped = arrival.result()
        self.records.append(record)
        self.skipped += skipped
        return record

    def _fetch_one(self, entry: RemoteObject, name: str) -> tuple[Record, bool]:
        """Return the record of the object's file, and whether the file was already complete."""
        path = self.destination / name
        existing = _complete_file(path, entry, name, self.index.records.get(entry.key))
        if existing is not None:
            return existing, True
        fresh = self.destination / UNFINISHED / uuid.uuid4().hex
        try:
            checked = download_with_retries(self.source, entry, fresh)
            record = _record(entry, name, fresh, checked=checked)
            self.index.add(record)
            _make_way(path, self.destination)
            fresh.replace(path)
        finally:
            # Needed after success too: renaming a hard link onto another link to the same file leaves both.
            fresh.unlink(missing_ok=True)
        return record, False


def list_objects(source: Source, *, opaque: bool = False) -> Iterator[tuple[RemoteObject, str]]:
    """Yield the objects of `source`, each with its file name.

    Args:
        source: The source.
        opaque: As in `fetch`; the key of each object is then replaced by its number.

    Raises:
        CtbasisError: The listing has more than `MAX_OBJECTS` entries.
    """
    names = FileNames(opaque=opaque)
    for count, entry in enumerate(source.objects()):
        if count >= MAX_OBJECTS:
            raise CtbasisError(
                f"the source lists more than {MAX_OBJECTS:,} objects",
                expected="one examination, or a few",
                cause="the prefix is that of a whole archive, or the server's listing does not end",
                remedy="name a longer prefix",
            )
        if entry.marks_folder:
            continue
        name = names.name(entry.key)
        # Downloads use the location of an object; messages and the index use its key.
        yield (replace(entry, key=name) if opaque else entry), name


def _refuse_overlap(source: Source, destination: Path) -> None:
    source = _read_source(source)
    if not isinstance(source, FolderSource):
        return
    target = destination.resolve()
    if source.place.is_relative_to(target) or target.is_relative_to(source.place):
        raise CtbasisError(
            "the source and the destination are the same folder, or one contains the other",
            expected="two separate folders",
            remedy="choose another destination",
        )


def _read_source(source: Source) -> Source:
    """Return the source that the objects are read from."""
    return source.source if isinstance(source, ListedSource) else source


def _require_space(source: Source, destination: Path, index: FetchIndex, *, opaque: bool) -> None:
    """Refuse a source whose objects take more space than the volume of the destination has.

    This reads the listing once more, a request per 1,000 objects, so that a fetch that cannot succeed does not first
    run for an hour. Objects that an earlier fetch has left in the destination do not count.

    Raises:
        CtbasisError: The volume has too little space.
    """
    place = _read_source(source)
    if isinstance(place, FolderSource) and place.root.stat().st_dev == destination.stat().st_dev:
        # Hard links take no space.
        return
    total = 0
    for entry, name in list_objects(source, opaque=opaque):
        recorded = index.records.get(entry.key)
        present = recorded is not None and (recorded.name, recorded.etag) == (name, entry.etag)
        present = present and entry.size in {None, recorded.size if recorded else None}
        total += 0 if present else entry.size or 0
    require_space(total, destination, "the source")


def _prepared(destination: Path) -> FetchIndex:
    """Create the folder if necessary and return its index; refuse a folder with files of other origin."""
    destination.mkdir(parents=True, exist_ok=True)
    index = FetchIndex(destination)
    if not index.exists and any(not path.name.startswith(OWN_PREFIX) for path in destination.iterdir()):
        raise CtbasisError(
            f"{destination} holds files that ctbasis did not fetch",
            expected="a folder that is new or empty, or holds an earlier fetch",
            cause="it is in use for something else",
            remedy="choose another destination, or empty this one",
        )
    shutil.rmtree(destination / UNFINISHED, ignore_errors=True)
    (destination / UNFINISHED).mkdir()
    return index


def _record(entry: RemoteObject, name: str, path: Path, *, checked: bool) -> Record:
    status = path.stat()
    return Record(entry.key, name, status.st_size, entry.etag, status.st_mtime_ns, checked)


def _complete_file(path: Path, entry: RemoteObject, name: str, recorded: Record | None) -> Record | None:
    """Return the record of a file that already holds the object, or None if the object has to be fetched."""
    if not path.is_file() or entry.size not in {None, path.stat().st_size}:
        return None
    now = _record(entry, name, path, checked=recorded is None or recorded.checked)
    digest = Digest(entry.etag, entry.size)
    untouched = now == recorded
    if not digest.is_comparable or (untouched and not now.checked):
        return now if untouched else None
    digest.update_from(path)
    verdict = digest.verdict()
    if verdict is Verdict.MATCHES:
        return replace(now, checked=True)
    return now if untouched and verdict is Verdict.UNKNOWN else None


def download_with_retries(source: Source, entry: RemoteObject, target: Path) -> bool:
    """Download an object to `target`, with as many attempts as `repeat` makes.

    Returns:
        Whether the content was checked against the ETag, not only its size.

    Raises:
        UnreachableError: Every attempt failed.
        CtbasisError: The source refuses the download.
    """

    def attempt() -> bool:
        target.unlink(missing_ok=True)
        checked = source.download(entry, target)
        if entry.size not in {None, target.stat().st_size}:
            raise TransientError("the size differs from that in the listing")
        return checked

    return repeat(attempt, lambda reason: _exhausted(entry, reason))


def _exhausted(entry: RemoteObject, reason: str) -> UnreachableError:
    return UnreachableError(
        f"{entry.key!r} could not be downloaded in {retries.ATTEMPTS} attempts: {reason}",
        expected="a complete download",
        cause="the server is overloaded, the network drops connections, or somebody writes to the source",
        remedy="run the step again; it continues where it stopped",
    )


def _make_way(path: Path, destination: Path) -> None:
    """Remove what blocks the path: a folder of an earlier fetch of this name, or a file in place of a parent folder."""
    for folder in path.parents:
        if folder == destination:
            break
        if folder.is_file():
            folder.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)


def _remove_empty(folder: Path, destination: Path) -> None:
    while folder != destination and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
