"""A server between a source and a real repository: it passes requests on, except those that a test answers itself."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.loopback import HttpStandIn

if TYPE_CHECKING:
    from collections.abc import Callable

    Answer = Callable[["Handler"], bool]

LISTINGS = ("list-type=", "comp=list", "manifest.txt")
"""Parts of the addresses of listings: S3, Azure, the manifest."""


class Handler(BaseHTTPRequestHandler):
    """Passes a request on to the repository, unless the test answers it."""

    protocol_version = "HTTP/1.1"
    interposed: Interposed

    def do_GET(self) -> None:
        with contextlib.suppress(OSError):
            if not self.interposed.answered(self):
                self._pass_on()

    def log_message(self, *_: object) -> None:
        pass

    @property
    def asks_for_object(self) -> bool:
        """Whether the request is for the content of an object."""
        if any(part in self.path for part in LISTINGS) or "json" in self.headers.get("Accept", ""):
            return False
        is_google_listing = self.path.startswith("/storage/v1/")
        return not is_google_listing and self.headers.get("Range") != "bytes=0-0"

    def answer(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        """Send an answer; `length` replaces the true Content-Length."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = length is not None or status >= 400

    def drip(self, start: bytes, repeated: bytes, seconds: float = 0.2) -> None:
        """Send `start`, and then `repeated` again and again, until the client gives up."""
        self.close_connection = True
        self.wfile.write(start)
        while not self.interposed.closing.is_set():
            self.wfile.write(repeated)
            self.wfile.flush()
            if seconds:
                time.sleep(seconds)

    def _pass_on(self) -> None:
        connection = http.client.HTTPConnection(self.interposed.target, timeout=30)
        with contextlib.closing(connection):
            connection.putrequest("GET", self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            body = response.read()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in {"content-length", "transfer-encoding", "connection", "date", "server"}:
                self.send_header(name, value)
        if not self.asks_for_object:
            body = self.interposed.rewrite(body)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Interposed(HttpStandIn):
    """The server between.

    Attributes:
        target: Host and port of the repository.
        objects: Requests for objects that have arrived, each with its time.

    Args:
        endpoint: Address of the repository.
        to_object: Answers a request for an object, or returns False; it is called with the handler.
        to_listing: The same for all other requests.
        rewrite: Changes the answers of the repository to all other requests.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        to_object: Answer | None = None,
        to_listing: Answer | None = None,
        rewrite: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self.rewrite = rewrite
        self.target = urlsplit(endpoint).netloc
        self.closing = threading.Event()
        self.objects: list[float] = []
        self.listings: list[float] = []
        self._to_object, self._to_listing = to_object, to_listing

    def handler(self) -> type[BaseHTTPRequestHandler]:
        return type("Bound", (Handler,), {"interposed": self})

    def __exit__(self, *arguments: object) -> None:
        self.closing.set()
        super().__exit__(*arguments)  # type: ignore[arg-type]

    def answered(self, handler: Handler) -> bool:
        is_object = handler.asks_for_object
        (self.objects if is_object else self.listings).append(time.monotonic())
        answer = self._to_object if is_object else self._to_listing
        return answer is not None and answer(handler)
