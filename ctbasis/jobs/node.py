"""The node of this step's pod, where the pods of its job run if only one node mounts the workspace.

Kubernetes does not schedule pods by the access mode of their claims: on another node than the first, a pod with a
ReadWriteOnce claim waits for ever for its volume.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.jobs.api_server import ApiServer
from ctbasis.jobs.pod import ONE_NODE, pod_name
from ctbasis.jobs.step_pod import read_step_pod
from ctbasis.jobs.timeouts import Timeouts
from ctbasis.printable import say

if TYPE_CHECKING:
    from ctbasis.jobs.placement import Placement


def beside_this_pod(
    placement: Placement, *, server: ApiServer | None = None, timeouts: Timeouts | None = None
) -> Placement:
    """Return the placement on the node of this pod, if only one node mounts the workspace; else unchanged.

    Args:
        placement: Kubeflow's decisions for the pod of the step.
        server: API server; by default that of this pod's cluster.
        timeouts: How long the API server may be unavailable.

    Raises:
        CtbasisError: The pod may not be read, or the API server was unavailable for too long.
    """
    name = pod_name()
    if not name or not os.environ.get(ONE_NODE):
        return placement
    pod = read_step_pod(name, server or ApiServer.connect(), timeouts or Timeouts())
    node = ((pod or {}).get("spec") or {}).get("nodeName")
    if not node:
        raise CtbasisError(
            f"the pod {name} of this step has no node",
            expected="the node on which the workspace is mounted",
            remedy="compile the package with --access-mode ReadWriteMany, or run with --store s3://BUCKET/PREFIX",
        )
    say(f"svd: driver and executors run on the node {node}, because only one node mounts the workspace")
    return placement.on_node(str(node))
