"""A source's objects to files in a folder: in parallel, each whole or not there, and none fetched twice."""

from __future__ import annotations

import random
import shutil
import time
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError, TransientError
from ctbasis.progress import progress
from ctbasis.sources.archive import Unpacked
from ctbasis.sources.etag import Digest, Verdict
from ctbasis.sources.folder import Folder
from ctbasis.sources.index import Index, Record
from ctbasis.sources.names import OWN_PREFIX, Names
from ctbasis.sources.sources import open_source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from ctbasis.sources.source import RemoteObject, Source

UNFINISHED = f"{OWN_PREFIX}unfinished"
"""Where files grow before they get their names: in the destination, for a rename works on one volume only."""

ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.25

MOST_OBJECTS = 4_000_000
"""Objects of a listing: a hostile server's may go on for ever, and names are kept in memory."""

AHEAD_PER_WORKER = 4
"""Objects that wait for each worker: enough to keep it busy, and a listing of any length takes no memory."""


@dataclass(frozen=True)
class FetchReport:
    """What a fetch did.

    Attributes:
        objects: Number of objects in the source, all of them in the destination now.
        bytes: Their size together.
        skipped: How many of them were whole already and were left alone.
        removed: Files of objects that the source no longer has, removed.
        left_out: What of archives could not be unpacked, each with why.
        size_only: How many could be checked by their size alone, because their ETag does not tell their content.
        seconds: Wall time.
    """

    objects: int
    bytes: int
    skipped: int
    removed: int
    size_only: int
    seconds: float
    left_out: tuple[str, ...] = ()


def fetch(source: str, destination: Path, *, workers: int = 8, opaque: bool = False) -> FetchReport:
    """Make `destination` hold the objects of `source`, and nothing that an earlier fetch left there besides.

    Every file appears whole or not at all. A fetch that was interrupted goes on where it stopped.

    Args:
        source: `s3://bucket/prefix`, a path or `file:///path`; see `open_source`. Keys of a prefix become paths, and
            archives (.zip) folders of what is in them.
        destination: A folder that is new, empty, or of an earlier fetch.
        workers: Downloads at once. More help where each is slow; a disk or a 1 Gbit/s line is full with 8.
        opaque: Number the files in the order of the listing and name no key anywhere, for keys that may name a patient.

    Raises:
        CtbasisError: The source holds nothing, cannot be reached or refuses, or the destination cannot be written.
    """
    start = time.monotonic()
    opened = open_source(source, workers)
    _refuse_overlap(opened, destination)
    try:
        index = _prepared(destination)
        unpacked = Unpacked(opened, partial(download, opened), destination / UNFINISHED, named=not opaque)
        fetching = _Fetching(unpacked, destination, index, opaque)
        with ThreadPoolExecutor(workers) as pool:
            for _ in progress(fetching.run(pool, workers * AHEAD_PER_WORKER), "fetch", unit="file"):
                pass
        if not fetching.records:
            raise CtbasisError(
                "the source holds no object",
                expected="at least one object below the prefix, or one file in the folder",
                cause="a misspelt prefix",
                remedy="check the source",
            )
        removed = fetching.tidy()
    except OSError as error:
        raise CtbasisError(
            f"{destination} cannot be written: {error.strerror or type(error).__name__}",
            expected="a folder to write to, with room for the source's objects",
            cause="the disk is full, or the place is read-only",
            remedy="make room or give the workspace more, and run the step again; it goes on where it stopped",
        ) from error
    return FetchReport(
        objects=len(fetching.records),
        bytes=sum(record.size for record in fetching.records),
        skipped=fetching.skipped,
        removed=removed,
        size_only=sum(not record.checked for record in fetching.records),
        seconds=time.monotonic() - start,
        left_out=tuple(unpacked.left_out),
    )


@dataclass
class _Fetching:
    """One run: what has arrived so far."""

    source: Source
    destination: Path
    index: Index
    opaque: bool = False
    records: list[Record] = field(default_factory=list)
    skipped: int = 0

    def run(self, pool: ThreadPoolExecutor, ahead: int) -> Iterator[Record]:
        """Bring every object, at most `ahead` of them under way while the listing still arrives."""
        under_way: deque[Future[tuple[Record, bool]]] = deque()
        try:
            for entry, name in listed(self.source, opaque=self.opaque):
                under_way.append(pool.submit(self._bring, entry, name))
                if len(under_way) >= ahead:
                    yield self._counted(under_way.popleft())
            while under_way:
                yield self._counted(under_way.popleft())
        finally:
            for waiting in under_way:
                waiting.cancel()

    def tidy(self) -> int:
        """Remove files of objects that the source has no more; return their number."""
        removed = 0
        for name in self.index.names - {record.name for record in self.records}:
            path = self.destination / name
            # Where its name is a folder's now, or below a file's, it went when that came.
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

    def _bring(self, entry: RemoteObject, name: str) -> tuple[Record, bool]:
        """Return the record of the object's file, and whether that was whole already."""
        path = self.destination / name
        kept = _kept(path, entry, name, self.index.records.get(entry.key))
        if kept is not None:
            return kept, True
        fresh = self.destination / UNFINISHED / uuid.uuid4().hex
        try:
            checked = download(self.source, entry, fresh)
            record = _record(entry, name, fresh, checked=checked)
            self.index.add(record)
            _make_way(path, self.destination)
            fresh.replace(path)
        finally:
            # After success too: renaming a link onto its twin leaves both.
            fresh.unlink(missing_ok=True)
        return record, False


def listed(source: Source, *, opaque: bool = False) -> Iterator[tuple[RemoteObject, str]]:
    """Yield the objects of `source`, each with the name of its file.

    Args:
        source: Where they are.
        opaque: As in `fetch`; the objects' keys are their numbers then.

    Raises:
        CtbasisError: The listing has no end.
    """
    names = Names(opaque=opaque)
    for count, entry in enumerate(source.objects()):
        if count >= MOST_OBJECTS:
            raise CtbasisError(
                f"the source lists more than {MOST_OBJECTS:,} objects",
                expected="one examination or a few",
                cause="the prefix is that of a whole archive, or the server's listing has no end",
                remedy="name a longer prefix",
            )
        if entry.size == 0 and (not entry.key or entry.key.endswith("/")):
            # Consoles make such objects to show an empty folder.
            continue
        name = names.name(entry.key)
        # What finds the object is its location; its key is what messages and the index would show.
        yield (replace(entry, key=name) if opaque else entry), name


def _refuse_overlap(source: Source, destination: Path) -> None:
    if not isinstance(source, Folder):
        return
    target = destination.resolve()
    if source.place.is_relative_to(target) or target.is_relative_to(source.place):
        raise CtbasisError(
            "the source and the destination are one folder, or one is in the other",
            expected="two folders apart",
            remedy="choose another destination",
        )


def _prepared(destination: Path) -> Index:
    """Make the folder ready and return its index; refuse one with files that no fetch brought."""
    destination.mkdir(parents=True, exist_ok=True)
    index = Index(destination)
    if not index.exists and any(not path.name.startswith(OWN_PREFIX) for path in destination.iterdir()):
        raise CtbasisError(
            f"{destination} holds files that ctbasis did not fetch",
            expected="a folder that is new, empty, or of an earlier fetch",
            remedy="choose another destination, or empty this one",
        )
    shutil.rmtree(destination / UNFINISHED, ignore_errors=True)
    (destination / UNFINISHED).mkdir()
    return index


def _record(entry: RemoteObject, name: str, path: Path, *, checked: bool) -> Record:
    return Record(entry.key, name, entry.size, entry.etag, path.stat().st_mtime_ns, checked)


def _kept(path: Path, entry: RemoteObject, name: str, noted: Record | None) -> Record | None:
    """Return the record of a file that holds the object already, None where that has to be fetched."""
    if not path.is_file() or path.stat().st_size != entry.size:
        return None
    now = _record(entry, name, path, checked=noted is None or noted.checked)
    digest = Digest(entry.etag, entry.size)
    untouched = now == noted
    if not digest.tells or (untouched and not now.checked):
        return now if untouched else None
    digest.update_from(path)
    verdict = digest.verdict()
    if verdict is Verdict.MATCHES:
        return replace(now, checked=True)
    return now if untouched and verdict is Verdict.UNTOLD else None


def download(source: Source, entry: RemoteObject, target: Path) -> bool:
    """Download with patience; return whether the content was checked, not its size alone."""
    for attempt in range(ATTEMPTS):
        if attempt:
            # Twice as long each time, and never in step with the other workers.
            time.sleep(FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1))  # noqa: S311 - not for secrecy
        target.unlink(missing_ok=True)
        try:
            checked = source.download(entry, target)
        except TransientError as error:
            reason = str(error)
        else:
            if target.stat().st_size == entry.size:
                return checked
            reason = "the size is not what the listing promised"
    raise CtbasisError(
        f"{entry.key!r} could not be downloaded in {ATTEMPTS} attempts: {reason}",
        cause="the server is overloaded, the network drops, or somebody writes to the source",
        remedy="run the step again; it goes on where it stopped",
    )


def _make_way(path: Path, destination: Path) -> None:
    """Let a file have its name, though it was a folder's in an earlier run, or one of its folders a file's."""
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
