"""An HTTP server that runs within its `with` block: the part that all stand-ins for a server have in common."""

from __future__ import annotations

import threading
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler
    from types import TracebackType


class HttpStandIn:
    """The base class of a stand-in, which names the handler of its requests.

    Attributes:
        address: Host and port to listen on; port 0 is a free one.
    """

    address: tuple[str, int] = ("127.0.0.1", 0)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """Return the class that answers a request."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._http = ThreadingHTTPServer(self.address, self.handler())
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        """The address of the server on this machine."""
        return f"http://127.0.0.1:{self.port}"


class Served(HttpStandIn):
    """A server with a given handler, for a test that needs nothing but its answers."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._handler = handler

    def handler(self) -> type[BaseHTTPRequestHandler]:
        return self._handler
