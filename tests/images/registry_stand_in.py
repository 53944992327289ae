"""A stand-in for an image registry: push and pull of the OCI distribution specification, with blobs in a folder.

It has neither logins nor encryption. Container runtimes and builders speak HTTP with registries on the host localhost.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import uuid
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from tests.loopback import HttpStandIn

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 2**20


class RegistryStandIn(HttpStandIn):
    """The registry; a context manager that starts and stops it.

    Args:
        folder: Where its blobs lie.

    Attributes:
        manifests: The content type and content of manifests, by (repository, tag or digest).
        pulled: (repository, tag or digest) of the manifests that were asked for. A node that has the content of an
            image under another name asks for no more than whether the registry has it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.pulled: set[tuple[str, str]] = set()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(_Handler):
            registry_of = registry

        return Handler

    @property
    def host(self) -> str:
        """Host and port, as they begin the name of an image."""
        return f"localhost:{self.port}"


class _Handler(BaseHTTPRequestHandler):
    registry_of: RegistryStandIn
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    def do_POST(self) -> None:
        repository = self._match(r"/v2/(.+)/blobs/uploads/")
        upload = uuid.uuid4().hex
        self._upload(upload).touch()
        self._answer(202, Location=f"/v2/{repository}/blobs/uploads/{upload}")

    def do_PATCH(self) -> None:
        upload = self._upload(self._match(r"/v2/.+/blobs/uploads/(\w+)"))
        self._receive(upload)
        self._answer(202, Location=self.path, Range=f"0-{upload.stat().st_size - 1}")

    def do_PUT(self) -> None:
        if "/manifests/" in self.path:
            repository, reference = re.fullmatch(r"/v2/(.+)/manifests/(.+)", self.path).groups()  # type: ignore[union-attr]
            content = self.rfile.read(int(self.headers["Content-Length"]))
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            for name in (reference, digest):
                self.registry_of.manifests[repository, name] = (self.headers["Content-Type"], content)
            self._answer(201, **{"Docker-Content-Digest": digest})
            return
        upload = self._upload(self._match(r"/v2/.+/blobs/uploads/(\w+)"))
        self._receive(upload)
        (digest,) = parse_qs(urlsplit(self.path).query)["digest"]
        upload.rename(self._blob(digest))
        self._answer(201, **{"Docker-Content-Digest": digest})

    def _serve(self, *, body: bool) -> None:
        if self.path == "/v2/":
            self._answer(200)
        elif "/manifests/" in self.path:
            repository, reference = re.fullmatch(r"/v2/(.+)/manifests/(.+)", self.path).groups()  # type: ignore[union-attr]
            kind, content = self.registry_of.manifests.get((repository, reference), ("", b""))
            if kind:
                self.registry_of.pulled.add((repository, reference))
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            if kind:
                headers = {"Content-Type": kind, "Docker-Content-Digest": digest}
                self._answer(200, content if body else b"", length=len(content), **headers)
            else:
                self._answer(404)
        else:
            blob = self._blob(self._match(r"/v2/.+/blobs/(sha256:[0-9a-f]{64})"))
            if not blob.is_file():
                self._answer(404)
                return
            self._answer(200, length=blob.stat().st_size)
            if body:
                with blob.open("rb") as content:
                    shutil.copyfileobj(content, self.wfile, CHUNK)

    def _match(self, pattern: str) -> str:
        found = re.fullmatch(pattern, urlsplit(self.path).path)
        assert found, self.path
        return found[1]

    def _upload(self, name: str) -> Path:
        return self.registry_of.folder / f"upload-{name}"

    def _blob(self, digest: str) -> Path:
        return self.registry_of.folder / digest.replace(":", "-")

    def _receive(self, target: Path) -> None:
        """Append the body of the request, whose length is given or which comes in chunks."""
        with target.open("ab") as content:
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    content.write(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return
            left = int(self.headers.get("Content-Length") or 0)
            while left:
                part = self.rfile.read(min(left, CHUNK))
                content.write(part)
                left -= len(part)

    def _answer(self, status: int, content: bytes = b"", *, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""
