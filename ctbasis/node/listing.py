"""The jobs of a node as lines of text, read from its database while the node may run."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.node.database import DATABASE, Database
from ctbasis.node.outgoing import Outgoing
from ctbasis.node.queue import Queue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from ctbasis.node.queue import Job

COLUMNS = ("job", "complete at", "state", "stage", "instances", "sent", "waiting", "failed", "basis")


def job_lines(state: Path, *, as_json: bool = False) -> list[str]:
    """Return the jobs of a node, one a line, the oldest first.

    Args:
        state: Folder of the node.
        as_json: Whether a line is a JSON document with every detail, such as UIDs; else a table.

    Raises:
        CtbasisError: The folder is not that of a node, or its database cannot be read.
    """
    if not (state / DATABASE).is_file():
        raise CtbasisError(
            f"{state} holds no {DATABASE}",
            expected="the --state folder of a node",
            remedy="name the folder that `ctbasis node` was started with",
        )
    database = Database(state / DATABASE)
    try:
        queue, outgoing = Queue(database), Outgoing(database)
        found = [(job, outgoing.counts(job.id)) for job in queue.jobs()]
    finally:
        database.close()
    if as_json:
        return [json.dumps({**vars(job), "progress": job.progress, "deliveries": counts}) for job, counts in found]
    return table(found)


def table(found: Iterable[tuple[Job, Mapping[str, int]]]) -> list[str]:
    """Return jobs, each with the number of its deliveries by state, as the lines of a table with a head."""
    rows = [COLUMNS, *(tuple(_cells(job, counts)) for job, counts in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cells(job: Job, counts: Mapping[str, int]) -> Iterator[str]:
    yield str(job.id)
    yield datetime.fromtimestamp(job.created, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    yield str(job.state)
    yield job.stage or "-"
    yield str(job.instances)
    for name in ("sent", "waiting", "failed"):
        yield str(counts.get(name, 0) + (counts.get("sending", 0) if name == "waiting" else 0))
    yield ", ".join(str(volume["basis"]) for volume in job.record.get("volumes", ())) or str(
        job.record.get("found", "-")
    )
