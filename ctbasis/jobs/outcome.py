"""The outcome of a job: whether its success is real, or the error with all known reasons of its failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError, error_in_log
from ctbasis.jobs.outage import JobStaysError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctbasis.jobs.job import Job
    from ctbasis.jobs.pods import Pods

SHOWN_LINES = 15


def failure_error(
    kind: type[Job], raw: dict[str, Any], pods: Pods, log: Sequence[str], *, event: str = "failed"
) -> CtbasisError:
    """Return the error of a job that failed: the driver program's own error, or all known reasons.

    Args:
        kind: Kind of the job.
        raw: The job in its final state.
        pods: Its pods.
        log: Last lines of the driver's log.
        event: What happened to the job, such as `failed`.
    """
    refused = error_in_log(log) or error_in_log(kind.output(raw))
    if refused:
        return JobStaysError.from_text(refused)
    driver = pods.driver.ending if pods.driver is not None else ""
    reasons = [kind.message(raw), f"{kind.driver_role()}: {driver}" if driver else "", pods.other_ends()]
    reason = "; ".join(filter(None, reasons)) or "the operator gives no reason"
    last = log[-SHOWN_LINES:]
    return JobStaysError(
        f"the {kind.kind} {raw['metadata']['name']} {event}: {reason}",
        remedy=_remedy(kind, reason),
        cause="see the last lines of the driver's log:" if last else "",
        details=last,
    )


def _remedy(kind: type[Job], reason: str) -> str:
    if "OOMKilled" in reason or "ran out of heap" in reason:
        overhead = " or memoryOverhead" if "executor" in kind.roles else ""
        return f"give {' or '.join(kind.roles[-2:])} more memory{overhead}, or more {kind.many}s with fewer rows each"
    if "exceeded quota" in reason:
        return f"raise the namespace's ResourceQuota, or request less in manifests/{kind.template.name}"
    return ""


def completed_problem(pods: Pods) -> str:
    """Return why a success by the operator's word is none by that of the driver pod; empty if it is one."""
    driver = pods.driver
    if driver is None:
        return ""
    if driver.exit_code:
        return f"driver {driver.name} ended: {driver.ending}"
    return f"driver {driver.name} was deleted while it ran" if driver.killed else ""


def removed_error(kind: type[Job], name: str, event: str) -> CtbasisError:
    """Return the error of a job that somebody else deleted or replaced."""
    return JobStaysError(
        f"the {kind.kind} {name} {event} while it ran",
        cause="a person, a clean-up job or the cancellation of the run deleted it",
        remedy="start the run again",
    )
