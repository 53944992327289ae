"""Time, processor time and memory of what runs in other processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from instruments.bench.meter import Meter

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
