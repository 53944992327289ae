"""A least rate and a largest size for the answers of an HTTP server.

botocore's read timeout ends a single `recv` that waits too long. A server that sends a byte every few seconds passes
it for ever, in the header as in the content, and a server that never ends its answer fills the memory. This module
measures each answer at its socket, below the parsers: header, listing and content alike.
"""

from __future__ import annotations

import io
import time
from functools import partial
from http import HTTPStatus
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)

if TYPE_CHECKING:
    import socket

WINDOW_SECONDS = 30.0
"""Waiting time in seconds over which the rate is averaged: a lost packet or a handover between two access points takes
less than ten seconds to recover."""

LEAST_BYTES_PER_SECOND = 1024
"""Bytes per second that each answer must bring. At this rate a CT slice takes nine minutes. Eight parallel downloads
reach it on a line of 64 kbit/s, and there a series takes days: nobody works so, and no honest server is so slow."""

MAX_ANSWER_BYTES = 64 << 20
"""Bytes of an answer that is no object's content, at most. A page of a listing has 1,000 keys of 1,024 bytes, each of
which XML may write as six characters: 6 MB and the other fields."""


class RateError(OSError):
    """An answer arrives too slowly, or is too large. An OSError, because urllib3 and botocore pass it on as a cause."""


class MeteredReader(io.RawIOBase):
    """The reading end of a connection, which refuses an answer below the least rate.

    Only the time that passes inside of `readinto` counts, so that a slow disk of the reader is not held against the
    server. The time to the first byte does not count: the read timeout limits it.

    Args:
        raw: Reads from the socket.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__()
        self._raw = raw
        self._started = False
        self._waited = 0.0
        self._received = 0
        self.remaining: int | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the number of the socket."""
        return self._raw.fileno()

    def close(self) -> None:
        """Close the reading end of the socket."""
        self._raw.close()
        super().close()

    def readinto(self, buffer: Any) -> int | None:
        """Read bytes into `buffer` and return their number.

        Raises:
            RateError: The mean rate since the start of the window is too low, or the answer is too large.
            OSError: The connection failed.
        """
        before = time.monotonic()
        count = self._raw.readinto(buffer)
        if not self._started:
            self._started = True
        else:
            self._waited += time.monotonic() - before
        self._received += count or 0
        if count and self._waited >= WINDOW_SECONDS:
            self._check_rate()
        if self.remaining is not None:
            self.remaining -= count or 0
            if self.remaining < 0:
                raise RateError(f"the answer has more than {MAX_ANSWER_BYTES >> 20} MiB")
        return count

    def _check_rate(self) -> None:
        if self._received < LEAST_BYTES_PER_SECOND * self._waited:
            raise RateError(
                f"too slow: {self._received:,} bytes in {self._waited:.0f} s, and the least rate is "
                f"{LEAST_BYTES_PER_SECOND:,} bytes/s"
            )
        self._waited, self._received = 0.0, 0


class MeteredResponse(HTTPResponse):
    """An HTTP response that is read through a `MeteredReader`.

    Args:
        sock: The connection.
        has_object: Whether the content of a successful answer is that of an object, which has any size.
        arguments: As of `http.client.HTTPResponse`.
    """

    def __init__(self, sock: socket.socket, *arguments: Any, has_object: bool = False, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        self._has_object = has_object
        self._reader = MeteredReader(self.fp.detach())
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        """Read status and header. Limit the size of the content if it is not that of an object."""
        super().begin()
        if not (self._has_object and self.status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}):
            self._reader.remaining = MAX_ANSWER_BYTES


class _Metered:
    """Connection whose responses are metered; a mixin for botocore's connections."""

    _original_response_cls: Any

    def request(self, method: str, url: str, *arguments: Any, **named: Any) -> Any:
        """Send a request; see `http.client.HTTPConnection.request`."""
        has_object = method == "GET" and "list-type=" not in url
        # botocore assigns this attribute to the class of the response before it sends.
        self._original_response_cls = partial(MeteredResponse, has_object=has_object)
        return super().request(method, url, *arguments, **named)  # type: ignore[misc] # of the other base class


class MeteredConnection(_Metered, AWSHTTPConnection):  # type: ignore[misc] # botocore's own bases disagree
    """A connection of botocore whose answers have a least rate and a largest size."""


class MeteredSecureConnection(_Metered, AWSHTTPSConnection):  # type: ignore[misc] # the same
    """The same over TLS."""


class MeteredPool(AWSHTTPConnectionPool):
    """Pool of such connections."""

    ConnectionCls = MeteredConnection


class MeteredSecurePool(AWSHTTPSConnectionPool):
    """The same over TLS."""

    ConnectionCls = MeteredSecureConnection


def meter(client: Any) -> None:
    """Make a boto3 client refuse answers that arrive too slowly or are too large; see `rate_fault`."""
    # botocore has no setting for the class of its connections. Its session gives this dictionary to urllib3, whose
    # pool managers look a class up for each new host.
    session = client._endpoint.http_session  # noqa: SLF001 - as above
    session._pool_classes_by_scheme.update(http=MeteredPool, https=MeteredSecurePool)  # noqa: SLF001 - as above


def rate_fault(error: BaseException | None) -> str:
    """Return the text of the `RateError` that caused an exception of botocore, or an empty string."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop()
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        if isinstance(current, RateError):
            return str(current)
        seen.add(id(current))
        inner = getattr(current, "kwargs", {}).get("error")
        waiting += [inner, current.__cause__, current.__context__, *current.args]
    return ""
