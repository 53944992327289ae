"""New series below an S3 prefix: the folders for which a Kubeflow server has no run yet.

A recurring run of Kubeflow repeats one run with the same parameters, and would process the whole prefix again each
time. Here, each folder directly below the prefix, such as one series or one patient, is the source of a run of its own.
The runs of the server are the record of what was processed: nothing is written to the bucket, which the steps need only
to read, and no folder is lost or processed twice if a schedule starts late or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.runs import listed_runs
from ctbasis.storage.object_store import ObjectStore
from ctbasis.storage.objects import is_s3

if TYPE_CHECKING:
    from kfp.client import Client

QUIET = timedelta(minutes=10)
"""Time without a new object after which a folder counts as complete."""

NEWER_THAN = timedelta(days=7)

STATES = ("new", "arriving", "seen", "old")


@dataclass(frozen=True)
class Arrival:
    """A folder below a prefix, as a source of a run.

    Attributes:
        source: Its URI.
        objects: The number of its objects.
        newest: When its newest object was written.
        state: "new", "arriving" if an object was written less than `QUIET` ago, "seen" if the server has a run of it
            that was created after its newest object, or "old" if nothing was written to it for too long.
    """

    source: str
    objects: int
    newest: datetime
    state: str


def arrivals(
    client: Client,
    prefix: str,
    *,
    experiment: str = "ctbasis",
    newer_than: timedelta = NEWER_THAN,
    now: datetime | None = None,
) -> list[Arrival]:
    """Return the folders directly below a prefix, in the order of their newest objects.

    A run that failed counts too: what failed once is for a person to look at, and to retry or submit by its name. A run
    that was deleted does not count.

    Args:
        client: From `server.connect`.
        prefix: `s3://bucket/prefix`, which this machine must be able to list.
        experiment: The experiment whose runs count.
        newer_than: Folders to which nothing was written for longer are "old". It bounds what the first call finds, and
            must be less than the time for which the server keeps its runs.
        now: The present; None for that of this machine.

    Raises:
        CtbasisError: `prefix` is not on S3; S3 or the server denies access or does not answer.
    """
    if not is_s3(prefix):
        raise CtbasisError(
            f"{prefix!r} is not on S3, and has no folders of new series",
            expected="s3://bucket/prefix",
            remedy="give the prefix below which new series are stored, each in a folder of its own",
        )
    now = now or datetime.now(tz=UTC)
    root = prefix.rstrip("/")
    folders: dict[str, list[datetime]] = {}
    for key, written in ObjectStore(root).written().items():
        folder, separator, _ = key.partition("/")
        if separator:
            folders.setdefault(f"{root}/{folder}", []).append(written)
    started = _started(client, experiment)
    found = []
    for source, times in folders.items():
        newest = max(times)
        if now - newest > newer_than:
            state = "old"
        elif source in started and started[source] >= newest:
            state = "seen"
        else:
            state = "arriving" if now - newest < QUIET else "new"
        found.append(Arrival(source, len(times), newest, state))
    return sorted(found, key=lambda arrival: arrival.newest)


def _started(client: Client, experiment: str) -> dict[str, datetime]:
    """Return when the last run of each source was created, by source."""
    started: dict[str, datetime] = {}
    for run in listed_runs(client, experiment):
        if not run.get("created_at"):
            continue  # The server could not read its own record of the run.
        source = str(((run.get("runtime_config") or {}).get("parameters") or {}).get("source") or "").rstrip("/")
        created = datetime.fromisoformat(str(run["created_at"]))
        started[source] = max(created, started.get(source, created))
    return started
