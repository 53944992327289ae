"""In the workspace of a job, a failure is a note that the later steps pass on; elsewhere it ends the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.steps.job import (
    MEMBERS,
    MOST_KILLS,
    NOT_WRITTEN,
    clear_job,
    create_job,
    failure_of,
    job_folders,
    run_of_job,
    run_program,
)
from ctbasis.steps.notes import Note, State

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return create_job(tmp_path, 7, {MEMBERS: ["a series"]})


def refuse() -> str:
    raise CtbasisError("the header is damaged", remedy="send the series again")


def break_down() -> str:
    raise ValueError("Doe^Jane")


def test_a_step_of_a_run_of_one_source_ends_its_process(tmp_path: Path) -> None:
    assert run_program("fetch", str(tmp_path), lambda: "done", otherwise="") == "done"
    with pytest.raises(SystemExit):
        run_program("matrix", str(tmp_path), refuse, otherwise="")
    note = Note.read(tmp_path, "matrix")
    assert note is not None
    assert note.state is State.FAILED


@pytest.mark.parametrize("program", [refuse, break_down])
def test_a_failed_step_of_a_job_ends_well_and_the_later_ones_do_not_run(
    job: Path, program: object, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, folder = job / "artifact", job / "folder"
    folder.mkdir()
    (folder / "half").write_text("half a result")
    given = {"otherwise": "nothing", "artifacts": [str(artifact), str(folder)]}
    assert run_program("matrix", str(job), program, **given) == "nothing"  # type: ignore[arg-type]
    assert artifact.read_text() == folder.read_text() == NOT_WRITTEN
    failed = failure_of(job)
    assert failed is not None
    assert (failed.step, "Doe" in failed.found) == ("matrix", False)
    assert "matrix: failed; the others of the cohort go on" in capsys.readouterr().err
    assert run_program("svd", str(job), lambda: "never", otherwise="left out") == "left out"
    assert Note.read(job, "svd") is None
    assert "the step matrix of this series failed" in capsys.readouterr().err


def test_a_step_that_is_stopped_does_fail_and_runs_again(job: Path) -> None:
    def stop() -> str:
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        run_program("svd", str(job), stop, otherwise="")
    assert run_program("svd", str(job), lambda: "done", otherwise="") == "done"


def test_a_step_that_was_killed_again_and_again_fails_its_job(job: Path) -> None:
    for _ in range(MOST_KILLS):
        assert run_program("svd", str(job), lambda: "done", otherwise="") == "done"
        Note("svd").write(job)
    assert run_program("svd", str(job), lambda: "never", otherwise="given up") == "given up"
    failed = failure_of(job)
    assert failed is not None
    assert "was killed 2 times" in failed.found


def test_the_jobs_of_a_run_are_found_by_their_files_and_cleared_but_for_notes(job: Path, tmp_path: Path) -> None:
    assert job_folders(tmp_path) == [job]
    assert run_of_job("a-run", job) == "a-run-0007"
    (job / "source").mkdir()
    (job / "source" / "slice.dcm").write_text("a patient's")
    clear_job(job)
    assert [path.name for path in job.iterdir()] == [".ctbasis"]
    assert job_folders(tmp_path) == [job]
