"""Processes that end with the process that started them, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

PARENT = "CTBASIS_PARENT_PID"
"""Environment variable: the process id of a parent that its children shall not survive."""


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies; for `preexec_fn` and for the start of a child.

    Linux only; elsewhere nothing happens, and a child survives a parent that is killed by SIGKILL. The kernel watches
    the thread that started this process: it must be one that lives as long as its process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_named_parent() -> None:
    """Do so if `PARENT` names this process's parent; exit at once if it named one that is already dead."""
    named = os.environ.get(PARENT, "")
    if not named:
        return
    if os.getppid() != int(named):
        if _alive(int(named)):
            # A process further down that inherited the variable.
            return
        sys.exit(128 + signal.SIGKILL)
    die_with_parent()
    if os.getppid() != int(named):
        sys.exit(128 + signal.SIGKILL)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
