"""Metrics of an HTTP application in the format of Prometheus. Labels hold routes, no identifiers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the histogram: from a status to the denoising of a large volume."""


class Metrics:
    """The metrics of one application.

    Attributes:
        registry: The registry, to which an application adds metrics of its own.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "ctbasis_http_requests", "HTTP requests", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "ctbasis_http_request_seconds",
            "Seconds until the answer of a request",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )

    def page(self) -> Response:
        """Return the metrics as an answer."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method if method in METHODS else "other", route, status).inc()
        self._seconds.labels(route).observe(seconds)


class Measured:
    """ASGI middleware that counts requests by route and status.

    Args:
        application: The application.
        metrics: Where they are counted.
    """

    def __init__(self, application: ASGIApp, metrics: Metrics) -> None:
        self._application = application
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        start, status = time.monotonic(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._application(scope, receive, answer)
        finally:
            # The router has set the route; a path that is none is no label, or a client could make any number of them.
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.observe(scope["method"], route, status, time.monotonic() - start)
