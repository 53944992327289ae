"""Measure a cohort in patch mode: one core alone, all cores, and one basis for all series.

    python -m tests.cohort.numbers [SERIES]

It makes SERIES phantoms (24 by default) and denoises them three times. A row of the table is a run: seconds a series,
those of its steps, those outside of them, and the series an hour. Below it stand the throughput of all cores relative
to that of one core times their number, and what the shared basis saves. It needs a machine that does nothing else.
"""

from __future__ import annotations

import sys
import tempfile
import uuid
from pathlib import Path

from ctbasis.printable import show
from ctbasis.threads import available_cpus
from tests.cohort.soak import OPTIONS, Measured, measure, overhead_of
from tests.cohort.sources import write_cohort

SAMPLE = 4
"""Series that the shared basis is learned on: one of each geometry."""

LEAST_THROUGHPUT = 0.9
"""Throughput of all cores, relative to their number times that of one."""


def seconds_of(measured: Measured) -> float:
    """Return the seconds of a series after the first, which pays for the start of Python."""
    return (measured.ended[-1] - measured.ended[0]) / (len(measured.ended) - 1)


def row(name: str, measured: Measured, parallelism: int) -> str:
    """Return a row of the table."""
    overhead, steps = overhead_of(measured, parallelism)
    return (
        f"| {name} | {seconds_of(measured):.2f} | {steps:.2f} | {overhead:.2f} | {3600 / seconds_of(measured):,.0f} |"
    )


def main(series: int) -> int:
    """Print the table; return whether the throughput is below its bound."""
    cores = available_cpus()
    with tempfile.TemporaryDirectory(prefix="ctbasis-numbers-") as name:
        folder, mark = Path(name), uuid.uuid4().hex
        write_cohort(folder / "ct", series)
        one = measure(folder, 1, mark, out="one", cpus="0")
        every = measure(folder, cores, mark, out="all")
        shared = measure(folder, cores, mark, (*OPTIONS, "--basis-from", str(SAMPLE)), out="shared")
    assert [len(one.ended), len(every.ended)] == [series, series]
    show("| run | s a series | s of steps | s outside | series an hour |", "| --- | --- | --- | --- | --- |")
    show(row("one process on one core", one, 1), row(f"{cores} processes on {cores} cores", every, cores))
    show(row(f"the same, one basis of {SAMPLE} series", shared, cores))
    throughput = seconds_of(one) / seconds_of(every) / cores
    show(f"throughput of {cores} cores: {throughput:.2f} x {cores} x that of one")
    show(
        f"a shared basis: {shared.seconds:.0f} s for the cohort, with its learning; a basis each: {every.seconds:.0f} s"
    )
    return int(throughput < LEAST_THROUGHPUT)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 24))
