"""Why a run failed, from the notes of its steps: for the artifact of the exit handler that the user reads in the UI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.printable import printable_markdown
from ctbasis.steps.notes import STEPS, Note, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RETRY = (
    "**Retry** in the UI runs the failed step again, and the steps after it. What they need stays in the workspace of "
    "the run until Kubernetes deletes its Workflow, three days after its end unless the package says otherwise."
)


@dataclass(frozen=True)
class Reason:
    """Why a run failed.

    Attributes:
        step: The step that failed.
        error: The reason.
    """

    step: str
    error: CtbasisError

    def metadata(self) -> dict[str, str]:
        """Return the reason as metadata of an artifact, for clients of Kubeflow's API."""
        texts = {"step": self.step, "found": self.error.found, "expected": self.error.expected}
        return {**texts, "cause": self.error.cause, "remedy": self.error.remedy}


def find_reason(notes: Sequence[Note], end_of_pod: Callable[[str], str]) -> Reason:
    """Return why a run failed that did not succeed.

    Args:
        notes: The notes of the steps that began, in the order of `STEPS`.
        end_of_pod: Returns why the pod of a step ended, in Kubernetes' words; empty if that is not known.
    """
    failed = sorted((note for note in notes if note.state is State.FAILED), key=lambda note: note.ended)
    if failed:
        return Reason(failed[0].step, failed[0].error)
    for note in notes:
        if note.state is not State.SUCCEEDED:
            return Reason(note.step, _killed(note, end_of_pod(note.pod) if note.pod else ""))
    return _not_begun({note.step for note in notes})


def _killed(note: Note, ending: str) -> CtbasisError:
    how = "received a signal to stop" if note.state is State.STOPPED else "ended without an error message"
    pod = f"; its pod {note.pod}: {ending}" if ending else ""
    if "OOMKilled" in ending:
        return CtbasisError(
            f"the step {note.step} {how}{pod}",
            cause="the step needed more memory than its limit",
            remedy="compile the package with more memory for this step (`ctbasis compile --help`), and run again",
        )
    return CtbasisError(
        f"the step {note.step} {how}{pod}",
        cause="the run was terminated, the pod was deleted, or its process was killed, as for memory",
        remedy="retry the run; if the step is ended again, give it more memory (`ctbasis compile --help`)",
    )


def _not_begun(begun: set[str]) -> Reason:
    step = next((one for one in STEPS if one not in begun), STEPS[-1])
    if step in begun:
        return Reason(
            step,
            CtbasisError(
                "the program of every step succeeded, but the run did not",
                cause="Kubeflow could not store an output of a step",
                remedy="read the end of the log of the step that is marked as failed, and retry the run",
            ),
        )
    return Reason(
        step,
        CtbasisError(
            f"the step {step} did not begin",
            cause="its pod could not start (image, volume, Secret, resources), Kubeflow could not store the outputs of "
            "the step before, or the run was terminated",
            remedy="read the events of the pod in the UI or by `kubectl describe pod`, and retry the run",
        ),
    )


def failure_page(reason: Reason, notes: Sequence[Note]) -> str:
    """Return the Markdown page that says why a run failed."""
    # Indented by four spaces, a line is shown as it is: nothing in it is taken for Markdown or HTML.
    lines = [f"    {line}" for line in str(reason.error).split("\n")]
    return printable_markdown(
        ["# Why the run failed", "", f"The step **{reason.step}**:", "", *lines, "", RETRY, "", *_table(notes)]
    )


def success_page(notes: Sequence[Note]) -> str:
    """Return the Markdown page of a run that succeeded."""
    return printable_markdown(["# The run succeeded", "", *_table(notes)])


def _table(notes: Sequence[Note]) -> list[str]:
    rows = [f"| {note.step} | {note.state} | {note.began} | {note.ended or '-'} |" for note in notes]
    return ["| step | state | began (UTC) | ended (UTC) |", "| --- | --- | --- | --- |", *rows, ""]
