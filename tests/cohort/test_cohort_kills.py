"""A cohort run that was killed or interrupted is continued by the same command: nothing is lost or done twice."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctbasis.storage.outputs import Results
from ctbasis.storage.working_folder import WORK
from tests.cohort.sources import write_small
from tests.kubeflow.kills import MARK, processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psutil

CTBASIS = Path(sys.executable).with_name("ctbasis")
SERIES = 3
SETTLED_SECONDS = 120.0


PATCH = ("--mode", "patch", "--stride", "5", "--no-wiener")
JOINED = ("--mode", "global", "--rank", "2", "--ranks", "2", "--engine", "numpy")
"""Options of patch mode, which denoises each series alone, and of global mode, which joins them."""


def started(folder: Path, mark: str, mode: tuple[str, ...] = PATCH) -> subprocess.Popen[str]:
    """Start a cohort run of one process."""
    options = ["--out", "out", *mode, "--parallelism", "1"]
    environment = {
        **os.environ,
        MARK: mark,
        "TMPDIR": str(folder / "tmp"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    return subprocess.Popen(
        [str(CTBASIS), "cohort", "ct", *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with a source of three series."""
    (tmp_path / "tmp").mkdir()
    for number in range(SERIES):
        write_small(tmp_path / "ct" / str(number), number)
    return tmp_path


def lines_until(process: subprocess.Popen[str], pattern: str) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        if re.search(pattern, line):
            return
    pytest.fail(f"the run ended before it said {pattern!r}")


def settle(mark: str) -> None:
    """Wait until no process of the run is left."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while processes(mark):
        assert time.monotonic() < deadline, "a process of the run is left"
        time.sleep(0.1)


def series_in_place(folder: Path) -> dict[str, int]:
    """Return the results that are in place, by their folder, with the inode of each."""
    found = {str(path.parent): path.stat().st_ino for path in (folder / "out").rglob("series.json")}
    assert all(Results().foreign(Path(result)) is None for result in found)
    return found


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_ended_in_the_middle_is_continued(end: signal.Signals, place: Path) -> None:
    mark = uuid.uuid4().hex
    with started(place, mark) as process:
        log = list(lines_until(process, r"cohort: 1/3 done"))
        time.sleep(0.5)
        process.send_signal(end)
        log += process.stdout or ()
        code = process.wait()
    settle(mark)
    text = "".join(log)
    assert code == (-end if end == signal.SIGKILL else 130), text
    if end != signal.SIGKILL:
        assert "the same command continues" in text
    assert "Traceback" not in text
    kept = series_in_place(place)
    assert 1 <= len(kept) < SERIES
    assert [path for path in place.rglob(f"*{WORK}*") if path.is_dir()] == []
    assert list((place / "tmp").iterdir()) == []
    with started(place, mark) as process:
        log = list(process.stdout or ())
        assert process.wait() == 0, "".join(log)
    settle(mark)
    now = series_in_place(place)
    assert len(now) == SERIES
    assert {result: now[result] for result in kept} == kept
    done = [line for line in log if re.match(r"cohort: \d/3 done", line)]
    assert len(done) == SERIES - len(kept)


def workers(mark: str) -> list[psutil.Process]:
    """Return the worker processes of a run: one fetches, one denoises."""
    return [one for one in processes(mark) if "ctbasis.cohort.worker" in " ".join(one.cmdline())]


def test_workers_that_are_killed_cost_no_series(place: Path) -> None:
    mark = uuid.uuid4().hex
    with started(place, mark) as process:
        log = list(lines_until(process, r"cohort: 1/3 done"))
        killed = workers(mark)
        assert len(killed) == 2
        for one in killed:
            one.kill()
        log += process.stdout or ()
        assert process.wait() == 0, "".join(log)
    settle(mark)
    assert len(series_in_place(place)) == SERIES


def test_a_worker_that_is_killed_while_it_denoises_joined_series_costs_none(place: Path) -> None:
    mark = uuid.uuid4().hex
    with started(place, mark, JOINED) as process:
        deadline = time.monotonic() + SETTLED_SECONDS
        # The series are in the matrix, and what the steps write lies in the workspace.
        while not list(place.rglob("denoise-1/all/result/qc.json")):
            assert process.poll() is None, (process.stdout or "") and process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        for one in workers(mark):
            one.kill()
        log = list(process.stdout or ())
        assert process.wait() == 0, "".join(log)
    settle(mark)
    assert len(series_in_place(place)) == SERIES
    assert not any("failed" in line for line in log)
