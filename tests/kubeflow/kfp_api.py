"""The API of pipelines, experiments and runs of the stand-in (v2beta1), and the older one of runs (v1beta1)."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import yaml

from tests.kubeflow.kfp_request import (
    EXPERIMENT_FIELDS,
    PIPELINE_FIELDS,
    RUN_FIELDS,
    RefusedError,
    Request,
    check_arguments,
    check_package,
    filtered,
    uploaded_file,
)
from tests.kubeflow.kfp_runs import now, run_json, run_json_v1
from tests.kubeflow.kfp_state import StandInRun

if TYPE_CHECKING:
    from tests.kubeflow.kfp_state import ServerState

API = "/apis/v2beta1/"
OLD_API = "/apis/v1beta1/"


def answer(server: ServerState, request: Request) -> dict[str, Any]:
    """Return the answer of the API to a request, or refuse it."""
    if request.method == "GET" and request.path.startswith(f"{OLD_API}runs/"):
        return run_json_v1(server, _run(server, request.path.removeprefix(f"{OLD_API}runs/")))
    if not request.path.startswith(API):
        raise RefusedError(404, "Not Found", 5)
    act = {"GET": _get, "POST": _post}[request.method]
    return act(server, request, request.path.removeprefix(API).split("/"))


def _get(server: ServerState, request: Request, path: list[str]) -> dict[str, Any]:  # noqa: PLR0911 - one a route
    match path:
        case ["healthz"]:
            return {"multi_user": server.multi_user}
        case ["experiments"]:
            require_namespace(server, request.query.get("namespace"))
            return filtered(request, server.experiments.values(), "experiments")
        case ["experiments", experiment_id] if experiment_id in server.experiments:
            return server.experiments[experiment_id]
        case ["pipelines"]:
            require_namespace(server, request.query.get("namespace"))
            shown = [{k: v for k, v in one.items() if k != "versions"} for one in server.pipelines.values()]
            return filtered(request, shown, "pipelines")
        case ["pipelines", pipeline_id, "versions"]:
            return filtered(request, _pipeline(server, pipeline_id)["versions"], "pipeline_versions")
        case ["pipelines", pipeline_id, "versions", version_id]:
            return _version(server, pipeline_id, version_id)
        case ["runs"]:
            return _list_runs(server, request)
        case ["runs", run_id]:
            return _get_run(server, request, run_id)
        case ["artifacts"] if server.lists_artifacts:
            require_namespace(server, request.query.get("namespace"))
            return {}
    raise RefusedError(404, "Not Found", 5)


def _post(server: ServerState, request: Request, path: list[str]) -> dict[str, Any]:
    match path:
        case ["experiments"]:
            return _create_experiment(server, request.json(EXPERIMENT_FIELDS))
        case ["pipelines"]:
            return _create_pipeline(server, request.json(PIPELINE_FIELDS))
        case ["pipelines", "upload_version"]:
            return _upload_version(server, request)
        case ["runs"]:
            return _create_run(server, request.json(RUN_FIELDS))
        case ["runs", action] if action.endswith(":terminate"):
            run = _run(server, action.removesuffix(":terminate"))
            run.terminated = run.terminated or now()
            return {}
    raise RefusedError(404, "Not Found", 5)


def require_namespace(server: ServerState, namespace: str | None) -> None:
    """Refuse a request without a namespace if there are several users; a server for one user ignores it."""
    if server.multi_user and not namespace:
        raise RefusedError(400, "Invalid input error: a namespace is required in multi-user mode")


def _create_experiment(server: ServerState, body: dict[str, Any]) -> dict[str, Any]:
    require_namespace(server, body.get("namespace"))
    if not body.get("display_name"):
        raise RefusedError(400, "Invalid input error: experiment name is empty")
    experiment = {"experiment_id": str(uuid.uuid4()), "created_at": now(), "storage_state": "AVAILABLE", **body}
    server.experiments[experiment["experiment_id"]] = experiment
    return experiment


def _create_pipeline(server: ServerState, body: dict[str, Any]) -> dict[str, Any]:
    require_namespace(server, body.get("namespace"))
    name = body.get("name") or body.get("display_name")
    if not name:
        raise RefusedError(400, "Invalid input error: name is required")
    if any(one["name"] == name for one in server.pipelines.values()):
        raise RefusedError(409, f"Already exist error: the pipeline name {name} already exists", 6)
    pipeline = {"pipeline_id": str(uuid.uuid4()), "display_name": name, **body, "name": name, "created_at": now()}
    server.pipelines[pipeline["pipeline_id"]] = {**pipeline, "versions": []}
    return pipeline


def _pipeline(server: ServerState, pipeline_id: str) -> dict[str, Any]:
    if pipeline_id not in server.pipelines:
        raise RefusedError(404, f"ResourceNotFoundError: Pipeline {pipeline_id} not found", 5)
    return server.pipelines[pipeline_id]


def _version(server: ServerState, pipeline_id: str, version_id: str) -> dict[str, Any]:
    for version in _pipeline(server, pipeline_id)["versions"]:
        if version["pipeline_version_id"] == version_id:
            return dict(version)
    raise RefusedError(404, f"ResourceNotFoundError: PipelineVersion {version_id} not found", 5)


def _upload_version(server: ServerState, request: Request) -> dict[str, Any]:
    if unknown := set(request.query) - {"name", "display_name", "pipelineid", "description", "tags"}:
        raise RefusedError(400, f"unknown query {sorted(unknown)}")
    pipeline = _pipeline(server, request.query.get("pipelineid", ""))
    documents = list(yaml.safe_load_all(uploaded_file(request)))
    check_package(documents[0], documents[1] if len(documents) > 1 else {})
    name = request.query.get("name", "")
    if not name or any(version["display_name"] == name for version in pipeline["versions"]):
        raise RefusedError(409 if name else 400, f"Already exist error: the version name {name!r} already exists", 6)
    package = documents[0] if len(documents) == 1 else {"pipeline_spec": documents[0], "platform_spec": documents[1]}
    version = {
        "pipeline_id": pipeline["pipeline_id"],
        "pipeline_version_id": str(uuid.uuid4()),
        "display_name": name,
        "name": name,
        "created_at": now(),
        "pipeline_spec": package,
    }
    pipeline["versions"].append(version)
    return version


def _create_run(server: ServerState, body: dict[str, Any]) -> dict[str, Any]:
    if not body.get("display_name"):
        raise RefusedError(400, "Invalid input error: the run name is empty")
    if body.get("experiment_id") not in server.experiments:
        raise RefusedError(404, "ResourceNotFoundError: Experiment not found", 5)
    reference = body.get("pipeline_version_reference") or {}
    version = (reference["pipeline_id"], reference["pipeline_version_id"]) if reference else None
    package = _version(server, *version)["pipeline_spec"] if version else body.get("pipeline_spec")
    if not isinstance(package, dict):
        raise RefusedError(400, "Invalid input error: a run needs a pipeline spec or a version")
    spec, platform = package.get("pipeline_spec", package), package.get("platform_spec", {})
    check_package(spec, platform)
    arguments = body.get("runtime_config", {}).get("parameters", {})
    check_arguments(spec["root"].get("inputDefinitions", {}).get("parameters", {}), arguments)
    run = StandInRun(str(uuid.uuid4()), body["display_name"], body["experiment_id"], package, arguments, version)
    server.runs[run.run_id] = run
    return run_json(server, run)


def _run(server: ServerState, run_id: str) -> StandInRun:
    if run_id not in server.runs:
        raise RefusedError(404, f"ResourceNotFoundError: Run {run_id} not found", 5)
    return server.runs[run_id]


def _list_runs(server: ServerState, request: Request) -> dict[str, Any]:
    """Return a page of at most two runs of an experiment: so few that the client needs several pages."""
    if request.query.get("experiment_id") not in server.experiments:
        raise RefusedError(404, "ResourceNotFoundError: Experiment not found", 5)
    if request.query.get("sort_by") not in {None, "created_at desc"}:
        raise RefusedError(400, f"Invalid input error: sort_by {request.query['sort_by']}")
    found = [run for run in server.runs.values() if run.experiment_id == request.query["experiment_id"]]
    found.sort(key=lambda run: run.created, reverse="sort_by" in request.query)
    begin = int(request.query.get("page_token") or 0)
    end = begin + min(int(request.query.get("page_size") or 20), 2)
    page = {"runs": [run_json(server, run) for run in found[begin:end]], "total_size": len(found)}
    return page | ({"next_page_token": str(end)} if end < len(found) else {}) if found else {}


def _get_run(server: ServerState, request: Request, run_id: str) -> dict[str, Any]:
    if server.outages:
        server.outages -= 1
        raise RefusedError(503, "no healthy upstream", 14)
    run = _run(server, run_id)
    run.polls += server.stride
    return run_json(server, run, full=request.query.get("view") == "FULL")
