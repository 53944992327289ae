"""Nodes: each step's request fits on one, and the Spark application fits on all of them together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctbasis.kubeflow.cluster_lint.findings import Finding, Level
from ctbasis.kubeflow.cluster_lint.needs import Request
from ctbasis.kubeflow.cluster_lint.template import template_of
from ctbasis.kubeflow.lint.paths import look_up
from ctbasis.kubeflow.sizes import SIZES, SPARK_STEP

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ctbasis.kubeflow.cluster_lint.cluster import Cluster
    from ctbasis.kubeflow.cluster_lint.needs import Needs

SUBJECT = "nodes"
REPELLING = {"NoSchedule", "NoExecute"}


def usable_nodes(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the nodes on which pods without tolerations are scheduled.

    Raises:
        UnreadableError: The user may not list nodes.
        CtbasisError: The cluster does not answer.
    """
    return [node for node in cluster.list("api/v1", "nodes") if _is_usable(node)]


def findings(cluster: Cluster, needs: Needs) -> Iterator[Finding]:
    """Check the allocatable CPU and memory of the nodes, which does not say how much of it is free now."""
    nodes = usable_nodes(cluster)
    rooms = [
        Request.of(look_up(node, "status.allocatable.cpu"), look_up(node, "status.allocatable.memory"))
        for node in nodes
    ]
    if not rooms:
        all_nodes = len(cluster.list("api/v1", "nodes"))
        yield Finding(
            Level.MISSING, SUBJECT, f"none of {all_nodes} nodes takes pods", "add a node, or `kubectl uncordon` one"
        )
        return
    homeless = [step for step, request in needs.requests.items() if not any(request.fits(room) for room in rooms)]
    for step in homeless:
        largest = max(rooms, key=lambda room: (room.cpu, room.memory))
        message = f"{step} requests {needs.requests[step]}; the largest of {len(rooms)} nodes has {largest}"
        yield Finding(Level.MISSING, SUBJECT, message, _remedy(step, rooms))
    if not homeless:
        yield Finding(Level.OK, SUBJECT, f"each step's request fits on a node ({len(rooms)} usable)")
        yield from _application(cluster, needs, rooms)


def _is_usable(node: Mapping[str, Any]) -> bool:
    conditions = look_up(node, "status.conditions") or []
    ready = any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
    repelled = any(taint.get("effect") in REPELLING for taint in look_up(node, "spec.taints") or [])
    return ready and not repelled and not look_up(node, "spec.unschedulable")


def _remedy(step: str, rooms: Sequence[Request]) -> str:
    for size, steps in reversed(SIZES.items()):
        requests = [Request.of(one.cpu, one.memory) for one in steps.values()]
        if all(any(request.fits(room) for room in rooms) for request in requests):
            return f"ctbasis compile --size {size} --out here.yaml"
    return f"ctbasis compile --requests {step}:cpu=QUANTITY,memory=QUANTITY --out here.yaml, or add a larger node"


def _application(cluster: Cluster, needs: Needs, rooms: Sequence[Request]) -> Iterator[Finding]:
    """Place driver and executors on empty nodes, one by one, and say how many of them fit."""
    request = needs.requests.get(SPARK_STEP)
    executors = look_up(template_of(cluster)[0], "spec.executor.instances")
    if request is None or not isinstance(executors, int):
        return
    left, placed = list(rooms), 0
    for _ in range(1 + executors):
        chosen = next((index for index, room in enumerate(left) if request.fits(room)), None)
        if chosen is None:
            break
        left[chosen] = Request(left[chosen].cpu - request.cpu, left[chosen].memory - request.memory)
        placed += 1
    if placed < 1 + executors:
        message = (
            f"of the Spark driver and its {executors} executors of {request} each, {placed} fit at once, on empty nodes"
        )
        remedy = (
            "a driver without executors waits for ever: ctbasis compile --size small --out here.yaml"
            if placed < 2  # noqa: PLR2004  the driver and one executor
            else "the run works with fewer executors, or use a smaller --size"
        )
        yield Finding(Level.MISSING if placed < 2 else Level.NOTE, SUBJECT, message, remedy)  # noqa: PLR2004  as above
