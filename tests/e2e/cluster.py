"""Helpers of all tests on a cluster: kubectl, namespaces, the base manifests, and waiting for conditions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

CHECKOUT = Path(__file__).parents[2]
SPARK_IMAGE = os.environ.get("CTBASIS_SPARK_IMAGE", "ctbasis/spark:0.1.0")
STEPS_IMAGE = os.environ.get("CTBASIS_STEPS_IMAGE", "ctbasis/steps:0.1.0")
NEEDS = "a cluster with the Spark operator and the images that `make images` builds; see tests/e2e/needs"
ARGO_CRD = "workflows.argoproj.io"
GENEROUS_SECONDS = 600.0
"""Timeout. The tests do not measure speed, so it is long enough for a slow, loaded machine."""


def require_cluster() -> None:
    """Skip the test and print the requirements if KUBECONFIG is not set; `make e2e` and `make chaos` fail instead."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip(
            f"KUBECONFIG is not set (`make test` removes it, `make e2e` and `make chaos` keep it); needs {NEEDS}"
        )


def has_definition(name: str) -> bool:
    """Tell whether the cluster has a CustomResourceDefinition."""
    return subprocess.run(["kubectl", "get", "crd", name], capture_output=True, check=False).returncode == 0


def has_argo() -> bool:
    """Tell whether the cluster has Argo Workflows, on which runs of the pipeline are started."""
    return has_definition(ARGO_CRD)


def require_argo() -> None:
    """Skip the test if the cluster has no Argo Workflows."""
    require_cluster()
    if not has_argo():
        pytest.skip(f"Argo Workflows is not installed (CRD {ARGO_CRD}), so no run was started; see tests/e2e/needs")


@contextmanager
def new_namespace() -> Iterator[str]:
    """Create a namespace for the `with` block and delete it afterwards; skip the test without a cluster."""
    require_cluster()
    name = f"ctbasis-e2e-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    try:
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


def kubectl(*command: str, given: str | bytes | None = None, seconds: float = 180) -> str:
    """Run kubectl and return its standard output; if it fails, the test fails with its error message."""
    raw = given.encode() if isinstance(given, str) else given
    done = subprocess.run(["kubectl", *command], input=raw, capture_output=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"kubectl {' '.join(command)}: {done.stderr.decode(errors='replace')}"
    return done.stdout.decode(errors="replace")


def base(namespace: str, folder: Path) -> str:
    """Return manifests/base, rendered by kustomize for `namespace`; `folder` is a scratch folder."""
    # kustomize accepts no absolute path.
    relative = os.path.relpath(CHECKOUT / "manifests" / "base", folder.resolve())
    (folder / "kustomization.yaml").write_text(f"namespace: {namespace}\nresources:\n  - {relative}\n")
    return kubectl("kustomize", str(folder))


def wait_until(condition: Callable[[], T], description: str, seconds: float = GENEROUS_SECONDS) -> T:
    """Call `condition` until it returns a true value, and return that value.

    After the timeout, the test fails with `description`.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{description}: not reached after {seconds:.0f} s"
        time.sleep(0.5)
    return value


CANNOT_START = {
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CrashLoopBackOff",
}


def ready(namespace: str, name: str) -> None:
    """Wait until a pod is ready; if it cannot start, the test fails at once with the kubelet's message."""

    def is_ready() -> bool:
        status = json.loads(kubectl("-n", namespace, "get", "pod", name, "-o", "json"))["status"]
        for container in status.get("containerStatuses", []):
            waiting = container["state"].get("waiting", {})
            assert waiting.get("reason") not in CANNOT_START, f"pod {name}: {waiting}; the tests need {NEEDS}"
        return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", []))

    wait_until(is_ready, f"pod {name} is ready")


def hardened(image: str, *, name: str, command: list[str], **more: Any) -> dict[str, Any]:
    """Return a container that the Pod Security profile *restricted* admits."""
    return {
        "name": name,
        "image": image,
        "command": command,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **more,
    }


def patient_probe(**check: Any) -> dict[str, Any]:
    """Return a readiness probe for a slow, loaded machine: once a pod is ready, it stays ready."""
    return {**check, "periodSeconds": 2, "timeoutSeconds": 10, "failureThreshold": 100}


def pod(name: str, container: dict[str, Any], *, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """Return a pod with one container and no grace period, so that its deletion is immediate."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False, **spec}
        | {"containers": [container]},
    }


def report_fault(fault: str, observation: str, seconds: float) -> None:
    """Print a row of the chaos table of docs/explanation/cluster.md."""
    sys.stderr.write(f"\nchaos: | {fault} | {observation} | {seconds:.0f} s |\n")
    sys.stderr.flush()
