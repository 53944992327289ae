"""A cohort of two hundred series, ten of them broken: each has its outcome, and nothing is done twice or left.

The series are of four geometries and three kernels. Global mode joins them to four matrices, each with broken series in
it, so that the test takes seconds; a report of its own for each would take minutes. `python -m tests.cohort.soak`
measures those, in patch mode.
"""

from __future__ import annotations

import csv
import json
import resource
import statistics
import uuid
from typing import TYPE_CHECKING

from ctbasis.cli.cohort import PARTLY
from ctbasis.printable import show
from ctbasis.storage.working_folder import WORK
from tests.cohort.soak import MOST_OVERHEAD, measure
from tests.cohort.sources import write_cohort
from tests.kubeflow.kills import processes

if TYPE_CHECKING:
    from pathlib import Path

SERIES, BROKEN_EVERY, PARALLELISM = 200, 19, 2
SIZES = ((8, 32, 32), (8, 24, 32), (6, 32, 24), (8, 28, 28))
OPTIONS = ("--mode", "global", "--rank", "4", "--ranks", "4", "--engine", "numpy", "--seed", "1")


def left(folder: Path, mark: str) -> list[object]:
    """Return the processes, working folders and temporary files of a run that ended."""
    return [*processes(mark), *folder.rglob(f"*{WORK}*"), *(folder / "tmp").iterdir()]


def results(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of change of what completes each result."""
    found = (folder / "out").rglob("series.json")
    return {str(path.parent.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def seconds_of_steps(folder: Path) -> float:
    """Return the seconds that the steps took; joined series share theirs, and state them each."""
    reports = {}
    for path in (folder / "out").rglob("series.json"):
        stored = json.loads(path.read_text())
        reports[stored["record"]["report"]] = sum(stored["steps"].values())
    assert len(reports) == len(SIZES)
    return sum(reports.values())


def cpu_seconds() -> float:
    """Return the CPU time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_two_hundred_series_of_which_ten_are_broken(tmp_path: Path) -> None:
    broken = write_cohort(tmp_path / "ct", SERIES, broken_every=BROKEN_EVERY, sizes=SIZES)
    mark = uuid.uuid4().hex
    before_run = cpu_seconds()
    first = measure(tmp_path, PARALLELISM, mark, OPTIONS)
    cpu = (cpu_seconds() - before_run) / SERIES
    assert first.code == PARTLY
    assert (first.states.count("done"), first.states.count("failed")) == (SERIES - len(broken), len(broken))
    rows = list(csv.DictReader((tmp_path / "out" / "summary.csv").read_text(encoding="utf-8-sig").splitlines()))
    failed = {row["series"]: row["reason"] for row in rows if row["state"] == "failed"}
    assert set(failed) == set(broken)
    assert len(broken) == 10
    assert all("decode" in reason for reason in failed.values()), failed
    assert len({(row["rows"], row["columns"], row["slices"], row["kernel"]) for row in rows}) == 12
    assert left(tmp_path, mark) == []
    # One file that each series leaves open would add 150.
    assert statistics.median(first.files[-50:]) < statistics.median(first.files[:50]) + 50
    overhead = (first.seconds * PARALLELISM - seconds_of_steps(tmp_path)) / SERIES
    show(f"overhead of a series: {overhead:.2f} s; CPU time of a series, with its steps: {cpu:.2f} s")
    # The time on the wall depends on what else the machine does.
    assert cpu < MOST_OVERHEAD

    before = results(tmp_path)
    assert len(before) == SERIES - len(broken)
    again = measure(tmp_path, PARALLELISM, mark, OPTIONS)
    assert again.code == PARTLY
    assert set(again.states) == {"failed"}, "a series that failed is tried again, and no other"
    assert results(tmp_path) == before
    assert left(tmp_path, mark) == []
