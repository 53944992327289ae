"""pynetdicom's association server with bounds: on connections, time, lengths, and memory.

pynetdicom reads a PDU of any length that its header states and waits for it without limit, keeps a data set of any size
in memory, and lets a TLS handshake that stalls block all other peers. The classes here bound these through the places
that pynetdicom has for own classes: the server, the request handler, and `Association.dimse`.
"""

from __future__ import annotations

import logging
import ssl
import time
from contextlib import suppress
from socketserver import BaseServer
from typing import TYPE_CHECKING, Any

from pynetdicom import _config
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dsutils import create_file_meta, encode_file_meta
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from ctbasis.node.spool import Spool

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pynetdicom.ae import ApplicationEntity
    from pynetdicom.association import Association

LONGEST_PDU = 1 << 20
"""Bytes of a PDU at most. P-DATA is negotiated to MAXIMUM_LENGTH; an A-ASSOCIATE-RQ with all SOP classes has 100 kB."""

MAXIMUM_LENGTH = 131_072
"""Maximum length of P-DATA that the node negotiates, which is dcmtk's largest."""

LONGEST_MESSAGE = 8 << 20
"""Bytes of a message at most that is kept in memory: each but the data set of a C-STORE request."""

MOST_UNANSWERED = 16
"""Requests that a peer may send ahead of their answers. The node offers no asynchronous operations, so one is usual."""

CONNECTIONS_PER_ASSOCIATION = 2
"""Connections that are accepted for each association that is allowed: those beyond get an answer with the reason."""

INVALID_PDU = "Evt19"
"""Event of the upper layer's state machine on which it aborts the association (PS3.8 9.2)."""


def silence_pynetdicom() -> None:
    """Turn pynetdicom's own log off: it quotes data sets, and writes past ctbasis/printable.py."""
    _config.LOG_HANDLER_LEVEL = "none"
    logger = logging.getLogger("pynetdicom")
    logger.propagate = False
    logger.setLevel(logging.CRITICAL + 1)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


class SpooledMessages(DIMSEServiceProvider):
    """The DIMSE provider of an association whose C-STORE data sets become files.

    Attributes:
        spools: Data sets that arrived, or begin to, and that no handler has stored yet.

    Args:
        association: The association.
        open_spool: Function that opens the file of a data set: file meta information, TransferSyntaxUID.
    """

    def __init__(self, association: Association, open_spool: Callable[[bytes, str], Spool]) -> None:
        super().__init__(association)
        self.spools: set[Spool] = set()
        self._open_spool = open_spool

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the fragments of a P-DATA one by one; abort the association on what no sound peer sends."""
        try:
            for value in primitive.presentation_data_value_list:
                fragment: Any = P_DATA()
                fragment.presentation_data_value_list = [list(value)]
                self._receive(fragment)
        except Exception:  # noqa: BLE001 - hostile messages raise many types in pynetdicom and pydicom
            self.message = None
            self.dul.event_queue.put(INVALID_PDU)

    def discard_spools(self) -> None:
        """Remove the files of data sets that were never stored; called when the association has ended."""
        while self.spools:
            self.spools.pop().discard()

    def _receive(self, fragment: P_DATA) -> None:
        super().receive_primitive(fragment)
        message = self.message
        if message is None:
            if self.msg_queue.qsize() > MOST_UNANSWERED:
                raise ValueError("too many requests without an answer")
            return
        if isinstance(message, C_STORE_RQ) and not isinstance(message.data_set, Spool):
            message.data_set = self._spool(message)
        held = message.encoded_command_set.tell()
        if not isinstance(message.data_set, Spool) and message.data_set is not None:
            held += message.data_set.tell()
        if held > LONGEST_MESSAGE:
            raise ValueError("a message that is too long")

    def _spool(self, message: C_STORE_RQ) -> Spool:
        command: Any = message.command_set
        accepted: dict[Any, Any] = {one.context_id: one for one in self.assoc.accepted_contexts}
        syntax = accepted[message.context_id].transfer_syntax[0]
        meta = create_file_meta(
            sop_class_uid=command.AffectedSOPClassUID,
            sop_instance_uid=command.AffectedSOPInstanceUID,
            transfer_syntax=syntax,
        )
        spool = self._open_spool(encode_file_meta(meta), str(syntax))
        self.spools.add(spool)
        return spool


class _Request(RequestHandler):
    """Makes the association of a connection."""

    server: BoundedServer

    def _create_association(self) -> Association:
        association = super()._create_association()
        association.dimse = SpooledMessages(association, self.server.open_spool)
        connection: Any = association.dul.socket
        # pynetdicom has no place for an own class of socket.
        connection.recv = lambda count: _read(connection.socket, count, self.server.seconds)
        return association


class BoundedServer(ThreadedAssociationServer):
    """A server whose connections are bounded in number, time and length.

    Attributes:
        open_spool: See `SpooledMessages`.
        seconds: Seconds within which a PDU must arrive whole, and a TLS handshake must end.

    Args:
        entity: The application entity that listens.
        *arguments: As of pynetdicom's AssociationServer.
        open_spool: As the attribute.
        seconds: As the attribute.
        **settings: As of pynetdicom's AssociationServer.
    """

    def __init__(
        self,
        entity: ApplicationEntity,
        *arguments: Any,
        open_spool: Callable[[bytes, str], Spool],
        seconds: float,
        **settings: Any,
    ) -> None:
        self.open_spool = open_spool
        self.seconds = seconds
        super().__init__(entity, *arguments, **{**settings, "request_handler": _Request})

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection. A TLS handshake follows in the connection's own thread."""
        listening: Any = self.socket
        connection, address = listening.accept()
        connection.settimeout(self.seconds)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse connections beyond a multiple of the associations that are allowed."""
        del request, client_address
        return len(self.active_associations) < CONNECTIONS_PER_ASSOCIATION * self.ae.maximum_associations

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Do the TLS handshake, if there is one, and start the association."""
        if self.ssl_context is not None:
            request = self.ssl_context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Drop a connection that failed before it became an association; the peer sees it closed."""
        del request, client_address

    def shutdown(self) -> None:
        """Stop to listen and abort all associations."""
        # The parent class also removes the server from a list of the application entity, in which this one is not.
        BaseServer.shutdown(self)
        for association in self.active_associations:
            with suppress(Exception):
                association.abort()
        self.server_close()


def _read(connection: Any, count: int, seconds: float) -> bytearray:
    """Read `count` bytes of a PDU, fewer if the peer closes the connection.

    Raises:
        OSError: The PDU is too long, or did not arrive whole within `seconds`.
    """
    if count > LONGEST_PDU:
        raise OSError("a PDU that is too long")
    if connection is None:
        raise OSError("the connection is closed")
    content = bytearray(count)
    view = memoryview(content)
    got = 0
    deadline = time.monotonic() + seconds
    while got < count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("a PDU did not arrive whole")
        connection.settimeout(left)
        with suppress(ssl.SSLWantReadError):
            received = connection.recv_into(view[got:], count - got)
            if not received:
                break
            got += received
    connection.settimeout(seconds)
    return content[:got]
