"""The process that denoises: its death costs one attempt, and nothing that it started outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from ctbasis.errors import CtbasisError
from ctbasis.node.denoiser import Denoiser, ProcessDiedError
from ctbasis.node.task import LEARN, Task

if TYPE_CHECKING:
    from pathlib import Path


def test_a_process_that_dies_is_told_and_the_next_series_gets_another(tmp_path: Path) -> None:
    denoiser = Denoiser(tmp_path / "worker")
    task = Task(str(tmp_path / "missing"), str(tmp_path / "out"), "", LEARN)
    stages: list[str] = []

    def kill(stage: str) -> None:
        stages.append(stage)
        if len(stages) == 1:
            assert denoiser._worker.pid is not None
            os.kill(denoiser._worker.pid, signal.SIGKILL)

    with pytest.raises(ProcessDiedError, match="SIGKILL"):
        denoiser.denoise(task, kill)
    with pytest.raises(CtbasisError, match="missing"):
        denoiser.denoise(task, kill)
    assert stages == ["read", "read"]
    process = denoiser._worker._process
    denoiser.stop()
    assert process is not None
    assert process.returncode is not None
    assert denoiser._worker.pid is None
    with pytest.raises(ProcessDiedError, match="stopped"):
        denoiser.denoise(task, kill)


def test_a_process_ends_with_its_node_and_takes_what_it_forked_along() -> None:
    program = (
        "import os, time\nfrom ctbasis.node import worker\n"
        "import threading\nthreading.Thread(target=lambda: (time.sleep(0.2), "
        "os.fork() or time.sleep(600)), daemon=True).start()\nworker.main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not psutil.Process(process.pid).children():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (child,) = psutil.Process(process.pid).children()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == -signal.SIGKILL
    _, alive = psutil.wait_procs([child], timeout=20)
    assert alive == []
