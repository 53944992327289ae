"""The inventory of a source: its series, from the headers of its objects alone.

Headers are read by ranges. No pixel data is transferred, except what lies within the first 64 KiB of an object.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctbasis.cohort.grouping import write_rows
from ctbasis.cohort.header_reader import REFUSED, HeaderReader, Wanted
from ctbasis.cohort.inventory_index import VERSION, InventoryIndex, name_of
from ctbasis.cohort.object_header import ObjectHeader
from ctbasis.cohort.selection import Selection
from ctbasis.dicom.set_aside import SetAside
from ctbasis.dicom.workers import WorkerCrashError, Workers
from ctbasis.errors import CtbasisError
from ctbasis.progress import progress
from ctbasis.sources.fetch import MAX_OBJECTS
from ctbasis.sources.schemes import open_source
from ctbasis.sources.zip_archive import ZIP_SUFFIX
from ctbasis.sources.zip_members import ZipMembers
from ctbasis.storage.paths import absolute_path
from ctbasis.storage.working_folder import scratch_folder
from ctbasis.threads import available_cpus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctbasis.cohort.series_row import SeriesRow
    from ctbasis.dicom.deidentify.deidentification import Deidentification
    from ctbasis.sources.source import RemoteObject, Source

CONNECTIONS = 16
"""Parallel reads. A range of 64 KiB takes as long as the network's latency, so more connections help than for files."""


@dataclass(frozen=True)
class Others:
    """Objects of no series that the ingest sets aside for one reason.

    Attributes:
        reason: The reason.
        objects: Their number.
        bytes: Their total size; None if the source states no sizes.
    """

    reason: str
    objects: int
    bytes: int | None


class Inventory:
    """The inventory of one source, which `open_inventory` opens.

    Attributes:
        source: URI or absolute path of the source.

    Args:
        uri: URI or absolute path of the source.
        source: The source.
        index: Its index.
        deidentification: De-identifies every header as soon as it is read; None keeps headers as they are.
        connections: Parallel reads.
    """

    def __init__(
        self,
        uri: str,
        source: Source,
        index: InventoryIndex,
        deidentification: Deidentification | None = None,
        connections: int = CONNECTIONS,
    ) -> None:
        self.source = uri
        self._source = source
        self._index = index
        self._deidentification = deidentification
        self._connections = connections
        self._zips = ZipMembers(source)

    def update(self) -> int:
        """List the source, read the headers of objects that are new or changed, and group the objects to series.

        An update that is interrupted keeps the headers that it has read.

        Returns:
            The number of headers that were read.

        Raises:
            UnreachableError: The source does not answer.
            CtbasisError: The source is empty or denies access; or the index cannot be written.
        """
        generation = self._index.start()
        read = 0
        # The processes are started before any thread.
        with Workers(available_cpus()) as workers, ThreadPoolExecutor(self._connections) as pool:
            list(workers.map(str, [""] * workers.count))
            reader = HeaderReader(self._source, self._zips, pool, workers, self._deidentification)
            try:
                for _ in progress(self._headers(reader, generation), "headers", unit="object"):
                    read += 1
            except WorkerCrashError as error:
                raise CtbasisError(
                    f"worker processes that read headers died: {error}",
                    expected="at most a few objects that crash the parser",
                    cause="memory ran out, or the source is full of damaged objects",
                    remedy="use a machine with more memory, or name another prefix",
                ) from error
        with self._index.transaction():
            self._index.finish(generation)
            write_rows(self._index)
        if not self._index.count():
            raise CtbasisError(
                "the source holds no object",
                expected="at least one object below the prefix, or one file in the folder",
                cause="the prefix or path is misspelt",
                remedy="check the source",
            )
        return read

    def rows(self, where: str = "") -> Iterator[SeriesRow]:
        """Yield the series that an expression selects, by patient, study and SeriesInstanceUID.

        Args:
            where: The expression, see `Selection`; empty for all series.

        Raises:
            CtbasisError: The expression is not valid.
        """
        yield from Selection(where).select(self._index.rows())

    def objects(self, row: SeriesRow) -> Iterator[RemoteObject]:
        """Yield the objects of the source that hold a series, as its listing gives them; an archive is one object."""
        yield from self._index.objects_of(row)

    def others(self) -> list[Others]:
        """Return what the source holds besides series, the most frequent reason first."""
        found: dict[str, Others] = {}
        for _, entry, header in self._index.headers(""):
            reason = header.aside[0].reason if header.aside else "no SeriesInstanceUID"
            known = found.get(reason, Others(reason, 0, 0))
            size = None if known.bytes is None or entry.size is None else known.bytes + entry.size
            found[reason] = Others(reason, known.objects + 1, size)
        return sorted(found.values(), key=lambda entry: (-entry.objects, entry.reason))

    def _headers(self, reader: HeaderReader, generation: int) -> Iterator[ObjectHeader]:
        """Read the headers that the index does not have into it, and yield them."""
        for batch in reader.read(self._unknown(generation)):
            with self._index.transaction():
                for wanted, header in batch:
                    archive = wanted.archive.key if wanted.archive else ""
                    self._index.add(_stored(wanted.entry, header), header, generation, archive)
            yield from (header for _, header in batch)

    def _unknown(self, generation: int) -> Iterator[Wanted]:
        """Yield the objects, and the members of archives, whose headers the index does not have."""
        count = 0
        for entry in self._source.objects():
            if entry.marks_folder:
                continue
            count += 1
            if count > MAX_OBJECTS:
                raise CtbasisError(
                    f"the source lists more than {MAX_OBJECTS:,} objects",
                    expected="an archive of at most as many",
                    cause="the server's listing does not end, or the prefix is too short",
                    remedy="name a longer prefix",
                )
            if self._index.is_known(entry, generation):
                continue
            members = self._members(entry, generation) if entry.key.lower().endswith(ZIP_SUFFIX) else None
            if members is None:
                yield Wanted(entry, None, self._name(entry, count))
            else:
                yield from members

    def _members(self, archive: RemoteObject, generation: int) -> list[Wanted] | None:
        """Return the members of an archive; None if it cannot be opened, so that it is treated as a file."""
        try:
            members = list(self._zips.members(archive))
        except zipfile.BadZipFile:
            return None
        wanted = []
        self._index.add(archive, None, generation)
        for number, member in enumerate(members, start=1):
            name = self._name(member.entry, number)
            if member.fault:
                fault = SetAside(name, f"in an archive: {member.fault}", broken=True)
                # An archive that is refused as a whole stands for its members.
                entry = replace(member.entry, key=f"{archive.key}/") if member.entry == archive else member.entry
                self._index.add(entry, ObjectHeader(aside=(fault,)), generation, archive.key)
            else:
                wanted.append(Wanted(member.entry, archive, name))
        return wanted

    def _name(self, entry: RemoteObject, number: int) -> str:
        return entry.key if self._deidentification is None else name_of(number)


@contextmanager
def open_inventory(
    source: str,
    *,
    state: Path | None = None,
    deidentification: Deidentification | None = None,
    connections: int = CONNECTIONS,
) -> Iterator[Inventory]:
    """Open the inventory of a source, with the index of an earlier one if there is one.

    Args:
        source: A path or a URI; see `ctbasis.sources.schemes.open_source`.
        state: The index file; by default one in the user's cache. It names the objects of the source, and holds what
            headers say: without de-identification, that includes patients. Its owner alone can read it.
        deidentification: De-identifies every header as soon as it is read. With a random salt, no index is kept,
            because the pseudonyms of another inventory would differ.
        connections: Parallel reads.

    Raises:
        CtbasisError: The source is refused, or the index is of another source, in use, or cannot be written.
    """
    place = source if "://" in source else str(absolute_path(Path(source)))
    identity = _identity(place, deidentification)
    opaque = deidentification is not None
    with scratch_folder("ctbasis-inventory") as scratch:
        if deidentification is not None and not deidentification.pseudonyms.given:
            path = scratch / "index.sqlite"
        else:
            path = state or cache_folder() / f"{identity[:32]}.sqlite"
        opened = open_source(place, connections)
        with InventoryIndex(path, identity, opaque=opaque) as index:
            yield Inventory(place, opened, index, deidentification, connections)


def cache_folder() -> Path:
    """Return the folder for index files in the user's cache: `ctbasis/inventory` in `XDG_CACHE_HOME` or `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if Path(root).is_absolute() else Path.home() / ".cache") / "ctbasis" / "inventory"


def _identity(source: str, deidentification: Deidentification | None) -> str:
    """Return a digest that names a source and a de-identification. A URI may hold a secret, and is not stored."""
    how = None
    if deidentification is not None:
        # A token tells two salts apart without revealing them.
        how = [deidentification.describe(), deidentification.pseudonyms.token("inventory")]
    return hashlib.sha256(json.dumps([VERSION, source, how], sort_keys=True).encode()).hexdigest()


def _stored(entry: RemoteObject, header: ObjectHeader) -> RemoteObject:
    """Return the object with the ETag under which the index keeps it: none for one that could not be read."""
    unread = any(aside.reason == REFUSED for aside in header.aside)
    return replace(entry, etag=f"unread {entry.etag}") if unread else entry
