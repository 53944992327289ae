"""Traces of an HTTP application: a span for each request, with its route and not its address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctbasis.web.metrics import METHODS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ctbasis.traces import Traces

SERVER_ERROR = 500

TRACE_PARENT = b"traceparent"
"""The header by which a client names its trace (W3C Trace Context)."""

UNTRACED = frozenset({"/metrics", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
"""Paths that probes and Prometheus ask for every few seconds."""


class Traced:
    """ASGI middleware that records a span for each request.

    Args:
        application: The application.
        traces: Where they are recorded.
    """

    def __init__(self, application: ASGIApp, traces: Traces) -> None:
        self._application = application
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or not self._traces.on or scope["path"] in UNTRACED:
            await self._application(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        # No other header is read.
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name == TRACE_PARENT}
        status = SERVER_ERROR

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._traces.span(method, headers=headers) as span:
            try:
                await self._application(scope, receive, answer)
            finally:
                # The router has set the route; see `Measured`.
                route = getattr(scope.get("route"), "path", "none")
                span.conventional(
                    f"{method} {route}",
                    {"http.request.method": method, "http.route": route, "http.response.status_code": status},
                )
                if status >= SERVER_ERROR:
                    span.failed(str(status))
