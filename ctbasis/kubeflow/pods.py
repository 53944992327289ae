"""The pods of a run: which of them cannot start, what they wait for, and why one has failed.

The API of runs (v2beta1) says RUNNING of a step whose pod cannot start, and has no reason for a pod that has failed.
Both are in the run's Argo workflow, which the older API (v1beta1) sends, and in the pod and its events, which the
server of the UI sends (`/k8s/pod`, `/k8s/pod/events`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.runs import ATTEMPT
from ctbasis.kubeflow.server import get, host_of, request, server_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kfp.client import Client

STARTING = ("ContainerCreating", "PodInitializing")
"""Reasons for which every container waits at first."""

REASON_LENGTH = 400

REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"persistentvolumeclaim|storageclass|volume binding|unbound",
        "name a class that provides the claim: `ctbasis compile --storage-class NAME`, or --access-mode ReadWriteOnce",
    ),
    (
        r"ErrImagePull|ImagePullBackOff|InvalidImageName|ErrImageNeverPull|pull(ing)? image",
        "push the image, and name it and its Secret: `ctbasis compile --steps-image NAME --pull-secret NAME`",
    ),
    (
        r"exceeded quota|forbidden",
        "ask the administrator of the namespace: a quota or an admission policy refuses the pod",
    ),
    (
        r"OOMKilled|exit code 137",
        "give the step more memory: `ctbasis compile --size large`, or `--requests STEP:memory=SIZE`",
    ),
    (
        r"Insufficient|OutOf(cpu|memory)",
        "wait until other pods end, add a node, or ask for less: `ctbasis compile --size small`",
    ),
    (
        r"taint|affinity|selector",
        "the cluster has no node on which the pod may run: ask its administrator",
    ),
    (
        r"CreateContainerConfigError|(secret|configmap) .*not found",
        "create the missing Secret or ConfigMap in the namespace of the run",
    ),
    (
        r"FailedMount|FailedAttachVolume",
        "ask the administrator of the cluster: the volume of the run cannot be mounted on the node",
    ),
)
"""What helps a pod that cannot start or was killed, by what its reason contains. The first that fits is said."""


@dataclass(frozen=True)
class Pod:
    """A pod of a run, from the node of its workflow.

    Attributes:
        step: The name of the step, or that of the driver pod that prepares it, such as `fetch-driver`.
        name: The name of the pod.
        namespace: Its namespace.
        phase: The phase of the node: Pending, Running, Succeeded, Failed or Error.
        message: What Argo says about the node; empty if nothing.
    """

    step: str
    name: str
    namespace: str
    phase: str
    message: str


@dataclass(frozen=True)
class Waiting:
    """A pod that has not started.

    Attributes:
        pod: The pod.
        reason: What it waits for.
        remedy: What would help; empty if nothing needs to be done.
    """

    pod: Pod
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.pod.step}: its pod has not started: {self.reason}" + (f"; {self.remedy}" if self.remedy else "")


def pods_of(client: Client, run_id: str) -> list[Pod]:
    """Return the pods of a run, the oldest first; none if the server does not send its workflow.

    Args:
        client: From `server.connect`.
        run_id: The id of the run.
    """
    try:
        answer = get(client, f"/apis/v1beta1/runs/{run_id}", action="to send the workflow of the run")
        workflow = json.loads((answer.get("pipeline_runtime") or {}).get("workflow_manifest") or "{}")
    except (CtbasisError, ValueError):
        return []
    nodes: dict[str, dict[str, Any]] = (workflow.get("status") or {}).get("nodes") or {}
    found = sorted(
        (node for node in nodes.values() if node.get("type") == "Pod"),
        key=lambda node: str(node.get("startedAt") or ""),
    )
    return [
        Pod(
            step=_step(str(node.get("name") or "")),
            name=_pod_name(node, workflow["metadata"]),
            namespace=str(workflow["metadata"].get("namespace") or ""),
            phase=str(node.get("phase") or ""),
            message=str(node.get("message") or ""),
        )
        for node in found
    ]


def _step(name: str) -> str:
    """Return the step of a pod from the name of its node, such as `WORKFLOW.root(0).GROUP(0).svd(0).executor(1)`."""
    *path, last = [ATTEMPT.sub("", part) for part in name.split(".")]
    return path[-1] if last == "executor" and path else last


def _pod_name(node: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Return the name of the pod of a node: WORKFLOW-TEMPLATE-HASH; in Argo's older format it is the id of the node."""
    identity = str(node.get("id") or "")
    if (metadata.get("annotations") or {}).get("workflows.argoproj.io/pod-name-format") == "v1":
        return identity
    return f"{metadata.get('name')}-{node.get('templateName')}-{identity.rsplit('-', 1)[-1]}"


def waiting(client: Client, run_id: str) -> list[Waiting]:
    """Return the pods of a run that have not started, with what each waits for.

    Args:
        client: From `server.connect`.
        run_id: The id of the run.
    """
    found = []
    for pod in pods_of(client, run_id):
        if pod.phase != "Pending":
            continue
        reason = next((one for one in _reasons(client, pod) if one), "its container is being created")
        reason = " ".join(reason.split())[:REASON_LENGTH].rstrip(". ")
        found.append(Waiting(pod, reason, remedy_for(reason)))
    return found


def remedy_for(reason: str) -> str:
    """Return what helps a pod with this reason, one of `REMEDIES`; empty if none fits."""
    return next((text for pattern, text in REMEDIES if re.search(pattern, reason, re.IGNORECASE)), "")


def _reasons(client: Client, pod: Pod) -> Iterator[str]:
    """Yield what is known of the reason for which a pod has not started, the most exact first."""
    description = _from_ui(client, "/k8s/pod", pod)
    status = description.get("status") or {}
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        state = (container.get("state") or {}).get("waiting") or {}
        if state.get("reason") and state["reason"] not in STARTING:
            yield f"{state['reason']}: {state.get('message') or ''}".rstrip(": ")
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield str(condition.get("message") or "")
    events = _from_ui(client, "/k8s/pod/events", pod).get("items") or []
    warnings = [event for event in events if event.get("type") == "Warning"]
    for event in sorted(warnings, key=_time, reverse=True):
        yield f"{event.get('reason')}: {event.get('message')}"
    if not pod.message.startswith(STARTING):
        yield pod.message


def _time(event: Mapping[str, Any]) -> str:
    times = (event.get(key) for key in ("lastTimestamp", "eventTime", "firstTimestamp"))
    return str(next((time for time in times if time), ""))


def _from_ui(client: Client, path: str, pod: Pod) -> dict[str, Any]:
    """Return what the server of the UI knows of a pod; empty if the address is not that of a UI, or it refuses."""
    try:
        return get(client, path, {"podname": pod.name, "podnamespace": pod.namespace})
    except CtbasisError:
        return {}


def log_of(client: Client, run_id: str, pod: Pod) -> str:
    """Return the log of the main container of a pod; empty if the server has it no more.

    Args:
        client: From `server.connect`.
        run_id: The id of the run.
        pod: The pod.
    """
    host = host_of(client)
    try:
        with server_errors(host, "to send a log"):
            answer = request(client, f"/apis/v1alpha1/runs/{run_id}/nodes/{pod.name}/log", "GET")
    except CtbasisError:
        return ""
    text = bytes(answer.data).decode(errors="replace")
    # The server sends its status before it looks for the log, so an error too arrives with status 200.
    return "" if text.lstrip().startswith('{"error_message"') else text
