"""A namespace of a real cluster with manifests/base in it, a claim, and a token that may do what the step may."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[2]
IMAGE = os.environ.get("CTBASIS_SPARK_IMAGE", "ctbasis/spark:0.1.0")
CLAIM, MOUNT, WORKBENCH = "workspace", "/workspace", "workbench"
PLACEMENT = {
    "volumes": [{"name": CLAIM, "persistentVolumeClaim": {"claimName": CLAIM}}],
    "volume_mounts": [{"name": CLAIM, "mountPath": MOUNT}],
}
NEEDS = "a KUBECONFIG of a cluster with the Spark operator (webhook on) and the image that `make images` builds"

WRITE_MATRIX = """
import numpy as np
from components.matrix import store
store.BLOCK_ELEMENTS = 1
rng = np.random.default_rng(7)
m, n = 4096, 24
A = rng.normal(0, 300, (m, 6)) @ rng.normal(0, 1, (6, n)) + rng.normal(0, 5, (m, n))
A = np.clip(np.round(A), -1000, 3000).astype(np.int16)
writer = store.MatrixWriter.create("/workspace/matrix.zarr", image=(64, 64), cols=n, dtype=A.dtype)
writer.write(slice(0, m), slice(0, n), A, np.full_like(A, store.absent(A.dtype)))
writer.finish(series=[store.Series("1.2.3", 0, n)], headers=[b"header"] * n)
"""


@dataclass(frozen=True)
class Namespace:
    """A namespace of its own, its kubectl, and the kubeconfig of the account that launches."""

    name: str
    launcher_kubeconfig: Path

    def kubectl(self, *command: str, given: str | None = None) -> str:
        return kubectl("--namespace", self.name, *command, given=given)

    def python(self, program: str, *arguments: str) -> str:
        """Run a Python program in the Spark image, beside the workspace."""
        command = ["exec", "--stdin", WORKBENCH, "--", "python3", "-", *arguments]
        return self.kubectl(*command, given=program)

    def applications(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", "sparkapplications", "--output=json"))["items"]
        return found

    def step(self, *job: str, run: str, spec: dict[str, Any] | None = None) -> subprocess.Popen[str]:
        """Start the launching half of the step as a process that has the launcher's rights alone."""
        small = {"memory": "768m", "coreRequest": "100m"}
        asked = {
            "run": run,
            "arguments": job,
            "placement": PLACEMENT,
            "spec": {"image": IMAGE, **(spec or {})},
            "pod": small,
        }
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("launch_step.py")), json.dumps(asked)],
            env={**os.environ, "KUBECONFIG": str(self.launcher_kubeconfig), "PYTHONPATH": str(CHECKOUT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


def kubectl(*command: str, given: str | None = None) -> str:
    done = subprocess.run(["kubectl", *command], input=given, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, f"kubectl {' '.join(command)}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """Return a namespace with the base, a claim and a matrix on it; it is deleted in the end."""
    if "KUBECONFIG" not in os.environ:
        pytest.skip(f"KUBECONFIG is not set; this test needs {NEEDS}")
    folder = tmp_path_factory.mktemp("cluster")
    name = f"ctbasis-e2e-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    try:
        kubectl("apply", "--filename=-", given=_base(name, folder))
        made = Namespace(name, _launcher_kubeconfig(name, folder))
        made.kubectl("apply", "--filename=-", given=json.dumps(_workspace()))
        made.kubectl("wait", "--for=condition=Ready", f"pod/{WORKBENCH}", "--timeout=120s")
        made.python(WRITE_MATRIX)
        yield made
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


def _base(namespace: str, folder: Path) -> str:
    # kustomize takes no absolute path, and no path outside that it did not choose itself.
    base = os.path.relpath(CHECKOUT / "manifests" / "base", folder.resolve())
    overlay = f"namespace: {namespace}\nresources:\n  - {base}\n"
    (folder / "kustomization.yaml").write_text(overlay)
    return kubectl("kustomize", str(folder))


def _launcher_kubeconfig(namespace: str, folder: Path) -> Path:
    """Write a kubeconfig whose token is bound to manifests/base's Role for launching and to nothing else."""
    account = "launcher"
    kubectl("--namespace", namespace, "create", "serviceaccount", account)
    binding = ["rolebinding", "launcher", "--role=ctbasis-launch", f"--serviceaccount={namespace}:{account}"]
    kubectl("--namespace", namespace, "create", *binding)
    token = kubectl("--namespace", namespace, "create", "token", account, "--duration=2h").strip()
    settings = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json"))
    settings["users"] = [{"name": account, "user": {"token": token}}]
    context = {"cluster": settings["clusters"][0]["name"], "user": account, "namespace": namespace}
    settings |= {"contexts": [{"name": account, "context": context}], "current-context": account}
    path = folder / "launcher.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(json.dumps(settings))
    return path


def _workspace() -> dict[str, Any]:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    workbench = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": WORKBENCH},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "fsGroup": 185},
            "containers": [
                {
                    "name": WORKBENCH,
                    "image": IMAGE,
                    "args": ["sleep", "infinity"],
                    "volumeMounts": PLACEMENT["volume_mounts"],
                }
            ],
            "volumes": PLACEMENT["volumes"],
        },
    }
    return {"apiVersion": "v1", "kind": "List", "items": [claim, workbench]}
