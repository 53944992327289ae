"""The Argo workflow of a run of the stand-in, as Kubeflow Pipelines 2.17.0 makes it and reports it.

A step is five nodes and two pods: `NAME-driver` resolves its inputs, `NAME` is a DAG with one node `executor`. Stock
settings give every template a retry strategy, so every node has one more for its attempt, `NAME(0)`. The API of runs
(v2beta1) lists the nodes by display name and state, in the order of their ids, without names of pods and messages. The
older API (v1beta1) sends the whole workflow.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

WORKFLOW = "ctbasis-denoise-x7k2p"
NAMESPACE = "kubeflow"
GROUP = "exit-handler-1"

STATES = {
    "Pending": "PENDING",
    "Running": "RUNNING",
    "Succeeded": "SUCCEEDED",
    "Failed": "FAILED",
    "Error": "FAILED",
}
"""States of KFP by phases of Argo."""

PHASES = {"SUCCEEDED": "Succeeded", "FAILED": "Failed", "RUNNING": "Running", "PENDING": "Pending"}


@dataclass
class PodTrouble:
    """Why the pod of a step does not start, as Kubernetes describes it.

    Attributes:
        waiting: Reason and message for which the container waits; empty for a pod without a node.
        unschedulable: The message of the scheduler; empty for a pod that has a node.
        events: The events of the pod: type, reason, message.
    """

    waiting: tuple[str, str] = ("", "")
    unschedulable: str = ""
    events: list[tuple[str, str, str]] = field(default_factory=list)

    def message(self) -> str:
        """Return what Argo writes into the node."""
        if self.unschedulable:
            return f"Unschedulable: {self.unschedulable}"
        return ": ".join(part for part in self.waiting if part)

    def pod(self, name: str) -> dict[str, Any]:
        """Return the pod as the UI sends it."""
        scheduled = {"type": "PodScheduled", "status": "False" if self.unschedulable else "True"}
        if self.unschedulable:
            scheduled |= {"reason": "Unschedulable", "message": self.unschedulable}
        status: dict[str, Any] = {"phase": "Pending", "conditions": [scheduled]}
        if self.waiting[0]:
            waiting = dict(zip(("reason", "message"), self.waiting, strict=True))
            status["containerStatuses"] = [{"name": "main", "state": {"waiting": waiting}}]
        return {"metadata": {"name": name, "namespace": NAMESPACE}, "status": status}

    def event_list(self) -> dict[str, Any]:
        """Return the events as the UI sends them."""
        items = [
            {"type": kind, "reason": reason, "message": message, "lastTimestamp": f"2026-11-30T08:00:{second:02}Z"}
            for second, (kind, reason, message) in enumerate(self.events)
        ]
        return {"apiVersion": "v1", "kind": "EventList", "items": items}


def node_id(name: str) -> str:
    """Return the id that Argo gives to a node: the workflow's name and the FNV-1a hash of the node's."""
    value = 0x811C9DC5
    for byte in name.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return WORKFLOW if name == WORKFLOW else f"{WORKFLOW}-{value}"


def nodes(
    states: Mapping[str, str],
    *,
    state: str,
    exit_step: str,
    waiting: Mapping[str, PodTrouble],
    messages: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Return the nodes of a workflow.

    Args:
        states: The states of the steps that have begun, by name.
        state: The state of the run.
        exit_step: The step of the exit handler.
        waiting: Steps whose pod does not start, or `root-driver`, the first pod of all.
        messages: What Argo says about the pods of failed steps.
    """
    made: list[dict[str, Any]] = []

    def add(path: str, display: str, phase: str, template: str, around: str = "", message: str = "") -> str:
        """Add a node and its attempt; return the id of the attempt."""
        pod = template.endswith(("driver", "impl"))
        for suffix, kind in (("", "Retry"), ("(0)", "Pod" if pod else "DAG")):
            made.append(
                {
                    "id": node_id(path + suffix),
                    "name": path + suffix,
                    "displayName": display + suffix,
                    "type": kind,
                    "templateName": template,
                    "phase": phase,
                    "boundaryID": around,
                    "startedAt": f"2026-11-30T08:{len(made):02}:00Z",
                    **({"message": message} if message else {}),
                }
            )
        return node_id(path + "(0)")

    phase = PHASES[state]
    entry = add(WORKFLOW, WORKFLOW, phase, "entrypoint")
    if trouble := waiting.get("root-driver"):
        add(f"{WORKFLOW}(0).root-driver", "root-driver", "Pending", "system-dag-driver", entry, trouble.message())
        return made
    add(f"{WORKFLOW}(0).root-driver", "root-driver", "Succeeded", "system-dag-driver", entry)
    root = add(f"{WORKFLOW}(0).root", "root", phase, "root", entry)
    group = f"{WORKFLOW}(0).root(0).{GROUP}"
    if states:
        add(f"{group}-driver", f"{GROUP}-driver", "Succeeded", "system-dag-driver", root)
    inner = add(group, GROUP, phase, "comp-exit-handler-1", root) if states else ""
    for step, step_state in states.items():
        at, around = (f"{group}(0)", inner)
        if step == exit_step:
            around = add(f"{group}.onExit", f"{GROUP}.onExit", PHASES[step_state], "exit-hook-root-cleanup", root)
            at = f"{group}.onExit(0)"
        trouble = waiting.get(step)
        add(f"{at}.{step}-driver", f"{step}-driver", "Succeeded", "system-container-driver", around)
        dag = add(f"{at}.{step}", step, PHASES[step_state], "system-container-executor", around)
        pod_phase = "Pending" if trouble and step_state == "RUNNING" else PHASES[step_state]
        message = trouble.message() if trouble else messages.get(step, "") if step_state == "FAILED" else ""
        add(f"{at}.{step}(0).executor", "executor", pod_phase, "system-container-impl", dag, message)
    return made


def pod_name(node: Mapping[str, Any]) -> str:
    """Return the name of the pod of a node."""
    return f"{WORKFLOW}-{node['templateName']}-{node['id'].rsplit('-', 1)[1]}"


def pods(made: list[dict[str, Any]]) -> dict[str, str]:
    """Return the names of the pods by step; that of a driver by the driver's name."""
    names = {node["id"]: node["displayName"].removesuffix("(0)") for node in made}
    return {
        names[node["boundaryID"] if names[node["id"]] == "executor" else node["id"]]: pod_name(node)
        for node in made
        if node["type"] == "Pod"
    }


def task_details(run_id: str, made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the nodes as the API of runs lists them."""
    return [
        {
            "run_id": run_id,
            "task_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id}/{node['id']}")),
            "display_name": node["displayName"],
            "state": STATES[node["phase"]],
            "create_time": "2026-11-30T08:00:00Z",
            "start_time": node["startedAt"],
        }
        for node in sorted(made, key=lambda node: str(node["id"]))
    ]


def manifest(run_id: str, made: list[dict[str, Any]]) -> str:
    """Return the workflow as the older API sends it: a JSON text."""
    metadata = {
        "name": WORKFLOW,
        "namespace": NAMESPACE,
        "labels": {"pipeline/runid": run_id},
        "annotations": {"workflows.argoproj.io/pod-name-format": "v2"},
    }
    return json.dumps(
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "metadata": metadata,
            "status": {"nodes": {node["id"]: node for node in made}},
        }
    )
