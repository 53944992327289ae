"""The node's side of the process that denoises: one process that lives on, and is started again if it dies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctbasis.worker_process import DiedError, StoppedError, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctbasis.node.task import Task

JOBS_PER_PROCESS = 100
"""Series after which a new process is started, so that memory that a library keeps does not add up."""


class ProcessDiedError(Exception):
    """The process died in the middle of a series; its text says how."""


class RefusedError(Exception):
    """No stored basis fits the series; its text is that of the error."""


@dataclass
class Denoiser:
    """One process that denoises series, one after the other.

    Attributes:
        folder: Folder for its log and its temporary files, which hold images of patients.
    """

    folder: Path

    def __post_init__(self) -> None:
        # The log names series by their UIDs; it lies beside the images, and holds one process' lines. In a session of
        # its own the process ends itself and what it forked, and Ctrl-C at the terminal ends the node first.
        log = self.folder / "log"
        self._worker = WorkerProcess("ctbasis.node.worker", self.folder, log, own_session=True, fresh_log=True)

    def denoise(self, task: Task, report: Callable[[str], None]) -> dict[str, Any]:
        """Denoise a series and return its record, see `ctbasis.node.worker.run`.

        Args:
            task: The series.
            report: Called with what is being done.

        Raises:
            CtbasisError: The series cannot be denoised.
            RefusedError: No basis fits it.
            ProcessDiedError: The process died.
        """
        if self._worker.requests >= JOBS_PER_PROCESS:
            self._worker.renew()
        try:
            answer = self._worker.call(vars(task), report)
        except StoppedError as stopped:
            raise ProcessDiedError("was stopped") from stopped
        except DiedError as died:
            log = "" if died.code < 0 else f", see {self.folder.name}/log"
            raise ProcessDiedError(f"{died}{log}") from died
        if "refused" in answer:
            raise RefusedError(answer["refused"])
        record: dict[str, Any] = answer["record"]
        return record

    def stop(self) -> None:
        """End the process and start no other; a series in work is given up."""
        self._worker.end()
