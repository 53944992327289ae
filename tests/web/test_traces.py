"""Traces: off by default, spans of requests and of the work without data of patients, and OTLP over HTTP."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import requests
from fastapi import APIRouter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ctbasis.errors import CtbasisError
from ctbasis.traces import Traces
from ctbasis.web.application import application
from ctbasis.web.metrics import Metrics
from ctbasis.web.server import HttpServer

if TYPE_CHECKING:
    from collections.abc import Iterator

UID = "1.2.826.0.1.3680043.8.498.1"

TRACE = "0af7651916cd43dd8448eb211c80319c"

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def recorded() -> tuple[Traces, InMemorySpanExporter]:
    """Return traces whose spans stay in memory."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Traces(provider), exporter


def router(traces: Traces) -> APIRouter:
    made = APIRouter()

    @made.get("/studies/{study}")
    def found(study: str) -> str:
        with traces.span("work", voxels=8) as span, traces.stages() as report:
            report("choose 1/2")
            report("denoise 1/2")
            span.set(seconds=0.5)
        if study == "bad":
            raise ValueError(f"patient {UID}")
        return "done"

    return made


def test_spans_have_routes_stages_and_numbers_and_nothing_of_the_patient() -> None:
    traces, exporter = recorded()
    made = application("test", routers=[router(traces)], token="", metrics=Metrics(), traces=traces)
    with HttpServer(made, host="127.0.0.1", port=0) as server, requests.Session() as client:
        client.trust_env = False
        base = f"http://127.0.0.1:{server.port}"
        parent = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "Authorization": f"Bearer {UID}"}
        assert client.get(f"{base}/studies/{UID}?PatientID={UID}", headers=parent, timeout=20).status_code == 200
        assert client.get(f"{base}/studies/bad", timeout=20).status_code == 500
        client.get(f"{base}/health/live", timeout=20)
        client.get(f"{base}/{UID}", timeout=20)
    traces.close()
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == [
        *(2 * ["choose", "denoise", "work", "GET /studies/{study}"]),
        "GET none",
    ]
    choose, denoise, work, request = spans[:4]
    assert request.context is not None
    assert work.context is not None
    assert format(request.context.trace_id, "032x") == TRACE
    assert work.parent is not None
    assert work.parent.span_id == request.context.span_id
    for stage in (choose, denoise):
        assert stage.parent is not None
        assert stage.parent.span_id == work.context.span_id
    assert dict(request.attributes or {}) == {
        "http.request.method": "GET",
        "http.route": "/studies/{study}",
        "http.response.status_code": 200,
    }
    assert dict(work.attributes or {}) == {"ctbasis.voxels": 8, "ctbasis.seconds": 0.5}
    assert (spans[7].attributes or {})["error.type"] in {"500", "ValueError"}
    assert UID not in "".join(span.to_json() for span in spans)


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Return the address of a receiver of OTLP over HTTP on this machine, and the messages that it got."""
    messages: list[ExportTraceServiceRequest] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            assert self.headers["Content-Type"] == "application/x-protobuf"
            messages.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", messages
        server.shutdown()


@pytest.mark.parametrize("name", ["", "scanner-room"])
def test_spans_reach_the_collector_that_the_environment_names(
    collector: tuple[str, list[ExportTraceServiceRequest]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    address, messages = collector
    monkeypatch.setenv(ENDPOINT, address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OTEL_SERVICE_NAME", name)
    traces = Traces.from_environment("ctbasis-test")
    assert traces.on
    with traces.span("job", job=7):
        pass
    traces.close()
    (message,) = messages
    (resource,) = message.resource_spans
    attributes = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert attributes["service.name"] == (name or "ctbasis-test")
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == ["job"]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {ENDPOINT: "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {ENDPOINT: "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=["no-variable", "disabled", "no-exporter"],
)
def test_traces_are_off_unless_the_environment_asks_for_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    monkeypatch.delenv(ENDPOINT, raising=False)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    traces = Traces.from_environment("ctbasis-test")
    assert not traces.on
    with traces.span("job", job=7) as span, traces.stages() as report:
        report("denoise")
        span.failed("ValueError")
    traces.close()


def test_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(CtbasisError, match="'grpc'") as refused:
        Traces.from_environment("ctbasis-test")
    assert "4318" in refused.value.remedy
