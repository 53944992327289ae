"""The pods of a run's steps: this step's own, whether it is being deleted, and why one ended that could not say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctbasis.jobs.api_server import BROKEN, ApiError, ApiServer
from ctbasis.jobs.outage import retry_outages
from ctbasis.jobs.pods import Pod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctbasis.jobs.timeouts import Timeouts

DELETED = "the pod was deleted, or its node was lost"


def end_of_pod(name: str, *, server: ApiServer | None = None) -> str:
    """Return why a pod ended in Kubernetes' words, such as `OOMKilled (exit code 137, memory limit 4Gi)`.

    Args:
        name: Name of the pod.
        server: API server; by default that of this pod's cluster, or of KUBECONFIG.

    Returns:
        The reason; empty if the pod runs or succeeded, or may not be read.

    Raises:
        CtbasisError: There is no cluster.
    """
    server = server or ApiServer.connect()
    try:
        raw: Mapping[str, object] | None = server.find(f"{server.pods}/{name}")
    except (ApiError, *BROKEN):
        return ""
    return DELETED if raw is None else Pod(dict(raw)).ending


def read_step_pod(name: str, server: ApiServer, timeouts: Timeouts) -> dict[str, Any] | None:
    """Return this step's pod; None if it does not exist.

    Args:
        name: Name of the pod.
        server: API server.
        timeouts: How long the API server may be unavailable.

    Raises:
        CtbasisError: The pod may not be read, or the API server was unavailable for too long.
    """
    return retry_outages(lambda: server.find(f"{server.pods}/{name}"), f"reading the step's pod {name}", timeouts)


def is_being_deleted(name: str, server: ApiServer) -> bool:
    """Tell why this step's pod receives SIGTERM: it is deleted, drained or preempted, and not the run terminated.

    A pod that is deleted has a deletionTimestamp, and Argo starts the step again. To terminate a run, Argo stops the
    containers of a pod and keeps the pod.

    Args:
        name: Name of the step's pod.
        server: API server. It is asked once, because KFP's launcher does not wait for the step to end: the container
            ends within a second.

    Returns:
        Whether the pod is being deleted; also if that cannot be read.
    """
    try:
        raw = server.find(f"{server.pods}/{name}")
    except (ApiError, *BROKEN):
        return True
    return raw is None or "deletionTimestamp" in raw["metadata"]
