"""Faults during the svd step: each test injects one fault, asserts the outcome, and checks that nothing is lost.

Each test prints a row of the chaos table of docs/explanation/cluster.md.
Faults in a whole pipeline run are tested in test_chaos_pipeline.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import error_in_log
from tests.e2e.cluster import GENEROUS_SECONDS, kubectl, report_fault, wait_until
from tests.e2e.step_namespace import job_arguments

if TYPE_CHECKING:
    from tests.e2e.step_namespace import Step, StepNamespace

pytestmark = pytest.mark.chaos

RESTART = "CTBASIS_RESTART_API_SERVER"
LONG = 24
"""Number of power iterations that leaves time to inject a fault during the SVD."""


@pytest.fixture
def run() -> str:
    return str(uuid.uuid4())


def in_the_middle_of_the_svd(step: Step) -> None:
    step.wait_for("spark: job 3 ")


def jobs(output: str) -> list[str]:
    """Return the log lines of ended jobs; each driver prints one per job."""
    return re.findall(r"^spark: job .* s$", output, re.MULTILINE)


@pytest.mark.parametrize("grace", [0, 30], ids=["at once", "with notice"])
def test_a_driver_that_is_killed_is_restarted_and_its_factors_are_correct(
    namespace: StepNamespace, run: str, grace: int
) -> None:
    arguments = job_arguments(f"driver-{grace}.zarr", power_iters=LONG)
    step = namespace.step(*arguments, run=run, spec={"restartPolicy": {"onFailureRetryInterval": 1}})
    in_the_middle_of_the_svd(step)
    (driver,) = namespace.pods(run, "driver")
    began = time.monotonic()
    how = ["--grace-period=0", "--force"] if grace == 0 else [f"--grace-period={grace}"]
    namespace.kubectl("delete", "pod", driver["metadata"]["name"], *how)
    wait_until(
        lambda: step.output.count("svd: mahout factors") == 2 or step.process.poll() is not None, "it runs again"
    )
    again = time.monotonic() - began
    code, output = step.end()
    assert code == 0, output
    found = namespace.application(run)
    assert found is not None
    assert found["status"]["executionAttempts"] == 2
    assert output.count("svd: mahout factors") == output.count("svd: done in") + 1 == 2, (
        "the logs of both drivers, each once"
    )
    assert namespace.factors_are_correct(f"driver-{grace}.zarr")
    notice = "at once" if grace == 0 else "with notice"
    report_fault(
        f"the driver is killed {notice} during the SVD",
        "FAILING, PENDING_RERUN, a second driver; the step continues with its log; same factors",
        again,
    )


def test_a_launcher_that_is_killed_and_restarted_adopts_its_application(namespace: StepNamespace, run: str) -> None:
    arguments = job_arguments("adopted.zarr", power_iters=LONG)
    first = namespace.step(*arguments, run=run)
    in_the_middle_of_the_svd(first)
    before = namespace.application(run)
    first.process.kill()
    first.end()
    began = time.monotonic()
    second = namespace.step(*arguments, run=run)
    second.wait_for("spark: job 3 ")
    adopted = time.monotonic() - began
    code, output = second.end()
    assert code == 0, output
    assert "adopted from an earlier attempt" in output
    assert output.count("svd: mahout factors") == 1, "the log of the driver from its beginning, each line once"
    after = namespace.application(run)
    assert before is not None
    assert after is not None
    assert after["metadata"]["uid"] == before["metadata"]["uid"], "one application only"
    assert after["status"]["executionAttempts"] == 1
    assert namespace.factors_are_correct("adopted.zarr")
    report_fault(
        "the launching process is killed (SIGKILL) and restarted",
        "the second process adopts the single application; the driver's log is complete; same factors",
        adopted,
    )


def test_the_step_waits_for_a_restarted_api_server_and_loses_no_log_line(namespace: StepNamespace, run: str) -> None:
    restart = os.environ.get(RESTART)
    if not restart:
        pytest.skip(f"{RESTART} is not set; it is the command that ends this cluster's API server and starts it again")
    arguments = job_arguments("restarted.zarr", power_iters=LONG)
    step = namespace.step(*arguments, run=run, environment={"LOG_REQUESTS": "1"})
    in_the_middle_of_the_svd(step)
    began = time.monotonic()
    subprocess.run(restart, shell=True, check=True, timeout=GENEROUS_SECONDS)  # noqa: S602  the user's own command
    wait_until(_answers, "the API server answers again")
    away = time.monotonic() - began
    code, output = step.end()
    assert code == 0, output
    found = namespace.application(run)
    assert found is not None
    assert found["status"]["executionAttempts"] == 1
    name = found["status"]["driverInfo"]["podName"]
    log = namespace.kubectl("logs", name, "--container=spark-kubernetes-driver").splitlines()
    own = [line for line in output.splitlines() if not line.startswith("request: ")]
    assert [line for line in own if line in set(log)] == log, "the driver's log, each line once and in order"
    assert len(re.findall(r"request: .*POST", output)) == 1
    assert namespace.factors_are_correct("restarted.zarr")
    report_fault(
        "the API server is restarted during the SVD",
        "watches and log continue where they stopped, without a lost or repeated line; same factors",
        away,
    )


def _answers() -> bool:
    done = subprocess.run(["kubectl", "get", "--raw", "/readyz"], capture_output=True, timeout=60, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("policy", ["Never", "IfNotPresent"])
def test_a_missing_image_is_reported_with_its_name_and_the_reason(
    namespace: StepNamespace, run: str, policy: str
) -> None:
    wrong = {"image": "ctbasis/spark:absent", "imagePullPolicy": policy}
    began = time.monotonic()
    step = namespace.step(*job_arguments("never.zarr"), run=run, spec=wrong, timeouts={"image": 20})
    code, output = step.end()
    seconds = time.monotonic() - began
    assert code == 2, output
    refused = error_in_log(output.splitlines())
    assert re.search("ErrImageNeverPull" if policy == "Never" else "ErrImagePull|ImagePullBackOff", refused)
    assert "ctbasis/spark:absent" in refused
    wait_until(lambda: not namespace.application(run) and not namespace.pods(run), "application and pods are gone")
    report_fault(
        f"a missing image (imagePullPolicy {policy})",
        "refused with the kubelet's reason and the image's name, "
        + ("at once" if policy == "Never" else "after the timeout of 20 s that the test sets")
        + "; the application is deleted",
        seconds,
    )


def test_the_step_reports_executors_that_run_out_of_memory(namespace: StepNamespace, run: str) -> None:
    # A heap that is allocated at once and leaves no memory of the container for anything else.
    greedy = {
        "restartPolicy": {"type": "Never", "onFailureRetries": None, "onFailureRetryInterval": None},
        "sparkConf": {"spark.executor.maxNumFailures": "2"},
        "executor": {
            "memoryOverhead": "1M",
            "javaOptions": "--add-modules=jdk.incubator.vector -Xms768m -XX:+AlwaysPreTouch",
            "instances": 1,
        },
    }
    began = time.monotonic()
    code, output = namespace.step(*job_arguments("oom.zarr"), run=run, spec=greedy).end()
    seconds = time.monotonic() - began
    assert code == 2, output
    refused = error_in_log(output.splitlines())
    assert re.search(r"executors? ended: OOMKilled \(exit code 137, memory limit 769Mi\)", refused), output
    assert "memoryOverhead" in refused
    report_fault(
        "executors exceed their memory",
        "the step fails and prints OOMKilled, the limit, and the setting to raise",
        seconds,
    )


def test_no_pod_of_these_tests_remains(namespace: StepNamespace) -> None:
    left = kubectl(
        "-n", namespace.name, "get", "pods", "--field-selector=status.phase=Running", "--output=name"
    ).split()
    assert [name for name in left if "svd" in name] == []
