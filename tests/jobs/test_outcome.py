"""The outcome of an application: only a real success counts, and an error has all known reasons."""

from __future__ import annotations

from typing import Any

import pytest

from ctbasis.jobs.outcome import completed_problem, failure_error
from ctbasis.jobs.pods import Pods
from ctbasis.jobs.quota import quota_is_full
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.jobs.timeouts import Timeouts
from ctbasis.jobs.watch import Change
from tests.jobs.made_pods import deleted, ended

SUBMISSION = (
    "failed to submit spark application: failed to run spark-submit: 26/11/24 15:54:36 WARN Native: x\n"
    '26/11/24 15:54:38 ERROR Client: Please check "kubectl auth can-i create pod" first. It should be yes.\n'
    'Exception in thread "main" io.fabric8.kubernetes.client.KubernetesClientException: Failure executing: POST at: '
    "https://10.96.0.1:443/api/v1/namespaces/runs/pods. Message: {}.{}"
    "\tat io.fabric8.kubernetes.client.KubernetesClientException.copyAsCause(KubernetesClientException.java:238)\n"
)
RECEIVED = " Received status: Status(apiVersion=v1, code=403, details=null)\n"
GUESS = "Forbidden!Configured service account doesn't have access. Service account may have been revoked. "
QUOTA = 'pods "x-driver" is forbidden: exceeded quota: q, requested: {}, used: {}, limited: {}'


def application(text: str = "") -> dict[str, Any]:
    return {"metadata": {"name": "x"}, "status": {"applicationState": {"state": "FAILED", "errorMessage": text}}}


def pods(*raw_pods: dict[str, Any]) -> Pods:
    pods = Pods(SparkApplication, "runs", Timeouts())
    for one in raw_pods:
        list(pods.update(Change("MODIFIED", one)))
    return pods


@pytest.mark.parametrize("after", [RECEIVED, "\n"])
@pytest.mark.parametrize("guess", ["", GUESS])
def test_the_message_of_a_failed_submission_is_the_answer_of_the_api_server(after: str, guess: str) -> None:
    text = QUOTA.format("limits.memory=2Gi", "limits.memory=3Gi", "limits.memory=4Gi")
    assert SparkApplication.message(application(SUBMISSION.format(guess + text, after))) == text


def test_the_message_of_any_other_failure_has_no_log_and_no_stack_trace() -> None:
    text = "26/11/24 15:54:36 WARN NativeCodeLoader: x\nException in thread: no such jar\n\tat org.apache.spark.Main"
    assert SparkApplication.message(application(text)) == "Exception in thread: no such jar"
    assert SparkApplication.message(application("driver container failed")) == "driver container failed"
    assert len(SparkApplication.message(application("at io.fabric8\n" * 1000))) <= 800


@pytest.mark.parametrize(
    ("requested", "used", "limited", "full"),
    [
        ("limits.memory=2Gi", "limits.memory=3Gi", "limits.memory=4Gi", True),
        ("limits.memory=5Gi", "limits.memory=0", "limits.memory=4Gi", False),
        ("limits.cpu=1,limits.memory=2Gi", "limits.cpu=8,limits.memory=3Gi", "limits.cpu=8,limits.memory=4Gi", True),
        ("limits.cpu=9,limits.memory=2Gi", "limits.cpu=8,limits.memory=3Gi", "limits.cpu=8,limits.memory=4Gi", False),
        ("pods=1", "pods=3", "pods=3.", True),
        ("requests.cpu=1500m", "requests.cpu=1", "requests.cpu=2", True),
        ("requests.cpu=nonsense", "requests.cpu=1", "requests.cpu=2", False),
    ],
)
def test_a_quota_that_is_full_has_room_later_and_one_that_is_too_small_has_not(
    requested: str, used: str, limited: str, *, full: bool
) -> None:
    assert quota_is_full(QUOTA.format(requested, used, limited)) == full
    assert not quota_is_full("forbidden")


def test_an_error_has_the_reasons_of_operator_driver_and_executors_and_the_last_lines() -> None:
    raw_pods = pods(ended(1), ended(137, "OOMKilled", "executor", name="exec-1"))
    error = failure_error(
        SparkApplication,
        application("driver container failed with ExitCode: 1"),
        raw_pods,
        [f"line {n}" for n in range(40)],
    )
    text = str(error)
    assert text.startswith(
        "the SparkApplication x failed: driver container failed with ExitCode: 1; driver: Error (exit"
    )
    assert "1 executor ended: OOMKilled (exit code 137, memory limit 1433Mi)" in text
    assert "line 39" in text
    assert "line 24" not in text
    assert "memoryOverhead" in error.remedy


def test_the_drivers_own_error_is_the_error() -> None:
    log = ["Traceback", "ctbasis: no matrix at /m", "ctbasis:   expected: a store"]
    assert (
        str(failure_error(SparkApplication, application("x"), pods(ended(2)), log))
        == "no matrix at /m\n  expected: a store"
    )


def test_an_error_without_any_reason_says_so() -> None:
    assert "the operator gives no reason" in str(failure_error(SparkApplication, application(), pods(), []))


def test_completed_is_a_success_if_the_driver_succeeded_or_is_unknown() -> None:
    assert completed_problem(pods(ended(0))) == ""
    assert completed_problem(pods()) == ""


def test_completed_is_no_success_if_the_driver_failed_or_was_deleted_while_it_ran() -> None:
    assert "exit code 143, terminated" in completed_problem(pods(ended(143)))
    killed = deleted(ended(0, at="2026-01-01T00:00:50Z"), at="2026-01-01T00:01:00Z")
    assert completed_problem(pods(killed)) == "driver ctbasis-svd-run-1-driver was deleted while it ran"
