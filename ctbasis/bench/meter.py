"""Time, processor time and memory of a piece of work with all the processes it starts."""

from __future__ import annotations

import mmap
import threading
import time
from contextlib import suppress
from typing import Self

import psutil

SAMPLE_SECONDS = 0.05

SHARE = 0.02
"""Of the time, for telling what is shared: the kernel goes through all pages, 20 ms for those of a large JVM."""


def touch_free_memory(most: int) -> None:
    """Write to each page of so much memory once and give it back, or of half of what is available if that is less.

    The host of a virtual machine may take back what the machine has free, and gives it again page by page when it is
    touched, several times slower than the machine's own kernel makes a page. Whoever is measured first after a pause
    would pay for that.

    Args:
        most: Bytes.
    """
    size = min(most, psutil.virtual_memory().available // 2)
    if size < mmap.PAGESIZE:
        return
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for start in range(0, size, mmap.PAGESIZE):
            memory[start] = 1


class Meter:
    """Measures what runs inside its `with`.

    Attributes:
        seconds: Wall time.
        cpu_seconds: User and system time of this process and of all below it, running or ended.
        peak_mib: Largest sum, over this process and all its descendants, of proportional set sizes (shared pages are
            counted once), sampled every `SAMPLE_SECONDS`; less what this process held at the start.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.peak_mib = 0.0
        self._held = _Held()
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._before = self._held.mib()
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
            self.peak_mib = max(self.peak_mib, self._held.mib() - self._before)


class _Held:
    """Memory of this process and all below it, proportional set sizes.

    These take the kernel long, resident set sizes nothing. The two differ by what is shared, which changes when a
    process is forked and else slowly: it is measured with each new process, and as often as `SHARE` allows.
    """

    def __init__(self) -> None:
        self._shared: dict[int, int] = {}
        self._born = time.perf_counter()
        self._spent = 0.0

    def mib(self) -> float:
        """Return what is held now."""
        this = psutil.Process()
        resident: dict[int, int] = {}
        processes = [this, *this.children(recursive=True)]
        for process in processes:
            with suppress(psutil.Error):  # it has ended meanwhile
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
    """Return what this process and all below it have used, those that have ended included."""
    this = psutil.Process()
    used = 0.0
    for process in [this, *this.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:  # it has ended meanwhile, and is in its parent's account
            continue
        used += times.user + times.system + times.children_user + times.children_system
    return used
