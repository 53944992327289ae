"""What a node has to send: the instances of results, and reports of storage commitment.

An instance is marked as being sent before the first byte leaves, and as sent when its destination has acknowledged it.
Where a node is killed or an association is lost in between, the mark says that the destination may have the instance;
it is asked before the instance is sent again.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctbasis.node.status import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctbasis.node.database import Database

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 900.0
"""Seconds between the first two attempts, which double after each, and their longest."""

ANSWER_FIRST = 1.0
"""Seconds after a request of storage commitment before which no report is sent."""

BATCH = 500
"""Instances that are sent on one association at most."""


def pause(attempts: int) -> float:
    """Return the seconds after which something is tried again that failed `attempts` times."""
    return float(min(FIRST_PAUSE * 2.0 ** min(max(attempts - 1, 0), 30), LONGEST_PAUSE))


@dataclass(frozen=True)
class Delivery:
    """An instance that is to be sent to a destination.

    Attributes:
        id: Number of the delivery.
        job: Number of the job that made the instance.
        sop: SOPInstanceUID.
        file: Path of the instance.
        doubtful: Whether an earlier attempt ended without an answer, so that the destination may have it.
        attempts: How often the destination refused it.
    """

    id: int
    job: int
    sop: str
    file: str
    doubtful: bool
    attempts: int


@dataclass(frozen=True)
class Commitment:
    """A request of storage commitment whose report is due.

    Attributes:
        id: Number of the request.
        transaction: TransactionUID.
        title: AE title of the requestor.
        instances: SOPClassUID and SOPInstanceUID of each instance that it asks about.
        attempts: How often the report failed.
    """

    id: int
    transaction: str
    title: str
    instances: tuple[tuple[str, str], ...]
    attempts: int


class Outgoing:
    """The part of the queue that is sent.

    Args:
        database: Database of the node.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, destination: str, *, now: float | None = None) -> list[Delivery]:
        """Return the instances that may be sent to a destination now, oldest first, at most BATCH."""
        rows = self._database.rows(
            "SELECT id, job, sop, file, state = 'sending' AS doubtful, attempts FROM deliveries "
            "WHERE destination = ? AND state IN ('waiting', 'sending') AND due <= ? ORDER BY id LIMIT ?",
            destination,
            time.time() if now is None else now,
            BATCH,
        )
        return [Delivery(**{**dict(row), "doubtful": bool(row["doubtful"])}) for row in rows]

    def begin(self, delivery: int) -> None:
        """Mark a delivery as being sent."""
        self._set_state(delivery, "sending")

    def sent(self, delivery: int) -> None:
        """Mark a delivery as acknowledged by its destination."""
        self._set_state(delivery, "sent")

    def refused(self, delivery: Delivery, reason: str, *, give_up: bool) -> None:
        """Record that the destination refused an instance; it is offered again after a pause, unless given up.

        Args:
            delivery: The delivery.
            reason: Status of the destination.
            give_up: Whether it is not tried again.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE deliveries SET state = ?, attempts = attempts + 1, due = ?, reason = ? WHERE id = ?",
                (
                    "failed" if give_up else "waiting",
                    time.time() + pause(delivery.attempts + 1),
                    reason,
                    delivery.id,
                ),
            )

    def counts(self, job: int = 0) -> dict[str, int]:
        """Return how many deliveries there are in each state: `waiting`, `sending`, `sent`, `failed`.

        Args:
            job: Number of the job whose deliveries count; 0 for all.
        """
        rows = self._database.rows(
            "SELECT state, count(*) AS count FROM deliveries WHERE ? IN (0, job) GROUP BY state", job
        )
        return {row["state"]: row["count"] for row in rows}

    def ask_commitment(self, transaction: str, title: str, instances: Sequence[tuple[str, str]]) -> int:
        """Record a request of storage commitment; the same request is recorded once. Return its number."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO commitments (transaction_uid, title, instances, state, created, due) "
                "VALUES (?, ?, ?, 'waiting', ?, ?)",
                # The answer to the request goes first.
                (transaction, title, json.dumps(list(instances)), time.time(), time.time() + ANSWER_FIRST),
            )
            (number,) = connection.execute(
                "SELECT id FROM commitments WHERE transaction_uid = ? AND title = ?", (transaction, title)
            ).fetchone()
        return int(number)

    def due_commitments(self) -> list[Commitment]:
        """Return the requests whose report may be sent now."""
        rows = self._database.rows(
            "SELECT * FROM commitments WHERE state = 'waiting' AND due <= ? ORDER BY id", time.time()
        )
        return [
            Commitment(
                row["id"],
                row["transaction_uid"],
                row["title"],
                tuple((sop_class, sop) for sop_class, sop in json.loads(row["instances"])),
                row["attempts"],
            )
            for row in rows
        ]

    def check_commitment(self, commitment: Commitment) -> dict[str, Status]:
        """Return for each instance of a request whether it is stored."""
        outcome = {}
        for sop_class, sop in commitment.instances:
            rows = self._database.rows("SELECT sop_class FROM instances WHERE sop = ?", sop)
            if not rows:
                outcome[sop] = Status.NO_SUCH_INSTANCE
            else:
                outcome[sop] = Status.SUCCESS if rows[0]["sop_class"] == sop_class else Status.CLASS_CONFLICT
        return outcome

    def commitment_reported(self, number: int) -> None:
        """Record that the report of a request arrived."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE commitments SET state = 'reported' WHERE id = ?", (number,))

    def commitment_failed(self, commitment: Commitment, *, give_up: bool) -> None:
        """Record that the report of a request could not be sent; it is tried again after a pause, unless given up."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE commitments SET state = ?, attempts = attempts + 1, due = ? WHERE id = ?",
                (
                    "failed" if give_up else "waiting",
                    time.time() + pause(commitment.attempts + 1),
                    commitment.id,
                ),
            )

    def forget_commitments(self, before: float) -> None:
        """Forget requests that were made before a time and are reported or given up."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM commitments WHERE state != 'waiting' AND created < ?", (before,))

    def _set_state(self, delivery: int, state: str) -> None:
        with self._database.transaction() as connection:
            connection.execute("UPDATE deliveries SET state = ? WHERE id = ?", (state, delivery))

    def summary(self) -> Mapping[str, int]:
        """Return how many deliveries wait for each destination."""
        rows = self._database.rows(
            "SELECT destination, count(*) AS count FROM deliveries WHERE state IN ('waiting', 'sending') "
            "GROUP BY destination"
        )
        return {row["destination"]: row["count"] for row in rows}
