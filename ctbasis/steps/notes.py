"""Notes that the steps of a run leave in its workspace: how far each step came, and why it failed.

Kubeflow's API keeps no reason of a failure, only "Error (exit code 1)". Each step therefore writes a note when it
begins and when it ends, at `.ctbasis/STEP.json` in the workspace. The exit handler reads the notes, says in an artifact
why the run failed, and decides what a retry of the run still needs. A process that is killed writes nothing more, so
its note still says that it runs.
"""

from __future__ import annotations

import json
import traceback
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ctbasis.errors import CtbasisError, exit_on_error
from ctbasis.jobs.pod import pod_name

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = ".ctbasis"
"""Folder of the notes in the workspace."""

STEPS = ("fetch", "matrix", "svd", "reconstruct", "report")
"""The steps in the order in which they begin; the last two run at the same time."""

DEPLOY = "deploy"
"""The step that a run has after those if it names a served model."""

INVENTORY, PUBLISH, SUMMARY = "inventory", "publish", "summary"
"""The steps that a cohort run has besides: before its jobs, at the end of each, and after all of them."""

EXIT_HANDLER = "cleanup"

NOTE_BYTES = 16384
"""Size of a note's file, filled up with spaces. A note is replaced in place, so that it fits on a full volume too."""

TEXT_LENGTHS = (1000, 300, 80)
"""Characters of one text that a note keeps: the largest of these with which it fits into `NOTE_BYTES`."""

MOST_DETAILS = 15
"""Lines of details that a note keeps, the last ones."""


class State(StrEnum):
    """How far a step came.

    Attributes:
        RUNNING: It has begun. If the run has ended, its process was killed.
        SUCCEEDED: Its program succeeded.
        FAILED: Its program failed, for the reason in the note.
        STOPPED: It received a signal to stop.
    """

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Note:
    """The note of one step. Its texts hold neither patient data nor secrets; see `CtbasisError`.

    Attributes:
        step: Name of the step.
        state: How far it came.
        pod: Name of its pod; empty outside of Kubeflow.
        began: UTC time at which its latest attempt began, ISO 8601.
        ended: UTC time at which its program ended; empty if it did not.
        found: What was found, if it failed.
        expected: What was expected.
        cause: The likely cause.
        remedy: What the user can do.
        details: Further lines, such as the end of the Spark driver's log.
    """

    step: str
    state: State = State.RUNNING
    pod: str = ""
    began: str = ""
    ended: str = ""
    found: str = ""
    expected: str = ""
    cause: str = ""
    remedy: str = ""
    details: tuple[str, ...] = field(default=())

    def ended_as(self, state: State, error: CtbasisError | None = None) -> Self:
        """Return the note of the step at its end.

        Args:
            state: How it ended.
            error: Why it failed.
        """
        reason: dict[str, Any] = {}
        if error is not None:
            reason = {name: getattr(error, name) for name in ("found", "expected", "cause", "remedy", "details")}
        return replace(self, state=state, ended=_now(), **reason)

    @property
    def error(self) -> CtbasisError:
        """The reason of a failure as an error."""
        return CtbasisError(
            self.found, expected=self.expected, cause=self.cause, remedy=self.remedy, details=self.details
        )

    def write(self, workspace: Path) -> None:
        """Write the note. A workspace that cannot be written is not reported: the step itself fails of it."""
        text = next(text for text in map(self._json, TEXT_LENGTHS) if len(text) < NOTE_BYTES)
        path = _path(workspace, self.step)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Opened without truncation, which would give the blocks of the former note back to a full volume.
            with path.open("r+" if path.exists() else "w", encoding="ascii") as file:
                file.write(text.ljust(NOTE_BYTES - 1) + "\n")

    def _json(self, longest: int) -> str:
        values = {**asdict(self), "details": list(self.details[-MOST_DETAILS:])}
        return json.dumps(
            {
                key: value[:longest] if isinstance(value, str) else [line[:longest] for line in value]
                for key, value in values.items()
            }
        )

    @classmethod
    def read(cls, workspace: Path, step: str) -> Self | None:
        """Return the note of a step; None if it has not begun, or its note is damaged."""
        try:
            stored = json.loads(_path(workspace, step).read_text(encoding="ascii"))
            texts = {key: str(stored[key]) for key in (one.name for one in fields(cls)) if key != "details"}
            details = tuple(str(line) for line in stored["details"])
            return cls(**{**texts, "step": step, "state": State(texts["state"]), "details": details})  # type: ignore[arg-type]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def read_notes(workspace: Path) -> list[Note]:
    """Return the notes of the steps that have begun, in the order in which they begin."""
    steps = (INVENTORY, *STEPS, DEPLOY, PUBLISH, SUMMARY)
    return [note for note in (Note.read(workspace, step) for step in steps) if note is not None]


def exit_handler_ran(workspace: Path) -> bool:
    """Return whether the exit handler of this run has succeeded.

    This is so in a run that a user retries after it failed: Argo keeps what succeeded, and does not run it again.
    """
    note = Note.read(workspace, EXIT_HANDLER)
    return note is not None and note.state is State.SUCCEEDED


@contextmanager
def step_of_run(step: str, workspace: str) -> Iterator[None]:
    """Run the program of a step: leave a note of its begin and of its end, and exit with code 2 on a `CtbasisError`.

    Args:
        step: Name of the step.
        workspace: Root of the run's workspace.
    """
    with exit_on_error(), noted(step, Path(workspace)):
        yield


@contextmanager
def noted(step: str, workspace: Path) -> Iterator[None]:
    """Leave a note of the begin of a step and of its end; an error passes through.

    Args:
        step: Name of the step.
        workspace: Root of the run's workspace, or of that of a job of a cohort run.
    """
    note = Note(step, pod=pod_name(), began=_now())
    note.write(workspace)
    try:
        yield
    except CtbasisError as error:
        note.ended_as(State.FAILED, error).write(workspace)
        raise
    except SystemExit:
        note.ended_as(State.STOPPED).write(workspace)
        raise
    except Exception as error:
        note.ended_as(State.FAILED, defect(error)).write(workspace)
        raise
    note.ended_as(State.SUCCEEDED).write(workspace)


def defect(error: Exception) -> CtbasisError:
    """Return the reason of an error that no code expected: its type and place, for its text may hold patient data."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return CtbasisError(
        f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}",
        cause="a fault of ctbasis or of its installation",
        remedy="read the end of the step's log, and report it",
    )


def _path(workspace: Path, step: str) -> Path:
    return workspace / FOLDER / f"{step}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
