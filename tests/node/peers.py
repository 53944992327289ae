"""Peers of a node in tests: a destination that counts what it is sent, a sender, and dcmtk's programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
)

from ctbasis.node.receiver import silence_pynetdicom

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TITLE = "ARCHIVE"

REFUSED_CONNECTIONS = pytest.mark.filterwarnings(
    # pynetdicom leaves the socket of a connection that is refused to the garbage collector.
    "ignore:Exception ignored in. <(socket.socket|ssl.SSLSocket):pytest.PytestUnraisableExceptionWarning"
)
"""Mark of tests in which connections are refused."""


class Archive:
    """An archive that keeps what it is sent in memory, answers C-FIND for instances, and can misbehave.

    Attributes:
        requests: C-STORE requests by SOPInstanceUID, also those that it refused.
        stored: Data sets by SOPInstanceUID.
        status: Status that it answers with.
        lose_after: Number of requests after which it stores the next and aborts the association without an answer.
        reports: Reports of storage commitment.
    """

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.stored: dict[str, Dataset] = {}
        self.status = 0x0000
        self.lose_after = -1
        self.reports: list[tuple[int, Dataset]] = []
        self._lock = threading.Lock()

    @contextmanager
    def listening(self, port: int = 0) -> Iterator[int]:
        """Listen and yield the port."""
        silence_pynetdicom()
        entity = AE(ae_title=TITLE)
        entity.add_supported_context(CTImageStorage)
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_N_EVENT_REPORT, self._report),
        ]
        server: Any = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()

    def _store(self, event: evt.Event) -> int:
        sop = str(event.request.AffectedSOPInstanceUID)  # type: ignore[union-attr]
        with self._lock:
            self.requests[sop] = self.requests.get(sop, 0) + 1
            if self.status == 0:
                self.stored[sop] = event.dataset
            if self.lose_after >= 0:
                self.lose_after -= 1
                if self.lose_after < 0:
                    event.assoc.abort()
        return self.status

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        asked = str(event.identifier.SOPInstanceUID)
        if asked in self.stored:
            match = Dataset()
            match.SOPInstanceUID = asked
            yield 0xFF00, match

    def _report(self, event: evt.Event) -> tuple[int, None]:
        self.reports.append((int(event.event_type or 0), event.event_information))
        return 0x0000, None


def dcmtk(program: str, *arguments: object, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program of dcmtk and return how it ended."""
    # pynetdicom installs programs of the same names in its environment.
    found = shutil.which(program, path=f"/usr/bin:/usr/local/bin:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{program} is not installed; .ci/repositories installs dcmtk")
    command = [found, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


def send(folder: Path, port: int, *options: str, title: str = "CTBASIS") -> subprocess.CompletedProcess[str]:
    """Send the files of a folder by storescu on one association."""
    return dcmtk(
        "storescu", "-v", *options, "-aet", "SCANNER", "-aec", title, "--scan-directories", "127.0.0.1", port, folder
    )
