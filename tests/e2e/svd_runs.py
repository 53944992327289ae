"""What tests that interrupt the svd step ask of a run: its application, its executors, its progress, its factors."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.patch.bases import PatchBases
from ctbasis.svd.factors import FactorStore
from tests.e2e.cluster import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.kfp_namespace import RunNamespace
    from tests.e2e.kfp_run import Run

SINGULAR_VALUES, PRODUCT = 1e-6, 1e-5
"""Relative tolerances between two runs with float64: executors add in the order of their ends, and U is float32."""


MOVED_PATCHES = 1e-3
"""Largest share of the patches that may change their class."""


def application_of(run: Run) -> str:
    return f"ctbasis-svd-{run.run_id}"


def executor_pods(runs: RunNamespace, run: Run) -> dict[str, dict[str, Any]]:
    """Return a run's executor pods, by name."""
    found = runs.pods(f"sparkoperator.k8s.io/app-name={application_of(run)},spark-role=executor")
    return {one["metadata"]["name"]: one for one in found}


def executors(runs: RunNamespace, run: Run) -> dict[str, str]:
    """Return the phases of a run's executors, by pod."""
    return {name: one["status"]["phase"] for name, one in executor_pods(runs, run).items()}


def application(runs: RunNamespace, run: Run) -> dict[str, Any]:
    """Return the one application of a run."""
    (mine,) = (one for one in runs.applications() if one["metadata"]["name"] == application_of(run))
    return mine


def jobs_done(run: Run) -> int:
    """Return the number of ended jobs of the SVD; a running job prints `tasks so far`."""
    return len(re.findall(r"^spark: job .*tasks, [\d.]+ s$", run.live_log("svd"), re.MULTILINE))


TASKS = """
import json, urllib.request
base = "http://localhost:4040/api/v1/applications"
read = lambda path="": json.load(urllib.request.urlopen(base + path, timeout=5))
print(json.dumps({one["id"]: one["completedTasks"] for one in read(f"/{read()[0]['id']}/executors")}))
"""


def tasks_done(runs: RunNamespace, run: Run) -> dict[str, int]:
    """Return the number of ended tasks of each executor of a run, by pod, as the driver's web UI has them."""
    command = ["exec", f"{application_of(run)}-driver", "--", "python3", "-c", TASKS]
    done = subprocess.run(["kubectl", "-n", runs.name, *command], capture_output=True, text=True, check=False)
    found: dict[str, int] = json.loads(done.stdout) if done.returncode == 0 else {}
    return {pod: found.get(pod.rpartition("-")[2], 0) for pod in executor_pods(runs, run)}


def is_in_the_middle_of_the_svd(runs: RunNamespace, run: Run) -> bool:
    """Tell whether two executors run, and two jobs of the SVD are done; the test fails if the run is over."""
    assert not run.state, run.end()
    return jobs_done(run) >= 2 and list(executors(runs, run).values()).count("Running") == 2


def in_the_middle_of_the_svd(runs: RunNamespace, run: Run) -> None:
    """Wait for the middle of the SVD."""
    wait_until(lambda: is_in_the_middle_of_the_svd(runs, run), "two executors run, and two jobs of the SVD are done")


def kill_container(runs: RunNamespace, pod: str) -> None:
    """Kill all processes of a pod's container except the first, by SIGKILL; the pod ends with them."""
    command = ["kubectl", "-n", runs.name, "exec", pod, "--", "sh", "-c", "kill -9 -1"]
    subprocess.run(command, capture_output=True, check=False)


def same_factors(runs: RunNamespace, run: Run, undisturbed: FactorStore, folder: Path) -> None:
    factors = FactorStore.open(str(runs.artifact(run, "svd", "basis", folder)))
    assert np.allclose(factors.s, undisturbed.s, rtol=SINGULAR_VALUES, atol=0)
    one, other = (
        np.vstack([f.read_block(i) for i in range(f.block_count)]) @ f.weights.T for f in (factors, undisturbed)
    )
    assert np.linalg.norm(one - other) <= PRODUCT * np.linalg.norm(other)


def same_patch_basis(here: Path, there: Path) -> None:
    """Compare the patch bases of two runs: no patch is lost or counted twice.

    Processors and orders of addition round differently. A few patches on the border of two classes may therefore be in
    the other class.
    """
    one, other = (PatchBases.open(str(folder)).bases[0] for folder in (here, there))
    mine, yours = (np.array(basis.provenance["patches"]) for basis in (one, other))
    assert yours.sum() == mine.sum()
    assert np.abs(yours - mine).sum() <= MOVED_PATCHES * mine.sum()
    for ours, theirs in zip(one.textures, other.textures, strict=True):
        np.testing.assert_allclose(theirs.energy, ours.energy, rtol=0, atol=1e-3 * ours.energy.max())


def nothing_is_left(runs: RunNamespace, run: Run) -> bool:
    mine = f"sparkoperator.k8s.io/app-name={application_of(run)}"
    names = [one["metadata"]["name"] for one in runs.applications()]
    claims = runs.kubectl("get", "persistentvolumeclaims", "-o", "name")
    steps = runs.pods(f"pipeline/runid={run.run_id}")
    return application_of(run) not in names and not runs.pods(mine) and not steps and run.name not in claims
