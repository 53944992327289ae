"""The body of a request: read as it arrives, limited in size and time, and read to its end before an early answer."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LEAST_RATE = 16 << 10
"""Bytes a second at least, over the whole body; a slower sender would hold a connection for hours."""

DRAIN_SECONDS, DRAIN_BYTES = 2.0, 64 << 20
"""How long, and how much, of a body is read and dropped after the answer is known. A client that still sends when its
connection is closed often does not see the answer."""


@dataclass(frozen=True)
class Limits:
    """Limits of a request's body.

    Attributes:
        size: Bytes at most.
        seconds: Seconds without a byte at most.
    """

    size: int
    seconds: float = 60.0


async def pieces(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """Yield the body of a request in pieces, as it arrives.

    Args:
        request: The request.
        limits: Its limits.

    Raises:
        HTTPException: The body is larger than the limit (413), too slow (408), or shorter than stated (400).
    """
    # The server has checked that the header is a number.
    if int(request.headers.get("content-length", "0")) > limits.size:
        raise _too_large(limits)
    loop = asyncio.get_running_loop()
    start, size = loop.time(), 0
    stream = request.stream()
    while True:
        slowest = start + limits.seconds + size / LEAST_RATE
        try:
            async with asyncio.timeout_at(min(loop.time() + limits.seconds, slowest)):
                piece = await anext(stream, None)
        except TimeoutError:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, "the body arrives too slowly") from None
        except ClientDisconnect:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "the body is shorter than its Content-Length") from None
        if piece is None:
            return
        size += len(piece)
        if size > limits.size:
            raise _too_large(limits)
        if piece:
            yield piece


async def whole(request: Request, limits: Limits) -> bytes:
    """Return the body of a request; see `pieces`."""
    content = bytearray()
    async for piece in pieces(request, limits):
        content += piece
    return bytes(content)


class EarlyAnswers:
    """ASGI middleware for answers that are given before the whole body was read, such as 401 and 413.

    The rest of the body is read and dropped for a short time. If it is longer, the answer closes the connection.

    Args:
        application: The application.
    """

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        body = _Body(dict(scope["headers"]), receive)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and not body.ended:
                await body.drain()
                if not body.ended:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._application(scope, body.receive, answer)


class _Body:
    """Knows whether the body of a request has been read to its end."""

    def __init__(self, headers: dict[bytes, bytes], receive: Receive) -> None:
        self.ended = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers
        # A client that waits for 100 Continue has sent nothing, and need not.
        self._waits = b"expect" in headers
        self._receive = receive

    async def receive(self) -> Any:
        message = await self._receive()
        self._waits = False
        self.ended = self.ended or message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        dropped = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while not (self.ended or self._waits or dropped > DRAIN_BYTES):
                    dropped += len((await self.receive()).get("body", b""))


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {limits.size} bytes")
