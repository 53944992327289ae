"""The worker processes of a cohort run, as the run sees them: started once, and again only if one dies."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError, error_in_log
from ctbasis.threads import CPU_SHARE
from ctbasis.worker_process import DiedError, WorkerProcess

if TYPE_CHECKING:
    from pathlib import Path

LOG_BYTES = 4000
"""Bytes at the end of a log in which the reason of a death is looked for."""

BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables by which the libraries of linear algebra learn how many threads to start."""


@dataclass
class Worker:
    """One worker process.

    Attributes:
        name: Name of its log.
        folder: Folder for its log and for its temporary files.
        cpus: CPUs that it may use.
    """

    name: str
    folder: Path
    cpus: int

    def __post_init__(self) -> None:
        environment = {**dict.fromkeys(BLAS_THREADS, str(self.cpus)), CPU_SHARE: str(self.cpus)}
        self._log = self.folder / f"{self.name}.log"
        self._process = WorkerProcess("ctbasis.cohort.worker", self.folder, self._log, environment)

    def call(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return the answer.

        A process that was killed is started again once for the same request: the machine may have been short of memory,
        and the series is good.

        Raises:
            CtbasisError: The process died of the request, or the answer is an error.
            StoppedError: `stop` was called.
        """
        try:
            return self._process.call(request)
        except DiedError as died:
            if died.code != -signal.SIGKILL:
                raise self._death(died) from died
        try:
            return self._process.call(request)
        except DiedError as died:
            raise self._death(died) from died

    def stop(self) -> None:
        """End the process and its descendants at once; the request that it works on is given up."""
        self._process.stop()

    def end(self) -> None:
        """End the process, which is idle."""
        self._process.end()

    def _death(self, died: DiedError) -> CtbasisError:
        with self._log.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        if told := error_in_log(lines):
            return CtbasisError.from_text(told)
        return CtbasisError(
            f"the process that denoised it {died}",
            cause="memory ran out" if died.code == -signal.SIGKILL else "a library crashed on its data",
            remedy="lower --parallelism or --memory, or denoise the series alone by `ctbasis run`",
        )
