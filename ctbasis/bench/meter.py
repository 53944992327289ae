"""Measurement of time, processor time and memory of this process and of all processes that it starts."""

from __future__ import annotations

import mmap
import threading
import time
from contextlib import suppress
from typing import Self

import psutil

SAMPLE_SECONDS = 0.05
"""Seconds between samples of the memory."""

SHARE = 0.02
"""Largest fraction of the time spent on measuring shared memory; the kernel visits all pages, 20 ms for a large JVM."""


def touch_free_memory(most: int) -> None:
    """Write to every page of free memory once and release it.

    The host of a virtual machine may take back its free memory, and returns it page by page when it is touched, several
    times slower than the guest kernel allocates a page. Otherwise the first measurement after a pause would include
    this time.

    Args:
        most: Largest number of bytes; at most half of the available memory is touched.
    """
    size = min(most, psutil.virtual_memory().available // 2)
    if size < mmap.PAGESIZE:
        return
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for start in range(0, size, mmap.PAGESIZE):
            memory[start] = 1


class Meter:
    """Context manager that measures the work inside its `with`.

    Attributes:
        seconds: Wall-clock time.
        cpu_seconds: User and system time of this process and of all its descendants, running or ended.
        peak_mib: Largest sum of the proportional set sizes of this process and all its descendants (shared pages are
            counted once), sampled every `SAMPLE_SECONDS`, minus the sum at the start.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.peak_mib = 0.0
        self._memory = _MemoryInUse()
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._before = self._memory.mib()
        self._cpu = _cpu_seconds()
        self._start = time.perf_counter()
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self._stop.set()
        self._sampler.join()
        self.cpu_seconds = _cpu_seconds() - self._cpu

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak_mib = max(self.peak_mib, self._memory.mib() - self._before)


class _MemoryInUse:
    """Memory of this process and all its descendants, as the sum of proportional set sizes.

    The kernel computes proportional set sizes slowly and resident set sizes at once. The two differ by the shared
    pages, which change when a process is forked and otherwise slowly. The difference is therefore measured with each
    new process, and otherwise as often as `SHARE` allows.
    """

    def __init__(self) -> None:
        self._shared: dict[int, int] = {}
        self._born = time.perf_counter()
        self._spent = 0.0

    def mib(self) -> float:
        """Return the memory in use now, MiB."""
        this = psutil.Process()
        resident: dict[int, int] = {}
        processes = [this, *this.children(recursive=True)]
        for process in processes:
            with suppress(psutil.Error):  # the process has ended in the meantime
                resident[process.pid] = process.memory_info().rss
        started = time.perf_counter()
        if not resident.keys() <= self._shared.keys() or self._spent <= SHARE * (started - self._born):
            self._shared = {}
            for process in processes:
                with suppress(psutil.Error):
                    memory = process.memory_full_info()
                    self._shared[process.pid] = memory.rss - memory.pss
                    resident[process.pid] = memory.rss
            self._spent += time.perf_counter() - started
        return sum(bytes_ - self._shared.get(pid, 0) for pid, bytes_ in resident.items()) / 2**20


def _cpu_seconds() -> float:
    """Return the processor time of this process and all its descendants, including those that have ended."""
    this = psutil.Process()
    used = 0.0
    for process in [this, *this.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:  # the process has ended, and its time counts as its parent's
            continue
        used += times.user + times.system + times.children_user + times.children_system
    return used
