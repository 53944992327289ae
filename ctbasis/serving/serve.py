"""The server of a model as a whole: it answers probes at once, and requests as soon as the model is loaded."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ctbasis.node.task import LEARN
from ctbasis.printable import say
from ctbasis.serving.model import Model
from ctbasis.serving.routes import ModelMetrics, health_router, inference_router
from ctbasis.storage.working_folder import scratch_folder
from ctbasis.traces import Traces
from ctbasis.web.application import application
from ctbasis.web.body import Limits
from ctbasis.web.metrics import Metrics
from ctbasis.web.server import HttpServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Serving:
    """What a user decides about a served model.

    Attributes:
        bases: URIs of stored bases.
        name: Name by which clients call the model.
        host: Address to listen on; empty for all.
        port: Port; 0 for a free one.
        token: Bearer token that clients must send; empty demands none.
        context: Settings of TLS; None for a plain connection.
        unfit: What is done with a volume that no basis fits: `learn` or `refuse`.
        queue: Requests that may wait at the same time.
        body_bytes: Bytes of a request at most.
        traces: Traces of requests and of the work.
    """

    bases: tuple[str, ...]
    name: str = "ctbasis"
    host: str = ""
    port: int = 8080
    token: str = ""
    context: ssl.SSLContext | None = None
    unfit: str = LEARN
    queue: int = 8
    body_bytes: int = 1 << 30
    traces: Traces = field(default_factory=Traces)

    @contextmanager
    def running(self) -> Iterator[tuple[HttpServer, Model]]:
        """Run the server for the time of the context; the model is not loaded.

        Raises:
            CtbasisError: The port is in use.
        """
        with scratch_folder("ctbasis-serve") as folder:
            model = Model(self.name, self.bases, folder, unfit=self.unfit, queue=self.queue, traces=self.traces)
            metrics = Metrics()
            router = inference_router(model, Limits(self.body_bytes), ModelMetrics(model, metrics))
            made = application(
                "ctbasis served model",
                routers=[router],
                public=[health_router(model)],
                token=self.token,
                metrics=metrics,
                ready=lambda: model.ready,
                traces=self.traces,
            )
            try:
                with HttpServer(made, host=self.host, port=self.port, context=self.context) as server:
                    yield server, model
            finally:
                model.stop()
                self.traces.close()

    def run(self) -> None:
        """Run until SIGINT or SIGTERM.

        Raises:
            CtbasisError: The port is in use, or a basis cannot be used.
        """
        stopping = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopping.set())
        with self.running() as (server, model):
            say(f"serve: port {server.port}{' with TLS' if self.context else ''}, loading {len(self.bases)} bases")
            model.load()
            say(f"serve: {model.name} is ready with {len(model.bases.describe())} bases")
            while not stopping.wait(POLL_SECONDS):
                pass
            # No further request is sent here, and those in work may end.
            model.ready = False
        say("serve: stopped")
