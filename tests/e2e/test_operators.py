"""The svd step with KubeRay and with Dask's operator on a real cluster: results, failures, and what remains."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import error_in_log
from ctbasis.jobs.pod import POD_NAME
from tests.e2e.cluster import CHECKOUT, hardened, kubectl, new_namespace, pod, report_fault, wait_until
from tests.e2e.operators import DASK, RAY, SAME_BITS, WRITE_TWO_BLOCKS, OperatorTest, rights
from tests.e2e.step_namespace import job_arguments

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.step_namespace import StepNamespace

pytestmark = pytest.mark.e2e

SEEN_SECONDS = 15.0
"""Time in which an operator would have begun with an object."""


@pytest.fixture(params=[RAY, DASK], ids=["ray", "dask"])
def operator(request: pytest.FixtureRequest) -> OperatorTest:
    """Return the operator under test; without it, the test is skipped and says so."""
    tested: OperatorTest = request.param
    tested.require()
    return tested


@pytest.fixture(scope="module")
def two_blocks(namespace: StepNamespace) -> StepNamespace:
    """Return the namespace with a matrix of two row blocks, and its factors by the engine spark."""
    assert namespace.python(WRITE_TWO_BLOCKS).split()[-1] == "2"
    arguments = OperatorTest(RAY.kind, "spark", "", "").arguments("spark.zarr")
    code, output = namespace.step(*arguments, run=str(uuid.uuid4())).end()
    assert code == 0, output
    return namespace


@pytest.fixture
def run() -> str:
    """Return the id of a run, as long as those of Kubeflow."""
    return str(uuid.uuid4())


def is_gone(operator: OperatorTest, namespace: StepNamespace, run: str) -> None:
    wait_until(
        lambda: not operator.jobs(namespace, run) and not operator.pods(namespace, run), "the job and its pods are gone"
    )


def test_the_factors_are_those_of_spark_bit_for_bit(
    operator: OperatorTest, two_blocks: StepNamespace, run: str
) -> None:
    factors = f"{operator.engine}.zarr"
    code, output = operator.step(two_blocks, *operator.arguments(factors), run=run).end()
    assert code == 0, output
    assert f"svd: {operator.engine} factors 131072 x 24 in 2 blocks" in output
    assert "orbidden" not in output
    same = two_blocks.python(SAME_BITS, "/workspace/spark.zarr", f"/workspace/{factors}")
    assert json.loads(same.splitlines()[-1]) is True
    (job,) = operator.jobs(two_blocks, run)
    assert operator.kind.phase(job).final, "it stays for inspection"
    wait_until(lambda: not operator.pods(two_blocks, run, operator.worker), "the cluster of the job is gone")


def test_a_job_that_refuses_its_input_fails_the_step(
    operator: OperatorTest, namespace: StepNamespace, run: str
) -> None:
    missing = operator.arguments("bad.zarr", matrix="/workspace/missing.zarr")
    code, output = operator.step(namespace, *missing, run=run).end()
    assert code == 2, output
    assert error_in_log(output.splitlines()).startswith("no matrix at /workspace/missing.zarr\n  expected:")


def test_an_image_of_another_version_is_refused(operator: OperatorTest, namespace: StepNamespace, run: str) -> None:
    arguments = [*job_arguments("x.zarr", engine=operator.engine), "--release", "0.0.1"]
    code, output = operator.step(namespace, *arguments, run=run).end()
    assert code == 2, output
    assert "the step has ctbasis 0.0.1" in output


def test_a_worker_that_is_killed_costs_time_and_nothing_else(
    operator: OperatorTest, two_blocks: StepNamespace, run: str
) -> None:
    factors = f"{operator.engine}-killed.zarr"
    step = operator.step(two_blocks, *operator.arguments(factors, power_iters=60), run=run)
    step.wait_for(f"svd: {operator.engine} factors")
    victim = operator.pods(two_blocks, run, operator.worker)[0]["metadata"]["name"]
    two_blocks.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
    killed = time.monotonic()
    code, output = step.end()
    assert code == 0, output
    seconds = time.monotonic() - killed
    report_fault(f"a worker of a {operator.kind.kind} is killed", "the run ends well after", seconds)


def test_a_step_that_is_stopped_leaves_no_job_and_no_pod(
    operator: OperatorTest, namespace: StepNamespace, run: str
) -> None:
    step = operator.step(namespace, *job_arguments("stopped.zarr", engine=operator.engine), run=run)
    wait_until(lambda: operator.pods(namespace, run), "it has pods")
    step.process.send_signal(signal.SIGTERM)
    code, output = step.end()
    assert code == 128 + signal.SIGTERM, output
    is_gone(operator, namespace, run)


def test_deleting_a_run_deletes_a_job_that_its_step_could_not_delete(
    operator: OperatorTest, namespace: StepNamespace, run: str
) -> None:
    # A ConfigMap represents the run's Workflow for the step's pod and for the garbage collector.
    made = namespace.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"run-{run}"}})
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": f"run-{run}", "uid": made["metadata"]["uid"]}
    steps = pod(f"step-{run}", hardened(operator.image, name="main", command=["sleep", "infinity"]))
    steps["metadata"]["ownerReferences"] = [owner]
    namespace.apply(steps)
    arguments = job_arguments("deleted.zarr", engine=operator.engine)
    step = operator.step(namespace, *arguments, run=run, **{POD_NAME: f"step-{run}"})
    wait_until(lambda: operator.pods(namespace, run), "it has pods")
    (job,) = operator.jobs(namespace, run)
    assert job["metadata"]["ownerReferences"] == [owner]
    step.process.kill()
    step.end()
    namespace.kubectl("delete", "configmap", f"run-{run}")
    is_gone(operator, namespace, run)


def test_the_launcher_may_create_and_delete_jobs_and_nothing_that_operators_make_of_them(
    operator: OperatorTest, namespace: StepNamespace
) -> None:
    own = [right for right in rights(namespace) if right.endswith(operator.definition)]
    assert own == [f"{verb} {operator.definition}" for verb in ("get", "list", "watch", "create", "delete")]
    assert not [right for right in rights(namespace) if "cluster" in right]


def test_a_template_is_never_started(operator: OperatorTest, tmp_path: Path) -> None:
    folder = CHECKOUT / "manifests" / operator.engine
    (tmp_path / "kustomization.yaml").write_text(f"resources:\n  - {os.path.relpath(folder, tmp_path.resolve())}\n")
    with new_namespace() as name:
        kubectl("--namespace", name, "apply", "--filename=-", given=kubectl("kustomize", str(tmp_path)))
        time.sleep(SEEN_SECONDS)
        for made in (f"{operator.engine}clusters", "pods"):
            assert json.loads(kubectl("--namespace", name, "get", made, "--output=json"))["items"] == []
