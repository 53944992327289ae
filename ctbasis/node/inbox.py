"""Received instances on disk: each is written whole, brought to the disk, and recorded before it is acknowledged."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from ctbasis.dicom.header import HEADER_READ, parse
from ctbasis.dicom.tolerance import tolerant
from ctbasis.node.queue import Instance, Queue, check_duplicate
from ctbasis.node.spool import Spool
from ctbasis.node.status import NotStoredError, Status

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import Dataset

CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
"""Storage SOP classes that are taken."""

MOST_BYTES = 4 << 30
"""Bytes of a data set at most; PixelData of an explicit length has no more."""

LEAST_FREE = 64 << 20
"""Free bytes of the disk below which instances are refused: the database and the deliveries must go on."""

UID = re.compile(r"[0-9.]{1,64}")
"""A UID as far as it can be trusted: some vendors write components with leading zeros."""

DIGITS = 32
"""Hexadecimal digits of a SHA-256 that name a file or a folder."""


@dataclass(frozen=True)
class Inbox:
    """The folder of received instances.

    Names of files and folders are digests of UIDs, so that no text from outside becomes a path.

    Attributes:
        folder: The folder; made if it does not exist.
        queue: Where instances are recorded.
        least_free: Free bytes of the disk below which instances are refused.
    """

    folder: Path
    queue: Queue
    least_free: int = LEAST_FREE

    def __post_init__(self) -> None:
        self._parts.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def _parts(self) -> Path:
        """Folder of data sets that are being received."""
        return self.folder / "parts"

    def open_spool(self, meta: bytes, syntax: str) -> Spool:
        """Return a file for a data set that begins to arrive.

        Args:
            meta: Encoded file meta information (group 0002).
            syntax: TransferSyntaxUID of the data set.
        """
        free = shutil.disk_usage(self.folder).free
        fault = "" if free > self.least_free else "the disk has too little free space"
        return Spool(self._parts, meta, syntax, limit=MOST_BYTES, fault=fault)

    def keep(self, spool: Spool, *, sop_class: str, sop: str, sender: str, study: str = "") -> Instance:
        """Store a received instance. When this returns, the instance is on the disk and recorded.

        The same instance with the same bytes may come again; it is stored once.

        Args:
            spool: The whole data set.
            sop_class: SOPClassUID that the sender names.
            sop: SOPInstanceUID that the sender names.
            sender: AE title or address of the sender.
            study: StudyInstanceUID that the instance must have; empty for any.

        Raises:
            NotStoredError: The instance is not stored.
        """
        try:
            digest = spool.complete()
            if spool.fault:
                raise NotStoredError(Status.OUT_OF_RESOURCES, spool.fault)
            stored = self.queue.find(sop)
            if stored is not None:
                check_duplicate(stored.digest, digest)
                _require_study(stored.study, study)
                return stored
            found, series = self._identify(spool.path, sop_class, sop)
            _require_study(found, study)
            file = f"{_name(f'{found} {series}')}/{_name(sop)}-{digest[:8]}.dcm"
            instance = Instance(sop, sop_class, found, series, file, digest, spool.path.stat().st_size, sender)
            self._move(spool.path, self.folder / file)
            try:
                self.queue.record(instance)
            except NotStoredError:
                (self.folder / file).unlink(missing_ok=True)
                raise
        except (OSError, sqlite3.Error) as error:
            # A file that is in place and not recorded is removed when the node starts, unless it comes again.
            raise NotStoredError(
                Status.OUT_OF_RESOURCES, f"the disk refuses to write ({type(error).__name__})"
            ) from None
        finally:
            spool.discard()
        return instance

    def remove_remains(self) -> int:
        """Remove files that were never acknowledged: of a node that was killed. Return how many there were."""
        known = self.queue.known_files()
        remains = [
            path
            for path in self.folder.rglob("*")
            if path.is_file() and path.relative_to(self.folder).as_posix() not in known
        ]
        for path in remains:
            path.unlink()
        return len(remains)

    def remove(self, files: list[str]) -> None:
        """Remove files of instances that the queue has forgotten, and the folders that become empty."""
        for file in files:
            path = self.folder / file
            path.unlink(missing_ok=True)
            with suppress(OSError):
                path.parent.rmdir()

    def _identify(self, path: Path, sop_class: str, sop: str) -> tuple[str, str]:
        """Return StudyInstanceUID and SeriesInstanceUID of a data set that is what its sender says it is."""
        try:
            with path.open("rb") as stream, tolerant():
                ds: Dataset = parse(stream.read(HEADER_READ[0]), stream).ds
                found = {name: str(ds.get(name) or "") for name in ("SOPClassUID", "SOPInstanceUID")}
                study, series = str(ds.get("StudyInstanceUID") or ""), str(ds.get("SeriesInstanceUID") or "")
        except OSError:
            raise
        except Exception:  # noqa: BLE001 - pydicom raises many types over hostile data sets
            raise NotStoredError(Status.CANNOT_UNDERSTAND, "the data set cannot be read") from None
        if not found["SOPClassUID"]:
            raise NotStoredError(Status.CANNOT_UNDERSTAND, "the data set has no SOPClassUID")
        if found["SOPClassUID"] != sop_class or sop_class not in CLASSES:
            raise NotStoredError(Status.OTHER_CLASS, "SOPClassUID is not that of the request, or no CT image")
        if found["SOPInstanceUID"] != sop:
            raise NotStoredError(Status.OTHER_CLASS, "SOPInstanceUID is not that of the request")
        if not all(map(UID.fullmatch, (sop, study, series))):
            raise NotStoredError(Status.OTHER_CLASS, "StudyInstanceUID or SeriesInstanceUID is missing or no UID")
        return study, series

    @staticmethod
    def _move(source: Path, target: Path) -> None:
        """Move a file that is on the disk so that its new name is on the disk too."""
        target.parent.mkdir(exist_ok=True, mode=0o700)
        source.rename(target)
        for folder in (target.parent, target.parent.parent):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _require_study(found: str, study: str) -> None:
    if study and found != study:
        raise NotStoredError(Status.OTHER_CLASS, "StudyInstanceUID is not that of the request")


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
