"""Follows a run on a Kubeflow server until it ends: its progress, what hinders it, and its results or its failure."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.artifacts import fetch_results
from ctbasis.kubeflow.failure import explain
from ctbasis.kubeflow.pods import waiting
from ctbasis.kubeflow.runs import CANCELING, Run, get_run
from ctbasis.kubeflow.server import NoAnswerError, host_of
from ctbasis.printable import say

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kfp.client import Client

    from ctbasis.kubeflow.artifacts import Results

FIRST_POLL_SECONDS = 2.0
LONGEST_POLL_SECONDS = 30.0
OUTAGE_SECONDS = 300.0
"""How long the server may be unreachable while a run is waited for."""

PATIENCE_SECONDS = 30.0
"""How long no step may change its state before the pods of the run are looked at."""


def run_url(client: Client, run_id: str) -> str:
    """Return the page of the Kubeflow UI that shows a run."""
    return f"{host_of(client)}/#/runs/details/{run_id}"


def finish(client: Client, run_id: str, *, timeout: float | None = None, out: Path | None = None) -> Results:
    """Wait until a run succeeds, and return its results.

    Args:
        client: From `server.connect`.
        run_id: The run's id.
        timeout: Longest wait in seconds. The run itself continues.
        out: A folder for metrics.json and figure1.png.

    Raises:
        CtbasisError: The run failed or did not succeed in time, or its results cannot be fetched.
        KeyboardInterrupt: The user pressed Ctrl-C. The message names the page of the run, which continues.
    """
    try:
        wait_for(client, run_id, timeout=timeout)
        return _saved_results(client, run_id, out)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"run {run_id} continues on the server; see {run_url(client, run_id)}") from None


def finished_results(client: Client, run_id: str, *, out: Path | None = None) -> Results:
    """Return the results of a run that is over.

    Args:
        client: From `server.connect`.
        run_id: The run's id.
        out: A folder for metrics.json and figure1.png.

    Raises:
        CtbasisError: The run is not over, it failed (the error says why), or its results cannot be fetched.
    """
    run = get_run(client, run_id)
    if not run.has_ended:
        raise CtbasisError(
            f"run {run_id} is not over: it is {run.state}",
            expected="a run that has ended",
            remedy=f"wait for it; its page is {run_url(client, run_id)}",
        )
    if run.state != "SUCCEEDED":
        raise explain(client, run, url=run_url(client, run_id))
    return _saved_results(client, run_id, out)


def _saved_results(client: Client, run_id: str, out: Path | None) -> Results:
    results = fetch_results(client, run_id)
    if out is not None:
        results.save(out)
    return results


def wait_for(
    client: Client,
    run_id: str,
    *,
    timeout: float | None = None,
    report: Callable[[str], object] | None = None,
) -> Run:
    """Wait until a run succeeds, report its progress in lines, and return the run.

    Each change of a step's state is a line. The state is requested 2 s after a change, and then at growing intervals up
    to 30 s while nothing changes. If nothing changes for 30 s, a pod that has not started is a line too, with what it
    waits for and what would help. The server may be unreachable for up to five minutes.

    Args:
        client: From `server.connect`.
        run_id: The run's id.
        timeout: Longest wait in seconds; None for no limit. The run itself continues.
        report: Called with each line; by default the lines go to standard error.

    Raises:
        CtbasisError: The run failed (the error says which step, and why) or was terminated, the timeout has expired, or
            the server stays unreachable.
    """
    progress = _Progress(client, run_id, report or say)
    started = last_answer = time.monotonic()
    pause = FIRST_POLL_SECONDS
    while True:
        try:
            changed = progress.advance()
            last_answer = time.monotonic()
            pause = FIRST_POLL_SECONDS if changed else min(pause * 1.5, LONGEST_POLL_SECONDS)
            if progress.run is not None and progress.run.has_ended:
                return progress.succeeded(progress.run)
        except NoAnswerError:
            if time.monotonic() - last_answer > OUTAGE_SECONDS:
                raise
        remaining = float("inf") if timeout is None else timeout - (time.monotonic() - started)
        if remaining <= 0:
            raise CtbasisError(
                f"run {run_id} has not ended after {timeout:g} s; it continues on the server",
                expected="an end within the timeout",
                remedy=f"see {run_url(client, run_id)}, or wait longer",
                details=progress.hindrances,
            )
        time.sleep(min(pause, remaining))


class _Progress:
    """What is known of a run that is waited for, and which of it was reported.

    Args:
        client: From `server.connect`.
        run_id: The run's id.
        report: Called with each line.
    """

    def __init__(self, client: Client, run_id: str, report: Callable[[str], object]) -> None:
        self.run: Run | None = None
        self.hindrances: list[str] = []
        self._client = client
        self._run_id = run_id
        self._report = report
        self._states: dict[str, str] = {}
        self._terminated = ""
        self._changed = time.monotonic()

    def advance(self) -> bool:
        """Request the run, report what is new, and return whether the state of a step has changed."""
        self.run = get_run(self._client, self._run_id, known=self.run)
        changed = {step: state for step, state in self.run.states().items() if self._states.get(step) != state}
        for step, state in changed.items():
            self._say(f"{step}: {state.lower()}")
        self._states |= changed
        if self.run.state == CANCELING and not self._terminated:
            self._terminated = f"{datetime.now(tz=UTC):%Y-%m-%dT%H:%M:%SZ}"
            self._say("the run is being terminated")
        if changed:
            self._changed = time.monotonic()
        elif not self.run.has_ended and time.monotonic() - self._changed >= PATIENCE_SECONDS:
            self._look_at_pods()
        return bool(changed)

    def succeeded(self, run: Run) -> Run:
        """Return a run that succeeded, and raise the error that explains another."""
        if run.state == "SUCCEEDED":
            return run
        raise explain(self._client, run, url=run_url(self._client, run.run_id), terminated=self._terminated)

    def _look_at_pods(self) -> None:
        found = [str(one) for one in waiting(self._client, self._run_id)]
        for line in found:
            if line not in self.hindrances:
                self._say(line)
        self.hindrances = found

    def _say(self, text: str) -> None:
        self._report(f"{datetime.now().astimezone():%H:%M:%S} {text}")
