"""Pods as the kubelet and the scheduler describe them."""

from __future__ import annotations

from typing import Any

from ctbasis.jobs.spark_application import SparkApplication
from tests.jobs.conftest import NAME


def pod(role: str = "driver", *, name: str = "", uid: str = "", limit: str = "1433Mi", **status: Any) -> dict[str, Any]:
    """Return a pod of the application; without a status it has no reason to wait."""
    name = name or f"{NAME}-{role}"
    container = SparkApplication.driver_container if role == "driver" else "spark-kubernetes-executor"
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "uid": uid or f"uid-of-{name}",
            "labels": {SparkApplication.pods_label: NAME, "spark-role": role},
        },
        "spec": {
            "containers": [
                {"name": "sidecar", "resources": {"limits": {"memory": "1Mi"}}},
                {"name": container, "resources": {"limits": {"memory": limit}}},
            ]
        },
        "status": status,
    }


def containers(role: str = "driver", **state: Any) -> list[dict[str, Any]]:
    """Return containerStatuses: a running sidecar, and the container of Spark in `state`."""
    own = SparkApplication.driver_container if role == "driver" else "spark-kubernetes-executor"
    return [{"name": own, "state": state}, {"name": "sidecar", "state": {"running": {}}}]


def running(role: str = "driver", **more: Any) -> dict[str, Any]:
    return pod(role, phase="Running", containerStatuses=containers(role, running={}), **more)


def waiting(reason: str, message: str = "", role: str = "driver", **more: Any) -> dict[str, Any]:
    stands = containers(role, waiting={"reason": reason, "message": message})
    return pod(role, phase="Pending", containerStatuses=stands, **more)


def unschedulable(message: str, role: str = "driver", **more: Any) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(role, phase="Pending", conditions=[condition], **more)


def ended(
    code: int, reason: str = "Error", role: str = "driver", *, at: str = "2026-01-01T00:00:00Z", **more: Any
) -> dict[str, Any]:
    end = {"exitCode": code, "reason": "Completed" if code == 0 else reason, "finishedAt": at}
    phase = "Failed" if code else "Succeeded"
    return pod(role, phase=phase, containerStatuses=containers(role, terminated=end), **more)


def deleted(raw: dict[str, Any], *, at: str, grace: int = 30) -> dict[str, Any]:
    """Return the pod after a request for its deletion, whose grace period ends at `at`."""
    raw["metadata"] |= {"deletionTimestamp": at, "deletionGracePeriodSeconds": grace}
    return raw
