from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from ctbasis import threads
from ctbasis.threads import available_cpus, in_order

if TYPE_CHECKING:
    from pathlib import Path


def test_available_cpus_is_bounded_by_affinity_and_container_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = len(os.sched_getaffinity(0))
    assert 1 <= available_cpus() <= allowed
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(threads, "CPU_QUOTA", quota)
    for text, expected in (("max 100000", allowed), ("100000 100000", 1), ("50000 100000", 1), ("garbage", allowed)):
        quota.write_text(text)
        assert available_cpus() == expected
    monkeypatch.setattr(threads, "CPU_QUOTA", tmp_path / "none")
    for text, expected in (("1", 1), ("0", 1), (str(allowed + 1), allowed), ("", allowed), ("many", allowed)):
        monkeypatch.setenv(threads.CPU_SHARE, text)
        assert available_cpus() == expected


def test_results_come_in_the_order_of_the_items_however_long_each_takes() -> None:
    def work(item: int) -> int:
        time.sleep(0.02 if item % 2 == 0 else 0)
        return item * item

    with ThreadPoolExecutor(4) as pool:
        assert list(in_order(pool, work, range(12), ahead=4)) == [item * item for item in range(12)]


def test_no_more_than_the_given_number_of_results_wait_to_be_read() -> None:
    started = 0
    lock = threading.Lock()

    def work(item: int) -> int:
        nonlocal started
        with lock:
            started += 1
        return item

    with ThreadPoolExecutor(4) as pool:
        results = in_order(pool, work, range(100), ahead=3)
        for read in range(1, 20):
            next(results)
            time.sleep(0.001)
            assert started <= read + 3


def test_an_error_of_the_work_is_raised_when_its_result_is_due() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("item 2")
        return item

    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, work, range(5), ahead=4)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="item 2"):
            next(results)
