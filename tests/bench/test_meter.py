"""Time, processor time and memory of other processes are measured."""

from __future__ import annotations

import resource
import subprocess
import sys

import psutil
import pytest

from ctbasis.bench.meter import Meter, touch_free_memory

HELD = 150
"""MiB that the measured process allocates."""

HOLDS = f"held = bytearray(b'x') * ({HELD} << 20); import os, time; {{}}; time.sleep(0.8)"


@pytest.mark.parametrize("then", ["pass", "os.fork()"], ids=["alone", "with a child that shares them"])
def test_shared_pages_are_counted_once(then: str) -> None:
    with Meter() as meter:
        subprocess.run([sys.executable, "-c", HOLDS.format(then)], check=True)
    assert 0.9 * HELD < meter.peak_mib < 1.5 * HELD
    assert meter.seconds > 0.8


def test_processor_time_includes_children_and_hardly_any_of_the_meter() -> None:
    with Meter() as meter:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(1)"], check=True)
    assert 0 < meter.cpu_seconds < 0.5


def test_free_memory_is_touched_once_and_released() -> None:
    size = 256 << 20
    before, faults = psutil.Process().memory_info().rss, resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    touch_free_memory(size)
    # Pages may be huge pages of 2 MiB instead of 4 KiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults >= size >> 21
    assert psutil.Process().memory_info().rss - before < size / 4
    touch_free_memory(0)
