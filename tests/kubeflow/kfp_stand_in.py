"""A stand-in for a Kubeflow Pipelines 2.17 server and its UI, on loopback. It runs no pods.

It answers the requests of a submission with JSON and gRPC-Web in the formats of the real server. It refuses every
request that the real server refuses, and more: unknown fields, wrong content types, missing packages, and arguments
that do not fit the package. Each request for the state of a run advances the run by one step.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from PIL import Image

from tests.kubeflow.kfp_request import (
    EXPERIMENT_FIELDS,
    PIPELINE_FIELDS,
    RUN_FIELDS,
    RefusedError,
    Request,
    check_arguments,
    check_package,
    filtered,
    steps,
    uploaded_file,
)
from tests.kubeflow.ml_metadata_wire import decode, encoded, field_of, framed, number

if TYPE_CHECKING:
    from types import TracebackType

API = "/apis/v2beta1"
METADATA = "/ml_metadata.MetadataStoreService/"


ARGUMENTS = {"source": "s3://clinic/series-7", "rank": "50", "oversample": 15}
"""Valid arguments of a run of the committed package."""


def picture() -> bytes:
    """Return a small PNG that stands for Figure 1."""
    content = io.BytesIO()
    Image.new("L", (16, 8), 128).save(content, "PNG")
    return content.getvalue()


@dataclass
class StandInRun:
    """A run: its package, its arguments, and how often its state was requested."""

    run_id: str
    name: str
    experiment_id: str
    package: dict[str, Any]
    arguments: dict[str, Any]
    polls: int = 0
    created: datetime = field(default_factory=lambda: datetime.now(tz=UTC))


@dataclass
class KfpStandIn:
    """The stand-in, a context manager that serves requests inside its `with` block.

    Attributes:
        token: The bearer token that requests must carry; empty for none.
        multi_user: Require a namespace, as an installation with profiles does.
        has_ui: Serve ML Metadata and artifacts, as the address of the UI does and the bare API server does not.
        serves_artifacts: Send the bytes of artifacts, for which the UI needs the keys of the object store.
        failing: The task that fails.
        stuck: Runs never end.
        stride: The number of steps by which a request for a run advances it.
        metrics: The metrics that the run logs on its Metrics artifact.
        figure: The bytes of Figure 1.
        figure_uri: The URI of Figure 1; if it is empty, a URI below the root of the run.
        outages: The number of following requests for a run that get the 503 of a gateway.
        refused: The messages of the refused requests.
        runs: The runs, by id.
        experiments: The experiments, by id.
        pipelines: The pipelines, by id, with their versions.
        authorizations: The authorization header of each request.
    """

    token: str = ""
    multi_user: bool = False
    has_ui: bool = True
    serves_artifacts: bool = True
    failing: str = ""
    stuck: bool = False
    stride: int = 1
    metrics: dict[str, float | int | str] = field(
        default_factory=lambda: {"psnr_after": 38.5, "rank": 50, "engine": "mahout"}
    )
    figure: bytes = field(default_factory=picture)
    figure_uri: str = ""
    outages: int = 0
    refused: list[str] = field(default_factory=list)
    runs: dict[str, StandInRun] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    authorizations: list[str | None] = field(default_factory=list)

    def __enter__(self) -> Self:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _serve(stand_in, self)

            def do_POST(self) -> None:
                _serve(stand_in, self)

            def log_message(self, *_: Any) -> None:
                """Keep the tests' output clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def artifacts(self, run: StandInRun) -> list[tuple[str, str, str, dict[str, float | int | str]]]:
        """Return (name, type, URI, logged properties) of the artifacts of a finished run."""
        root = f"minio://mlpipeline/v2/artifacts/ctbasis-denoise/{run.run_id}"
        return [
            ("basis", "system.Model", f"{root}/svd/1f/basis", {"k": 50}),
            ("metrics", "system.Metrics", f"{root}/report/2e/metrics", self.metrics),
            ("figure1", "system.Artifact", self.figure_uri or f"{root}/report/2e/figure1", {}),
            ("denoised", "system.Artifact", f"{root}/reconstruct/3d/denoised", {}),
        ]


def _serve(stand_in: KfpStandIn, handler: BaseHTTPRequestHandler) -> None:
    url = urlsplit(handler.path)
    request = Request(
        method=handler.command,
        path=url.path,
        query={name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()},
        headers=handler.headers,
        body=handler.rfile.read(int(handler.headers.get("content-length") or 0)),
    )
    try:
        content_type, content = _answer(stand_in, request)
        status = 200
    except RefusedError as refusal:
        status, content_type = refusal.status, "application/json"
        stand_in.refused.append(str(refusal))
        content = json.dumps({"code": refusal.code, "message": str(refusal), "details": []}).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", content_type)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _answer(stand_in: KfpStandIn, request: Request) -> tuple[str, bytes]:
    authorization = request.headers.get("authorization")
    stand_in.authorizations.append(authorization)
    if stand_in.token and authorization != f"Bearer {stand_in.token}":
        raise RefusedError(401, "Unauthenticated: request header error: there is no user identity header", 16)
    if request.path.startswith(METADATA) and stand_in.has_ui:
        return "application/grpc-web+proto", _metadata(stand_in, request)
    if request.path.startswith("/artifacts/") and stand_in.has_ui:
        return "application/octet-stream", _artifact_bytes(stand_in, request)
    return "application/json", json.dumps(_api(stand_in, request)).encode()


def _api(stand_in: KfpStandIn, request: Request) -> dict[str, Any]:
    if not request.path.startswith(f"{API}/"):
        raise RefusedError(404, "Not Found", 5)
    answer = {"GET": _get, "POST": _post}[request.method]
    return answer(stand_in, request, request.path.removeprefix(f"{API}/").split("/"))


def _get(stand_in: KfpStandIn, request: Request, path: list[str]) -> dict[str, Any]:
    match path:
        case ["healthz"]:
            return {"multi_user": stand_in.multi_user}
        case ["experiments"]:
            _require_namespace(stand_in, request.query.get("namespace"))
            return filtered(request, stand_in.experiments.values(), "experiments")
        case ["pipelines"]:
            _require_namespace(stand_in, request.query.get("namespace"))
            shown = [{k: v for k, v in one.items() if k != "versions"} for one in stand_in.pipelines.values()]
            return filtered(request, shown, "pipelines")
        case ["pipelines", pipeline_id, "versions"]:
            return filtered(request, _pipeline(stand_in, pipeline_id)["versions"], "pipeline_versions")
        case ["runs", run_id]:
            return _get_run(stand_in, run_id)
    raise RefusedError(404, f"no GET {request.path}", 5)


def _post(stand_in: KfpStandIn, request: Request, path: list[str]) -> dict[str, Any]:
    match path:
        case ["experiments"]:
            return _create_experiment(stand_in, request.json(EXPERIMENT_FIELDS))
        case ["pipelines"]:
            return _create_pipeline(stand_in, request.json(PIPELINE_FIELDS))
        case ["pipelines", "upload_version"]:
            return _upload_version(stand_in, request)
        case ["runs"]:
            return _create_run(stand_in, request.json(RUN_FIELDS))
    raise RefusedError(404, f"no POST {request.path}", 5)


def _require_namespace(stand_in: KfpStandIn, namespace: str | None) -> None:
    if stand_in.multi_user and not namespace:
        raise RefusedError(400, "Invalid input error: a namespace is required in multi-user mode")
    if not stand_in.multi_user and namespace:
        raise RefusedError(400, "Invalid input error: in single-user mode, the namespace must be empty")


def _now() -> str:
    return datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _create_experiment(stand_in: KfpStandIn, body: dict[str, Any]) -> dict[str, Any]:
    _require_namespace(stand_in, body.get("namespace"))
    if not body.get("display_name"):
        raise RefusedError(400, "Invalid input error: experiment name is empty")
    experiment = {"experiment_id": str(uuid.uuid4()), "created_at": _now(), "storage_state": "AVAILABLE", **body}
    stand_in.experiments[experiment["experiment_id"]] = experiment
    return experiment


def _create_pipeline(stand_in: KfpStandIn, body: dict[str, Any]) -> dict[str, Any]:
    _require_namespace(stand_in, body.get("namespace"))
    name = body.get("name") or body.get("display_name")
    if not name:
        raise RefusedError(400, "Invalid input error: name is required")
    if any(one["name"] == name for one in stand_in.pipelines.values()):
        raise RefusedError(409, f"Already exist error: the pipeline name {name} already exists", 6)
    pipeline = {"pipeline_id": str(uuid.uuid4()), "display_name": name, **body, "name": name, "created_at": _now()}
    stand_in.pipelines[pipeline["pipeline_id"]] = {**pipeline, "versions": []}
    return pipeline


def _pipeline(stand_in: KfpStandIn, pipeline_id: str) -> dict[str, Any]:
    if pipeline_id not in stand_in.pipelines:
        raise RefusedError(404, f"ResourceNotFoundError: Pipeline {pipeline_id} not found", 5)
    return stand_in.pipelines[pipeline_id]


def _upload_version(stand_in: KfpStandIn, request: Request) -> dict[str, Any]:
    if unknown := set(request.query) - {"name", "display_name", "pipelineid", "description", "tags"}:
        raise RefusedError(400, f"unknown query {sorted(unknown)}")
    pipeline = _pipeline(stand_in, request.query.get("pipelineid", ""))
    documents = list(yaml.safe_load_all(uploaded_file(request)))
    check_package(documents[0], documents[1] if len(documents) > 1 else {})
    name = request.query.get("name", "")
    if not name or any(version["display_name"] == name for version in pipeline["versions"]):
        raise RefusedError(409 if name else 400, f"Already exist error: the version name {name!r} already exists", 6)
    version = {
        "pipeline_id": pipeline["pipeline_id"],
        "pipeline_version_id": str(uuid.uuid4()),
        "display_name": name,
        "name": name,
        "created_at": _now(),
        "pipeline_spec": documents[0],
    }
    pipeline["versions"].append(version)
    return version


def _create_run(stand_in: KfpStandIn, body: dict[str, Any]) -> dict[str, Any]:
    if not body.get("display_name"):
        raise RefusedError(400, "Invalid input error: the run name is empty")
    if body.get("experiment_id") not in stand_in.experiments:
        raise RefusedError(404, "ResourceNotFoundError: Experiment not found", 5)
    package = body.get("pipeline_spec")
    if not isinstance(package, dict):
        raise RefusedError(400, "Invalid input error: a run needs a pipeline spec or a version")
    spec, platform = package.get("pipeline_spec", package), package.get("platform_spec", {})
    check_package(spec, platform)
    arguments = body.get("runtime_config", {}).get("parameters", {})
    check_arguments(spec["root"].get("inputDefinitions", {}).get("parameters", {}), arguments)
    run = StandInRun(str(uuid.uuid4()), body["display_name"], body["experiment_id"], package, arguments)
    stand_in.runs[run.run_id] = run
    return _run_json(stand_in, run)


def _get_run(stand_in: KfpStandIn, run_id: str) -> dict[str, Any]:
    if stand_in.outages:
        stand_in.outages -= 1
        raise RefusedError(503, "no healthy upstream", 14)
    if run_id not in stand_in.runs:
        raise RefusedError(404, f"ResourceNotFoundError: Run {run_id} not found", 5)
    run = stand_in.runs[run_id]
    run.polls += stand_in.stride
    return _run_json(stand_in, run)


def _run_json(stand_in: KfpStandIn, run: StandInRun) -> dict[str, Any]:
    """Return a run as the API returns it: the nodes of an Argo workflow, without outputs."""
    order = steps(run.package)
    done = run.polls - 1
    states = {name: "SUCCEEDED" if index < done else "RUNNING" for index, name in enumerate(order) if index <= done}
    state = "PENDING" if run.polls == 0 else "RUNNING"
    if stand_in.failing in order and done > order.index(stand_in.failing):
        at = order.index(stand_in.failing)
        states = dict.fromkeys(order[:at], "SUCCEEDED") | {stand_in.failing: "FAILED", order[-1]: "SUCCEEDED"}
        state = "FAILED"
    elif done >= len(order) and not stand_in.stuck:
        state = "SUCCEEDED"
    nodes = [("ctbasis-denoise-x7k2p", state), ("root", state), ("root-driver", "SUCCEEDED")]
    for name, step_state in states.items():
        nodes += [(f"{name}-driver", "SUCCEEDED"), (name, step_state), ("executor", step_state)]
    return {
        "run_id": run.run_id,
        "experiment_id": run.experiment_id,
        "display_name": run.name,
        "storage_state": "AVAILABLE",
        "pipeline_spec": run.package,
        "runtime_config": {"parameters": run.arguments},
        "created_at": run.created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "state": state,
        "run_details": {
            "task_details": [
                {
                    "run_id": run.run_id,
                    "task_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{run.run_id}/{index}/{name}")),
                    "display_name": name,
                    "state": node_state,
                    "create_time": _now(),
                    "child_tasks": [],
                }
                for index, (name, node_state) in enumerate(nodes if run.polls else [])
            ]
        },
        "state_history": [{"update_time": _now(), "state": state}],
    }


def _artifact_bytes(stand_in: KfpStandIn, request: Request) -> bytes:
    _, _, source, bucket, *key = request.path.split("/")
    _require_namespace(stand_in, request.query.get("namespace"))
    uri = f"{source}://{bucket}/{unquote('/'.join(key))}"
    if not stand_in.serves_artifacts:
        raise RefusedError(500, f"Failed to get object in bucket: AccessDenied: {uri}", 13)
    if json.loads(request.query.get("providerInfo") or "{}").get("Provider") != "minio":
        raise RefusedError(500, "Failed to initialize Minio Client for Minio Provider", 13)
    for run in stand_in.runs.values():
        if (uri, "figure1") in [(one[2], one[0]) for one in stand_in.artifacts(run)]:
            return stand_in.figure
    raise RefusedError(500, f"Failed to get object in bucket: {uri}", 13)


def _metadata(stand_in: KfpStandIn, request: Request) -> bytes:
    if request.headers.get("content-type") != "application/grpc-web+proto" or request.headers.get("x-grpc-web") != "1":
        raise RefusedError(415, "not a gRPC-Web request")
    if request.body[:1] != b"\0" or int.from_bytes(request.body[1:5], "big") != len(request.body) - 5:
        raise RefusedError(400, "not one gRPC-Web frame")
    fields = dict(decode(request.body[5:]))
    match request.path.removeprefix(METADATA):
        case "GetContextByTypeAndName" if fields[1] == b"system.PipelineRun":
            known = list(stand_in.runs)
            name = fields[2].decode()
            return framed(
                field_of(1, number(1, known.index(name) + 1) + field_of(3, fields[2])) if name in known else b""
            )
        case "GetArtifactsByContext":
            options = dict(decode(fields.get(2, b"")))
            run = list(stand_in.runs.values())[fields[1] - 1]
            return framed(_page(stand_in.artifacts(run), options))
    return framed(b"", status=12)


def _page(artifacts: list[Any], options: dict[int, Any], largest: int = 2) -> bytes:
    """Return a page of at most `largest` artifacts: so few that the client needs several pages."""
    begin = int(base64.b64decode(options.get(3, b"")) or 0)
    end = begin + min(options.get(1, 20), largest)
    listed = enumerate(artifacts[begin:end], start=begin + 1)
    page = b"".join(field_of(1, encoded(index, *artifact)) for index, artifact in listed)
    return page + (field_of(2, base64.b64encode(str(end).encode())) if end < len(artifacts) else b"")
