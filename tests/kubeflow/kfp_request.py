"""Requests to the stand-in for a Kubeflow server, and the checks that make it refuse one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from email import message_from_bytes
from email.policy import HTTP
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@dataclass
class Request:
    """The parts of a request."""

    method: str
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes

    def json(self, fields: set[str]) -> dict[str, Any]:
        """Return the JSON body; refuse a body that is not JSON or has a field that is not one of `fields`."""
        if self.headers.get("content-type") != "application/json":
            raise RefusedError(415, f"content type {self.headers.get('content-type')}")
        try:
            body = json.loads(self.body)
        except ValueError:
            raise RefusedError(400, "the body is not JSON") from None
        if unknown := set(body) - fields:
            raise RefusedError(400, f"unknown fields {sorted(unknown)}")
        return dict(body)


def uploaded_file(request: Request) -> bytes:
    """Return the content of the file in a multipart form, or refuse the request."""
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


def check_package(spec: Any, platform: Any) -> None:
    """Refuse a package that KFP's own messages cannot represent."""
    try:
        json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
        json_format.ParseDict(spec["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig())
    except (json_format.ParseError, TypeError, KeyError) as error:
        raise RefusedError(400, f"Invalid input error: unable to parse the package: {error}") from None


def check_arguments(declared: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Refuse arguments that do not fit the declared parameters."""
    for name, value in arguments.items():
        if name not in declared:
            raise RefusedError(400, f"Invalid input error: parameter {name} is not an input of the pipeline")
        kind = declared[name]["parameterType"]
        if not isinstance(value, JSON_TYPES[kind]) or (isinstance(value, bool) and kind != "BOOLEAN"):
            raise RefusedError(400, f"Invalid input error: parameter {name} is not a {kind}")
    for name, one in declared.items():
        if not one.get("isOptional") and name not in arguments:
            raise RefusedError(400, f"Invalid input error: parameter {name} is required")


def filtered(request: Request, items: Any, key: str) -> dict[str, Any]:
    """Return the items that match the request's filter; like the real server, omit the key if there are none."""
    if unknown := set(request.query) - {"filter", "namespace", "page_token", "page_size", "sort_by"}:
        raise RefusedError(400, f"unknown query {sorted(unknown)}")
    predicates = json.loads(request.query.get("filter") or "{}").get("predicates", [])
    matching = list(items)
    for predicate in predicates:
        value = predicate.get("stringValue", predicate.get("string_value"))
        if predicate.get("operation") not in {1, "EQUALS"} or value is None or predicate.get("key") != "display_name":
            raise RefusedError(400, f"filter {predicate}")
        matching = [item for item in matching if item["display_name"] == value]
    return {key: matching, "total_size": len(matching)} if matching else {}


def steps(package: dict[str, Any]) -> list[str]:
    """Return the tasks that run a container, in the order of their dependencies; the exit handler's task is last.

    Tasks with a condition are left out: no test gives a parameter that makes one true.
    """
    spec = package.get("pipeline_spec", package)

    def of(dag: dict[str, Any]) -> Iterator[str]:
        tasks = dag["tasks"]
        for name in TopologicalSorter({n: t.get("dependentTasks", []) for n, t in tasks.items()}).static_order():
            component = spec["components"][tasks[name]["componentRef"]["name"]]
            if "condition" in tasks[name].get("triggerPolicy", {}):
                continue
            if "dag" in component:
                yield from of(component["dag"])
            else:
                yield name

    return list(of(spec["root"]["dag"]))
