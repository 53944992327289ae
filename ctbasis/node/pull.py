"""Retrieval of a study from another node or a DICOMweb server.

From a node: C-FIND for its CT series, and C-MOVE of each to a server of this process. From a DICOMweb server: QIDO-RS
and WADO-RS, by the source of `ctbasis/sources/dicomweb.py`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.node import scu
from ctbasis.node.database import Database
from ctbasis.node.inbox import UID, Inbox
from ctbasis.node.queue import Queue
from ctbasis.node.scp import Server
from ctbasis.node.status import Status
from ctbasis.progress import progress
from ctbasis.storage.outputs import Results, list_files, replaced
from ctbasis.storage.working_folder import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ctbasis.node.calling import Caller
    from ctbasis.node.listening import Listening
    from ctbasis.node.peers import Peer, WebPeer

CT = "CT"


@dataclass(frozen=True)
class Pulled:
    """What was retrieved.

    Attributes:
        series: Number of CT series.
        instances: Number of instances.
    """

    series: int
    instances: int


def pull(peer: Peer, study: str, out: Path, *, caller: Caller, listening: Listening, series: str = "") -> Pulled:
    """Retrieve the CT series of a study to a folder, complete or not at all.

    Args:
        peer: The node that has the study. It must know the title and the address of this side.
        study: StudyInstanceUID.
        out: Folder for the files, a folder for each series; a former result is replaced.
        caller: This side as a requestor of associations.
        listening: How this side listens for the instances.
        series: SeriesInstanceUID of the only series; empty for all CT series of the study.

    Raises:
        UnreachableError: The peer does not answer or rejects the association.
        CtbasisError: A UID is none, the peer has no such study or sent less than it has, the port is in use, or the
            folder holds other files.
    """
    _require_uids(study, series)
    with replaced([out], ours=Results()) as (folder,), scratch_folder("ctbasis-pull") as scratch:
        database = Database(scratch / "node.db")
        try:
            inbox = Inbox(scratch / "inbox", Queue(database))
            with Server(listening, inbox) as server:
                wanted = [series] if series else _series(peer, study, caller)
                _move(peer, study, wanted, caller, listening, server.port)
            files = sorted(inbox.folder.glob("*/*.dcm"))
        finally:
            database.close()
        if not files:
            raise _nothing(peer, listening)
        series_found = arrange(files, folder)
    return Pulled(series_found, len(files))


def pull_web(peer: WebPeer, study: str, out: Path, *, series: str = "") -> Pulled:
    """Retrieve the CT series of a study from a DICOMweb server to a folder, complete or not at all.

    Args:
        peer: The server.
        study: StudyInstanceUID.
        out: Folder for the files, a folder for each series; a former result is replaced.
        series: SeriesInstanceUID of the only series; empty for all CT series of the study.

    Raises:
        UnreachableError: The server does not answer.
        CtbasisError: A UID is none, the server has no such study or denies access, or the folder holds other files.
    """
    # Imports boto3, which a pull from a DICOM node does without.
    from ctbasis.sources.fetch import fetch

    _require_uids(study, series)
    chosen = f"SeriesInstanceUID={series}" if series else f"Modality={CT}"
    with replaced([out], ours=Results()) as (folder,), scratch_folder("ctbasis-pull") as scratch:
        fetch(f"{peer}?StudyInstanceUID={study}&{chosen}", scratch / "files")
        files = sorted((scratch / "files").glob("*/*/*.dcm"))
        count = arrange(files, folder)
    return Pulled(count, len(files))


def arrange(files: Sequence[Path], folder: Path) -> int:
    """Move files to a folder, one subfolder for each series, and return the number of series.

    Args:
        files: The files; those of a series are in one folder.
        folder: The folder, which becomes a result of ctbasis.
    """
    parents = sorted({path.parent for path in files})
    for number, parent in enumerate(parents, start=1):
        target = folder / f"series-{number:02d}"
        target.mkdir(parents=True)
        for index, path in enumerate([one for one in files if one.parent == parent], start=1):
            shutil.move(path, target / f"instance-{index:05d}.dcm")
    list_files(folder)
    return len(parents)


def _require_uids(study: str, series: str) -> None:
    for name, uid in (("--study", study), ("--series", series)):
        if uid and UID.fullmatch(uid) is None:
            raise CtbasisError(f"{name} is {uid[:70]!r}", expected="a UID: up to 64 digits and dots")


def _series(peer: Peer, study: str, caller: Caller) -> list[str]:
    """Return the CT series of a study."""
    with scu.association(peer, caller, scu.FIND) as opened:
        found = scu.series_of_study(opened, study)
    wanted = [uid for modality, uid in found if modality == CT]
    if not wanted:
        modalities = ", ".join(sorted({modality for modality, _ in found})) or "nothing"
        raise CtbasisError(
            f"{peer} has no CT series of this study: {modalities}",
            expected="a study with CT",
            cause="the StudyInstanceUID is that of another study, or this AE title may not see it",
            remedy="compare --study with the archive's page",
        )
    return wanted


def _move(peer: Peer, study: str, wanted: list[str], caller: Caller, listening: Listening, port: int) -> None:
    with scu.association(peer, caller, scu.MOVE) as opened:
        for uid in progress(wanted, "pull", unit="series"):
            answer = scu.move_series(opened, study=study, series=uid, to=listening.title)
            if answer.status != Status.SUCCESS:
                raise CtbasisError(
                    f"{peer} did not send a series: {answer}",
                    expected=f"that it sends to {listening.title} at port {port} of this machine",
                    cause=f"it does not know {listening.title}, knows another address, or could not send all instances",
                    remedy=f"register {listening.title} there with this machine's address and port {port} (--port)",
                )


def _nothing(peer: Peer, listening: Listening) -> CtbasisError:
    return CtbasisError(
        f"{peer} says that it sent the study, and nothing arrived here",
        expected=f"instances for {listening.title} at this port",
        cause=f"{listening.title} is registered there with the address of another node",
        remedy="correct the address there, or choose another AE title by --aet",
    )
