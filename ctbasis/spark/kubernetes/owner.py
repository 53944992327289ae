"""The owner reference of the SparkApplication, by which Kubernetes deletes it together with the pipeline run.

A step that receives SIGTERM deletes its application, but it may get no time for it: KFP's launcher handles no signal
and ends with its container. The garbage collector then removes the application once the run is deleted.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ctbasis.spark.kubernetes.outage import log, retry_outages

if TYPE_CHECKING:
    from ctbasis.spark.kubernetes.api_server import ApiServer
    from ctbasis.spark.kubernetes.timeouts import Timeouts

POD_NAME = "KFP_POD_NAME"
"""Environment variable in which KFP gives a step the name of its pod."""


def run_owner(server: ApiServer, timeouts: Timeouts) -> dict[str, Any] | None:
    """Return a reference to the owner of this step's pod, the Workflow of the run; None outside of a run.

    The pod itself must not be the owner, because the application outlives it: the next attempt of the step adopts it.

    Args:
        server: API server of the cluster.
        timeouts: How long the API server may be unavailable.

    Raises:
        CtbasisError: The pod may not be read, or the API server was unavailable for too long.
    """
    name = os.environ.get(POD_NAME)
    if not name:
        return None
    pod = retry_outages(lambda: server.find(f"{server.pods}/{name}"), f"reading the step's pod {name}", timeouts)
    owners = (pod or {"metadata": {}})["metadata"].get("ownerReferences", [])
    for owner in sorted(owners, key=lambda owner: not owner.get("controller")):
        log(f"svd: the application is owned by {owner['kind']} {owner['name']} and is deleted with it")
        # Not as a controller, which is the operator, and without blocking the deletion of the run.
        return {key: owner[key] for key in ("apiVersion", "kind", "name", "uid")}
    return None
