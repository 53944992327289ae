"""Denoise a cohort of many small series, and say whether memory, open files and the time of a series stay constant.

    python -m tests.cohort.soak [SERIES] [PARALLELISM] [PICTURE] [--size SLICES ROWS COLUMNS] [--cpus LIST]

It makes SERIES phantoms of several sizes and kernels (1,000 by default), every twentieth of them broken, and runs
`ctbasis cohort` on them. The table has a row for each twentieth of the run: seconds a series, memory of the run and of
its worker processes, and open files; PICTURE is the same as a plot (PNG). SIZE is that of all phantoms, and CPUS, as
`taskset` takes them, are those of the run. After the table stand the overhead of a series, which is the time that its
steps do not account for, and what the run left. Exit code 1 tells that a bound was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from matplotlib.figure import Figure

from ctbasis.bench.page import save
from ctbasis.printable import show
from ctbasis.report.figures import COLOURS
from ctbasis.storage.working_folder import WORK
from ctbasis.threads import available_cpus
from tests.cohort.sources import SIZES, write_cohort
from tests.kubeflow.kills import MARK, processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CTBASIS = Path(sys.executable).with_name("ctbasis")

OPTIONS = ("--mode", "patch", "--stride", "3", "--no-wiener")

BROKEN_EVERY = 20

WARM = 50
"""Series after which memory and times are compared with the end."""

MOST_GROWTH = 1.1
"""Ratio of the end to the beginning, of memory and of the time of a series."""

MOST_OVERHEAD = 1.0
"""Seconds of a series outside of its steps."""


@dataclass
class Measured:
    """What was measured of one run.

    Attributes:
        ended: Seconds from the start at which each series ended.
        memory: Bytes of all processes together, at that moment.
        files: Open files of all processes together.
        states: State of each series in the order of their ends.
        code: Exit code.
        seconds: Duration of the run.
        steps: Seconds that the steps of each denoised series took.
    """

    ended: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    code: int = 0
    seconds: float = 0.0
    steps: list[float] = field(default_factory=list)


def measure(
    folder: Path, parallelism: int, mark: str, options: Sequence[str] = OPTIONS, *, out: str = "out", cpus: str = ""
) -> Measured:
    """Run the cohort in `folder/ct` and measure it.

    Args:
        folder: Folder of the source and of everything that the run writes.
        parallelism: Processes that denoise.
        mark: Variable by which the processes of the run are found.
        options: Further options of the run.
        out: Name of the output in `folder`.
        cpus: CPUs that the run may use, as `taskset` takes them; empty for all.
    """
    environment = {**os.environ, MARK: mark, "TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "cache")}
    (folder / "tmp").mkdir(exist_ok=True)
    command = [str(CTBASIS), "cohort", "ct", "--out", out, "--parallelism", str(parallelism), *options]
    command = ["taskset", "--cpu-list", cpus, *command] if cpus else command
    measured, start = Measured(), time.monotonic()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        for line in run.stdout or ():
            if match := re.match(r"cohort: \d+/\d+ (done|failed)", line):
                measured.ended.append(time.monotonic() - start)
                measured.states.append(match[1])
                memory, files = _footprint(run.pid)
                measured.memory.append(memory)
                measured.files.append(files)
    measured.code, measured.seconds = run.returncode, time.monotonic() - start
    for path in (folder / out).rglob("series.json"):
        measured.steps.append(sum(json.loads(path.read_text())["steps"].values()))
    return measured


def _footprint(pid: int) -> tuple[int, int]:
    """Return the bytes and the open files of a process and of those below it."""
    memory = files = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0, 0
    for one in family:
        try:
            memory += one.memory_info().rss
            files += one.num_fds()
        except psutil.Error:
            continue
    return memory, files


@dataclass(frozen=True)
class Part:
    """A part of a run: the numbers of its first and last series, and medians over it.

    Attributes:
        first: Number of the first series, from 1, in the order of their ends.
        last: Number of the last series.
        seconds: Mean time from the end of one series to the end of the next.
        memory: Memory of all processes together, in MiB.
        files: Open files of all processes together.
    """

    first: int
    last: int
    seconds: float
    memory: float
    files: float


def parts_of(measured: Measured, parts: int = 20) -> list[Part]:
    """Return the run in `parts` parts of equally many series."""
    count = len(measured.ended)
    size = max(1, count // parts)
    found = []
    for first in range(0, count - size + 1, size):
        part = slice(first, first + size)
        seconds = (measured.ended[first + size - 1] - (measured.ended[first - 1] if first else 0.0)) / size
        memory, files = statistics.median(measured.memory[part]) / 2**20, statistics.median(measured.files[part])
        found.append(Part(first + 1, first + size, seconds, memory, files))
    return found


def table(parts: Sequence[Part]) -> Iterable[str]:
    """Yield the rows of the table."""
    yield f"{'series':>12} {'s/series':>9} {'MiB':>7} {'files':>6}"
    for one in parts:
        yield f"{one.first:>5}-{one.last:<6} {one.seconds:9.2f} {one.memory:7.0f} {one.files:6.0f}"


def plot(parts: Sequence[Part]) -> Figure:
    """Draw the time of a series, memory and open files against the number of series that ended."""
    figure = Figure(figsize=(7, 5.4), layout="constrained")
    ended = [one.last for one in parts]
    rows = (
        ("s a series", [one.seconds for one in parts]),
        ("MiB", [one.memory for one in parts]),
        ("open files", [one.files for one in parts]),
    )
    for axes, (label, values) in zip(figure.subplots(len(rows), sharex=True), rows, strict=True):
        axes.plot(ended, values, "o-", markersize=4, color=COLOURS[0])
        axes.set_ylim(0, 1.3 * max(values))
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("series that ended")
    return figure


def overhead_of(measured: Measured, parallelism: int) -> tuple[float, float]:
    """Return the seconds of a series outside of its steps, and those of its steps, of processes that share the CPUs."""
    steps = statistics.mean(measured.steps or [0.0])
    return measured.seconds * parallelism / max(1, len(measured.ended)) - steps, steps


def faults(measured: Measured, folder: Path, mark: str, series: int, parallelism: int) -> list[str]:
    """Return the bounds that were missed."""
    found = []
    broken = series // BROKEN_EVERY
    if (measured.states.count("done"), measured.states.count("failed")) != (series - broken, broken):
        found.append(f"{measured.states.count('done')} series are done and {measured.states.count('failed')} failed")
    if measured.code != 3 * bool(broken):
        found.append(f"exit code {measured.code}")
    overhead, steps = overhead_of(measured, parallelism)
    show(f"overhead of a series: {overhead:.2f} s, beside {steps:.2f} s of steps")
    if series > WARM and overhead > MOST_OVERHEAD:
        found.append(f"the overhead of a series is {overhead:.2f} s")
    if series > 2 * WARM:
        early, late = slice(WARM, WARM + WARM), slice(-WARM, None)
        for name, values in (("memory", measured.memory), ("open files", measured.files)):
            ratio = statistics.median(values[late]) / statistics.median(values[early])
            show(f"{name} at the end, relative to series {WARM} to {2 * WARM}: {ratio:.2f}")
            if ratio > MOST_GROWTH:
                found.append(f"{name} grew by {ratio:.2f}")
        times = [(measured.ended[part][-1] - measured.ended[part][0]) / (WARM - 1) for part in (early, late)]
        show(f"seconds a series: {times[0]:.2f} then, {times[1]:.2f} at the end")
        if times[1] > MOST_GROWTH * times[0]:
            found.append("series became slower")
    time.sleep(1)
    left = [*processes(mark), *folder.rglob(f"*{WORK}*"), *(folder / "tmp").iterdir()]
    return [*found, *(f"left: {one}" for one in left)]


def main(series: int, parallelism: int, picture: Path | None, size: Sequence[int] | None, cpus: str) -> int:
    """Measure a cohort of `series` series; print what was found and return the number of missed bounds."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="ctbasis-soak-") as name:
        folder = Path(name)
        sizes = [(size[0], size[1], size[2])] if size else SIZES
        write_cohort(folder / "ct", series, broken_every=BROKEN_EVERY, sizes=sizes)
        measured = measure(folder, parallelism, mark, cpus=cpus)
        parts = parts_of(measured)
        show(*table(parts))
        show(f"{series} series in {measured.seconds:.0f} s by {parallelism} processes")
        if picture:
            save(plot(parts), picture)
        missed = faults(measured, folder, mark, series, parallelism)
    show(*(missed or ["no bound was missed"]))
    return len(missed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Denoise a cohort of many small series, and measure the run.")
    parser.add_argument("series", nargs="?", type=int, default=1000)
    parser.add_argument("parallelism", nargs="?", type=int, default=available_cpus())
    parser.add_argument("picture", nargs="?", type=Path)
    parser.add_argument("--size", nargs=3, type=int, metavar=("SLICES", "ROWS", "COLUMNS"))
    parser.add_argument("--cpus", default="")
    sys.exit(bool(main(**vars(parser.parse_args()))))
