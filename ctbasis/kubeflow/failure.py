"""Why a run failed: in the words of its failed step, or by whom it was ended.

The API of runs names the failed tasks and no reason. The reason is, in the order in which it is looked for:

- in the artifact that the exit handler writes for people who look at the UI, which quotes the failing step;
- in the log of the step: as the artifact `executor-logs`, which KFP's launcher stores when the step's program ends (a
  stock setting, `--publish_logs`), or as the log of its pod, as long as the pod or Argo's archive has it;
- in what Argo says about the pod, for a program that could not write anything: killed, out of memory, deleted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ctbasis.errors import LINE_PREFIX, CtbasisError, error_in_log
from ctbasis.kubeflow.artifacts import Artifact, download, run_artifacts
from ctbasis.kubeflow.pods import log_of, pods_of, remedy_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kfp.client import Client

    from ctbasis.kubeflow.runs import Run

WHY_IT_FAILED = "why_it_failed"
"""The exit handler's artifact. Its properties are the parts of the failing step's error."""

EXECUTOR_LOGS = "executor-logs"

LOG_LINES = 12
"""Lines of a failed step's log that are shown."""

LINE_LENGTH = 300

NOT_SHOWN = re.compile(rf"\s*{re.escape(LINE_PREFIX.strip())}|[IWEF]\d{{4}} \d\d:\d\d:\d\d\.")
"""Start of lines of a log that are not shown: those of the reported error itself, and those of KFP's launcher."""


@dataclass(frozen=True)
class Failure:
    """Why a step failed.

    Attributes:
        step: The name of the step; empty if it is unknown.
        error: What it reported; None if it could not report anything.
        log: The last lines of its log, without those of `error`.
    """

    step: str = ""
    error: CtbasisError | None = None
    log: tuple[str, ...] = field(default_factory=tuple)


def explain(client: Client, run: Run, *, url: str, terminated: str = "") -> CtbasisError:
    """Return the error that says why a run has not succeeded.

    Args:
        client: From `server.connect`.
        run: The run, which has ended in another state than SUCCEEDED.
        url: The page of the run in the UI.
        terminated: The time at which it was seen to be terminated; the history of the run is looked at first.
    """
    ended = run.terminated or terminated
    if ended:
        return CtbasisError(
            f"run {run.run_id} was terminated at {ended}",
            expected="SUCCEEDED",
            cause="a user ended it in the UI or through the API",
            remedy=f"retry it at {url}, or submit it again",
        )
    failure = failure_of(client, run)
    failed = sorted(run.failed(), key=lambda step: step != failure.step)
    error = failure.error or CtbasisError(_server_error(run))
    parts = [f"run {run.run_id} ended as {run.state}", f"{', '.join(failed)} failed" if failed else "", error.found]
    return CtbasisError(
        ": ".join(part for part in parts if part),
        expected=error.expected or "SUCCEEDED",
        cause=error.cause,
        remedy=f"{error.remedy}; the run is at {url}" if error.remedy else f"read the step's log at {url}",
        details=[*error.details, *failure.log],
    )


def failure_of(client: Client, run: Run) -> Failure:
    """Return why a step of a run failed, as far as the server knows.

    Args:
        client: From `server.connect`.
        run: The run, which has failed.
    """
    try:
        artifacts = run_artifacts(client, run)
    except CtbasisError:  # The failure is to be reported, not what hinders its explanation.
        artifacts = []
    failed = run.failed()
    noted = next((one for one in reversed(artifacts) if one.name == WHY_IT_FAILED), None)
    properties = noted.properties if noted else {}
    step = str(properties.get("step") or "")
    if failed and step not in failed:
        # The exit handler does not run again after a retry, and its note is about the first try.
        step, properties = failed[0], {}
    log = _log(client, run, step, artifacts)
    lines = log.splitlines()
    error = _noted_error(properties)
    if error is None and (text := error_in_log(lines)):
        error = CtbasisError.from_text(text)
    if error is None and (message := _pod_message(client, run, step)):
        error = CtbasisError(message, remedy=remedy_for(message))
    shown = [line for line in lines if line.strip() and not NOT_SHOWN.match(line)]
    return Failure(step, error, tuple(line[:LINE_LENGTH] for line in shown[-LOG_LINES:]))


def _noted_error(properties: Mapping[str, object]) -> CtbasisError | None:
    """Return the error that the exit handler has noted; None if it has noted none."""
    found, expected, cause, remedy = (
        str(properties.get(name) or "") for name in ("found", "expected", "cause", "remedy")
    )
    return CtbasisError(found, expected=expected, cause=cause, remedy=remedy) if found else None


def _log(client: Client, run: Run, step: str, artifacts: Iterable[Artifact]) -> str:
    """Return the log of the last attempt of a step; empty if the server has none."""
    if not step:
        return ""
    stored = [one for one in artifacts if one.name == EXECUTOR_LOGS and one.step == step]
    if stored:
        try:
            return download(client, stored[-1]).decode(errors="replace")
        except CtbasisError:
            pass  # The pod may still have it.
    pods = [pod for pod in pods_of(client, run.run_id) if pod.step == step]
    return log_of(client, run.run_id, pods[-1]) if pods else ""


def _pod_message(client: Client, run: Run, step: str) -> str:
    """Return what Argo says about the failed pod of a step, or about a failed pod that should have started one."""
    failed = [pod for pod in pods_of(client, run.run_id) if pod.phase in {"Failed", "Error"} and pod.message]
    of_step = [pod for pod in failed if pod.step == step] or failed
    return of_step[-1].message if of_step else ""


def _server_error(run: Run) -> str:
    """Return the first error in the server's description of a run, shortened; empty if there is none."""
    errors = [text for text in [*(task.error for task in run.tasks), run.error] if text]
    return " ".join(errors[0].split())[:300] if errors else ""
