"""The node as a client (SCU): associations with peers, and what is asked of them."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)

from ctbasis.errors import UnreachableError
from ctbasis.node.receiver import silence_pynetdicom
from ctbasis.node.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from pynetdicom.association import Association

    from ctbasis.node.calling import Caller
    from ctbasis.node.peers import Peer

    Contexts: TypeAlias = "Sequence[tuple[str, Sequence[str]]]"
    """SOP classes, each with the transfer syntaxes of which a peer chooses one."""

CONNECT_SECONDS = 15.0
"""Seconds until a peer must accept a connection."""

ANSWER_SECONDS = 120.0
"""Seconds until a peer must answer a request. Archives that store to tape or to a slow database take long."""

PENDING = (0xFF00, 0xFF01)
"""Status of the answers of C-FIND and C-MOVE before the last (PS3.4 C.4)."""

WARNINGS = range(0xB000, 0xC000)
"""Status of C-STORE that says that the instance is stored, with a remark (PS3.4 B.2.3)."""

EVENT_ALL_STORED, EVENT_SOME_FAILED = 1, 2
"""Event Type ID of a report of storage commitment (PS3.4 J.3.3)."""

LITTLE_ENDIAN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@dataclass(frozen=True)
class Answer:
    """The answer of a peer to a request.

    Attributes:
        status: Its status; None if the association ended without one.
        comment: Its ErrorComment, or what happened to the association.
    """

    status: int | None
    comment: str = ""

    @property
    def stored(self) -> bool:
        """Whether the peer has stored the instance that it was sent."""
        return self.status is not None and (self.status == Status.SUCCESS or self.status in WARNINGS)

    def __str__(self) -> str:
        if self.status is None:
            return self.comment or "no answer"
        # The comment of a peer may quote the data set.
        return f"status 0x{self.status:04X}"


@contextmanager
def association(
    peer: Peer, caller: Caller, contexts: Contexts, *, provides: str = "", seconds: float = ANSWER_SECONDS
) -> Iterator[Association]:
    """Associate with a peer for the time of the context.

    Args:
        peer: The peer, with its address.
        caller: This side.
        contexts: SOP classes, each with the transfer syntaxes of which the peer chooses one.
        provides: SOP class for which this side is the server although it requests the association.
        seconds: Seconds until a request must be answered.

    Raises:
        UnreachableError: The peer does not answer, or accepts no association or none of the SOP classes.
    """
    silence_pynetdicom()
    entity = AE(ae_title=caller.title)
    entity.connection_timeout = CONNECT_SECONDS
    entity.acse_timeout = entity.network_timeout = entity.dimse_timeout = seconds
    for sop_class, syntaxes in contexts:
        entity.add_requested_context(sop_class, list(syntaxes))
    roles: list[Any] = [build_role(provides, scu_role=False, scp_role=True)] if provides else []
    opened = entity.associate(peer.host, peer.port, ae_title=peer.title, ext_neg=roles, tls_args=caller.tls_of(peer))
    if not opened.is_established:
        raise _unreachable(peer, caller.title, opened)
    try:
        yield opened
    finally:
        with suppress(Exception):
            if opened.is_established:
                opened.release()
        with suppress(Exception):
            opened.join(CONNECT_SECONDS)


def store(opened: Association, file: Path) -> Answer:
    """Send an instance to the peer of an association by C-STORE.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        answer = opened.send_c_store(file)
    except (RuntimeError, ValueError, AttributeError) as error:
        return Answer(None, f"the peer takes no such instance, or the association ended ({type(error).__name__})")
    return _answer(answer)


def has_instance(opened: Association, *, study: str, series: str, sop: str) -> bool:
    """Ask the peer of an association by C-FIND whether it has an instance; False if it cannot be asked."""
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID, query.SeriesInstanceUID, query.SOPInstanceUID = study, series, sop
    return any(str(found.get("SOPInstanceUID", "")) == sop for found in _matches(opened, query))


def series_of_study(opened: Association, study: str) -> list[tuple[str, str]]:
    """Ask the peer of an association by C-FIND for the series of a study.

    Returns:
        Modality and SeriesInstanceUID of each.
    """
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID, query.SeriesInstanceUID, query.Modality = study, "", ""
    return [
        (str(found.get("Modality", "") or ""), str(found.SeriesInstanceUID))
        for found in _matches(opened, query)
        if found.get("SeriesInstanceUID")
    ]


def move_series(opened: Association, *, study: str, series: str, to: str) -> Answer:
    """Ask the peer of an association by C-MOVE to send a series, and wait until it has.

    Args:
        opened: The association.
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        to: AE title that the peer sends to.
    """
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID, query.SeriesInstanceUID = study, series
    last = Answer(None, "the association ended without an answer")
    try:
        for answer, _ in opened.send_c_move(query, to, StudyRootQueryRetrieveInformationModelMove):
            last = _answer(answer)
    except (RuntimeError, ValueError) as error:
        return Answer(None, f"the peer provides no C-MOVE, or the association ended ({type(error).__name__})")
    return last


def report_commitment(opened: Association, transaction: str, outcome: Mapping[str, tuple[str, Status]]) -> Answer:
    """Send a report of storage commitment to the peer of an association by N-EVENT-REPORT.

    Args:
        opened: The association.
        transaction: TransactionUID of the request.
        outcome: SOPClassUID and status of each instance, by SOPInstanceUID.
    """
    report = Dataset()
    report.TransactionUID = transaction
    stored, failed = [], []
    for sop, (sop_class, status) in outcome.items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop
        if status is Status.SUCCESS:
            stored.append(item)
        else:
            item.FailureReason = int(status)
            failed.append(item)
    if stored:
        report.ReferencedSOPSequence = stored
    if failed:
        report.FailedSOPSequence = failed
    try:
        answer, _ = opened.send_n_event_report(
            report,
            EVENT_SOME_FAILED if failed else EVENT_ALL_STORED,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )
    except (RuntimeError, ValueError) as error:
        return Answer(None, f"the association ended ({type(error).__name__})")
    return _answer(answer)


FIND: Contexts = ((StudyRootQueryRetrieveInformationModelFind, LITTLE_ENDIAN),)
MOVE: Contexts = ((StudyRootQueryRetrieveInformationModelMove, LITTLE_ENDIAN),)
COMMITMENT: Contexts = ((StorageCommitmentPushModel, LITTLE_ENDIAN),)
"""SOP classes of queries, of retrievals and of storage commitment, for `association`."""


def _matches(opened: Association, query: Dataset) -> list[Dataset]:
    found = []
    try:
        for answer, match in opened.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
            if answer and answer.get("Status") in PENDING and match is not None:
                found.append(match)
    except (RuntimeError, ValueError):
        # The peer provides no C-FIND, or the association ended.
        return found
    return found


def _answer(answer: Any) -> Answer:
    if not answer or "Status" not in answer:
        return Answer(None, "the association ended without an answer")
    return Answer(int(answer.Status), str(answer.get("ErrorComment", "") or ""))


def _unreachable(peer: Peer, title: str, opened: Association) -> UnreachableError:
    if opened.is_rejected:
        return UnreachableError(
            f"{peer} rejected the association",
            expected=f"that it accepts {title} and is called {peer.title}",
            cause="its AE title is another, it does not know that of this node, or it has too many associations",
            remedy=f"register {title} there with this machine's address, and compare the AE titles",
        )
    return UnreachableError(
        f"{peer} does not answer, or accepts none of the services that are asked for",
        expected="a DICOM node at this address",
        cause="it is down, the address is another, or a firewall is in between"
        + ("; or its certificate does not name this host, or is of another authority" if peer.tls else ""),
        remedy="compare the address, and try `echoscu` from this machine",
    )
