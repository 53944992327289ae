"""STOW-RS as a client (PS3.18 10.5): an instance a request, streamed from its file as it is.

dicomweb-client encodes each data set anew, in memory; an instance that is passed on must keep its bytes.
"""

from __future__ import annotations

import json
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, BinaryIO

from ctbasis.errors import TransientError
from ctbasis.node.scu import Answer
from ctbasis.node.status import Status
from ctbasis.sources.dicomweb_server import DicomwebServer
from ctbasis.sources.google import renewing

if TYPE_CHECKING:
    from pathlib import Path

    import requests

    from ctbasis.node.peers import WebPeer

JSON = "application/dicom+json"

REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)
"""Error statuses that concern the instance and not the server."""


class WebChannel:
    """The way to a DICOMweb server.

    Args:
        peer: The server.

    Raises:
        CtbasisError: The credentials cannot be used.
    """

    def __init__(self, peer: WebPeer) -> None:
        self._server = DicomwebServer(
            peer.uri, what="the destination", needs="to store and to search", connections=1, passed=REFUSALS
        )

    def store(self, file: Path) -> Answer:
        """Send an instance; see `Channel`."""
        boundary = secrets.token_hex(16)
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        try:
            with file.open("rb") as stream, renewing(), self._server.site.translated():
                answer = self._server.site.session.post(
                    f"{self._server.base}/studies",
                    data=_Message(stream, file.stat().st_size, boundary),
                    headers={"Content-Type": kind, "Accept": JSON},
                )
        except TransientError as error:
            return Answer(None, f"no answer ({error})")
        self._server.refuse_unauthorized(answer)
        return _outcome(answer)

    def has_instance(self, *, study: str, series: str, sop: str) -> bool:
        """Ask by QIDO-RS; see `Channel`."""
        url = f"{self._server.base}/studies/{study}/series/{series}/instances"
        try:
            with renewing():
                answer = self._server.site.get(url, params={"SOPInstanceUID": sop}, headers={"Accept": JSON})
        except TransientError:
            return False
        self._server.refuse_unauthorized(answer)
        found = _json(answer)
        return isinstance(found, list) and any(_first(one, "00080018") == sop for one in found)


class _Message:
    """A multipart message with a file as its only part, as `requests` reads it: with a length, and in pieces."""

    def __init__(self, file: BinaryIO, size: int, boundary: str) -> None:
        self._head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._tail = f"\r\n--{boundary}--".encode()
        self._file = file
        self._left = size
        self._length = len(self._head) + size + len(self._tail)

    def __len__(self) -> int:
        return self._length

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes, at most `count`."""
        if self._head:
            piece, self._head = self._head, b""
            return piece
        if self._left:
            piece = self._file.read(self._left if count < 0 else min(count, self._left))
            # A file that became shorter ends the request early, which the server refuses.
            self._left = self._left - len(piece) if piece else 0
            return piece
        piece, self._tail = self._tail, b""
        return piece


def _outcome(answer: requests.Response) -> Answer:
    """Return the answer of a server about the only instance of a request."""
    if answer.status_code == HTTPStatus.OK:
        return Answer(Status.SUCCESS)
    found = _json(answer)
    failed = _first(found, "00081198") if isinstance(found, dict) else None
    reason = _first(failed, "00081197") if isinstance(failed, dict) else None
    if answer.status_code == HTTPStatus.ACCEPTED and failed is None:
        # The instance is stored, with a remark.
        return Answer(Status.SUCCESS)
    if isinstance(reason, int):
        return Answer(reason)
    return Answer(Status.PROCESSING_FAILURE, f"HTTP status {answer.status_code}")


def _json(answer: requests.Response) -> Any:
    try:
        return json.loads(answer.content)
    except (ValueError, RecursionError):
        return None


def _first(ds: Any, tag: str) -> Any:
    """Return the first value of an attribute of a data set in JSON; None if it has none."""
    try:
        return ds[tag]["Value"][0]
    except (KeyError, IndexError, TypeError):
        return None
