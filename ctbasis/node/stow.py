"""STOW-RS as a server (PS3.18 10.5): the instances of a request, stored while they arrive."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from ctbasis.node.inbox import CLASSES, UID
from ctbasis.node.part10 import FileStart
from ctbasis.node.scp import SYNTAXES
from ctbasis.node.status import NotStoredError, Status
from ctbasis.sources.multipart import MultipartError, Part, PartReader, boundary_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctbasis.node.inbox import Inbox
    from ctbasis.node.queue import Instance
    from ctbasis.node.spool import Spool

FILE = "application/dicom"
"""Media type of a DICOM file."""

MOST_PARTS = 100_000
"""Instances of one request at most."""


@dataclass(frozen=True)
class Failure:
    """An instance that is not stored.

    Attributes:
        sop_class: SOPClassUID that the sender names; empty if it is not known.
        sop: SOPInstanceUID that the sender names; empty if it is not known.
        status: Reason.
    """

    sop_class: str
    sop: str
    status: Status


class Studies:
    """The studies of which requests in work have sent instances; they are not complete."""

    def __init__(self) -> None:
        self._open: list[set[str]] = []
        self._lock = threading.Lock()

    @contextmanager
    def request(self) -> Iterator[set[str]]:
        """Yield the set of studies of a request, for the time that it takes."""
        studies: set[str] = set()
        with self._lock:
            self._open.append(studies)
        try:
            yield studies
        finally:
            with self._lock:
                self._open = [one for one in self._open if one is not studies]

    def busy(self) -> set[str]:
        """Return the studies of all requests in work."""
        with self._lock:
            # A set that grows in another thread meanwhile must not be iterated over.
            return set().union(*(one.copy() for one in self._open))


@dataclass
class Reception:
    """The instances of one request. A method is called by one thread at a time.

    Attributes:
        inbox: Where instances go.
        content_type: Content-Type of the request.
        study: StudyInstanceUID that every instance must have; empty for any.
        sender: Address of the client.
        studies: Gets the StudyInstanceUID of what is stored.
        stored: Stored instances.
        failed: Instances that are not stored.

    Raises:
        MultipartError: The content type is neither that of multipart messages nor that of a DICOM file.
    """

    inbox: Inbox
    content_type: str
    study: str = ""
    sender: str = ""
    studies: set[str] = field(default_factory=set)
    stored: list[Instance] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    _reader: PartReader | None = field(default=None, init=False, repr=False)
    _part: _Part = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._part = _Part(self.inbox)
        if self.content_type.partition(";")[0].strip().lower() != FILE:
            self._reader = PartReader(boundary_of(self.content_type))

    def feed(self, piece: bytes) -> None:
        """Take a piece of the body; instances that it completes are stored.

        Raises:
            MultipartError: The body is no multipart message, or has too many parts.
        """
        if self._reader is None:
            self._part.feed(piece)
            return
        for found in self._reader.feed(piece):
            if isinstance(found, bytes):
                self._part.feed(found)
            elif found is Part.END:
                self._end_part()
                if len(self.stored) + len(self.failed) > MOST_PARTS:
                    raise MultipartError(f"has more than {MOST_PARTS} parts")

    def finish(self) -> None:
        """Take the end of the body.

        Raises:
            MultipartError: The body ends before its last boundary.
        """
        if self._reader is None:
            self._end_part()
        elif not self._reader.ended:
            raise MultipartError("ends before its last boundary")

    def close(self) -> None:
        """Remove what was not stored."""
        self._part.discard()

    @property
    def status(self) -> HTTPStatus:
        """Status of the answer (PS3.18, table 10.5.3-1)."""
        if not self.failed:
            return HTTPStatus.OK
        if self.stored:
            return HTTPStatus.ACCEPTED
        full = {failure.status for failure in self.failed} == {Status.OUT_OF_RESOURCES}
        return HTTPStatus.SERVICE_UNAVAILABLE if full else HTTPStatus.CONFLICT

    def answer(self) -> Dataset:
        """Return the Store Instances Response (PS3.18, table I.1-1)."""
        ds = Dataset()
        ds.RetrieveURL = None
        if self.stored:
            ds.ReferencedSOPSequence = [_item(one.sop_class, one.sop) for one in self.stored]
        if self.failed:
            ds.FailedSOPSequence = [_item(one.sop_class, one.sop, one.status) for one in self.failed]
        return ds

    def _end_part(self) -> None:
        part, self._part = self._part, _Part(self.inbox)
        try:
            instance = part.keep(self.study, self.sender)
        except NotStoredError as error:
            self.failed.append(Failure(*part.uids, error.status))
            return
        self.stored.append(instance)
        self.studies.add(instance.study)


class _Part:
    """An instance that arrives."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._start = bytearray()
        self._found: FileStart | None = None
        self._spool: Spool | None = None
        self._error: NotStoredError | None = None

    @property
    def uids(self) -> tuple[str, str]:
        """SOPClassUID and SOPInstanceUID, each empty if it is not known or no UID."""
        if self._found is None:
            return "", ""
        sop_class, sop = (uid if UID.fullmatch(uid) else "" for uid in (self._found.sop_class, self._found.sop))
        return sop_class, sop

    def feed(self, piece: bytes) -> None:
        if self._error is not None:
            return
        if self._spool is not None:
            self._spool.write(piece)
            return
        self._start += piece
        try:
            self._begin()
        except NotStoredError as error:
            self._error = error
            self._start.clear()

    def keep(self, study: str, sender: str) -> Instance:
        """Store the instance, which has arrived.

        Raises:
            NotStoredError: It is not stored.
        """
        if self._error is not None:
            raise self._error
        if self._spool is None or self._found is None:
            raise NotStoredError(Status.CANNOT_UNDERSTAND, "the part is no DICOM file")
        return self._inbox.keep(
            self._spool, sop_class=self._found.sop_class, sop=self._found.sop, sender=sender, study=study
        )

    def discard(self) -> None:
        if self._spool is not None:
            self._spool.discard()

    def _begin(self) -> None:
        found = FileStart.parse(self._start)
        if found is None:
            return
        self._found = found
        if found.sop_class not in map(str, CLASSES):
            raise NotStoredError(Status.CLASS_NOT_SUPPORTED, "no CT image")
        if found.syntax not in SYNTAXES:
            raise NotStoredError(Status.SYNTAX_NOT_SUPPORTED, "the transfer syntax cannot be decoded")
        if not UID.fullmatch(found.sop):
            raise NotStoredError(Status.OTHER_CLASS, "MediaStorageSOPInstanceUID is missing or no UID")
        self._spool = self._inbox.open_spool(found.meta(), found.syntax)
        self._spool.write(bytes(self._start[found.size :]))
        self._start.clear()


def _item(sop_class: str, sop: str, status: Status | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop
    if status is not None:
        item.FailureReason = int(status)
    return item
