"""Whole nodes in tests: a small series for them, and waiting until what they received is delivered."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.node.queue import Job
    from ctbasis.node.service import Node

    StartNode = Callable[..., Node]

SECONDS = 240.0
"""Time for one series, with the start of a process, on a loaded machine."""


def ended(node: Node, count: int = 1) -> list[Job]:
    """Wait until `count` jobs have ended and everything is delivered; return the jobs."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        jobs = [job for job in node.queue.jobs() if job.ended is not None]
        if len(jobs) >= count and not {"waiting", "sending"} & node.outgoing.counts().keys():
            return jobs
        time.sleep(0.1)
    pytest.fail(f"after {SECONDS:g} s: {node.queue.jobs()}, {node.outgoing.counts()}")
