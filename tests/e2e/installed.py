"""An overlay of manifests/ installed in a new namespace, and applications created from its template."""

from __future__ import annotations

import copy
import json
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctbasis.parameters import SvdPlan
from ctbasis.spark.driver import Job
from tests.e2e.cluster import (
    CHECKOUT,
    GENEROUS_SECONDS,
    SPARK_IMAGE,
    hardened,
    kubectl,
    new_namespace,
    pod,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.object_store import ObjectStore

OVERLAYS = sorted(path.parent for path in (CHECKOUT / "manifests" / "overlays").glob("*/kustomization.yaml"))
TEMPLATE = "ctbasis-svd"
CLAIM, MOUNT, WORKBENCH = "workspace", "/workspace", "workbench"
SMALL = {"coreRequest": "100m", "memory": "768M", "memoryOverhead": "400M"}

WRITE_MATRIX = """
import sys
import numpy as np
from ctbasis.matrix import slice_store, store
from ctbasis.storage.voxels import absent
rng = np.random.default_rng(7)
m, n = int(sys.argv[1]), 24
store.BLOCK_ELEMENTS = m * n // 8
A = rng.normal(0, 300, (m, 6)) @ rng.normal(0, 1, (6, n)) + rng.normal(0, 5, (m, n))
A = np.clip(np.round(A), -1000, 3000).astype(np.int16)
side = int(m ** 0.5)
writer = store.MatrixWriter.create("/workspace/matrix.zarr", image=(side, side), cols=n, dtype=A.dtype)
writer.write(slice(0, m), slice(0, n), A, np.full_like(A, absent(A.dtype)))
writer.finish(series=[slice_store.Series("1.2.3", 0, n)], headers=[b"header"] * n)
"""


def rendered(overlay: Path, namespace: str, folder: Path) -> str:
    """Return an overlay, rendered by kustomize for `namespace`; `folder` is a scratch folder."""
    relative = os.path.relpath(overlay, folder.resolve())
    (folder / "kustomization.yaml").write_text(f"namespace: {namespace}\nresources:\n  - {relative}\n")
    return kubectl("kustomize", str(folder))


@dataclass(frozen=True)
class Installed:
    """A namespace with an overlay, a claim and a matrix on it."""

    name: str

    def kubectl(self, *command: str, given: str | None = None) -> str:
        return kubectl("--namespace", self.name, *command, given=given)

    def get(self, *what: str) -> Any:
        return json.loads(self.kubectl("get", *what, "--output=json"))

    def template(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("sparkapplication", TEMPLATE)
        return found

    def pods(self, run: str, role: str) -> list[dict[str, Any]]:
        """Return the driver's or the executors' pods of a run."""
        labels = f"sparkoperator.k8s.io/app-name={run},spark-role={role}"
        found: list[dict[str, Any]] = self.get("pods", f"--selector={labels}")["items"]
        return found

    def start(self, run: str, *, power_iters: int = 2, **changes: Any) -> str:
        """Create an application from the template, with small pods that mount the claim.

        `changes` are merged into its spec, key by key.
        """
        spec = copy.deepcopy(self.template()["spec"])
        del spec["suspend"]
        mount = {"name": CLAIM, "mountPath": MOUNT}
        spec["volumes"].append({"name": CLAIM, "persistentVolumeClaim": {"claimName": CLAIM}})
        for role in ("driver", "executor"):
            spec[role]["volumeMounts"].append(mount)
            spec[role] |= SMALL | changes.pop(role, {})
        spec["sparkConf"] |= {"spark.kubernetes.executor.deleteOnTermination": "false"} | changes.pop("sparkConf", {})
        plan = SvdPlan.of(engine="mahout", rank="6", power_iters=power_iters, seed=1)
        job = Job(plan, f"{MOUNT}/{run}.zarr", matrix=f"{MOUNT}/matrix.zarr")
        spec |= {"image": SPARK_IMAGE, "arguments": job.arguments()} | changes
        application = {
            "apiVersion": "sparkoperator.k8s.io/v1beta2",
            "kind": "SparkApplication",
            "metadata": {"name": run, "labels": self.template()["metadata"]["labels"]},
            "spec": spec,
        }
        self.kubectl("create", "--filename=-", given=json.dumps(application))
        return run

    def find(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return an object, or None if it does not exist."""
        items: list[dict[str, Any]] = self.get(kind)["items"]
        return next((item for item in items if item["metadata"]["name"] == name), None)

    def state(self, run: str) -> str:
        status = self.get("sparkapplication", run).get("status") or {}
        return str((status.get("applicationState") or {}).get("state") or "")

    def wait_until_completed(self, run: str) -> None:
        """Wait for the end of a run; if the run fails, the test fails with the log of the driver."""
        end = wait_until(
            lambda: (now := self.state(run)) in {"COMPLETED", "FAILED", "PENDING_RERUN", "SUBMISSION_FAILED"} and now,
            f"the end of {run}",
        )
        assert end == "COMPLETED", f"{self.get('sparkapplication', run)['status']}\n{self.log(run)}"

    def log(self, run: str) -> str:
        """Return the log of the driver so far; empty if the driver has not started."""
        with suppress(AssertionError):
            return self.kubectl("logs", f"{run}-driver", "--tail=400")
        return ""

    def python(self, program: str, *arguments: str) -> str:
        """Run a Python program in a pod of the Spark image that mounts the workspace, and return its output."""
        return self.kubectl("exec", "--stdin", WORKBENCH, "--", "python3", "-", *arguments, given=program)


@contextmanager
def installed(
    overlay: str, folder: Path, *, rows: int = 4096, store: Callable[[str], ObjectStore] | None = None
) -> Iterator[Installed]:
    """Install `overlay` in a new namespace for the `with` block; the namespace is deleted afterwards.

    Args:
        overlay: Name of the overlay.
        folder: Scratch folder.
        rows: Rows of the matrix that is written to the claim.
        store: Function that returns an S3 store for a namespace. The namespace gets a bucket with its own name, and
            the Secret with the keys.
    """
    with new_namespace() as name:
        kubectl("apply", "--filename=-", given=rendered(CHECKOUT / "manifests" / "overlays" / overlay, name, folder))
        made = Installed(name)
        if store is not None:
            made.kubectl("create", "--filename=-", given=json.dumps(store(name).secret()))
        made.kubectl("apply", "--filename=-", given=json.dumps(_workspace()))
        made.kubectl("wait", "--for=condition=Ready", f"pod/{WORKBENCH}", f"--timeout={GENEROUS_SECONDS:.0f}s")
        made.python(WRITE_MATRIX, str(rows))
        if store is not None:
            made.python("import boto3, sys; boto3.client('s3').create_bucket(Bucket=sys.argv[1])", name)
        yield made


def _workspace() -> dict[str, Any]:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    volumes = [{"name": CLAIM, "persistentVolumeClaim": {"claimName": CLAIM}}]
    container = hardened(
        SPARK_IMAGE,
        name=WORKBENCH,
        command=["sleep", "infinity"],
        volumeMounts=[{"name": CLAIM, "mountPath": MOUNT}],
        envFrom=[{"secretRef": {"name": "ctbasis-s3", "optional": True}}],
    )
    workbench = pod(WORKBENCH, container, volumes=volumes, securityContext={"runAsUser": 185, "fsGroup": 185})
    return {"apiVersion": "v1", "kind": "List", "items": [claim, workbench]}
