"""Traces by OpenTelemetry: what a server did with a request or a series, and how long each part of it took.

They are off unless one of the standard variables OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
names a collector. OpenTelemetry's own SDK reads these and all its other variables.

A span holds names of routes and stages, numbers, and digests of bases. It holds no UID, no address of a request, no
path and no text of an error, since these may name a patient. The instrumentation of FastAPI that OpenTelemetry offers
records the address of each request, which in DICOMweb has UIDs; hence requests have a middleware of their own
(`ctbasis.web.traced`).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP_PROTOCOL = "http/protobuf"

Value: TypeAlias = str | int | float | bool


class SpanInWork:
    """A span that is being recorded; without a span, nothing is.

    Args:
        span: The span of OpenTelemetry; None if traces are off.
    """

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def set(self, **attributes: Value) -> None:
        """Set attributes, below the name `ctbasis`."""
        if self._span is not None:
            self._span.set_attributes({f"ctbasis.{name}": value for name, value in attributes.items()})

    def conventional(self, name: str, attributes: Mapping[str, Value]) -> None:
        """Change the name, and set attributes of OpenTelemetry's semantic conventions."""
        if self._span is not None:
            self._span.update_name(name)
            self._span.set_attributes(attributes)

    def failed(self, kind: str) -> None:
        """Mark the span as failed.

        Args:
            kind: Type of the error; its text may hold data of a patient.
        """
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR)
            self._span.set_attribute("error.type", kind)


class Traces:
    """The traces of a server.

    Args:
        provider: The provider of OpenTelemetry's SDK; None records nothing.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("ctbasis") if provider is not None else None

    @classmethod
    def from_environment(cls, service: str) -> Traces:
        """Return the traces that the variables of OpenTelemetry ask for.

        Args:
            service: Name of the service where OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES give none.

        Raises:
            CtbasisError: They ask for traces, and the extra `otel` is not installed, or the protocol is another.
        """
        if not _wanted(os.environ):
            return cls()
        protocol = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), HTTP_PROTOCOL)
        if protocol != HTTP_PROTOCOL:
            raise CtbasisError(
                f"the protocol of the OpenTelemetry collector is {protocol!r}",
                expected=HTTP_PROTOCOL,
                cause=f"{' or '.join(PROTOCOLS)} names another",
                remedy="leave it out, and name the HTTP port of the collector, usually 4318",
            )
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise CtbasisError(
                "OpenTelemetry is not installed",
                expected="the extra otel",
                cause=f"{' or '.join(ENDPOINTS)} asks for traces",
                remedy="pip install 'ctbasis[otel]', or unset the variable",
            ) from error
        named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        provider = TracerProvider(resource=Resource.create({} if named else {"service.name": service}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    @property
    def on(self) -> bool:
        """Whether spans are recorded."""
        return self._tracer is not None

    @contextmanager
    def span(self, name: str, *, headers: Mapping[str, str] | None = None, **attributes: Value) -> Iterator[SpanInWork]:
        """Record a span for the time of the context; it is the parent of spans that begin inside.

        Args:
            name: Name; the same for all requests of a route or all series.
            headers: Headers of a request, with the trace of the client (W3C Trace Context); None for no request.
            attributes: See `SpanInWork.set`.
        """
        if self._tracer is None:
            yield SpanInWork(None)
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract(headers) if headers is not None else None
        kind = SpanKind.SERVER if headers is not None else SpanKind.INTERNAL
        with self._tracer.start_as_current_span(
            name, context, kind, record_exception=False, set_status_on_exception=False
        ) as span:
            done = SpanInWork(span)
            done.set(**attributes)
            try:
                yield done
            except BaseException as error:
                done.failed(type(error).__name__)
                raise

    @contextmanager
    def stages(self, report: Callable[[str], None] | None = None) -> Iterator[Callable[[str], None]]:
        """Give a function that is told the begin of each stage of a work, and record a span for each stage.

        Args:
            report: Called with each stage as well.
        """
        current: Span | None = None

        def begin(stage: str) -> None:
            nonlocal current
            if report is not None:
                report(stage)
            if self._tracer is not None:
                if current is not None:
                    current.end()
                # `denoise 2/3` is the stage `denoise`.
                current = self._tracer.start_span(stage.partition(" ")[0])

        try:
            yield begin
        finally:
            if current is not None:
                current.end()

    def close(self) -> None:
        """Send what is recorded, and record nothing more."""
        if self._provider is not None:
            self._provider.shutdown()


def _wanted(environment: Mapping[str, str]) -> bool:
    """Return whether the variables name a collector, and no other variable switches traces off."""
    off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none"
    )
    return not off and any(environment.get(name) for name in ENDPOINTS)
