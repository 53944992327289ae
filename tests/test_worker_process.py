"""A worker process answers request after request, and its end in any way is told and leaves nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from ctbasis.errors import CtbasisError
from ctbasis.worker_process import DiedError, StoppedError, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = """
import json, os, sys, time
for line in sys.stdin:
    request = json.loads(line)
    match request["do"]:
        case "say":
            print(json.dumps({"stage": "reading"}), json.dumps({"stage": "writing"}), sep="\\n", flush=True)
            answer = {"pid": os.getpid(), "tmp": os.environ["TMPDIR"], "own": os.environ["OWN"]}
        case "fail":
            answer = {"error": "the disk is full\\n  remedy: free some space"}
        case "exit":
            print("half an ans", end="", flush=True)
            sys.exit(7)
        case "fork":
            answer = {"child": os.fork() or time.sleep(600)}
        case "sleep":
            time.sleep(600)
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(params=[False, True], ids=["same session", "own session"])
def worker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[WorkerProcess]:
    (tmp_path / "answering.py").write_text(PROGRAM)
    environment = {"PYTHONPATH": str(tmp_path), "OWN": "value"}
    made = WorkerProcess("answering", tmp_path, tmp_path / "log", environment, own_session=request.param)
    yield made
    made.stop()


def test_one_process_answers_all_requests_and_says_what_it_does(worker: WorkerProcess, tmp_path: Path) -> None:
    stages: list[str] = []
    first = worker.call({"do": "say"}, stages.append)
    assert first == {"pid": worker.pid, "tmp": str(tmp_path / "scratch"), "own": "value"}
    assert stages == ["reading", "writing"]
    with pytest.raises(CtbasisError, match=r"the disk is full(?s:.)*free some space"):
        worker.call({"do": "fail"})
    assert worker.call({"do": "say"})["pid"] == first["pid"]
    assert (worker.starts, worker.requests) == (1, 3)
    worker.renew()
    assert worker.call({"do": "say"})["pid"] != first["pid"]
    assert (worker.starts, worker.requests) == (2, 1)


def test_a_death_is_told_and_the_next_request_gets_another_process(worker: WorkerProcess) -> None:
    with pytest.raises(DiedError, match="ended with exit code 7"):
        worker.call({"do": "exit"})
    pid = worker.call({"do": "say"})["pid"]
    os.kill(pid, signal.SIGKILL)
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert worker.call({"do": "say"})["pid"] != pid, "a process that died between two requests costs none"
    assert worker.starts == 3


def test_stopping_from_another_thread_gives_up_the_request_and_ends_what_was_forked(worker: WorkerProcess) -> None:
    child = psutil.Process(worker.call({"do": "fork"})["child"])
    process = worker._process
    threading.Timer(0.2, worker.stop).start()
    with pytest.raises(StoppedError):
        worker.call({"do": "sleep"})
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert process is not None
    assert process.returncode == -signal.SIGKILL
    assert all(stream is not None and stream.closed for stream in (process.stdin, process.stdout))
    with pytest.raises(StoppedError):
        worker.call({"do": "say"})


def test_an_idle_process_ends_by_itself_when_its_input_ends(worker: WorkerProcess) -> None:
    worker.call({"do": "say"})
    process = worker._process
    worker.end()
    assert process is not None
    assert process.returncode == 0
    assert worker.pid is None
