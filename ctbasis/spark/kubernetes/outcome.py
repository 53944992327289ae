"""The outcome of an application: whether its success is real, or the error with all known reasons of its failure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError, error_in_log
from ctbasis.spark.kubernetes.outage import ApplicationStaysError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctbasis.spark.kubernetes.pods import Pods

SHOWN_LINES = 15

SUBMIT_MESSAGE = re.compile(
    r"Message: (?:Forbidden!Configured service account doesn't have access\. Service account may have been revoked\. )?"
    r"(.+?)\.?(?: Received status|\n\s+at |\Z)",
    re.DOTALL,
)
"""The API server's answer in the stack trace of spark-submit, without the client's guess at its cause."""

SUBMIT_NOISE = re.compile(r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d (INFO|WARN) |^\s+at ")

LONGEST_MESSAGE = 800


def message(application: dict[str, Any]) -> str:
    """Return the operator's message on the application's state, without the log and stack trace of spark-submit."""
    text = str(((application.get("status") or {}).get("applicationState") or {}).get("errorMessage") or "").strip()
    answer = SUBMIT_MESSAGE.search(text)
    if answer:
        return answer[1]
    lines = [line for line in text.splitlines() if not SUBMIT_NOISE.search(line)]
    return ("; ".join(filter(None, map(str.strip, lines))) or text)[:LONGEST_MESSAGE]


def failure_error(
    application: dict[str, Any], pods: Pods, log: Sequence[str], *, event: str = "failed"
) -> CtbasisError:
    """Return the error of an application that failed: the driver program's own error, or all known reasons.

    Args:
        application: The application in its final state.
        pods: Its pods.
        log: Last lines of the driver's log.
        event: What happened to the application, such as `failed`.
    """
    refused = error_in_log(log)
    if refused:
        return ApplicationStaysError.from_text(refused)
    driver = pods.driver.ending if pods.driver is not None else ""
    reasons = [message(application), f"driver: {driver}" if driver else "", pods.executor_ends()]
    reason = "; ".join(filter(None, reasons)) or "the operator gives no reason"
    last = log[-SHOWN_LINES:]
    return ApplicationStaysError(
        f"the SparkApplication {application['metadata']['name']} {event}: {reason}",
        remedy=_remedy(reason),
        cause="see the last lines of the driver's log:" if last else "",
        details=last,
    )


def _remedy(reason: str) -> str:
    if "OOMKilled" in reason or "ran out of heap" in reason:
        return "give driver or executor more memory or memoryOverhead, or more executors with fewer rows each"
    if "exceeded quota" in reason:
        return "raise the namespace's ResourceQuota, or request less in manifests/sparkapplication.yaml"
    return ""


def completed_problem(pods: Pods) -> str:
    """Return why the state COMPLETED is not a success; empty if it is one.

    A driver that receives SIGTERM may end with exit code 0, and the operator then sets its application to COMPLETED.
    """
    driver = pods.driver
    if driver is None:
        return ""
    if driver.exit_code:
        return f"driver {driver.name} ended: {driver.ending}"
    return f"driver {driver.name} was deleted while it ran" if driver.killed else ""


def removed_error(name: str, event: str) -> CtbasisError:
    """Return the error of an application that somebody else deleted or replaced."""
    return ApplicationStaysError(
        f"the SparkApplication {name} {event} while it ran",
        cause="a person, a clean-up job or the cancellation of the run deleted it",
        remedy="start the run again",
    )
