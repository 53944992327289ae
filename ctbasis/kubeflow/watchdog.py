"""A process that outlives a local run and clears up after it if the run was killed.

The run holds one end of a pipe. When the run ends, however it ends, the kernel closes that end. If the run did not say
before that it is done, the watchdog ends every process that carries the run's token in its environment: the steps,
their JVM, and their workers. Then it removes the run's working folders, which may hold identified DICOM files: the one
beside the output folder and the one for temporary files.

A watchdog that is killed as well leaves the folders to the next run (`ctbasis.storage.working_folder`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ctbasis.storage.working_folder import remove_remains

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TOKEN = "CTBASIS_RUN_TOKEN"  # noqa: S105 - marks processes, and is no secret
"""Environment variable that every process of a run inherits."""

DONE = b"done"
"""Message of a run that ended in order."""

END_SECONDS = 10.0
"""Time in seconds within which the processes of a killed run are ended, again and again while new ones appear."""

POLL_SECONDS = 0.1


@contextmanager
def watched(*folders: Path) -> Iterator[None]:
    """Clear up after this process if it dies within the context: end its descendants, remove its working folders.

    Args:
        folders: Folders in which the working folders lie or will lie; make these within the context.
    """
    token = uuid.uuid4().hex
    command = [sys.executable, "-m", "ctbasis.kubeflow.watchdog", token, *map(str, folders)]
    # In a session of its own, so that Ctrl-C and a signal to the run's process group do not end it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as dog:
        try:
            with variable(TOKEN, token):
                yield
        finally:
            with suppress(BrokenPipeError):
                dog.communicate(DONE)


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable, which all processes that start within the context inherit."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def main(token: str, folders: Sequence[Path]) -> None:
    """Wait until the run ends; clear up unless it says that it is done."""
    if sys.stdin.buffer.read() == DONE:
        return
    end_processes(token)
    for folder in folders:
        remove_remains(folder)


def end_processes(token: str) -> None:
    """Kill every process of this user whose environment holds the token."""
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        running = [process for process in psutil.process_iter() if _carries(process, token)]
        if not running:
            return
        for process in running:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(running, timeout=POLL_SECONDS)


def _carries(process: psutil.Process, token: str) -> bool:
    try:
        return process.environ().get(TOKEN) == token and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


if __name__ == "__main__":
    main(sys.argv[1], [Path(folder) for folder in sys.argv[2:]])
