"""The svd step with the operators of Ray and Dask on a real cluster: what the tests of both have in common."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.jobs.dask_job import DaskJob
from ctbasis.jobs.names import job_name
from ctbasis.jobs.ray_job import RayJob
from ctbasis.parameters import SvdPlan
from ctbasis.spark.driver import Job as DriverJob
from tests.e2e.cluster import STEPS_IMAGE, has_definition, require_cluster
from tests.e2e.step_namespace import PLACEMENT, Step

if TYPE_CHECKING:
    from ctbasis.jobs.job import Job
    from tests.e2e.step_namespace import StepNamespace

RAY_IMAGE = os.environ.get("CTBASIS_RAY_IMAGE", "ctbasis/ray:0.1.0")

WRITE_TWO_BLOCKS = """
import numpy as np
from ctbasis.matrix import slice_store, store
from ctbasis.storage.voxels import absent
rng = np.random.default_rng(7)
m, n = 2 * 65536, 24
A = rng.normal(0, 300, (m, 6)) @ rng.normal(0, 1, (6, n)) + rng.normal(0, 5, (m, n))
A = np.clip(np.round(A), -1000, 3000).astype(np.int16)
store.BLOCK_ELEMENTS = m * n // 2
writer = store.MatrixWriter.create("/workspace/two.zarr", image=(256, 512), cols=n, dtype=A.dtype)
writer.write(slice(0, m), slice(0, n), A, np.full_like(A, absent(A.dtype)))
writer.finish(series=[slice_store.Series("1.2.3", 0, n)], headers=[b"header"] * n)
print(store.MatrixStore.open("/workspace/two.zarr").block_count)
"""

SAME_BITS = """
import json, sys
import numpy as np
from ctbasis.svd.factors import FactorStore
one, other = (FactorStore.open(uri) for uri in sys.argv[1:])
blocks = [(one.read_block(i), other.read_block(i)) for i in range(one.block_count)]
print(json.dumps(bool(all(np.array_equal(*pair) for pair in [*blocks, (one.s, other.s), (one.V, other.V)]))))
"""


@dataclass(frozen=True)
class OperatorTest:
    """What differs between the tests of the operators.

    Attributes:
        kind: Kind of the job.
        engine: Engine that runs in it.
        image: Image of its pods.
        worker: Label selector of its workers.
    """

    kind: type[Job]
    engine: str
    image: str
    worker: str

    @property
    def definition(self) -> str:
        """Name of the CustomResourceDefinition."""
        return f"{self.kind.plural}.{self.kind.group}"

    def require(self) -> None:
        """Skip the test, and say that it was not run, if the cluster has no such operator."""
        require_cluster()
        if not has_definition(self.definition):
            pytest.skip(f"NOT RUN: the {self.kind.operator} is not installed (CRD {self.definition}); tests/e2e/needs")

    def name(self, run: str) -> str:
        return job_name(run, longest=self.kind.longest_name)

    def step(self, namespace: StepNamespace, *arguments: str, run: str, **environment: str) -> Step:
        """Start the launching part of the step, with the rights of the launcher alone."""
        request = {
            "kind": self.kind.kind,
            "image": self.image,
            "run": run,
            "arguments": arguments,
            "placement": PLACEMENT,
        }
        return namespace.launch(request, environment)

    def jobs(self, namespace: StepNamespace, run: str) -> list[dict[str, Any]]:
        """Return the job of a run, if it exists."""
        found = json.loads(namespace.kubectl("get", self.definition, "--output=json"))["items"]
        return [one for one in found if one["metadata"]["name"] == self.name(run)]

    def pods(self, namespace: StepNamespace, run: str, selector: str = "") -> list[dict[str, Any]]:
        """Return the pods of a run's job."""
        labels = ",".join(filter(None, (f"{self.kind.pods_label}={self.name(run)}", selector)))
        found: list[dict[str, Any]] = json.loads(
            namespace.kubectl("get", "pods", f"--selector={labels}", "--output=json")
        )["items"]
        return found

    def arguments(self, factors: str, *, matrix: str = "/workspace/two.zarr", power_iters: int = 2) -> list[str]:
        """Return the arguments of the driver program; many power iterations leave time to inject a fault."""
        plan = SvdPlan.of(engine=self.engine, method="randomized", rank="6", power_iters=power_iters, seed=1)
        return DriverJob(plan, f"/workspace/{factors}", matrix=matrix, dtype="float64").arguments()


RAY = OperatorTest(RayJob, "ray", RAY_IMAGE, "ray.io/node-type=worker")
DASK = OperatorTest(DaskJob, "dask", STEPS_IMAGE, "dask.org/component=worker")


def rights(namespace: StepNamespace) -> list[str]:
    """Return what the account of the launcher may do to jobs and to what the operators make of them."""
    allowed = []
    for resource in (
        *(one.definition for one in (RAY, DASK)),
        "rayclusters.ray.io",
        "daskclusters.kubernetes.dask.org",
    ):
        for verb in ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"):
            asked = ["auth", "can-i", verb, resource, f"--kubeconfig={namespace.launcher_kubeconfig}"]
            done = subprocess.run(
                ["kubectl", *asked, f"--namespace={namespace.name}"], capture_output=True, text=True, check=False
            )
            if done.stdout.strip() == "yes":
                allowed.append(f"{verb} {resource}")
    return allowed
