"""The measurement of what the checks of stores cost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ctbasis.bench import checks
from ctbasis.bench.checks import CHECKS, CheckTimer, bench_checks
from ctbasis.storage import stored_array

if TYPE_CHECKING:
    from pathlib import Path

STEPS = ["fetch", "matrix", "svd", "reconstruct", "report", "all"]


def test_a_check_within_a_check_counts_once_and_threads_count_too() -> None:
    timer = CheckTimer()

    def busy() -> None:
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass

    inner = timer.timed(busy)
    timer.timed(inner)()
    assert timer.seconds == pytest.approx(0.05, abs=0.02)


def test_every_step_of_both_modes_is_measured_and_a_slow_checksum_shows(
    series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "PLANS", {"global": checks.PLANS["global"]})
    before = [vars(owner)[name] for owner, name in CHECKS]
    rows = bench_checks(series)
    assert [row["step"] for row in rows] == STEPS
    assert all(0 <= row["share"] < 1 for row in rows)
    assert rows[-1]["check_seconds"] > 0
    fast = stored_array.crc32c

    def slow(content: bytes) -> int:
        for _ in range(20_000):
            checksum = fast(content)
        return checksum

    monkeypatch.setattr(stored_array, "crc32c", slow)
    slower = bench_checks(series)
    assert slower[-1]["check_seconds"] > 3 * rows[-1]["check_seconds"]
    monkeypatch.undo()
    assert [vars(owner)[name] for owner, name in CHECKS] == before
