"""What became of an application: a success that can be believed, or all that is known of the failure."""

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
"""What matters in spark-submit's stack trace: the API server's answer, without the client's guess at its cause."""

SUBMIT_NOISE = re.compile(r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d (INFO|WARN) |^\s+at ")

LONGEST_MESSAGE = 800


def message(application: dict[str, Any]) -> str:
    """Return the operator's word on the application's state, without a submission's log and stack trace."""
    told = str(((application.get("status") or {}).get("applicationState") or {}).get("errorMessage") or "").strip()
    answered = SUBMIT_MESSAGE.search(told)
    if answered:
        return answered[1]
    lines = [line for line in told.splitlines() if not SUBMIT_NOISE.search(line)]
    return ("\n".join(lines) or told)[:LONGEST_MESSAGE]


def failure(application: dict[str, Any], pods: Pods, log: Sequence[str], *, found: str = "failed") -> CtbasisError:
    """Return the error of an application that failed: the job's own refusal, or all reasons that are known.

    Args:
        application: As it ended.
        pods: Its pods.
        log: The driver's last lines.
        found: What became of it.
    """
    refused = error_in_log(log)
    if refused:
        return ApplicationStaysError(refused)
    driver = pods.driver.ending if pods.driver is not None else ""
    reasons = [message(application), f"driver: {driver}" if driver else "", pods.executor_ends()]
    said = "; ".join(filter(None, reasons)) or "the operator gives no reason"
    last = "\n".join(log[-SHOWN_LINES:])
    return ApplicationStaysError(
        f"the SparkApplication {application['metadata']['name']} {found}: {said}",
        remedy=_remedy(said),
        cause=f"see the last lines of the driver's log:\n{last}" if last else "",
    )


def _remedy(said: str) -> str:
    if "OOMKilled" in said or "ran out of heap" in said:
        return "give driver or executor more memory or memoryOverhead, or more executors with fewer rows each"
    if "exceeded quota" in said:
        return "raise the namespace's ResourceQuota, or ask for less in manifests/sparkapplication.yaml"
    return ""


def doubt(pods: Pods) -> str:
    """Return why the operator's COMPLETED is not to be believed; empty where it is.

    A driver that is told to stop may end with exit code 0, and its application is then COMPLETED.
    """
    driver = pods.driver
    if driver is None:
        return ""
    if driver.exit_code:
        return f"driver {driver.name} ended: {driver.ending}"
    return f"driver {driver.name} was deleted while it ran" if driver.killed else ""


def gone(name: str, how: str) -> CtbasisError:
    """Return the error of an application that somebody else took away."""
    return ApplicationStaysError(
        f"the SparkApplication {name} {how} while it ran",
        cause="somebody, a clean-up job or the run's cancellation did it",
        remedy="start the run again",
    )
