"""The jobs of a cohort run on Kubeflow: each has a workspace of its own, in which a failure costs that job alone.

The loop of the pipeline takes one job after another through the same steps as a run of one source. Argo ends a loop
when a step of it fails, so a step of a job must not fail: if its program does, the step leaves its note, as every step
does, writes a text in place of each artifact, and ends well. The steps after it find the note and do not run. The step
that summarizes reads the notes and decides how the run ends.

    WORKSPACE/jobs/0001/.ctbasis/job.json     what the job consists of; this file marks a workspace as a job's
    WORKSPACE/jobs/0001/.ctbasis/STEP.json    the notes of its steps

A step whose process is killed, as for memory, or whose pod is lost for good, writes no end of its note and does fail.
It ends the run, which can be retried: Argo keeps the jobs that were finished. A step that was killed `MOST_KILLS` times
fails its job at its next start without running its program, so that one series cannot end the run for ever.
"""

from __future__ import annotations

import json
import shutil
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ctbasis.errors import CtbasisError, exit_on_error
from ctbasis.printable import say
from ctbasis.steps.notes import FOLDER, Note, State, noted, read_notes, step_of_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

T = TypeVar("T")

JOBS = "jobs"
"""Folder of the workspaces of jobs in the workspace of a cohort run."""

JOB = f"{FOLDER}/job.json"

MEMBERS = "members"
"""Key of the JSON object of a job: the series that it consists of. A job without any has nothing to do."""

MOST_KILLS = 2
"""How often the process of a step of a job may be killed."""

NOT_WRITTEN = "Not written: a step of this series failed. The summary of the cohort states the reason.\n"
"""Content of an artifact that a step of a job should have written. The reason itself may name a file of the source."""


def create_job(workspace: Path, number: int, content: Mapping[str, Any]) -> Path:
    """Create the workspace of a job, and return its folder.

    Args:
        workspace: Root of the run's workspace.
        number: Number of the job in the run.
        content: JSON object that describes the job, with the key `MEMBERS`.

    Raises:
        OSError: The workspace cannot be written.
    """
    folder = workspace / JOBS / f"{number:04d}"
    path = folder / JOB
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
    return folder


def run_of_job(run: str, folder: Path) -> str:
    """Return the id of a job for whatever is named after its run, such as its SparkApplication.

    Args:
        run: Id of the cohort run.
        folder: Workspace of the job.
    """
    return f"{run}-{folder.name}"


def job_folders(workspace: Path) -> list[Path]:
    """Return the workspaces of the jobs of a cohort run in the order of their numbers; none for a run of one source."""
    return sorted(path.parents[1] for path in workspace.glob(f"{JOBS}/*/{JOB}"))


def read_job(folder: Path) -> dict[str, Any]:
    """Return what `create_job` wrote.

    Raises:
        CtbasisError: The file is missing or damaged.
    """
    path = folder / JOB
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {**content, MEMBERS: list(content[MEMBERS])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CtbasisError(
            f"{path} cannot be read ({type(error).__name__})",
            expected="the description of a job, which the inventory step writes",
            cause="the workspace of the run was changed or removed",
            remedy="run the cohort again",
        ) from error


def failure_of(folder: Path) -> Note | None:
    """Return the note of the first step of a job that failed; None if none did."""
    return next((note for note in read_notes(folder) if note.state is State.FAILED), None)


def run_program(
    step: str, workspace: str, program: Callable[[], T], *, otherwise: T, artifacts: Iterable[str] = ()
) -> T:
    """Run the program of a step of the pipeline, and return its result.

    In the workspace of a run, an error ends the process with code 2, see `step_of_run`. In the workspace of a job of a
    cohort run it does not, see above.

    Args:
        step: Name of the step.
        workspace: Root of the workspace of a run or of a job.
        program: The program.
        otherwise: The result if the program of a job, or that of a step before, failed.
        artifacts: Paths of the artifacts that the program writes. Kubeflow requires each of them.
    """
    folder = Path(workspace)
    if not (folder / JOB).is_file():
        with step_of_run(step, workspace):
            return program()
    with exit_on_error():
        is_to_run = _is_to_run(step, folder)
    if is_to_run:
        try:
            kills = _kills(step, folder)
            with noted(step, folder):
                _check_kills(step, kills)
                return program()
        except CtbasisError as error:
            say(f"{step}: failed; the others of the cohort go on", *str(error).split("\n"))
        except Exception:  # noqa: BLE001 - whatever one job provokes, the cohort goes on
            say(f"{step}: failed; the others of the cohort go on", *traceback.format_exc().splitlines())
    for path in map(Path, artifacts):
        _write_text(path)
    return otherwise


def clear_job(folder: Path) -> None:
    """Remove everything of a job but its description and its notes, so that a workspace never holds all series."""
    for path in folder.iterdir():
        if path.name != FOLDER:
            shutil.rmtree(path, ignore_errors=True)


def _is_to_run(step: str, folder: Path) -> bool:
    if not read_job(folder)[MEMBERS]:
        say(f"{step}: there is nothing to do")
        return False
    if failed := failure_of(folder):
        say(f"{step}: is left out, because the step {failed.step} of this series failed: {failed.found}")
        return False
    return True


def _kills(step: str, folder: Path) -> int:
    """Return how often the process of a step was killed, and note it if the attempt before this one was."""
    path = folder / FOLDER / f"{step}.kills"
    before = Note.read(folder, step)
    try:
        count = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        count = 0
    if before is not None and before.state is State.RUNNING:
        count += 1
        path.write_text(f"{count}\n", encoding="ascii")
    return count


def _check_kills(step: str, kills: int) -> None:
    if kills >= MOST_KILLS:
        raise CtbasisError(
            f"the process of the step {step} was killed {kills} times",
            expected="an end with or without an error",
            cause="the step needs more memory than its limit, or its nodes were lost",
            remedy="give the step more memory (`ctbasis compile --requests`), and run the cohort again",
        )


def _write_text(path: Path) -> None:
    """Write the text that stands for an artifact, in place of what a failed program has left there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(NOT_WRITTEN, encoding="utf-8")
