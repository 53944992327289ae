"""A namespace for the launching part of the svd step, which runs as a process with only the rights of the base."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from ctbasis.parameters import SvdPlan
from ctbasis.spark.driver import Job
from ctbasis.spark.launch import application_name
from tests.e2e.cluster import CHECKOUT, GENEROUS_SECONDS, SPARK_IMAGE, base, kubectl, ready, wait_until
from tests.e2e.launch_step import merge

CLAIM, MOUNT, WORKBENCH = "workspace", "/workspace", "workbench"
PLACEMENT = {
    "volumes": [{"name": CLAIM, "persistentVolumeClaim": {"claimName": CLAIM}}],
    "volume_mounts": [{"name": CLAIM, "mountPath": MOUNT}],
}
SMALL = {"memory": "768M", "coreRequest": "100m"}
"""Requests of a driver or an executor, low enough for several of them on a small cluster."""


WRITE_MATRIX = """
import numpy as np
from ctbasis.matrix import slice_store, store
from ctbasis.storage.voxels import absent
store.BLOCK_ELEMENTS = 1
rng = np.random.default_rng(7)
m, n = 4096, 24
A = rng.normal(0, 300, (m, 6)) @ rng.normal(0, 1, (6, n)) + rng.normal(0, 5, (m, n))
A = np.clip(np.round(A), -1000, 3000).astype(np.int16)
writer = store.MatrixWriter.create("/workspace/matrix.zarr", image=(64, 64), cols=n, dtype=A.dtype)
writer.write(slice(0, m), slice(0, n), A, np.full_like(A, absent(A.dtype)))
writer.finish(series=[slice_store.Series("1.2.3", 0, n)], headers=[b"header"] * n)
"""


SINGULAR_VALUES, PRODUCT = 1e-6, 1e-5

COMPARE = """
import json, sys
import numpy as np
from ctbasis.parameters import SvdPlan
from ctbasis.spark import driver
from ctbasis.svd.factors import FactorStore
local = "/workspace/local.zarr"
plan = SvdPlan.of(engine="numpy", rank="6", seed=1)
driver.run(driver.Job(plan, local, matrix="/workspace/matrix.zarr", dtype="float64"))
one, other = FactorStore.open(sys.argv[1]), FactorStore.open(local)
product = lambda f: np.vstack([f.read_block(i) for i in range(f.block_count)]) @ f.weights.T
print(json.dumps({
    "s": float(np.abs(one.s / other.s - 1).max()),
    "product": float(np.linalg.norm(product(one) - product(other)) / np.linalg.norm(product(other))),
}))
"""


def job_arguments(
    factors: str, *, matrix: str = "/workspace/matrix.zarr", engine: str = "mahout", power_iters: int = 2
) -> list[str]:
    """Return arguments of ctbasis/spark/driver.py; many power iterations leave time to inject a fault."""
    plan = SvdPlan.of(engine=engine, rank="6", power_iters=power_iters, seed=1)
    return Job(plan, f"/workspace/{factors}", matrix=matrix, dtype="float64").arguments()


class Step:
    """The launching part of the step as a process, and its output so far."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self._lines.append(line)

    @property
    def output(self) -> str:
        return "".join(self._lines)

    def wait_for(self, text: str) -> None:
        """Wait until the step has printed `text`."""
        wait_until(lambda: text in self.output or self.process.poll() is not None, f"the step prints {text!r}")
        assert text in self.output, self.output

    def end(self) -> tuple[int, str]:
        """Wait for the end of the process; return its exit code and its output."""
        try:
            code = self.process.wait(GENEROUS_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"the step was still running after {GENEROUS_SECONDS:.0f} s; its output: {self.output}")
        self._reader.join(10)
        return code, self.output


def step_request(*job: str, run: str, spec: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the argument of launch_step.py."""
    changed = {"image": SPARK_IMAGE, "driver": dict(SMALL), "executor": dict(SMALL)}
    merge(changed, spec or {})
    return {"run": run, "arguments": job, "placement": PLACEMENT, "spec": changed}


@dataclass(frozen=True)
class StepNamespace:
    """A namespace, and the kubeconfig of its account that launches applications."""

    name: str
    launcher_kubeconfig: Path

    @classmethod
    def create(cls, name: str, folder: Path, *, manifests: str = "") -> Self:
        """Create the base manifests, a claim and a pod that mounts it; the kubeconfig goes to `folder`.

        Args:
            name: The namespace.
            folder: A scratch folder.
            manifests: Rendered manifests that contain those of manifests/base; by default those alone.
        """
        kubectl("apply", "--filename=-", given=manifests or base(name, folder))
        made = cls(name, _launcher_kubeconfig(name, folder))
        made.kubectl("apply", "--filename=-", given=json.dumps(_workspace()))
        ready(name, WORKBENCH)
        return made

    def write_matrix(self) -> None:
        """Write a noisy matrix of rank 6, 4096 x 24 in several row blocks, to the claim."""
        self.python(WRITE_MATRIX)

    def kubectl(self, *command: str, given: str | None = None) -> str:
        return kubectl("--namespace", self.name, *command, given=given)

    def python(self, program: str, *arguments: str) -> str:
        """Run a Python program in a pod of the Spark image that mounts the workspace, and return its output."""
        command = ["exec", "--stdin", WORKBENCH, "--", "python3", "-", *arguments]
        return self.kubectl(*command, given=program)

    def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(
            self.kubectl("apply", "--filename=-", "--output=json", given=json.dumps(manifest))
        )
        return made

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "--output=json"))
        return found

    def applications(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", "sparkapplications", "--output=json"))["items"]
        return found

    def application(self, run: str) -> dict[str, Any] | None:
        """Return the application of a run, or None if there is none."""
        return next((one for one in self.applications() if one["metadata"]["name"] == application_name(run)), None)

    def pods(self, run: str, role: str = "") -> list[dict[str, Any]]:
        """Return the pods of a run's application."""
        selector = f"sparkoperator.k8s.io/app-name={application_name(run)}" + (f",spark-role={role}" if role else "")
        found: list[dict[str, Any]] = json.loads(
            self.kubectl("get", "pods", f"--selector={selector}", "--output=json")
        )["items"]
        return found

    def factors_are_correct(self, name: str) -> bool:
        """Return whether a factor store contains the factors that NumPy computes on one machine."""
        apart = json.loads(self.python(COMPARE, f"/workspace/{name}").splitlines()[-1])
        return bool(apart["s"] < SINGULAR_VALUES and apart["product"] < PRODUCT)

    def step(
        self,
        *job: str,
        run: str,
        spec: dict[str, Any] | None = None,
        timeouts: dict[str, float] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Step:
        """Start the launching part of the step as a process that has only the rights of the launcher.

        Args:
            job: Arguments of ctbasis/spark/driver.py.
            run: Id of the run.
            spec: Changes to the spec of the application.
            timeouts: Changes to the timeouts in `Timeouts`.
            environment: Additional environment variables.
        """
        request = step_request(*job, run=run, spec=spec) | {"timeouts": timeouts or {}}
        return self.launch(request, environment or {})

    def launch(self, request: dict[str, Any], environment: dict[str, str]) -> Step:
        """Start launch_step.py with `request` as a process that has only the rights of the launcher."""
        own = {"KUBECONFIG": str(self.launcher_kubeconfig), "PYTHONPATH": str(CHECKOUT), **environment}
        return Step([sys.executable, str(Path(__file__).with_name("launch_step.py")), json.dumps(request)], own)


def _launcher_kubeconfig(namespace: str, folder: Path) -> Path:
    """Write a kubeconfig with a token that is bound only to the launching Role of manifests/base."""
    account = "launcher"
    kubectl("--namespace", namespace, "create", "serviceaccount", account)
    binding = ["rolebinding", "launcher", "--role=ctbasis-launch", f"--serviceaccount={namespace}:{account}"]
    kubectl("--namespace", namespace, "create", *binding)
    return account_kubeconfig(namespace, account, folder)


def account_kubeconfig(namespace: str, account: str, folder: Path) -> Path:
    """Write a kubeconfig with a token of a service account to `folder`, and return its path."""
    token = kubectl("--namespace", namespace, "create", "token", account, "--duration=2h").strip()
    settings = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json"))
    settings["users"] = [{"name": account, "user": {"token": token}}]
    context = {"cluster": settings["clusters"][0]["name"], "user": account, "namespace": namespace}
    settings |= {"contexts": [{"name": account, "context": context}], "current-context": account}
    path = folder / f"{account}.kubeconfig"
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
                    "image": SPARK_IMAGE,
                    "args": ["sleep", "infinity"],
                    "volumeMounts": PLACEMENT["volume_mounts"],
                }
            ],
            "volumes": PLACEMENT["volumes"],
        },
    }
    return {"apiVersion": "v1", "kind": "List", "items": [claim, workbench]}
