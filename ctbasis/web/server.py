"""An HTTP server in a thread of this process: uvicorn, with a time limit for the head of a request."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ctbasis.addresses import unusable_port

if TYPE_CHECKING:
    import ssl

    from starlette.types import ASGIApp

MOST_CONNECTIONS = 128
"""Connections at the same time at most; requests on further ones are answered by 503."""

HEAD_SECONDS = 20.0
"""Seconds within which the head of a request must arrive, from the begin of the connection."""

END_SECONDS = 60
"""Seconds that requests in work get to end when the server stops."""

POLL_SECONDS = 0.01


class Connection(H11Protocol):
    """A connection that is closed if no request arrives on it in time; uvicorn itself waits without limit."""

    def connection_made(self, transport: Any) -> None:
        """Take a new connection."""
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._head.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._head.cancel()
        self._await_request()

    def _await_request(self) -> None:
        answered = self.cycle

        def expire() -> None:
            if self.cycle is answered:
                self.transport.abort()

        self._head = self.loop.call_later(HEAD_SECONDS, expire)


class HttpServer:
    """A server that listens within its `with` block.

    Args:
        application: The application.
        host: Address to listen on; empty for all.
        port: Port; 0 for a free one.
        context: Settings of TLS; None for a plain connection.

    Raises:
        CtbasisError: The address is in use or not of this machine.
    """

    def __init__(self, application: ASGIApp, *, host: str, port: int, context: ssl.SSLContext | None = None) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host or "0.0.0.0", port), family=family)  # noqa: S104 - as documented
        except (OSError, OverflowError) as error:
            raise unusable_port(port, host, error, option="--http-port") from error
        for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
            # They write past ctbasis/printable.py, and a traceback may quote a data set.
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        secure: dict[str, Any] = {"ssl_context_factory": lambda *_: context} if context is not None else {}
        settings = uvicorn.Config(
            application,
            http=Connection,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=END_SECONDS,
            **secure,
        )
        self._server = uvicorn.Server(settings)

    @property
    def port(self) -> int:
        """Port that the server listens on."""
        return int(self._socket.getsockname()[1])

    def __enter__(self) -> Self:
        # The signals of the process are those of the main thread.
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._thread.join(POLL_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))
