"""Reading the headers of many objects: ranges of bytes by threads, which wait for the network, parsed by processes.

Processes parse, because a header is untrusted: one that crashes the parser, or that never ends, costs its object. The
source is used in this process alone, because clients of servers do not survive a fork.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from ctbasis.cohort.object_header import ObjectHeader, ObjectPart, crashed_header, read_object_header
from ctbasis.dicom.header import HEADER_READ
from ctbasis.dicom.pixeldata import ITEM
from ctbasis.dicom.resource_limits import MAX_FRAMES
from ctbasis.dicom.set_aside import SetAside
from ctbasis.errors import CtbasisError, UnreachableError
from ctbasis.printable import say
from ctbasis.sources.ranged_file import read_with_retries
from ctbasis.sources.zip_members import DamagedMemberError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future, ThreadPoolExecutor

    from ctbasis.dicom.deidentify.deidentification import Deidentification
    from ctbasis.dicom.workers import Workers
    from ctbasis.sources.source import RemoteObject, Source
    from ctbasis.sources.zip_members import ZipMembers

BATCH = 128
"""Objects that are parsed together. The first ranges of the next batch are read meanwhile."""

MAX_BATCH_BYTES = 96 << 20
"""Bytes of headers in memory; one header may have 64 MiB."""

MAX_ROUNDS = 64
"""Times that a header may need further ranges."""

ITEM_HEADER = 8
"""Bytes of the header of an item of encapsulated PixelData: tag and length."""

MAX_REFUSALS = 16
"""Objects in a row that the source may refuse to read. More are taken as a fault of the source, such as a token that
has expired, and not of these objects."""

REFUSED = "the source refuses to read it"


@dataclass(frozen=True)
class Wanted:
    """An object whose header is to be read.

    Attributes:
        entry: The object, or a member of an archive.
        archive: The archive of the member; None for an object of the source.
        name: Name of the object in results.
    """

    entry: RemoteObject
    archive: RemoteObject | None
    name: str


@dataclass(frozen=True)
class _Open:
    """An object of a batch whose header is not complete yet."""

    place: int
    wanted: Wanted
    part: ObjectPart
    missing: tuple[int, int] | None = None
    rounds: int = 0

    @property
    def weight(self) -> int:
        """Bytes in memory once the missing range has been read."""
        held = sum(len(content) for _, content in self.part.ranges)
        return held + (self.missing[1] - self.missing[0] if self.missing else 0)


class HeaderReader:
    """Reads the headers of objects of one source.

    Args:
        source: The source.
        zips: The members of its archives.
        pool: Threads that read from the source.
        workers: Processes that parse.
        deidentification: De-identifies every header as soon as it is read; None keeps headers as they are.
    """

    def __init__(
        self,
        source: Source,
        zips: ZipMembers,
        pool: ThreadPoolExecutor,
        workers: Workers,
        deidentification: Deidentification | None,
    ) -> None:
        self._source = source
        self._zips = zips
        self._pool = pool
        self._workers = workers
        self._parse: Callable[[ObjectPart], ObjectHeader | tuple[int, int]] = partial(
            read_object_header, deidentification
        )
        self._opaque = deidentification is not None
        self._refusals = 0

    def read(self, objects: Iterable[Wanted]) -> Iterator[list[tuple[Wanted, ObjectHeader]]]:
        """Yield batches of objects with their headers.

        Raises:
            UnreachableError: The source does not answer.
            CtbasisError: The source refuses to read `MAX_REFUSALS` objects in a row.
            WorkerCrashError: Too many headers crash the parser.
        """
        objects = iter(objects)
        ahead: deque[list[tuple[Wanted, Future[bytes]]]] = deque()
        try:
            while batch := list(islice(objects, BATCH)):
                ahead.append([(wanted, self._pool.submit(self._read, wanted, 0, HEADER_READ[0])) for wanted in batch])
                if len(ahead) > 1:
                    yield self._headers(ahead.popleft())
            while ahead:
                yield self._headers(ahead.popleft())
        finally:
            for batch_ahead in ahead:
                for _, future in batch_ahead:
                    future.cancel()

    def _headers(self, batch: list[tuple[Wanted, Future[bytes]]]) -> list[tuple[Wanted, ObjectHeader]]:
        """Return the headers of a batch whose first ranges are being read."""
        headers: dict[int, ObjectHeader] = {}
        waiting: deque[_Open] = deque()
        for place, (wanted, future) in enumerate(batch):
            try:
                first = future.result()
            except (DamagedMemberError, CtbasisError) as error:
                headers[place] = self._refused(wanted, error)
            else:
                self._refusals = 0
                part = ObjectPart(wanted.name, wanted.entry.size, ())
                waiting.append(_Open(place, wanted, _grown(part, [(0, first)], HEADER_READ[0])))
        while waiting:
            group = self._completed(_group(waiting), headers)
            results = self._workers.map(self._parse, [one.part for one in group], crashed_header)
            for one, result in zip(group, list(results), strict=True):
                if isinstance(result, ObjectHeader):
                    headers[one.place] = result
                elif one.rounds >= MAX_ROUNDS:
                    headers[one.place] = _aside(one.wanted, "its header or its fragments do not end")
                else:
                    waiting.append(replace(one, missing=result, rounds=one.rounds + 1))
        return [(wanted, headers[place]) for place, (wanted, _) in enumerate(batch)]

    def _completed(self, group: list[_Open], headers: dict[int, ObjectHeader]) -> list[_Open]:
        """Return the objects with their missing ranges; those that cannot be read are put into `headers`."""
        reads = [(one, self._pool.submit(self._read_missing, one)) for one in group if one.missing]
        completed = [one for one in group if not one.missing]
        for one, future in reads:
            try:
                ranges = future.result()
            except (DamagedMemberError, CtbasisError) as error:
                headers[one.place] = self._refused(one.wanted, error)
            else:
                completed.append(replace(one, part=_grown(one.part, ranges, (one.missing or (0, 0))[1]), missing=None))
        return completed

    def _read(self, wanted: Wanted, start: int, stop: int) -> bytes:
        if wanted.archive is not None:
            return self._zips.read(wanted.archive, wanted.entry, start, stop)
        return read_with_retries(self._source, wanted.entry, start, stop)

    def _read_missing(self, one: _Open) -> list[tuple[int, bytes]]:
        """Read the missing range. If it is the header of an item of PixelData, read those of the items after it too.

        The items themselves, which hold the pixels, are not read.
        """
        start, stop = one.missing or (0, 0)
        ranges = [(start, self._read(one.wanted, start, stop))]
        size = one.wanted.entry.size
        while len(ranges) <= MAX_FRAMES and stop - start == ITEM_HEADER:
            content = ranges[-1][1]
            if len(content) < ITEM_HEADER or content[:4] != ITEM:
                break
            start = start + ITEM_HEADER + int(struct.unpack("<I", content[4:])[0])
            stop = start + ITEM_HEADER
            if size is not None and stop > size:
                break
            ranges.append((start, self._read(one.wanted, start, stop)))
        return [(at, content) for at, content in ranges if content]

    def _refused(self, wanted: Wanted, error: Exception) -> ObjectHeader:
        """Return the result for an object that cannot be read.

        Raises:
            CtbasisError: `error`, if the fault is the source's.
        """
        if isinstance(error, DamagedMemberError):
            return _aside(wanted, "a damaged member of an archive")
        self._refusals += 1
        if isinstance(error, UnreachableError) or self._refusals >= MAX_REFUSALS:
            raise error
        found = error.found if isinstance(error, CtbasisError) and not self._opaque else "it cannot be read"
        say(f"WARNING: {wanted.name}: {found}")
        return _aside(wanted, REFUSED)


def _aside(wanted: Wanted, reason: str) -> ObjectHeader:
    return ObjectHeader(aside=(SetAside(wanted.name, reason, broken=True),))


def _grown(part: ObjectPart, ranges: list[tuple[int, bytes]], stop: int) -> ObjectPart:
    """Return an object with further ranges, of which the first one was asked for up to `stop`."""
    size = part.size
    if size is None and ranges and ranges[0][0] + len(ranges[0][1]) < stop:
        # The source did not state the size, and the object ends here.
        size = ranges[0][0] + len(ranges[0][1])
    return ObjectPart(part.name, size, (*part.ranges, *ranges))


def _group(waiting: deque[_Open]) -> list[_Open]:
    """Remove and return the first objects, as many as fit into memory, and at least one."""
    group = [waiting.popleft()]
    weight = group[0].weight
    while waiting and weight + waiting[0].weight <= MAX_BATCH_BYTES:
        weight += waiting[0].weight
        group.append(waiting.popleft())
    return group
