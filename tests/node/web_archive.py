"""A server between a node and a real DICOMweb archive: it counts what is stored, and can misbehave."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import Counter
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.loopback import HttpStandIn

SOP = re.compile(rb"\x08\x00\x18\x00UI..([0-9.]+)", re.DOTALL)


class WebArchive(HttpStandIn):
    """Passes requests on to an archive.

    Attributes:
        requests: Requests to store an instance by SOPInstanceUID, also those that were refused.
        stored: Those that the archive has stored.
        refuse: HTTP status and FailureReason by which it refuses all instances itself; None passes them on.
        lose: Number of requests that it passes on without giving the answer back.

    Args:
        endpoint: Address of the archive.
        port: Port to listen on; 0 for a free one.
    """

    def __init__(self, endpoint: str, port: int = 0) -> None:
        self.address = ("127.0.0.1", port)
        self.target = urlsplit(endpoint).netloc
        self.requests: Counter[str] = Counter()
        self.stored: Counter[str] = Counter()
        self.refuse: tuple[int, int] | None = None
        self.lose = 0
        self.lock = threading.Lock()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        return type("Bound", (_Handler,), {"archive": self})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    archive: WebArchive

    def do_GET(self) -> None:
        self._answer(*self._passed_on(b""))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        found = SOP.search(body)
        assert found is not None
        sop = found[1].decode()
        with self.archive.lock:
            self.archive.requests[sop] += 1
            refuse = self.archive.refuse
        if refuse is not None:
            status, reason = refuse
            failed = {"00081197": {"vr": "US", "Value": [reason]}}
            answer = {"00081198": {"vr": "SQ", "Value": [failed]}}
            self._answer(status, json.dumps(answer).encode())
            return
        status, answered = self._passed_on(body)
        with self.archive.lock:
            self.archive.stored[sop] += status == 200
            lose = self.archive.lose > 0
            self.archive.lose -= lose
        if lose:
            self.close_connection = True
            return
        self._answer(status, answered)

    def log_message(self, *_: object) -> None:
        pass

    def _passed_on(self, body: bytes) -> tuple[int, bytes]:
        with contextlib.closing(HTTPConnection(self.archive.target, timeout=30)) as connection:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            connection.request(self.command, self.path, body or None, headers)
            response = connection.getresponse()
            return response.status, response.read()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
