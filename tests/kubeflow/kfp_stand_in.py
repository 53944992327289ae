"""A stand-in for a Kubeflow Pipelines server of 2.17 behind its UI, on loopback; no pod runs here.

It answers the requests that a submission makes with JSON and gRPC-Web of the real shapes, and refuses what the real
server refuses and more: unknown fields, wrong content types, missing packages, arguments that are not the package's.
Each time it is asked for a run, that run is a step further.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import HTTP
from graphlib import TopologicalSorter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

API = "/apis/v2beta1"
METADATA = "/ml_metadata.MetadataStoreService/"

EXPERIMENT_FIELDS = {"display_name", "description", "namespace"}
PIPELINE_FIELDS = {"name", "display_name", "description", "namespace", "tags"}
RUN_FIELDS = {
    *("experiment_id", "display_name", "description", "pipeline_spec", "pipeline_version_reference"),
    *("runtime_config", "service_account"),
}
JSON_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
}


class RefusedError(Exception):
    """A request that the server refuses, with an HTTP status and a gRPC code."""

    def __init__(self, status: int, message: str, code: int = 3) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def picture() -> bytes:
    """Return a small PNG, for a Figure 1."""
    content = io.BytesIO()
    Image.new("L", (16, 8), 128).save(content, "PNG")
    return content.getvalue()


@dataclass
class StandInRun:
    """A run: its package, its arguments, and how far it is."""

    run_id: str
    name: str
    experiment_id: str
    package: dict[str, Any]
    arguments: dict[str, Any]
    asked: int = 0
    created: datetime = field(default_factory=lambda: datetime.now(tz=UTC))


@dataclass
class KfpStandIn:
    """The stand-in; a context manager that serves while it is entered.

    Attributes:
        token: What a request must bear, empty for none.
        multi_user: Require a namespace, as an installation with profiles does.
        has_ui: Serve ML Metadata and artifacts, as the UI's address does and the bare API server does not.
        serves_artifacts: Send an artifact's bytes, for which the UI needs the keys of the object store.
        failing: The task that fails.
        stuck: Never let a run end.
        stride: How many steps a run goes on each time it is asked for.
        metrics: What the run logs on its Metrics artifact.
        figure: Figure 1.
        figure_uri: Where Figure 1 is; below the run's root where it is empty.
        outages: How many of the next requests for a run get a gateway's 503.
        refused: Messages of what was refused.
        runs: The runs, by id.
        pipelines: The pipelines by id: name, namespace, and packages by version id and name.
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
        """The address to submit to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def artifacts(self, run: StandInRun) -> list[tuple[str, str, str, dict[str, float | int | str]]]:
        """Return (name, type, URI, logged properties) of what the finished `run` made."""
        root = f"minio://mlpipeline/v2/artifacts/ctbasis-denoise/{run.run_id}"
        return [
            ("basis", "system.Model", f"{root}/svd/1f/basis", {"k": 50}),
            ("metrics", "system.Metrics", f"{root}/report/2e/metrics", self.metrics),
            ("figure1", "system.Artifact", self.figure_uri or f"{root}/report/2e/figure1", {}),
            ("denoised", "system.Artifact", f"{root}/reconstruct/3d/denoised", {}),
        ]


@dataclass
class Request:
    """A request, taken apart."""

    method: str
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes

    def json(self, fields: set[str]) -> dict[str, Any]:
        """Return the JSON body, refusing what is not JSON and every field that is not one of `fields`."""
        if self.headers.get("content-type") != "application/json":
            raise RefusedError(415, f"content type {self.headers.get('content-type')}")
        try:
            body = json.loads(self.body)
        except ValueError:
            raise RefusedError(400, "the body is not JSON") from None
        if unknown := set(body) - fields:
            raise RefusedError(400, f"unknown fields {sorted(unknown)}")
        return dict(body)


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
            return _listed(request, stand_in.experiments.values(), "experiments")
        case ["pipelines"]:
            _require_namespace(stand_in, request.query.get("namespace"))
            shown = [{k: v for k, v in one.items() if k != "versions"} for one in stand_in.pipelines.values()]
            return _listed(request, shown, "pipelines")
        case ["pipelines", pipeline_id, "versions"]:
            return _listed(request, _pipeline(stand_in, pipeline_id)["versions"], "pipeline_versions")
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


def _listed(request: Request, items: Any, key: str) -> dict[str, Any]:
    """Return a page of `items`, filtered as the request says; an empty list is left out, as by the real server."""
    if unknown := set(request.query) - {"filter", "namespace", "page_token", "page_size", "sort_by"}:
        raise RefusedError(400, f"unknown query {sorted(unknown)}")
    predicates = json.loads(request.query.get("filter") or "{}").get("predicates", [])
    found = list(items)
    for predicate in predicates:
        value = predicate.get("stringValue", predicate.get("string_value"))
        if predicate.get("operation") not in {1, "EQUALS"} or value is None or predicate.get("key") != "display_name":
            raise RefusedError(400, f"filter {predicate}")
        found = [item for item in found if item["display_name"] == value]
    return {key: found, "total_size": len(found)} if found else {}


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
    documents = list(yaml.safe_load_all(_uploaded_file(request)))
    _parse_package(documents[0], documents[1] if len(documents) > 1 else {})
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


def _uploaded_file(request: Request) -> bytes:
    content_type = request.headers.get("content-type") or ""
    if not content_type.startswith("multipart/form-data; boundary="):
        raise RefusedError(415, f"content type {content_type}")
    message = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + request.body, policy=HTTP)
    parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}  # type: ignore[attr-defined]
    if set(parts) != {"uploadfile"} or not (parts["uploadfile"].get_filename() or "").endswith((".yaml", ".yml")):
        raise RefusedError(400, f"Failed to read a pipeline spec file: form has {sorted(map(str, parts))}")
    content = parts["uploadfile"].get_payload(decode=True)
    if not content:
        raise RefusedError(400, "Failed to read a pipeline spec file: it is empty")
    return bytes(content)


def _parse_package(spec: Any, platform: Any) -> None:
    try:
        json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
        json_format.ParseDict(spec["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig())
    except (json_format.ParseError, TypeError, KeyError) as error:
        raise RefusedError(400, f"Invalid input error: unable to parse the package: {error}") from None


def _create_run(stand_in: KfpStandIn, body: dict[str, Any]) -> dict[str, Any]:
    if not body.get("display_name"):
        raise RefusedError(400, "Invalid input error: the run name is empty")
    if body.get("experiment_id") not in stand_in.experiments:
        raise RefusedError(404, "ResourceNotFoundError: Experiment not found", 5)
    package = body.get("pipeline_spec")
    if not isinstance(package, dict):
        raise RefusedError(400, "Invalid input error: a run needs a pipeline spec or a version")
    spec, platform = package.get("pipeline_spec", package), package.get("platform_spec", {})
    _parse_package(spec, platform)
    arguments = body.get("runtime_config", {}).get("parameters", {})
    _check_arguments(spec["root"].get("inputDefinitions", {}).get("parameters", {}), arguments)
    run = StandInRun(str(uuid.uuid4()), body["display_name"], body["experiment_id"], package, arguments)
    stand_in.runs[run.run_id] = run
    return _run_json(stand_in, run)


def _check_arguments(declared: dict[str, Any], arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        if name not in declared:
            raise RefusedError(400, f"Invalid input error: parameter {name} is not an input of the pipeline")
        kind = declared[name]["parameterType"]
        if not isinstance(value, JSON_TYPES[kind]) or (isinstance(value, bool) and kind != "BOOLEAN"):
            raise RefusedError(400, f"Invalid input error: parameter {name} is not a {kind}")
    for name, one in declared.items():
        if not one.get("isOptional") and name not in arguments:
            raise RefusedError(400, f"Invalid input error: parameter {name} is required")


def _get_run(stand_in: KfpStandIn, run_id: str) -> dict[str, Any]:
    if stand_in.outages:
        stand_in.outages -= 1
        raise RefusedError(503, "no healthy upstream", 14)
    if run_id not in stand_in.runs:
        raise RefusedError(404, f"ResourceNotFoundError: Run {run_id} not found", 5)
    run = stand_in.runs[run_id]
    run.asked += stand_in.stride
    return _run_json(stand_in, run)


def steps(package: dict[str, Any]) -> list[str]:
    """Return the tasks that run a container, each after those that it waits for; the exit handler's own is last."""
    spec = package.get("pipeline_spec", package)

    def of(dag: dict[str, Any]) -> Iterator[str]:
        tasks = dag["tasks"]
        for name in TopologicalSorter({n: t.get("dependentTasks", []) for n, t in tasks.items()}).static_order():
            component = spec["components"][tasks[name]["componentRef"]["name"]]
            if "dag" in component:
                yield from of(component["dag"])
            else:
                yield name

    return list(of(spec["root"]["dag"]))


def _run_json(stand_in: KfpStandIn, run: StandInRun) -> dict[str, Any]:
    """Return the run as the API shows it: the nodes of an Argo workflow, without outputs."""
    order = steps(run.package)
    done = run.asked - 1
    states = {name: "SUCCEEDED" if index < done else "RUNNING" for index, name in enumerate(order) if index <= done}
    state = "PENDING" if run.asked == 0 else "RUNNING"
    if stand_in.failing in order and done > order.index(stand_in.failing):
        at = order.index(stand_in.failing)
        states = dict.fromkeys(order[:at], "SUCCEEDED") | {stand_in.failing: "FAILED", order[-1]: "SUCCEEDED"}
        state = "FAILED"
    elif done >= len(order) and not stand_in.stuck:
        state = "SUCCEEDED"
    nodes = [("ctbasis-denoise-x7k2p", state), ("root", state), ("root-driver", "SUCCEEDED")]
    for name, told in states.items():
        nodes += [(f"{name}-driver", "SUCCEEDED"), (name, told), ("executor", told)]
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
                    "state": told,
                    "create_time": _now(),
                    "child_tasks": [],
                }
                for index, (name, told) in enumerate(nodes if run.asked else [])
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
    asked = dict(decode(request.body[5:]))
    match request.path.removeprefix(METADATA):
        case "GetContextByTypeAndName" if asked[1] == b"system.PipelineRun":
            known = list(stand_in.runs)
            name = asked[2].decode()
            return framed(
                field_of(1, number(1, known.index(name) + 1) + field_of(3, asked[2])) if name in known else b""
            )
        case "GetArtifactsByContext":
            options = dict(decode(asked.get(2, b"")))
            run = list(stand_in.runs.values())[asked[1] - 1]
            return framed(_page(stand_in.artifacts(run), options))
    return framed(b"", status=12)


def _page(artifacts: list[Any], options: dict[int, Any], largest: int = 2) -> bytes:
    """Return a page of at most `largest` artifacts, so that paging is seen to work."""
    begin = int(base64.b64decode(options.get(3, b"")) or 0)
    end = begin + min(options.get(1, 20), largest)
    listed = enumerate(artifacts[begin:end], start=begin + 1)
    page = b"".join(field_of(1, encoded(index, *artifact)) for index, artifact in listed)
    return page + (field_of(2, base64.b64encode(str(end).encode())) if end < len(artifacts) else b"")


def framed(message: bytes, status: int = 0) -> bytes:
    """Return a gRPC-Web answer: the message's frame and the trailer's."""
    trailer = f"grpc-status:{status}\r\n".encode() + (b"grpc-message:not%20implemented\r\n" if status else b"")
    data = b"" if status else b"\0" + len(message).to_bytes(4, "big") + message
    return data + b"\x80" + len(trailer).to_bytes(4, "big") + trailer


# Protobuf by hand, from the published .proto files, so that a wrong number in the client's table is seen.


def varint(value: int) -> bytes:
    """Return a base-128 varint."""
    content = bytearray()
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*content, value])


def number(tag: int, value: int) -> bytes:
    """Return an integer field."""
    return varint(tag << 3) + varint(value)


def field_of(tag: int, content: bytes) -> bytes:
    """Return a field of bytes, a string or a message."""
    return varint(tag << 3 | 2) + varint(len(content)) + content


def decode(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (tag, value) of a message of integers and bytes."""
    stream = io.BytesIO(content)

    def read_varint() -> int:
        value = shift = 0
        while True:
            byte = stream.read(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while stream.tell() < len(content):
        key = read_varint()
        if key & 7 not in {0, 2}:
            raise RefusedError(400, f"wire type {key & 7}")
        yield key >> 3, read_varint() if key & 7 == 0 else stream.read(read_varint())


def encoded(identity: int, name: str, kind: str, uri: str, logged: dict[str, float | int | str]) -> bytes:
    """Return an `ml_metadata.Artifact` as the launcher of 2.17 records it: every number is a double."""

    def value(given: float | str) -> bytes:
        if isinstance(given, str):
            return field_of(3, given.encode())
        return varint(2 << 3 | 1) + struct.pack("<d", given)

    properties = {**logged, "display_name": name, "store_session_info": json.dumps({"Provider": "minio", "Params": {}})}
    entries = (field_of(1, key.encode()) + field_of(2, value(given)) for key, given in properties.items())
    return (
        number(1, identity)
        + number(2, 11)
        + field_of(3, uri.encode())
        + b"".join(field_of(5, entry) for entry in entries)
        + number(6, 2)
        + field_of(8, kind.encode())
        + number(9, 1795474210460)
    )
