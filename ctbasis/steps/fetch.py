"""The fetch step: copy the source's files into the run's workspace.

A server with the stock settings of Kubeflow does not start a step again that failed, so the step itself waits for S3.
On this machine a user waits for the answer, and an address may be misspelt; there the step does not wait.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctbasis.errors import UnreachableError
from ctbasis.jobs.pod import pod_name
from ctbasis.printable import say
from ctbasis.sources.fetch import fetch

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.parameters import SourcePlan


PATIENCE_SECONDS = 600.0
"""How long the step on Kubeflow waits for a server that does not answer, in all."""

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 60.0


@dataclass(frozen=True)
class StepResult:
    """What the matrix step needs.

    Attributes:
        folder: Folder with the source's files.
        truth_folder: Folder with the files of the clean copy; empty if there is none.
    """

    folder: str
    truth_folder: str


def run_step(plan: SourcePlan, workspace: Path, *, deidentify: bool) -> StepResult:
    """Fetch the source, and the clean copy if there is one, into `workspace`.

    Args:
        plan: Where both are.
        workspace: Root of the run's workspace.
        deidentify: Whether the names of files and objects, which may contain a patient's name, are replaced by numbers.

    Raises:
        UnreachableError: A source cannot be reached, on Kubeflow for longer than `PATIENCE_SECONDS`.
        CtbasisError: A source is empty or denies access, or the workspace cannot be written.
    """
    folder, truth_folder = workspace / "source", workspace / "truth"
    patience = PATIENCE_SECONDS if pod_name() else 0.0
    patience = _fetch_patiently(plan.source, folder, opaque=deidentify, patience=patience)
    if plan.truth:
        _fetch_patiently(plan.truth, truth_folder, opaque=deidentify, patience=patience)
    return StepResult(str(folder), str(truth_folder) if plan.truth else "")


def _fetch_patiently(source: str, folder: Path, *, opaque: bool, patience: float) -> float:
    """Fetch a source, again after a wait while its server does not answer; return the seconds of patience that remain.

    Each attempt keeps what the attempts before it have fetched.
    """
    wait = FIRST_WAIT_SECONDS
    while True:
        try:
            fetch(source, folder, opaque=opaque)
        except UnreachableError as error:
            if patience <= 0:
                raise
            wait = min(wait, patience)
            say(f"fetch: {error.found}", f"fetch: waiting {wait:.0f} s of at most {patience:.0f} s for the server")
            time.sleep(wait)
            patience -= wait
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        else:
            return patience
