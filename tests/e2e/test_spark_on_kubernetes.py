"""The Spark step on a real cluster: what comes out, what it says, and what it leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from components.errors import refusal_in
from components.svd.launch import application_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Namespace

pytestmark = pytest.mark.e2e

COMPARE = """
import json, sys
import numpy as np
from components.svd import job
from components.svd.factors import FactorStore
local = "/workspace/local.zarr"
job.run(job.parse(["--matrix", "/workspace/matrix.zarr", "--factors", local, "--engine", "numpy", "--rank", "6",
                   "--seed", "1", "--dtype", "float64"]))
one, other = FactorStore.open(sys.argv[1]), FactorStore.open(local)
product = lambda f: np.vstack([f.read_block(i) for i in range(f.block_count)]) @ f.weights.T
print(json.dumps({
    "s": float(np.abs(one.s / other.s - 1).max()),
    "product": float(np.linalg.norm(product(one) - product(other)) / np.linalg.norm(product(other))),
}))
"""


def job_arguments(factors: str, *, matrix: str = "/workspace/matrix.zarr") -> list[str]:
    engine = ["--engine", "mahout", "--rank", "6", "--seed", "1", "--dtype", "float64"]
    return ["--matrix", matrix, "--factors", f"/workspace/{factors}", *engine]


def ended(step: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str]:
    try:
        _, said = step.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        step.kill()
        pytest.fail(f"the step was still there after {seconds:.0f} s; it said: {step.communicate()[1]}")
    return step.returncode, said


def wait_until(true: Callable[[], Any], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not so after {seconds:.0f} s"
        time.sleep(0.5)


@pytest.fixture
def run() -> str:
    """Return a run's id, of the length that Kubeflow gives one."""
    return str(uuid.uuid4())


def test_factors_equal_those_of_one_machine_and_the_drivers_log_is_the_steps(namespace: Namespace, run: str) -> None:
    code, said = ended(namespace.step(*job_arguments("good.zarr"), run=run))
    assert code == 0, said
    assert "RUNNING" in said
    assert "COMPLETED" in said
    assert "orbidden" not in said, "manifests/base gives the driver too little"
    assert "svd: mahout factors 4096 x 24" in said
    assert "spark: job 0 (dssvd" in said
    apart = json.loads(namespace.python(COMPARE, "/workspace/good.zarr").splitlines()[-1])
    assert apart["s"] < 1e-6
    assert apart["product"] < 1e-5


def test_a_refusal_of_the_job_is_the_steps_own_and_is_not_retried(namespace: Namespace, run: str) -> None:
    missing = job_arguments("bad.zarr", matrix="/workspace/missing.zarr")
    code, said = ended(namespace.step(*missing, run=run))
    assert code == 2, said
    assert refusal_in(said.splitlines()).startswith("no matrix at /workspace/missing.zarr\n  expected:")
    assert "PENDING_RERUN" not in said


def test_a_killed_launcher_that_is_tried_again_adopts_its_application(namespace: Namespace, run: str) -> None:
    first = namespace.step(*job_arguments("adopted.zarr"), run=run)
    wait_until(lambda: _of(namespace, run))
    first.kill()
    first.communicate()
    before = _of(namespace, run)[0]["metadata"]["uid"]
    code, said = ended(namespace.step(*job_arguments("adopted.zarr"), run=run))
    assert code == 0, said
    assert "adopted from an earlier try" in said
    assert [found["metadata"]["uid"] for found in _of(namespace, run)] == [before]
    assert _of(namespace, run)[0]["status"]["executionAttempts"] == 1


def test_a_step_that_is_told_to_stop_leaves_no_application_and_no_pod(namespace: Namespace, run: str) -> None:
    step = namespace.step(*job_arguments("stopped.zarr"), run=run)
    pods = ["get", "pods", f"--selector=sparkoperator.k8s.io/app-name={application_name(run)}", "--output=name"]
    wait_until(lambda: namespace.kubectl(*pods))
    step.send_signal(signal.SIGTERM)
    code, said = ended(step, 30)
    assert code == 128 + signal.SIGTERM, said
    wait_until(lambda: not _of(namespace, run) and not namespace.kubectl(*pods))


def test_an_image_that_is_not_there_is_named_with_its_reason(namespace: Namespace, run: str) -> None:
    wrong = {"image": "ctbasis/spark:absent", "imagePullPolicy": "Never"}
    code, said = ended(namespace.step(*job_arguments("never.zarr"), run=run, spec=wrong), 90)
    assert code == 2, said
    assert "ErrImageNeverPull" in refusal_in(said.splitlines())
    assert "ctbasis/spark:absent" in said
    wait_until(lambda: not _of(namespace, run))


def test_the_launcher_may_do_no_more_than_it_needs(namespace: Namespace) -> None:
    allowed = namespace.kubectl(
        "auth", "can-i", "--list", f"--as=system:serviceaccount:{namespace.name}:launcher", "--no-headers"
    )
    rules = [line for line in allowed.splitlines() if not line.lstrip().startswith(("[", "self"))]
    granted = {rule.split()[0]: set(rule.rpartition("[")[2].rstrip("] ").split()) for rule in rules}
    assert granted == {
        "pods": {"get", "list", "watch"},
        "pods/log": {"get"},
        "sparkapplications.sparkoperator.k8s.io": {"get", "list", "watch", "create", "delete"},
    }


def _of(namespace: Namespace, run: str) -> list[dict[str, Any]]:
    return [found for found in namespace.applications() if found["metadata"]["name"] == application_name(run)]
