"""A way to a real S3 server that cuts downloads."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctbasis.demo.s3server import S3Server


@pytest.fixture
def flaky(server: S3Server) -> Iterator[Callable[[int], str]]:
    """Return a maker of endpoints that forward to the server and cut the first few downloads in their middle."""
    with contextlib.ExitStack() as stack:

        def make(cuts: int) -> str:
            proxy = stack.enter_context(FlakyProxy(server.endpoint, cuts))
            return proxy.endpoint

        yield make


class FlakyProxy:
    """A TCP proxy on loopback that ends connections while an object's content passes through."""

    def __init__(self, endpoint: str, cuts: int) -> None:
        address = urlsplit(endpoint)
        self._target = address.hostname, address.port
        self._cuts = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            each.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._open += [client, server]
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
            threading.Thread(target=self._forward_and_cut, args=(server, client), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)

    def _forward_and_cut(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if b"application/xml" not in piece and len(piece) > 1000 and self._cuts > 0:
                    self._cuts -= 1
                    sink.sendall(piece[:-500])
                    # Closing is not enough while the other thread still listens on it.
                    sink.shutdown(socket.SHUT_RDWR)
                    return
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
