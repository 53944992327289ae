"""Time, processor time and memory of a piece of work with all the processes it starts."""

from __future__ import annotations

import threading
import time
from typing import Self

import psutil

SAMPLE_SECONDS = 0.05


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
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._before = _held_mib()
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
            self.peak_mib = max(self.peak_mib, _held_mib() - self._before)


def _held_mib() -> float:
    this = psutil.Process()
    held = 0
    for process in [this, *this.children(recursive=True)]:
        try:
            held += process.memory_full_info().pss
        except psutil.Error:  # it has ended meanwhile
            continue
    return held / 2**20


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
