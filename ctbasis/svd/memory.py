"""How much memory an engine on one machine may take: as the user writes it, and what is free here."""

from __future__ import annotations

import re
from pathlib import Path

import psutil

from ctbasis.errors import CtbasisError

CGROUP = Path("/sys/fs/cgroup")
"""cgroup v2, which limits a container's memory where the machine has more."""

SHARE = 0.5
"""Of what is free, taken where the user sets no limit."""

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_memory(text: str) -> int:
    """Read a size in bytes as the user writes it; empty or `auto` is 0, for a share of what is free.

    >>> parse_memory("3GiB") == parse_memory("3g") == 3 * 2**30
    True

    Raises:
        CtbasisError: It is no size.
    """
    wanted = text.strip().lower()
    if wanted in {"", "auto"}:
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", wanted)
    if match is None or float(match[1]) == 0:
        raise CtbasisError(f"memory {text.strip()!r}", expected="a size such as 512MiB, 3GiB or 3g, or auto")
    return int(float(match[1]) * UNITS[match[2]])


def free_memory() -> int:
    """Return the bytes that this process may still take: what is free on the machine, and in its container."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((CGROUP / "memory.max").read_text(encoding="ascii"))
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or one without a limit
        return free
    return max(0, min(free, limit - used))


def held_memory() -> int:
    """Return the bytes that this process holds."""
    return int(psutil.Process().memory_info().rss)
