"""Messages on why pods do not start and why they ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.jobs.pods import Pod, Pods
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.jobs.timeouts import Timeouts
from ctbasis.jobs.watch import Change
from tests.jobs.made_pods import deleted, ended, pod, running, unschedulable, waiting

if TYPE_CHECKING:
    from collections.abc import Callable

PULL = 'Back-off pulling image "ctbasis/spark:absent"'
NO_NODE = "0/3 nodes are available: 3 Insufficient memory."


@pytest.fixture
def pods() -> Pods:
    return Pods(SparkApplication, "runs", Timeouts())


def take(pods: Pods, *raw: dict[str, Any], kind: str = "MODIFIED") -> list[str]:
    return [line for one in raw for line in pods.update(Change(kind, one))]


def test_the_reason_why_a_driver_is_not_scheduled_is_logged_once(pods: Pods) -> None:
    lines = take(pods, unschedulable(NO_NODE), unschedulable(NO_NODE))
    assert lines == [f"driver ctbasis-svd-run-1-driver waits: Unschedulable: {NO_NODE}"]
    assert take(pods, unschedulable("0/4 nodes are available")), "a new reason is logged again"
    assert pods.next_due() is None, "a queue has no deadline"
    assert pods.start_error() is None


def test_executors_with_the_same_reason_are_counted(pods: Pods) -> None:
    take(pods, running("executor", name="exec-1"))
    lines = take(pods, unschedulable(NO_NODE, "executor", name="exec-2"))
    assert lines == [f"1 of 2 executors wait: Unschedulable: {NO_NODE}"]
    assert take(pods, unschedulable(NO_NODE, "executor", name="exec-3")) == []


def test_a_reason_is_logged_again_when_it_occurs_again(pods: Pods) -> None:
    take(pods, unschedulable(NO_NODE))
    take(pods, running())
    assert take(pods, unschedulable(NO_NODE, uid="of the next attempt"))


def test_containers_that_are_being_created_are_not_logged_at_first(pods: Pods) -> None:
    assert take(pods, waiting("ContainerCreating")) == []
    assert pods.next_due() is not None


def test_a_pod_whose_containers_are_not_created_in_time_is_logged_once() -> None:
    pods = Pods(SparkApplication, "runs", Timeouts(starting=0))
    take(pods, waiting("ContainerCreating"))
    (line,) = pods.slow_starts()
    assert "a volume may not mount: kubectl -n runs describe pod ctbasis-svd-run-1-driver" in line
    assert list(pods.slow_starts()) == []
    assert pods.next_due() is None


def test_the_alternating_reasons_of_a_failed_pull_are_logged_once(pods: Pods) -> None:
    lines = take(pods, waiting("ErrImagePull", "rpc error"), waiting("ImagePullBackOff", PULL))
    assert lines == ["driver ctbasis-svd-run-1-driver waits: ErrImagePull: rpc error"]
    assert pods.start_error() is None, "a registry may be unavailable for a while"


@pytest.mark.parametrize(
    ("raw", "timeouts", "named"),
    [
        (waiting("ErrImageNeverPull", "not present"), Timeouts(), "ErrImageNeverPull: not present"),
        (waiting("InvalidImageName"), Timeouts(), "InvalidImageName"),
        (waiting("ImagePullBackOff", PULL), Timeouts(image=0), "ctbasis/spark:absent"),
        (waiting("CreateContainerConfigError", 'secret "s3" not found'), Timeouts(configuration=0), 'secret "s3"'),
    ],
)
def test_a_pod_that_cannot_start_is_an_error_with_the_reason(
    raw: dict[str, Any], timeouts: Timeouts, named: str
) -> None:
    pods = Pods(SparkApplication, "runs", timeouts)
    take(pods, raw)
    error = pods.start_error()
    assert error is not None
    assert error.found.startswith("pod ctbasis-svd-run-1-driver cannot start: ")
    assert named in error.found
    assert error.remedy


def test_the_timeout_starts_when_a_pod_is_blocked_and_ends_with_the_block(pods: Pods) -> None:
    before = time.monotonic()
    take(pods, waiting("ImagePullBackOff", PULL), waiting("ErrImagePull"), waiting("ImagePullBackOff", PULL))
    due = pods.next_due()
    assert due is not None
    assert before + 120 <= due <= time.monotonic() + 120, "the turn between the two reasons begins nothing anew"
    take(pods, running())
    assert pods.next_due() is None


def test_an_executor_that_cannot_start_is_no_error_while_another_runs() -> None:
    pods = Pods(SparkApplication, "runs", Timeouts(image=0))
    take(pods, running("executor", name="exec-1"), waiting("ErrImagePull", role="executor", name="exec-2"))
    assert pods.start_error() is None
    take(pods, running("executor", name="exec-1"), kind="DELETED")
    assert pods.start_error() is not None


@pytest.mark.parametrize(
    ("raw", "ending"),
    [
        (ended(0), ""),
        (ended(137, "OOMKilled"), "OOMKilled (exit code 137, memory limit 1433Mi)"),
        (ended(137), "Error (exit code 137, killed)"),
        (ended(52), "Error (exit code 52, the JVM ran out of heap)"),
        (ended(1), "Error (exit code 1)"),
        (pod(phase="Failed", reason="Evicted", message="Low on memory."), "Evicted: Low on memory."),
        (
            pod(
                phase="Failed",
                conditions=[
                    {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "m"}
                ],
            ),
            "PreemptionByScheduler: m",
        ),
        (running(), ""),
        (pod(), ""),
    ],
)  # fmt: skip
def test_why_a_pod_ended(raw: dict[str, Any], ending: str) -> None:
    assert Pod(raw, SparkApplication).ending == ending


@pytest.mark.parametrize(
    ("raw", "killed"),
    [
        (running, False),
        (lambda: deleted(running(), at="2026-01-01T00:01:00Z"), True),
        (lambda: deleted(ended(0, at="2026-01-01T00:00:50Z"), at="2026-01-01T00:01:00Z"), True),
        (lambda: deleted(ended(0, at="2026-01-01T00:00:10Z"), at="2026-01-01T00:01:00Z"), False),
        (lambda: deleted(ended(0, at="2026-01-01T00:00:10Z"), at="2026-01-01T00:00:10Z", grace=0), False),
    ],
)
def test_a_pod_was_killed_if_it_was_deleted_before_it_ended(raw: Callable[[], dict[str, Any]], *, killed: bool) -> None:
    assert Pod(raw(), SparkApplication).killed == killed


def test_executors_that_fail_are_logged_and_those_that_spark_deletes_are_not(pods: Pods) -> None:
    gone = deleted(ended(143, role="executor", name="exec-1", at="2026-01-01T00:00:50Z"), at="2026-01-01T00:01:00Z")
    assert take(pods, gone) == []
    lines = take(pods, *[ended(137, "OOMKilled", "executor", name=f"exec-{n}") for n in range(2, 10)])
    assert lines[0] == "executor exec-2 ended: OOMKilled (exit code 137, memory limit 1433Mi)"
    assert len(lines) == 5
    assert lines[-1].endswith(", and so on")
    assert take(pods, ended(137, "OOMKilled", "executor", name="exec-2")) == [], "once each"
    assert pods.other_ends() == "8 executors ended: OOMKilled (exit code 137, memory limit 1433Mi)"


def test_the_executors_of_an_earlier_attempt_are_not_counted(pods: Pods) -> None:
    take(pods, running(uid="1"), ended(137, "OOMKilled", "executor", name="exec-1"))
    take(pods, running(uid="2"))
    assert pods.other_ends() == ""


def test_the_deletion_of_an_earlier_driver_does_not_hide_the_latest(pods: Pods) -> None:
    take(pods, ended(1, uid="1"), running(uid="2"))
    take(pods, ended(1, uid="1"), kind="DELETED")
    assert pods.driver is not None
    assert pods.driver.uid == "2"


def test_the_log_of_a_driver_that_runs_or_has_run_can_be_read() -> None:
    assert [
        Pod(raw, SparkApplication).started for raw in (pod(), waiting("ContainerCreating"), running(), ended(1))
    ] == [
        *(False, False),
        *(True, True),
    ]
