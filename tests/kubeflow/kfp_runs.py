"""The runs of the stand-in: how far each is, its artifacts, and the run as both kinds of server send it."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from ctbasis.kubeflow.runs import FINAL_STATES
from tests.kubeflow import kfp_workflow
from tests.kubeflow.kfp_request import steps

if TYPE_CHECKING:
    from tests.kubeflow.kfp_state import Logged, ServerState, StandInRun


def now() -> str:
    """Return the time as the API writes it."""
    return datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class StoredArtifact(NamedTuple):
    """An artifact of a run: its step, name, type and URI, and the values logged on it."""

    step: str
    name: str
    kind: str
    uri: str
    logged: Logged


def progress(server: ServerState, run: StandInRun) -> tuple[str, dict[str, str]]:
    """Return the state of a run, and the states of the steps that have begun."""
    order = steps(run.package)
    done = run.polls - 1
    states = {name: "SUCCEEDED" if index < done else "RUNNING" for index, name in enumerate(order) if index <= done}
    if "root-driver" in server.waiting:
        return "RUNNING" if run.polls else "PENDING", {}
    blocked = next((name for name in order if name in server.waiting), "")
    if blocked and done >= order.index(blocked):
        states = dict.fromkeys(order[: order.index(blocked)], "SUCCEEDED") | {blocked: "RUNNING"}
        done = min(done, len(order) - 1)
    if run.terminated:
        # KFP deletes the pods of a terminated run; its exit handler runs.
        last = list(states)[-1] if states else ""
        ended = {**states, **({last: "FAILED"} if last else {}), order[-1]: "SUCCEEDED"}
        seen = [entry["state"] for entry in run.history]
        return ("FAILED", ended) if "CANCELING" in seen else ("CANCELING", states)
    if server.failing in order and done > order.index(server.failing):
        at = order.index(server.failing)
        return "FAILED", dict.fromkeys(order[:at], "SUCCEEDED") | {server.failing: "FAILED", order[-1]: "SUCCEEDED"}
    if done >= len(order) and not server.stuck:
        return "SUCCEEDED", states
    return "RUNNING" if run.polls else "PENDING", states


def artifacts(server: ServerState, run: StandInRun) -> list[StoredArtifact]:
    """Return the artifacts that a run has by now, the oldest first."""
    _, states = progress(server, run)
    root = f"minio://mlpipeline/v2/artifacts/ctbasis-denoise/{run.run_id}"
    made: dict[str, list[tuple[str, str, Logged]]] = {
        "svd": [("basis", "system.Model", {"k": 50})],
        "report": [
            ("metrics", "system.Metrics", server.metrics),
            ("figure1", "system.Artifact", {}),
            ("page", "system.HTML", {}),
        ],
        "reconstruct": [("denoised", "system.Artifact", {})],
        "summary": [("page", "system.HTML", {}), ("metrics", "system.Metrics", server.metrics)],
        "cleanup": [("why_it_failed", "system.Markdown", server.note)] if server.note is not None else [],
    }
    found = []
    for step, state in states.items():
        at = f"{root}/{step}/{uuid.uuid5(uuid.NAMESPACE_OID, step).hex}"
        if state == "SUCCEEDED":
            for name, kind, logged in made.get(step, []):
                uri = server.figure_uri if name == "figure1" and server.figure_uri else f"{at}/{name}"
                found.append(StoredArtifact(step, name, kind, uri, logged))
        # KFP's launcher stores the log when the program of a step ends, well or not.
        if server.publishes_logs and state in {"SUCCEEDED", "FAILED"} and step in server.logs:
            found.append(StoredArtifact(step, "executor-logs", "system.Artifact", f"{at}/executor-logs-0", {}))
    return found


def content_of(server: ServerState, uri: str) -> bytes | None:
    """Return the bytes of an artifact; None if there is no such artifact."""
    for run in server.runs.values():
        for one in artifacts(server, run):
            if one.uri == uri:
                files = {"figure1": server.figure, "page": server.page, "executor-logs": b""}
                if one.name == "executor-logs":
                    return server.logs[one.step].encode()
                return files.get(one.name)
    return None


def workflow(server: ServerState, run: StandInRun) -> list[dict[str, Any]]:
    """Return the nodes of a run's workflow."""
    state, states = progress(server, run)
    return kfp_workflow.nodes(
        states if run.polls else {},
        state="RUNNING" if state == "CANCELING" else state,
        exit_step=steps(run.package)[-1],
        waiting=server.waiting,
        messages=server.messages,
    )


def run_json(server: ServerState, run: StandInRun, *, full: bool = False) -> dict[str, Any]:
    """Return a run as the API returns it.

    Args:
        server: The stand-in.
        run: The run.
        full: Whether the request asks for the view FULL, which 2.17 ignores.
    """
    state, states = progress(server, run)
    if not run.history or run.history[-1]["state"] != state:
        run.history.append({"update_time": run.terminated if state == "CANCELING" else now(), "state": state})
    answer: dict[str, Any] = {
        "run_id": run.run_id,
        "experiment_id": run.experiment_id,
        "display_name": run.name,
        "storage_state": "AVAILABLE",
        "runtime_config": {"parameters": run.arguments},
        "created_at": run.created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "state": state,
        "state_history": run.history,
    }
    if state in FINAL_STATES:
        answer["finished_at"] = run.history[-1]["update_time"]
    if run.version and not (server.lists_artifacts and full):
        pipeline_id, version_id = run.version
        answer["pipeline_version_reference"] = {"pipeline_id": pipeline_id, "pipeline_version_id": version_id}
    else:
        answer["pipeline_spec"] = run.package
    if not server.lists_artifacts:
        answer["run_details"] = {"task_details": kfp_workflow.task_details(run.run_id, workflow(server, run))}
    elif full and run.polls:
        answer["tasks"] = _tasks(server, run, state, states)
    return answer


def run_json_v1(server: ServerState, run: StandInRun) -> dict[str, Any]:
    """Return a run as the older API returns it: with its whole workflow."""
    manifest = kfp_workflow.manifest(run.run_id, workflow(server, run))
    return {"run": {"id": run.run_id, "name": run.name}, "pipeline_runtime": {"workflow_manifest": manifest}}


def _tasks(server: ServerState, run: StandInRun, state: str, states: dict[str, str]) -> list[dict[str, Any]]:
    """Return the tasks of a run as the server that follows 2.17 lists them, with their artifacts."""
    of_step: dict[str, list[dict[str, Any]]] = {}
    for artifact in artifacts(server, run):
        of_step.setdefault(artifact.step, []).extend(_native(artifact))
    task_state = {"PENDING": "RUNNING", "CANCELING": "RUNNING"}.get(state, state)
    made = [("root", "ROOT", task_state), ("exit-handler-1", "EXIT_HANDLER", task_state)]
    made += [(step, "RUNTIME", step_state) for step, step_state in states.items()]
    return [
        {
            "name": name,
            "display_name": name,
            "task_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{run.run_id}/{name}")),
            "run_id": run.run_id,
            "create_time": f"2026-11-30T08:{index:02}:00Z",
            "state": one_state,
            "type": kind,
            "inputs": {},
            "outputs": {"artifacts": of_step[name]} if name in of_step else {},
        }
        for index, (name, kind, one_state) in enumerate(made)
    ]


def _native(artifact: StoredArtifact) -> list[dict[str, Any]]:
    """Return an artifact as the outputs of its task hold it; each metric is an artifact without a URI."""
    kind = artifact.kind.removeprefix("system.")
    if kind == "Metrics":
        held: list[dict[str, Any]] = []
        for name, value in artifact.logged.items():
            # KFP's launcher fails a step that logs a metric that is no number.
            assert isinstance(value, int | float), f"metric {name} is no number"
            held.append({"artifact_id": f"{name}-1", "name": name, "type": "Metric", "number_value": value})
    else:
        metadata = {"metadata": dict(artifact.logged)} if artifact.logged else {}
        held = [
            {"artifact_id": f"{artifact.name}-1", "name": artifact.name, "type": kind, "uri": artifact.uri, **metadata}
        ]
    return [{"artifact_key": artifact.name, "type": "OUTPUT", "artifacts": held}]


def log_json(message: str) -> bytes:
    """Return the error that the server sends in place of a log, with status 200."""
    return json.dumps({"error_message": message, "error_details": message}).encode()
