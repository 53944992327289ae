"""Removal of what runs have left below an S3 prefix: the stores of runs that failed, were terminated or were deleted.

A run that fails keeps its stores for a retry, and Kubeflow runs no exit handler after a run that was retried or
deleted. `ctbasis sweep` removes what is left once nobody can retry the run; a CronJob calls it
(manifests/components/sweep).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.runs import API, FINAL_STATES
from ctbasis.kubeflow.server import AbsentError, NoAnswerError, get
from ctbasis.storage import run_folders, stores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kfp.client import Client

    from ctbasis.storage.run_folders import RunFolder

UNKNOWN_AFTER = timedelta(hours=1)
"""Time since the last write after which the folder of a run that the server does not know is removed."""


@dataclass(frozen=True)
class Decision:
    """What is done with the folder of a run.

    Attributes:
        folder: The folder.
        remove: Whether its stores are removed.
        reason: Why.
    """

    folder: RunFolder
    remove: bool
    reason: str

    def __str__(self) -> str:
        return f"{'remove' if self.remove else 'keep'} {self.folder.uri}: {self.reason}"


def sweep(
    prefix: str,
    *,
    older_than: timedelta,
    client: Client | None = None,
    dry_run: bool = False,
    now: datetime | None = None,
) -> Iterator[Decision]:
    """Decide for each marked folder below `prefix` whether it is removed, remove it, and yield the decision.

    A folder is removed if its run is over for longer than `older_than`, or if the server does not have the run any
    more. Without a server, and for a run of `ctbasis run`, the time of the last write counts in place of the end.

    Args:
        prefix: `s3://bucket/prefix`, the value of the parameter `store` of the runs. All runs on Kubeflow below it must
            be runs of the one server, because a run of another server counts as deleted.
        older_than: How long the stores of a run are kept after its end.
        client: The server of the runs, from `connect`; None to decide by the time of the last write alone.
        dry_run: Decide, and remove nothing.
        now: The present; None for that of this machine.

    Raises:
        CtbasisError: `prefix` is not on S3 or a whole bucket; S3 or the server denies access or does not answer.
    """
    if not prefix:
        raise CtbasisError("no prefix is given", expected="s3://bucket/prefix, the store of the runs")
    stores.validate_prefix(prefix)
    for folder in run_folders.marked(prefix):
        decision = _decide(folder, client, older_than, now or datetime.now(UTC))
        if decision.remove and not dry_run:
            stores.delete_run(folder.uri)
        yield decision


def _decide(folder: RunFolder, client: Client | None, older_than: timedelta, now: datetime) -> Decision:
    since_write = now - folder.written
    if client is None or not folder.on_kubeflow:
        return Decision(folder, since_write > older_than, f"last written {_age(since_write)} ago")
    try:
        run = get(client, f"{API}/runs/{folder.run}", action="to send the state of a run")
    except AbsentError:
        reason = f"the server has no such run; last written {_age(since_write)} ago"
        return Decision(folder, since_write > UNKNOWN_AFTER, reason)
    except NoAnswerError:
        raise
    except CtbasisError as error:
        return Decision(folder, remove=False, reason=error.found)
    state = str(run.get("state") or "of unknown state")
    if state not in FINAL_STATES:
        return Decision(folder, remove=False, reason=f"the run is {state}")
    ended = _time(run.get("finished_at")) or folder.written
    return Decision(folder, now - ended > older_than, f"the run ended as {state} {_age(now - ended)} ago")


def _time(text: object) -> datetime | None:
    """Return a time that the server has sent; None for none, which it sends as the year 1970 or not at all."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return time if time.timestamp() > 0 else None


def _age(age: timedelta) -> str:
    hours = age / timedelta(hours=1)
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"  # noqa: PLR2004 - from here on hours say no more
