"""What a step leaves in the workspace for the exit handler, however the step ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctbasis.errors import CtbasisError
from ctbasis.jobs.pod import POD_NAME
from ctbasis.printable import printable
from ctbasis.steps import notes
from ctbasis.steps.notes import EXIT_HANDLER, NOTE_BYTES, STEPS, Note, State, read_notes, step_of_run

if TYPE_CHECKING:
    from pathlib import Path


def note_of(workspace: Path, step: str = "svd") -> Note:
    note = Note.read(workspace, step)
    assert note is not None
    return note


def test_a_step_is_noted_as_running_and_then_as_succeeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POD_NAME, "run-1-svd-123")
    with step_of_run("svd", str(tmp_path)):
        running = note_of(tmp_path)
        assert (running.state, running.pod, running.ended) == (State.RUNNING, "run-1-svd-123", "")
    assert note_of(tmp_path).state is State.SUCCEEDED
    assert note_of(tmp_path).ended >= running.began


def test_a_refusal_is_noted_with_all_its_parts_and_exits_with_2(tmp_path: Path) -> None:
    error = CtbasisError(
        "no matrix at /m", expected="a store", cause="a typo", remedy="fix it", details=["line 1", "2"]
    )
    with pytest.raises(SystemExit) as ended, step_of_run("svd", str(tmp_path)):
        raise error
    assert ended.value.code == 2
    note = note_of(tmp_path)
    assert note.state is State.FAILED
    assert str(note.error) == str(error)


def test_the_text_of_an_unexpected_error_is_not_noted_for_it_may_name_the_patient(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Doe"), step_of_run("matrix", str(tmp_path)):
        raise ValueError("PatientName is Doe^Jane")
    note = note_of(tmp_path, "matrix")
    assert note.state is State.FAILED
    assert "ValueError in test_notes.py, line " in note.found
    assert "Doe" not in (tmp_path / ".ctbasis" / "matrix.json").read_text()


def test_a_step_that_was_told_to_stop_is_noted_as_stopped(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), step_of_run("svd", str(tmp_path)):
        sys.exit(128 + signal.SIGTERM)
    assert note_of(tmp_path).state is State.STOPPED


def test_a_step_that_is_killed_is_still_noted_as_running(tmp_path: Path) -> None:
    program = (
        "import os, signal\nfrom ctbasis.steps.notes import step_of_run\n"
        f"with step_of_run('fetch', {str(tmp_path)!r}): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert note_of(tmp_path, "fetch").state is State.RUNNING


def test_the_next_attempt_replaces_the_note_of_the_former(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), step_of_run("svd", str(tmp_path)):
        raise CtbasisError("no matrix", details=["x" * 200] * 15)
    with step_of_run("svd", str(tmp_path)):
        pass
    note = note_of(tmp_path)
    assert (note.state, note.found, note.details) == (State.SUCCEEDED, "", ())


@given(found=st.text(max_size=5000), details=st.lists(st.text(max_size=2000), max_size=40))
def test_a_note_of_any_error_fits_its_file_and_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, found: str, details: list[str]
) -> None:
    workspace = tmp_path_factory.mktemp("workspace")
    error = CtbasisError(found, expected=found, cause=found, remedy=found, details=details)
    Note("svd").ended_as(State.FAILED, error).write(workspace)
    assert (workspace / ".ctbasis" / "svd.json").stat().st_size == NOTE_BYTES
    note = note_of(workspace)
    assert error.found.startswith(note.found)
    assert len(note.found) >= min(len(error.found), 80)
    assert printable(note.found) == note.found


def test_a_note_takes_no_more_room_at_the_end_than_at_the_begin(tmp_path: Path) -> None:
    """A step that fails of a full volume can still note it: the file is neither truncated nor replaced."""
    Note("fetch").write(tmp_path)
    before = (tmp_path / ".ctbasis" / "fetch.json").stat()
    Note("fetch").ended_as(State.FAILED, CtbasisError("the disk is full")).write(tmp_path)
    after = (tmp_path / ".ctbasis" / "fetch.json").stat()
    assert (before.st_ino, before.st_size, before.st_blocks) == (after.st_ino, after.st_size, after.st_blocks)


def test_a_workspace_that_cannot_be_written_does_not_hide_the_error_of_the_step(tmp_path: Path) -> None:
    (tmp_path / ".ctbasis").write_text("a file in place of the folder")
    with pytest.raises(SystemExit) as ended, step_of_run("fetch", str(tmp_path)):
        raise CtbasisError("the volume is read-only")
    assert ended.value.code == 2
    assert read_notes(tmp_path) == []


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"step": "svd"}', "\xff", '{"state": "unknown", "details": []}'])
def test_a_damaged_note_is_no_note(tmp_path: Path, damage: str) -> None:
    (tmp_path / ".ctbasis").mkdir()
    (tmp_path / ".ctbasis" / "svd.json").write_text(damage, encoding="latin-1")
    assert Note.read(tmp_path, "svd") is None


def test_the_notes_come_in_the_order_of_the_steps_without_the_exit_handler(tmp_path: Path) -> None:
    for step in (EXIT_HANDLER, *reversed(STEPS)):
        Note(step).write(tmp_path)
    assert tuple(note.step for note in read_notes(tmp_path)) == STEPS


@pytest.mark.parametrize("state", list(State))
def test_the_exit_handler_has_run_only_if_it_succeeded(tmp_path: Path, state: State) -> None:
    """Argo runs an exit handler again that failed, when the run is retried."""
    assert not notes.exit_handler_ran(tmp_path)
    Note(EXIT_HANDLER, state=state).write(tmp_path)
    assert notes.exit_handler_ran(tmp_path) is (state is State.SUCCEEDED)
