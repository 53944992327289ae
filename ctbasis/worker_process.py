"""A process of ctbasis that lives on: it reads requests from its standard input and answers each on standard output.

A new process costs seconds, for Python and the numerical libraries; a process that lives on pays them once. Requests
and answers are one line of JSON each. Before its answer, a process may write lines with the key `stage`, which say what
it is doing. An answer with the key `error` holds the text of a `CtbasisError`.

The process ends with its standard input, so it does not outlive a program that was killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from ctbasis.errors import CtbasisError
from ctbasis.installed import LAYOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

END_SECONDS = 10.0
"""Seconds that a process gets to end when its standard input ends, before it is killed."""


class StoppedError(Exception):
    """The process was stopped for good, and the request was given up."""


class DiedError(Exception):
    """The process died of a request, or was killed; the text says how.

    Attributes:
        code: Its exit code; negative for the number of a signal.

    Args:
        code: As the attribute.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}")
        self.code = code


@dataclass
class WorkerProcess:
    """One process, started when it is first needed, and again after it died.

    Attributes:
        module: Module that the process runs.
        folder: Folder for its temporary files, in `scratch`.
        log: File for its standard error.
        environment: Environment variables besides those of this process.
        own_session: Whether it leads a session of its own, so that a signal of the terminal does not reach it, and what
            it forked ends with it.
        fresh_log: Whether the log begins anew with each process.
        starts: How often a process was started.
        requests: Requests that the present process was given.
    """

    module: str
    folder: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    own_session: bool = False
    fresh_log: bool = False
    starts: int = 0
    requests: int = 0
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)
    _stopped: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def call(self, request: Mapping[str, Any], report: Callable[[str], None] | None = None) -> dict[str, Any]:
        """Send a request and return the answer.

        Args:
            request: The request, a JSON object.
            report: Called with each stage that the process says.

        Raises:
            CtbasisError: The answer is an error.
            DiedError: The process died.
            StoppedError: `stop` or `end` was called.
        """
        process = self._running()
        answer = self._answer(process, request, report)
        if answer is None:
            raise self._died(process)
        if "error" in answer:
            raise CtbasisError.from_text(answer["error"])
        return answer

    def stop(self) -> None:
        """End the process and its descendants at once, and start no other; a request in work is given up."""
        process = self._forbidden()
        if process is not None:
            _kill(process)
            process.wait()
            _close(process)

    def end(self) -> None:
        """End the process and start no other; it gets `END_SECONDS` to end by itself."""
        process = self._forbidden()
        if process is not None:
            _end(process)

    def renew(self) -> None:
        """End the process, which is idle; the next request starts another."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            _end(process)

    @property
    def pid(self) -> int | None:
        """Id of the process; None if none runs."""
        process = self._process
        return None if process is None else process.pid

    def _forbidden(self) -> subprocess.Popen[str] | None:
        """Forbid another process, and return the present one."""
        with self._lock:
            self._stopped = True
            process, self._process = self._process, None
        return process

    def _answer(
        self, process: subprocess.Popen[str], request: Mapping[str, Any], report: Callable[[str], None] | None
    ) -> dict[str, Any] | None:
        """Return the answer; None if the process died before it."""
        if process.stdin is None or process.stdout is None:
            return None
        # Another thread may close the pipes, and a process that died reads nothing.
        with suppress(OSError, ValueError):
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        while (line := _line(process)).endswith("\n"):
            answer: dict[str, Any] = json.loads(line)
            if "stage" not in answer:
                return answer
            if report is not None:
                report(answer["stage"])
        return None

    def _died(self, process: subprocess.Popen[str]) -> Exception:
        code = process.wait()
        if self.own_session:
            # Those that it forked do not end with it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        _close(process)
        with self._lock:
            if self._stopped:
                return StoppedError()
            if self._process is process:
                self._process = None
        return DiedError(code)

    def _running(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._stopped:
                raise StoppedError
            if self._process is None or self._process.poll() is not None:
                if self._process is not None:
                    _close(self._process)
                self._process = self._start()
                self.starts += 1
                self.requests = 0
            self.requests += 1
            return self._process

    def _start(self) -> subprocess.Popen[str]:
        temporary = self.folder / "scratch"
        temporary.mkdir(parents=True, exist_ok=True, mode=0o700)
        environment = {
            **os.environ,
            "TMPDIR": str(temporary),
            "MPLBACKEND": "Agg",
            "PYTHONPATH": LAYOUT.python_path(),
            **self.environment,
        }
        with self.log.open("w" if self.fresh_log else "a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", self.module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                start_new_session=self.own_session,
            )


def _line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process writes; an empty or an incomplete one at its end."""
    if process.stdout is not None:
        with suppress(OSError, ValueError):
            return process.stdout.readline()
    return ""


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        # What could not be written any more is dropped.
        with suppress(OSError):
            process.stdin.close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        _kill(process)
        process.wait()
    _close(process)


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(process.pid)
        for one in [*leader.children(recursive=True), leader]:
            with suppress(psutil.NoSuchProcess):
                one.kill()


def _close(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
