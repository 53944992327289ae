"""The server of the viewer: one result, for the user who started it."""

from __future__ import annotations

import secrets
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.printable import say, show
from ctbasis.viewer.images import Images
from ctbasis.viewer.routes import image_router, page_router
from ctbasis.web.application import application
from ctbasis.web.metrics import Metrics
from ctbasis.web.server import HttpServer
from ctbasis.web.token import LOOPBACK, TOKEN

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from ctbasis.viewer.result import Result

POLL_SECONDS = 0.2


def new_token() -> str:
    """Return a random token."""
    return secrets.token_urlsafe(24)


@dataclass(frozen=True)
class Viewing:
    """What a user decides about the viewer.

    Attributes:
        result: What is shown.
        host: Address to listen on.
        port: Port; 0 for a free one.
        context: Settings of TLS; None for a plain connection, which only addresses of this machine may have.
        token: Token that the browser must send; other users of this machine do not know it.
        given: Whether the user has set the token; it is then not printed.
    """

    result: Result
    host: str = "127.0.0.1"
    port: int = 0
    context: ssl.SSLContext | None = None
    token: str = field(default_factory=new_token, repr=False)
    given: bool = False

    @contextmanager
    def running(self) -> Iterator[tuple[HttpServer, str]]:
        """Run the server for the time of the context.

        Yields:
            The server, and the address of the page, with the token.

        Raises:
            CtbasisError: Another machine would reach a server without TLS, the port is in use, or the first slice
                cannot be read.
        """
        if self.host not in LOOPBACK and self.context is None:
            raise CtbasisError(
                f"--host {self.host or 'of all addresses'} lets other machines read the images without encryption",
                expected="--tls-cert and --tls-key, or an address of this machine alone, such as 127.0.0.1",
                remedy="forward the port through SSH (ssh -L), or name the files of a certificate",
            )
        images = Images(self.result)
        made = application(
            "ctbasis viewer",
            routers=[image_router(images)],
            public=[page_router()],
            token=self.token,
            metrics=Metrics(),
        )
        stopping = threading.Event()
        with HttpServer(made, host=self.host, port=self.port, context=self.context) as server:
            reading = threading.Thread(target=_read_ahead, args=(images, stopping), name="images", daemon=True)
            reading.start()
            scheme = "https" if self.context is not None else "http"
            name = f"[{self.host}]" if ":" in self.host else self.host or "localhost"
            try:
                yield server, f"{scheme}://{name}:{server.port}/#token={self.token}"
            finally:
                stopping.set()
                reading.join()

    def run(self) -> None:
        """Run until SIGINT or SIGTERM.

        Raises:
            CtbasisError: See `running`.
        """
        stopping = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopping.set())
        with self.running() as (_, address):
            shown = f"{address.partition('=')[0]}={TOKEN}, with the value of this variable" if self.given else address
            show(f"open {shown}")
            say("view: Ctrl-C ends it")
            while not stopping.wait(POLL_SECONDS):
                pass


def _read_ahead(images: Images, stopping: threading.Event) -> None:
    """Decode all slices; a slice that cannot be read is told to the user who asks for it."""
    try:
        images.decode_all(stopping.is_set)
    except CtbasisError as error:
        say(*f"view: {error}".split("\n"))
