"""Free and used memory of this process, within the limits of its container."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
"""Mount point of cgroup v2, which limits the memory of a container."""

FREE_MEMORY_SHARE = 0.5
"""Share of the free memory that an engine on one machine takes if the user sets no limit."""


def free_memory() -> int:
    """Return the bytes that this process may still allocate: those free on the machine, and in its container."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((CGROUP / "memory.max").read_text(encoding="ascii"))
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or one without a limit
        return free
    return max(0, min(free, limit - used))


def held_memory() -> int:
    """Return the bytes of physical memory that this process holds."""
    return int(psutil.Process().memory_info().rss)
