"""The fetch step: copy the source's files into the run's workspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctbasis.sources.fetch import fetch

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.parameters import SourcePlan


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
        CtbasisError: A source is empty, cannot be reached or denies access; or the workspace cannot be written.
    """
    folder, truth_folder = workspace / "source", workspace / "truth"
    fetch(plan.source, folder, opaque=deidentify)
    if plan.truth:
        fetch(plan.truth, truth_folder, opaque=deidentify)
    return StepResult(str(folder), str(truth_folder) if plan.truth else "")
