"""The node as a server (SCP): verification, storage of CT, storage commitment, and announcements of series."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    InstanceAvailabilityNotification,
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from ctbasis.addresses import unusable_port
from ctbasis.dicom.pixeldata import DECODERS, NATIVE
from ctbasis.node.announced import lists_of_notification, lists_of_step
from ctbasis.node.inbox import CLASSES
from ctbasis.node.receiver import MAXIMUM_LENGTH, BoundedServer, SpooledMessages, silence_pynetdicom
from ctbasis.node.spool import Spool
from ctbasis.node.status import NotStoredError, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynetdicom.association import Association

    from ctbasis.node.announced import Announced, Lists
    from ctbasis.node.inbox import Inbox
    from ctbasis.node.listening import Listening
    from ctbasis.node.outgoing import Outgoing

SYNTAXES = sorted(str(syntax) for syntax in (*NATIVE, *DECODERS))
"""Transfer syntaxes that are taken: those that the reader decodes."""

REQUEST_STORAGE_COMMITMENT = 1
"""Action Type ID of N-ACTION (PS3.4 J.3.2)."""

MOST_REFERENCES = 100_000
"""Instances that one request of storage commitment may ask about."""

IMPLEMENTATION = "CTBASIS"
"""Implementation Version Name, which peers write to their logs."""


class Server:
    """The server of a node, which listens within its `with` block.

    Args:
        listening: How it listens.
        inbox: Where instances go.
        outgoing: Where requests of storage commitment go; None refuses them.
        announced: Where lists of the instances of series go, of a Modality Performed Procedure Step or an Instance
            Availability Notification; None refuses them.

    Raises:
        CtbasisError: The address is in use or not of this machine, or the TLS files cannot be used.
    """

    def __init__(
        self,
        listening: Listening,
        inbox: Inbox,
        outgoing: Outgoing | None = None,
        announced: Announced | None = None,
    ) -> None:
        silence_pynetdicom()
        self._inbox = inbox
        self._outgoing = outgoing
        self._announced = announced
        self._studies: dict[Association, set[str]] = {}
        self._lock = threading.Lock()
        entity = AE(ae_title=listening.title)
        entity.implementation_version_name = IMPLEMENTATION
        entity.maximum_pdu_size = MAXIMUM_LENGTH
        entity.maximum_associations = listening.associations
        entity.require_called_aet = True
        entity.require_calling_aet = list(listening.allowed)
        entity.acse_timeout = entity.network_timeout = entity.dimse_timeout = listening.seconds
        for sop_class in CLASSES:
            entity.add_supported_context(sop_class, SYNTAXES)
        entity.add_supported_context(Verification)
        if outgoing is not None:
            entity.add_supported_context(StorageCommitmentPushModel)
        if announced is not None:
            entity.add_supported_context(ModalityPerformedProcedureStep)
            entity.add_supported_context(InstanceAvailabilityNotification)
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._open),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, _echo),
            (evt.EVT_N_ACTION, self._act),
            (evt.EVT_N_CREATE, self._create),
            (evt.EVT_N_SET, self._set),
        ]
        context = listening.tls.context() if listening.tls is not None else None
        try:
            self._server: Any = entity.make_server(
                (listening.host or "0.0.0.0", listening.port),  # noqa: S104 - a node is reached from other machines
                evt_handlers=handlers,
                ssl_context=context,
                server_class=BoundedServer,
                open_spool=inbox.open_spool,
                seconds=listening.seconds,
            )
        except (OSError, ValueError) as error:
            raise unusable_port(listening.port, listening.host, error, option="--port") from error

    @property
    def port(self) -> int:
        """Port that the server listens on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="listen", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self.busy_studies()

    def busy_studies(self) -> set[str]:
        """Return the studies of which an open association has sent an instance.

        Data sets that an ended association left unfinished are removed on the way.
        """
        with self._lock:
            # One that was not started yet has no identifier.
            for association in [one for one in self._studies if one.ident is not None and not one.is_alive()]:
                del self._studies[association]
                if isinstance(association.dimse, SpooledMessages):
                    association.dimse.discard_spools()
            return set().union(*self._studies.values())

    def association_of(self, title: str) -> Association | None:
        """Return an open association that the peer `title` requested; None if there is none."""
        found = [one for one in self._server.active_associations if one.is_established]
        return next((one for one in found if one.requestor.ae_title == title), None)

    def _open(self, event: evt.Event) -> None:
        with self._lock:
            self._studies[event.assoc] = set()

    def _store(self, event: evt.Event) -> int | Dataset:
        """Answer a C-STORE request."""
        association = event.assoc
        request: Any = event.request
        spool = request.DataSet
        if not isinstance(spool, Spool):
            return Status.CANNOT_UNDERSTAND
        try:
            instance = self._inbox.keep(
                spool,
                sop_class=str(request.AffectedSOPClassUID),
                sop=str(request.AffectedSOPInstanceUID),
                sender=str(association.requestor.ae_title),
            )
        except NotStoredError as error:
            answer = Dataset()
            answer.Status = int(error.status)
            answer.ErrorComment = error.comment
            return answer
        finally:
            if isinstance(association.dimse, SpooledMessages):
                association.dimse.spools.discard(spool)
        with self._lock:
            self._studies.setdefault(association, set()).add(instance.study)
        return Status.SUCCESS

    def _act(self, event: evt.Event) -> tuple[int, None]:
        """Record a request of storage commitment; its report follows on its own."""
        request: Any = event.request
        if (
            self._outgoing is None
            or request.RequestedSOPInstanceUID != StorageCommitmentPushModelInstance
            or event.action_type != REQUEST_STORAGE_COMMITMENT
        ):
            return Status.NO_SUCH_INSTANCE, None
        try:
            asked = event.action_information
            instances = [
                (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
                for item in asked.ReferencedSOPSequence[:MOST_REFERENCES]
            ]
            self._outgoing.ask_commitment(str(asked.TransactionUID), str(event.assoc.requestor.ae_title), instances)
        except Exception:  # noqa: BLE001 - hostile data sets raise many types, and the database is another reason
            return Status.PROCESSING_FAILURE, None
        return Status.SUCCESS, None

    def _create(self, event: evt.Event) -> tuple[int, None]:
        """Take an Instance Availability Notification, or a step that begins or has ended."""
        request: Any = event.request
        of_step = request.AffectedSOPClassUID == ModalityPerformedProcedureStep
        return self._announce(event, "attribute_list", lists_of_step if of_step else lists_of_notification)

    def _set(self, event: evt.Event) -> tuple[int, None]:
        """Take a change of a step. Which steps began is not recorded, since only their lists matter here."""
        return self._announce(event, "modification_list", _lists_of_change)

    def _announce(self, event: evt.Event, name: str, lists: Callable[[Dataset], Lists]) -> tuple[int, None]:
        if self._announced is None:
            return Status.CLASS_NOT_SUPPORTED, None
        try:
            self._announced.add(lists(getattr(event, name)))
        except Exception:  # noqa: BLE001 - hostile data sets raise many types
            return Status.PROCESSING_FAILURE, None
        return Status.SUCCESS, None


def _lists_of_change(step: Dataset) -> Lists:
    return lists_of_step(step) if "PerformedProcedureStepStatus" in step else {}


def _echo(event: evt.Event) -> int:
    del event
    return Status.SUCCESS
