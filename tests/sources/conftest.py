"""A proxy in front of a real S3 server that interrupts downloads."""

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
    """Return a function that creates an endpoint which forwards to the server and interrupts the first downloads."""
    with contextlib.ExitStack() as stack:

        def make(cuts: int) -> str:
            proxy = stack.enter_context(FlakyProxy(server.endpoint, cuts))
            return proxy.endpoint

        yield make


class FlakyProxy:
    """A TCP proxy on the loopback interface that closes connections in the middle of an object's content."""

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
        for connection in self._open:
            connection.close()
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
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _forward_and_cut(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if b"application/xml" not in data and len(data) > 1000 and self._cuts > 0:
                    self._cuts -= 1
                    sink.sendall(data[:-500])
                    # Closing alone does not end a recv() that runs in another thread.
                    sink.shutdown(socket.SHUT_RDWR)
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
