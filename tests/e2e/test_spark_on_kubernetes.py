"""The svd step with Spark on a real cluster: its results, its log, its requests, and what remains afterwards."""

from __future__ import annotations

import json
import signal
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ctbasis.errors import error_in_log
from ctbasis.jobs.pod import POD_NAME
from ctbasis.parameters import SvdPlan
from ctbasis.spark.driver import Job
from ctbasis.spark.launch import application_name
from tests.e2e.cluster import CHECKOUT, SPARK_IMAGE, hardened, pod, wait_until
from tests.e2e.step_namespace import job_arguments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.step_namespace import Step, StepNamespace

pytestmark = pytest.mark.e2e

TEMPLATE = CHECKOUT / "manifests" / "application" / "sparkapplication.yaml"
SHORT_WAIT, LONG_WAIT = 10.0, 60.0


@pytest.fixture
def run() -> str:
    """Return the id of a run, as long as those of Kubeflow."""
    return str(uuid.uuid4())


def is_gone(namespace: StepNamespace, run: str) -> None:
    wait_until(lambda: not namespace.application(run) and not namespace.pods(run), "application and pods are gone")


def test_factors_equal_those_of_one_machine_and_the_step_prints_the_log_of_the_driver(
    namespace: StepNamespace, run: str
) -> None:
    code, output = namespace.step(*job_arguments("good.zarr"), run=run).end()
    assert code == 0, output
    assert "RUNNING" in output
    assert "COMPLETED" in output
    assert "orbidden" not in output, "manifests/base gives the driver too few rights"
    assert "svd: mahout factors 4096 x 24" in output
    assert "spark: job 0 (dssvd" in output
    assert namespace.factors_are_correct("good.zarr")


def test_plain_spark_gives_the_same_factors(namespace: StepNamespace, run: str) -> None:
    code, output = namespace.step(*job_arguments("plain.zarr", engine="spark"), run=run).end()
    assert code == 0, output
    assert "svd: spark factors 4096 x 24" in output
    assert namespace.factors_are_correct("plain.zarr")


def test_executors_read_dicom_files_and_report_where_there_are_none(namespace: StepNamespace, run: str) -> None:
    job = Job(SvdPlan.of(engine="spark", rank="5"), "/workspace/fused.zarr", source="/workspace")
    code, output = namespace.step(*job.arguments(), run=run).end()
    assert code == 2, output
    assert error_in_log(output.splitlines()).startswith("no CT image among "), output


def test_a_job_that_refuses_its_input_fails_the_step_and_is_not_retried(namespace: StepNamespace, run: str) -> None:
    missing = job_arguments("bad.zarr", matrix="/workspace/missing.zarr")
    code, output = namespace.step(*missing, run=run).end()
    assert code == 2, output
    assert error_in_log(output.splitlines()).startswith("no matrix at /workspace/missing.zarr\n  expected:")
    assert "PENDING_RERUN" not in output
    is_gone(namespace, run)


def test_a_step_that_is_stopped_leaves_no_application_and_no_pod(namespace: StepNamespace, run: str) -> None:
    step = namespace.step(*job_arguments("stopped.zarr"), run=run)
    wait_until(lambda: namespace.pods(run), "it has pods")
    step.process.send_signal(signal.SIGTERM)
    code, output = step.end()
    assert code == 128 + signal.SIGTERM, output
    is_gone(namespace, run)


def test_deleting_a_run_deletes_an_application_that_its_step_could_not_delete(
    namespace: StepNamespace, run: str
) -> None:
    # A ConfigMap represents the run's Workflow for the step's pod and for the garbage collector.
    made = namespace.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"run-{run}"}})
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": f"run-{run}", "uid": made["metadata"]["uid"]}
    container = hardened(SPARK_IMAGE, name="main", command=["sleep", "infinity"])
    steps = pod(f"step-{run}", container)
    steps["metadata"]["ownerReferences"] = [owner]
    namespace.apply(steps)
    step = namespace.step(*job_arguments("deleted.zarr"), run=run, environment={POD_NAME: f"step-{run}"})
    wait_until(lambda: namespace.pods(run, "driver"), "the driver exists")
    found = namespace.application(run)
    assert found is not None, "the application exists although its owner is gone"
    assert found["metadata"]["ownerReferences"] == [owner]
    step.process.kill()
    step.end()
    namespace.kubectl("delete", "configmap", f"run-{run}")
    is_gone(namespace, run)


@pytest.fixture
def template(namespace: StepNamespace) -> Iterator[dict[str, Any]]:
    """Create the suspended template in the namespace for one test."""
    manifest = yaml.safe_load(TEMPLATE.read_text())
    manifest["spec"] |= {"suspend": True, "timeToLiveSeconds": 1234}
    yield namespace.apply(manifest)
    namespace.kubectl("delete", "sparkapplication", "ctbasis-svd")


@pytest.mark.usefixtures("template")
def test_a_run_is_created_from_the_template_of_the_namespace_which_never_runs_itself(
    namespace: StepNamespace, run: str
) -> None:
    arguments = job_arguments("templated.zarr", engine="numpy")
    code, output = namespace.step(*arguments, run=run).end()
    assert code == 0, output
    assert f"svd: template SparkApplication {namespace.name}/ctbasis-svd\n" in output
    found = namespace.application(run)
    assert found is not None
    assert found["spec"]["timeToLiveSeconds"] == 1234
    assert not found["spec"].get("suspend")
    assert "last-applied" not in json.dumps(found["metadata"].get("annotations", {}))
    drivers = namespace.kubectl("get", "pods", "--selector=spark-role=driver", "--output=name").split()
    assert "pod/ctbasis-svd-driver" not in drivers
    assert f"pod/{application_name(run)}-driver" in drivers


def requests(step: Step) -> list[str]:
    return [line for line in step.output.splitlines() if line.startswith("request: ")]


def test_a_waiting_step_prints_the_reason_and_sends_no_requests(namespace: StepNamespace, run: str) -> None:
    label = f"ctbasis-e2e/{run[:8]}"
    nowhere = {"driver": {"nodeSelector": {label: "here"}}}
    arguments = job_arguments("waited.zarr", engine="numpy")
    step = namespace.step(*arguments, run=run, spec=nowhere, environment={"LOG_REQUESTS": "1"})
    step.wait_for("waits: Unschedulable: ")
    time.sleep(SHORT_WAIT)
    short = requests(step)
    time.sleep(LONG_WAIT - SHORT_WAIT)
    assert requests(step) == short, "waiting for a minute takes no more requests than waiting for ten seconds"
    assert len(short) == 5, "the template; create; watch the application; list and watch its pods"
    (node, *_) = namespace.kubectl("get", "nodes", "--output=name").split()
    namespace.kubectl("label", node, f"{label}=here")
    try:
        code, output = step.end()
    finally:
        namespace.kubectl("label", node, f"{label}-")
    assert code == 0, output
    print(f"requests: {len(short)} after {SHORT_WAIT:.0f} s and after {LONG_WAIT:.0f} s of waiting, "  # noqa: T201
          f"{len(requests(step))} in all")  # fmt: skip


def test_the_step_waits_for_an_application_that_a_queue_has_suspended(namespace: StepNamespace, run: str) -> None:
    arguments = job_arguments("queued.zarr", engine="numpy")
    step = namespace.step(*arguments, run=run, spec={"suspend": True}, timeouts={"unseen": 5})
    wait_until(lambda: namespace.application(run), "the application exists")
    time.sleep(SHORT_WAIT)
    assert step.process.poll() is None, step.output
    assert "a queue such as Kueue starts it" in step.output or "SUSPENDED" in step.output
    assert not namespace.pods(run)
    patch = ["--type=merge", "--patch", '{"spec": {"suspend": false}}']
    namespace.kubectl("patch", "sparkapplication", application_name(run), *patch)
    code, output = step.end()
    assert code == 0, output


def test_the_step_waits_for_a_full_quota_and_reports_it(namespace: StepNamespace, run: str) -> None:
    held = int(namespace.kubectl("get", "pods", "--output=name", "--field-selector=status.phase=Running").count("\n"))
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "full"},
        "spec": {"hard": {"pods": str(held)}},
    }
    namespace.apply(quota)
    wait_until(lambda: namespace.get("resourcequota", "full").get("status", {}).get("used"), "the quota is in effect")
    spec = {"restartPolicy": {"onSubmissionFailureRetries": 1, "onSubmissionFailureRetryInterval": 1}}
    step = namespace.step(*job_arguments("quota.zarr", engine="numpy"), run=run, spec=spec, timeouts={"quota": 3})
    try:
        step.wait_for("waiting for room in a full quota")
        assert "exceeded quota: full" in step.output
    finally:
        namespace.kubectl("delete", "resourcequota", "full")
    code, output = step.end()
    assert code == 0, output


def test_the_launcher_may_do_no_more_than_it_needs(namespace: StepNamespace) -> None:
    allowed = namespace.kubectl(
        "auth", "can-i", "--list", f"--as=system:serviceaccount:{namespace.name}:launcher", "--no-headers"
    )
    rules = [line for line in allowed.splitlines() if not line.lstrip().startswith(("[", "self"))]
    granted = {rule.split()[0]: set(rule.rpartition("[")[2].rstrip("] ").split()) for rule in rules}
    assert granted == {
        "pods": {"get", "list", "watch"},
        "pods/log": {"get"},
        "sparkapplications.sparkoperator.k8s.io": {"get", "list", "watch", "create", "delete"},
        "rayjobs.ray.io": {"get", "list", "watch", "create", "delete"},
        "daskjobs.kubernetes.dask.org": {"get", "list", "watch", "create", "delete"},
    }
