"""Threads of this process: how many CPUs it may use, and a parallel map that returns its results in order."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future

T = TypeVar("T")
R = TypeVar("R")

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""cgroup v2 file with the container's CPU quota: microseconds of CPU time per period, and the period."""

CPU_SHARE = "CTBASIS_CPUS"
"""Environment variable: CPUs that a process may use at most, where several processes share those of the machine."""


def available_cpus() -> int:
    """Return the number of CPUs this process may use.

    It is the least of its affinity, its container's quota (cgroup v2) and the environment variable `CPU_SHARE`.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get(CPU_SHARE, "")
    if share.isdecimal():
        allowed = max(1, min(allowed, int(share)))
    try:
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
        return max(1, min(allowed, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return allowed


def in_order(pool: Executor, work: Callable[[T], R], items: Iterable[T], *, ahead: int) -> Iterator[R]:
    """Run `work` on each item in `pool` and yield the results in the order of the items.

    Args:
        pool: Executor that runs the calls.
        work: Function of one item.
        items: Its arguments.
        ahead: Largest number of calls that are running, or finished and not yet yielded; this bounds the memory that
            results occupy.

    Raises:
        Exception: Whatever `work` raised, when its result is due.
    """
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(pool.submit(work, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
