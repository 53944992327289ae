"""A stand-in for a Kubeflow Pipelines server and its UI. It runs no pods.

It answers the requests of a submission with JSON and gRPC-Web in the formats of the real server 2.17.0, or of the one
that follows it and has no ML Metadata. It refuses every request that the real server refuses, and more: unknown fields,
wrong content types, missing packages, and arguments that do not fit the package. Each request for the state of a run
advances the run by one step.
"""

from __future__ import annotations

import base64
import json
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.kubeflow import kfp_api, kfp_workflow
from tests.kubeflow.kfp_request import RefusedError, Request, steps
from tests.kubeflow.kfp_runs import artifacts, content_of, log_json, workflow
from tests.kubeflow.kfp_state import ServerState, picture
from tests.kubeflow.kfp_workflow import PodTrouble
from tests.kubeflow.ml_metadata_wire import decode, encoded, field_of, framed, number
from tests.loopback import HttpStandIn

__all__ = ["ARGUMENTS", "KfpStandIn", "PodTrouble", "picture", "steps"]

METADATA = "/ml_metadata.MetadataStoreService/"
LOG = "/apis/v1alpha1/runs/"
PROBES = {f"{kfp_api.API}artifacts", "/k8s/pod"}
"""Paths by which a client learns what kind of server answers. Their refusal is an answer, and is not recorded."""


ARGUMENTS = {"source": "s3://clinic/series-7", "rank": "50", "oversample": 15}
"""Valid arguments of a run of the committed package."""


class KfpStandIn(ServerState, HttpStandIn):
    """The stand-in, a context manager that serves requests inside its `with` block."""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _serve(stand_in, self)

            def do_POST(self) -> None:
                _serve(stand_in, self)

            def log_message(self, *_: Any) -> None:
                """Keep the tests' output clean."""

        return Handler


def _serve(stand_in: ServerState, handler: BaseHTTPRequestHandler) -> None:
    url = urlsplit(handler.path)
    request = Request(
        method=handler.command,
        path=url.path,
        query={name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()},
        headers=handler.headers,
        body=handler.rfile.read(int(handler.headers.get("content-length") or 0)),
    )
    if stand_in.drops and request.path.startswith(f"{kfp_api.API}runs/"):
        stand_in.drops -= 1
        handler.close_connection = True
        return
    try:
        content_type, content = _answer(stand_in, request)
        status = 200
    except RefusedError as refusal:
        status, content_type = refusal.status, "application/json"
        if not (request.path in PROBES and not set(request.query) & {"podname", "filter"}):
            stand_in.refused.append(str(refusal))
        content = json.dumps({"code": refusal.code, "message": str(refusal), "details": []}).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", content_type)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _answer(server: ServerState, request: Request) -> tuple[str, bytes]:
    authorization = request.headers.get("authorization")
    server.authorizations.append(authorization)
    server.requests.append(f"{request.method} {request.path}")
    if server.token and authorization != f"Bearer {server.token}":
        raise RefusedError(401, "Unauthenticated: request header error: there is no user identity header", 16)
    if server.has_ui:
        if request.path.startswith(METADATA) and not server.lists_artifacts:
            return "application/grpc-web+proto", _metadata(server, request)
        if request.path.startswith("/artifacts/"):
            return "application/octet-stream", _artifact_bytes(server, request)
        if request.path in {"/k8s/pod", "/k8s/pod/events"}:
            return "text/html; charset=utf-8", _pod(server, request)
    if request.path.startswith(LOG) and request.path.endswith("/log"):
        return "text/plain; charset=utf-8", _log(server, request)
    return "application/json", json.dumps(kfp_api.answer(server, request)).encode()


def _pod(server: ServerState, request: Request) -> bytes:
    """Return a pod or its events, as the server of the UI does: JSON that is announced as HTML."""
    for name in ("podname", "podnamespace"):
        if not request.query.get(name):
            raise RefusedError(422, f"{name} argument is required")
    wanted = request.query["podname"]
    for run in server.runs.values():
        for step, name in kfp_workflow.pods(workflow(server, run)).items():
            if name == wanted and request.query["podnamespace"] == kfp_workflow.NAMESPACE:
                trouble = server.waiting.get(step, PodTrouble())
                events = request.path.endswith("/events")
                return json.dumps(trouble.event_list() if events else trouble.pod(name)).encode()
    raise RefusedError(500, f"Could not get pod {wanted} in namespace {request.query['podnamespace']}")


def _log(server: ServerState, request: Request) -> bytes:
    """Return the log of a pod; the server sends status 200 before it knows whether there is one."""
    run_id, _, pod, _ = request.path.removeprefix(LOG).split("/")
    names = kfp_workflow.pods(workflow(server, server.runs[run_id]))
    step = next((step for step, name in names.items() if name == pod), "")
    if not server.keeps_pods or step not in server.logs:
        return log_json(f"Failed to read logs from pod {pod} due to error opening log stream: pods not found")
    return server.logs[step].encode()


def _artifact_bytes(server: ServerState, request: Request) -> bytes:
    _, _, source, bucket, *key = request.path.split("/")
    kfp_api.require_namespace(server, request.query.get("namespace"))
    uri = f"{source}://{bucket}/{unquote('/'.join(key))}"
    if not server.serves_artifacts:
        raise RefusedError(500, f"Failed to get object in bucket: AccessDenied: {uri}", 13)
    # The server that follows 2.17 finds the object store of a URI itself.
    provider = json.loads(request.query.get("providerInfo") or "{}").get("Provider")
    if provider != ("minio" if not server.lists_artifacts else None):
        raise RefusedError(500, "Failed to initialize Minio Client for Minio Provider", 13)
    content = content_of(server, uri)
    if content is None:
        raise RefusedError(500, f"Failed to get object in bucket: {uri}", 13)
    return content


def _metadata(server: ServerState, request: Request) -> bytes:
    if request.headers.get("content-type") != "application/grpc-web+proto" or request.headers.get("x-grpc-web") != "1":
        raise RefusedError(415, "not a gRPC-Web request")
    if request.body[:1] != b"\0" or int.from_bytes(request.body[1:5], "big") != len(request.body) - 5:
        raise RefusedError(400, "not one gRPC-Web frame")
    fields = dict(decode(request.body[5:]))
    match request.path.removeprefix(METADATA):
        case "GetContextByTypeAndName" if fields[1] == b"system.PipelineRun":
            known = list(server.runs)
            name = fields[2].decode()
            return framed(
                field_of(1, number(1, known.index(name) + 1) + field_of(3, fields[2])) if name in known else b""
            )
        case "GetArtifactsByContext":
            options = dict(decode(fields.get(2, b"")))
            run = list(server.runs.values())[fields[1] - 1]
            return framed(_page([one[1:] for one in artifacts(server, run)], options))
    return framed(b"", status=12)


def _page(artifacts: list[Any], options: dict[int, Any], largest: int = 2) -> bytes:
    """Return a page of at most `largest` artifacts: so few that the client needs several pages."""
    begin = int(base64.b64decode(options.get(3, b"")) or 0)
    end = begin + min(options.get(1, 20), largest)
    listed = enumerate(artifacts[begin:end], start=begin + 1)
    page = b"".join(field_of(1, encoded(index, *artifact)) for index, artifact in listed)
    return page + (field_of(2, base64.b64encode(str(end).encode())) if end < len(artifacts) else b"")
