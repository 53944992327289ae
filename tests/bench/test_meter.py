"""Time, processor time and memory of what runs in other processes."""

from __future__ import annotations

import resource
import subprocess
import sys

import psutil
import pytest

from ctbasis.bench.meter import Meter, touch_free_memory

HELD = 150
"""MiB."""

HOLDS = f"held = bytearray(b'x') * ({HELD} << 20); import os, time; {{}}; time.sleep(0.8)"


@pytest.mark.parametrize("then", ["pass", "os.fork()"], ids=["alone", "with a child that shares them"])
def test_pages_are_counted_once_however_many_processes_share_them(then: str) -> None:
    with Meter() as meter:
        subprocess.run([sys.executable, "-c", HOLDS.format(then)], check=True)
    assert 0.9 * HELD < meter.peak_mib < 1.5 * HELD
    assert meter.seconds > 0.8


def test_processor_time_is_that_of_children_too_and_hardly_any_of_the_meter() -> None:
    with Meter() as meter:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(1)"], check=True)
    assert 0 < meter.cpu_seconds < 0.5


def test_free_memory_is_touched_once_and_given_back() -> None:
    size = 256 << 20
    before, faults = psutil.Process().memory_info().rss, resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    touch_free_memory(size)
    # Pages may be huge: 2 MiB and not 4 KiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults >= size >> 21
    assert psutil.Process().memory_info().rss - before < size / 4
    touch_free_memory(0)
