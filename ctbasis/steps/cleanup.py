"""The cleanup step, the exit handler of a run: end its job, remove its files, and say why it failed.

It runs once, after a run that succeeded or failed; after a termination Argo starts it, but may end it before it runs
(docs/explanation/lifecycle.md). A run that failed can be retried: Kubeflow then runs
the failed step and those after it again, but not this step. So it leaves what they need, and the last of them removes
it (`remove_after_retry`). What remains of a run that nobody retries goes with its workspace claim, or by
`ctbasis sweep` if it is on S3.

A cohort run has a workspace for each of its jobs, see `ctbasis.steps.job`. Those of jobs that are done are empty by
then. Of a cohort run that did not succeed, the others stay whole.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.jobs.pod import pod_name
from ctbasis.printable import say
from ctbasis.steps.job import JOBS, job_folders, run_of_job
from ctbasis.steps.notes import DEPLOY, INVENTORY, STEPS, SUMMARY, Note, State, exit_handler_ran, read_notes
from ctbasis.steps.reason import failure_page, find_reason, success_page
from ctbasis.storage import stores

if TYPE_CHECKING:
    from pathlib import Path

SOURCE, TRUTH, MATRIX, TRUTH_MATRIX = "source", "truth", "matrix.zarr", "truth.zarr"
FACTORS, DENOISED = "factors.zarr", "denoised.zarr"

INTERMEDIATE = (SOURCE, TRUTH, MATRIX, TRUTH_MATRIX, FACTORS, DENOISED, "denoised.zarr.rows", JOBS)
"""Everything that the steps of a run write to the workspace, or to the run's folder on S3, besides their notes."""

NEEDED = {
    "fetch": {SOURCE, TRUTH},
    "matrix": {SOURCE, TRUTH},
    # The retry adopts an application that is COMPLETED, and then reads what it wrote.
    "svd": {MATRIX, TRUTH_MATRIX, FACTORS, DENOISED},
    "reconstruct": {MATRIX, TRUTH_MATRIX, DENOISED},
    "report": {MATRIX, TRUTH_MATRIX, DENOISED},
    # It begins after all others have ended, and reads an artifact.
    DEPLOY: set(),
    INVENTORY: {JOBS},
    SUMMARY: {JOBS},
}
"""What a retry needs if this was the last step to begin. That it began proves that Kubeflow has the outputs of those
before it; the program of a step may succeed and Kubeflow still fail to store its outputs."""

LAST_STEPS = ("reconstruct", "report")
"""The last steps of a run of one source that read its files; that of a cohort run is `SUMMARY`.

The step `DEPLOY` may come after them, and needs none."""


def run_step(
    workspace: Path, store: str = "", run: str = "", *, succeeded: bool = True, page: Path | None = None
) -> dict[str, str]:
    """Say how the run ended, end its Spark application, and remove those of its files that nobody needs.

    Args:
        workspace: Root of the run's workspace.
        store: `s3://bucket/prefix` of the run's stores; empty if they are in the workspace.
        run: Id of the run.
        succeeded: Whether the run succeeded. A run that did not succeed on Kubeflow keeps what a retry needs. On this
            machine nothing is retried, and all is removed.
        page: File for a Markdown page that says why the run failed, or that it succeeded; None for none.

    Returns:
        The reason of the failure as metadata of the page; empty if the run succeeded.

    Raises:
        CtbasisError: The run succeeded, and S3 denies access or cannot be reached; or the application of a run that did
            not succeed still runs. Then nothing is removed.
    """
    notes = read_notes(workspace)
    jobs = job_folders(workspace)
    reason = None if succeeded else find_reason([*notes, *_unfinished(jobs)], _end_of_pod)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(success_page(notes) if reason is None else failure_page(reason, notes), encoding="utf-8")
    if reason is not None:
        say(f"cleanup: {reason.step} failed: {reason.error.found}")
    kept: set[str] = set()
    if reason is not None and pod_name():
        from ctbasis.steps.engine_job import end

        # An application that still runs reads the matrix, and would fail and be submitted again without it.
        for one in [run_of_job(run, folder) for folder in jobs if _may_have_application(folder)] or [run]:
            end(one)
        kept = NEEDED[notes[-1].step] if notes else set(INTERMEDIATE)
    _remove(workspace, store, run, kept=kept, succeeded=succeeded)
    return {} if reason is None else reason.metadata()


def remove_after_retry(workspace: Path, store: str, run: str) -> None:
    """Remove all files of a run if this is its last step, and if its exit handler has run before a retry.

    What cannot be removed is only logged: the run has succeeded, and `ctbasis sweep` removes the rest.

    Args:
        workspace: Root of the run's workspace.
        store: `s3://bucket/prefix` of the run's stores; empty if they are in the workspace.
        run: Id of the run.
    """
    done = {note.step for note in read_notes(workspace) if note.state is State.SUCCEEDED}
    if exit_handler_ran(workspace) and (done.issuperset(LAST_STEPS) or SUMMARY in done):
        say("cleanup: this run was retried; its last step removes its files")
        _remove(workspace, store, run, kept=set(), succeeded=False)


def every_step_succeeded(workspace: Path, *, deploys: bool) -> bool:
    """Return whether the notes of a run of one source say that the program of each of its steps succeeded.

    Kubeflow's back end updates the state of a group when a container of it ends. A deploy step that a run does not have
    is left out after all of them, so that the group of a run that succeeded stays RUNNING (kubeflow/pipelines 11979).

    Args:
        workspace: Root of the run's workspace.
        deploys: Whether the run has the deploy step.
    """
    steps = (*STEPS, DEPLOY) if deploys else STEPS
    notes = [Note.read(workspace, step) for step in steps]
    return all(note is not None and note.state is State.SUCCEEDED for note in notes)


def _unfinished(jobs: list[Path]) -> list[Note]:
    """Return the notes of steps of jobs that did not come to their end; a step that failed did, and ended no run."""
    return [note for folder in jobs for note in read_notes(folder) if note.state in {State.RUNNING, State.STOPPED}]


def _may_have_application(job: Path) -> bool:
    note = Note.read(job, "svd")
    return note is not None and note.state is not State.SUCCEEDED


def _remove(workspace: Path, store: str, run: str, *, kept: set[str], succeeded: bool) -> None:
    for name in INTERMEDIATE:
        path = workspace / name
        if path.exists() and name not in kept:
            shutil.rmtree(path, ignore_errors=not succeeded)
            say(f"cleanup: removed {name}")
    if not store or not run:
        return
    folder = stores.run_folder(str(workspace), store, run)
    try:
        if kept:
            removed = [name for name in INTERMEDIATE if name not in kept and stores.delete(f"{folder}/{name}")]
            say(f"cleanup: {folder} keeps what a retry needs" + (f"; removed {', '.join(removed)}" if removed else ""))
            return
        done, others = stores.delete_run(folder)
        if done:
            say(f"cleanup: removed the run's stores below {store}")
        if others:
            say(f"cleanup: kept {len(others)} objects below {folder} that are no part of a store")
    except CtbasisError as error:
        if succeeded:
            raise
        say(f"cleanup: {folder} is not removed: {error.found}")


def _end_of_pod(name: str) -> str:
    from ctbasis.jobs.step_pod import end_of_pod

    try:
        return end_of_pod(name)
    except CtbasisError:
        return ""
