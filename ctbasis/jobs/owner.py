"""The owner reference of the job, by which Kubernetes deletes it together with the pipeline run.

A run that is deleted ends its pods and does not execute its exit handler. The garbage collector then deletes the
application.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctbasis.jobs.outage import log
from ctbasis.jobs.pod import pod_name
from ctbasis.jobs.step_pod import read_step_pod

if TYPE_CHECKING:
    from ctbasis.jobs.api_server import ApiServer
    from ctbasis.jobs.timeouts import Timeouts


def run_owner(server: ApiServer, timeouts: Timeouts) -> dict[str, Any] | None:
    """Return a reference to the owner of this step's pod, the Workflow of the run; None outside of a run.

    The pod itself must not be the owner, because the job outlives it: the next attempt of the step adopts it.

    Args:
        server: API server of the cluster.
        timeouts: How long the API server may be unavailable.

    Raises:
        CtbasisError: The pod may not be read, or the API server was unavailable for too long.
    """
    name = pod_name()
    if not name:
        return None
    pod = read_step_pod(name, server, timeouts)
    owners = (pod or {"metadata": {}})["metadata"].get("ownerReferences", [])
    for owner in sorted(owners, key=lambda owner: not owner.get("controller")):
        log(f"svd: the job is owned by {owner['kind']} {owner['name']} and is deleted with it")
        # Not as a controller, which is the operator, and without blocking the deletion of the run.
        return {key: owner[key] for key in ("apiVersion", "kind", "name", "uid")}
    return None
