"""The durable queue of a node: which instances were received, and which series are to be denoised.

An instance belongs to no job until its study is quiet; then every series of the study with new instances gets a job.
A series of which more instances arrive later gets a further job, for all of its instances.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from ctbasis.node.status import NotStoredError, Status

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from ctbasis.node.database import Database

MOST_ATTEMPTS = 3
"""How often a job is started whose process dies of a signal; then the series itself is to blame."""


class JobState(StrEnum):
    """How far a job came.

    Attributes:
        WAITING: It waits for its turn.
        RUNNING: It is denoised. If no node runs, the node was killed meanwhile, and starts it again.
        DONE: It is denoised; its deliveries may still wait.
        FAILED: It cannot be denoised, for the reason in its record.
        REFUSED: No stored basis fits it, and the node may not learn one on it.
    """

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"


STEPS = ("choose", "denoise", "write")
"""Steps of each volume of a series, as a stage names them; the first step of a job reads all volumes."""

ENDED = (JobState.DONE, JobState.FAILED, JobState.REFUSED)


@dataclass(frozen=True)
class Instance:
    """A received instance.

    Attributes:
        sop: SOPInstanceUID.
        sop_class: SOPClassUID.
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        file: Its file, relative to the inbox.
        digest: SHA-256 of its transfer syntax and its data set as sent.
        size: Bytes of its file.
        sender: AE title of the sender.
    """

    sop: str
    sop_class: str
    study: str
    series: str
    file: str
    digest: str
    size: int
    sender: str


@dataclass(frozen=True)
class Job:
    """A series that is to be denoised, or was.

    Attributes:
        id: Number of the job.
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        instances: Number of instances of the series when the job was made.
        state: How far it came.
        stage: What is done with it, such as `denoise 1/1`.
        attempts: How often it was started.
        created: Time at which the series was complete, seconds since 1970.
        ended: Time of its end; None before.
        record: What was done: basis, notes, output series, seconds, or the reason of a failure.
    """

    id: int
    study: str
    series: str
    instances: int
    state: JobState
    stage: str
    attempts: int
    created: float
    ended: float | None
    record: dict[str, Any]

    @property
    def progress(self) -> float:
        """Part of the steps that are done, of a job that runs; 1 of a job that has ended."""
        return 1.0 if self.state in ENDED else progress_of(self.stage)

    @classmethod
    def of(cls, row: sqlite3.Row) -> Self:
        """Return the job of a row."""
        values = dict(row)
        return cls(**{**values, "state": JobState(values["state"]), "record": json.loads(values["record"])})


class Queue:
    """The queue of a node.

    Args:
        database: Database of the node.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def resume(self) -> int:
        """Put jobs that ran when the node was killed, or its disk failed, back into the queue; return their number.

        Such an attempt does not count: the series was not to blame.
        """
        with self._database.transaction() as connection:
            found = connection.execute(
                "UPDATE jobs SET state = ?, stage = '', attempts = max(attempts - 1, 0) WHERE state = ?",
                (JobState.WAITING, JobState.RUNNING),
            )
            return found.rowcount

    def find(self, sop: str) -> Instance | None:
        """Return the stored instance with a SOPInstanceUID; None if there is none."""
        rows = self._database.rows(
            "SELECT sop, sop_class, study, series, file, digest, size, sender FROM instances WHERE sop = ?", sop
        )
        return Instance(**dict(rows[0])) if rows else None

    def record(self, instance: Instance, *, now: float | None = None) -> bool:
        """Record an instance whose file is in place.

        Returns:
            Whether it is new; False if the same instance with the same bytes was recorded before.

        Raises:
            NotStoredError: Another instance with its SOPInstanceUID was recorded before.
            sqlite3.Error: The disk is full or fails.
        """
        with self._database.transaction() as connection:
            row = connection.execute("SELECT digest FROM instances WHERE sop = ?", (instance.sop,)).fetchone()
            if row is None:
                connection.execute(
                    "INSERT INTO instances (sop, sop_class, study, series, file, digest, size, sender, received) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*vars(instance).values(), time.time() if now is None else now),
                )
                return True
        check_duplicate(row["digest"], instance.digest)
        return False

    def pending_studies(self) -> dict[str, float]:
        """Return the studies with instances that belong to no job, each with the time of its newest instance."""
        rows = self._database.rows(
            "SELECT study, max(received) AS newest FROM instances WHERE job IS NULL GROUP BY study"
        )
        return {row["study"]: row["newest"] for row in rows}

    def instance_counts(self, series: Collection[str]) -> dict[str, int]:
        """Return how many instances are recorded of those of the given series that have any."""
        rows = self._database.rows(
            "SELECT series, count(*) AS count FROM instances WHERE series IN (SELECT value FROM json_each(?)) "
            "GROUP BY series",
            json.dumps(list(series)),
        )
        return {row["series"]: row["count"] for row in rows}

    def study_with(self, series: str, instances: Collection[str]) -> str | None:
        """Return the study of a series of which all given instances are recorded; None if one is not."""
        rows = self._database.rows("SELECT sop, study FROM instances WHERE series = ?", series)
        studies = {row["sop"]: row["study"] for row in rows}
        found = {studies.get(sop) for sop in instances}
        return found.pop() if len(found) == 1 else None

    def complete(self, study: str, *, series: Collection[str] = ()) -> list[int]:
        """Make a job of every series of a study with instances that belong to none.

        Args:
            study: StudyInstanceUID.
            series: The only series to take; empty for all.

        Returns:
            The numbers of the jobs.
        """
        made = []
        with self._database.transaction() as connection:
            found = connection.execute(
                "SELECT series, min(received) AS first FROM instances WHERE study = ? AND job IS NULL "
                "GROUP BY series ORDER BY first",
                (study,),
            ).fetchall()
            for uid in [row["series"] for row in found]:
                if series and uid not in series:
                    continue
                (count,) = connection.execute(
                    "SELECT count(*) FROM instances WHERE study = ? AND series = ?", (study, uid)
                ).fetchone()
                job = connection.execute(
                    "INSERT INTO jobs (study, series, instances, state, created) VALUES (?, ?, ?, ?, ?)",
                    (study, uid, count, JobState.WAITING, time.time()),
                ).lastrowid
                connection.execute(
                    "UPDATE instances SET job = ? WHERE study = ? AND series = ? AND job IS NULL", (job, study, uid)
                )
                made.append(int(job or 0))
        return made

    def start(self) -> Job | None:
        """Return the job that waited longest, which runs now; None if none waits."""
        with self._database.transaction() as connection:
            row = connection.execute(
                "SELECT id FROM jobs WHERE state = ? ORDER BY attempts, id LIMIT 1", (JobState.WAITING,)
            ).fetchone()
            if row is None:
                return None
            connection.execute(
                "UPDATE jobs SET state = ?, attempts = attempts + 1 WHERE id = ?", (JobState.RUNNING, row["id"])
            )
        return self.job(row["id"])

    def files(self, job: Job) -> list[str]:
        """Return the files of all instances of a job's series that belong to it or to an earlier job."""
        rows = self._database.rows(
            "SELECT file FROM instances WHERE study = ? AND series = ? AND job <= ? ORDER BY file",
            job.study,
            job.series,
            job.id,
        )
        return [row["file"] for row in rows]

    def report_stage(self, job: int, stage: str) -> None:
        """Record what is done with a running job."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE jobs SET stage = ? WHERE id = ?", (stage, job))

    def finish(
        self, job: int, record: dict[str, Any], outputs: Sequence[tuple[str, Path]], destinations: Sequence[str]
    ) -> None:
        """Record a job as done, and that its results are to be sent, in one transaction.

        Args:
            job: Number of the job.
            record: What was done.
            outputs: SOPInstanceUID and file of each instance of the result.
            destinations: Where each of them goes.
        """
        with self._database.transaction() as connection:
            self._end(connection, job, JobState.DONE, record)
            # A result whose instances were recorded before, by a job with the same result, is not sent again.
            connection.executemany(
                "INSERT OR IGNORE INTO deliveries (job, destination, sop, file, state) VALUES (?, ?, ?, ?, 'waiting')",
                [(job, destination, sop, str(file)) for destination in destinations for sop, file in outputs],
            )

    def give_up(self, job: int, state: JobState, record: dict[str, Any]) -> None:
        """Record a job as failed or refused."""
        with self._database.transaction() as connection:
            self._end(connection, job, state, record)

    def retry(self, job: Job) -> bool:
        """Put a job whose process died back into the queue; return False if it was started MOST_ATTEMPTS times."""
        if job.attempts >= MOST_ATTEMPTS:
            return False
        with self._database.transaction() as connection:
            connection.execute("UPDATE jobs SET state = ?, stage = '' WHERE id = ?", (JobState.WAITING, job.id))
        return True

    def job(self, number: int) -> Job | None:
        """Return a job by its number; None if there is none."""
        rows = self._database.rows("SELECT * FROM jobs WHERE id = ?", number)
        return Job.of(rows[0]) if rows else None

    def jobs(self) -> list[Job]:
        """Return all jobs in the order of their numbers."""
        return [Job.of(row) for row in self._database.rows("SELECT * FROM jobs ORDER BY id")]

    def newest_jobs(
        self, *, study: str = "", state: JobState | None = None, before: int | None = None, limit: int
    ) -> list[Job]:
        """Return jobs, the newest first.

        Args:
            study: StudyInstanceUID of the jobs; empty for all.
            state: State of the jobs; None for all.
            before: The jobs have smaller numbers; None for all.
            limit: Number of jobs at most.
        """
        rows = self._database.rows(
            "SELECT * FROM jobs WHERE ? IN ('', study) AND ? IN ('', state) AND (? IS NULL OR id < ?) "
            "ORDER BY id DESC LIMIT ?",
            study,
            state or "",
            before,
            before,
            limit,
        )
        return [Job.of(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are in each state."""
        rows = self._database.rows("SELECT state, count(*) AS count FROM jobs GROUP BY state")
        return {row["state"]: row["count"] for row in rows}

    def received(self) -> tuple[int, int]:
        """Return how many instances are held, and the bytes of their files."""
        (row,) = self._database.rows("SELECT count(*) AS count, coalesce(sum(size), 0) AS size FROM instances")
        return row["count"], row["size"]

    def known_files(self) -> set[str]:
        """Return the files of all recorded instances."""
        return {row["file"] for row in self._database.rows("SELECT file FROM instances")}

    def expire(self, before: float) -> tuple[list[int], list[str]]:
        """Forget series whose jobs have all ended before a time and that wait for no delivery.

        Returns:
            Numbers of the forgotten jobs, and the files of their instances, which the caller removes.
        """
        with self._database.transaction() as connection:
            found = connection.execute(
                f"SELECT study, series FROM jobs GROUP BY study, series HAVING "  # noqa: S608 - no value from outside
                f"sum(state NOT IN ({', '.join(repr(str(state)) for state in ENDED)})) = 0 AND max(ended) < ? AND "
                "study || ' ' || series NOT IN (SELECT study || ' ' || series FROM instances WHERE job IS NULL) AND "
                "study || ' ' || series NOT IN (SELECT jobs.study || ' ' || jobs.series FROM deliveries JOIN jobs "
                "ON jobs.id = deliveries.job WHERE deliveries.state IN ('waiting', 'sending'))",
                (before,),
            ).fetchall()
            jobs, files = [], []
            for key in [tuple(row) for row in found]:
                files += connection.execute("SELECT file FROM instances WHERE study = ? AND series = ?", key).fetchall()
                jobs += connection.execute("SELECT id FROM jobs WHERE study = ? AND series = ?", key).fetchall()
                connection.execute("DELETE FROM instances WHERE study = ? AND series = ?", key)
            numbers = [(row["id"],) for row in jobs]
            connection.executemany("DELETE FROM deliveries WHERE job = ?", numbers)
            connection.executemany("DELETE FROM jobs WHERE id = ?", numbers)
        return [number for (number,) in numbers], [row["file"] for row in files]

    @staticmethod
    def _end(connection: sqlite3.Connection, job: int, state: JobState, record: dict[str, Any]) -> None:
        connection.execute(
            "UPDATE jobs SET state = ?, stage = '', ended = ?, record = ? WHERE id = ?",
            (state, time.time(), json.dumps(record), job),
        )


def progress_of(stage: str) -> float:
    """Return the part of the steps of a job that are done.

    Args:
        stage: What is done with the job now: `read`, or a step of a volume such as `denoise 1/2`.
    """
    step, _, at = stage.partition(" ")
    number, _, count = at.partition("/")
    if step not in STEPS or not (number.isdecimal() and count.isdecimal()):
        return 0.0
    done = 1 + (int(number) - 1) * len(STEPS) + STEPS.index(step)
    return done / (1 + int(count) * len(STEPS))


def check_duplicate(stored: str, digest: str) -> None:
    """Refuse an instance whose SOPInstanceUID is that of a stored instance with other bytes.

    Args:
        stored: Digest of the stored instance.
        digest: Digest of the new one.

    Raises:
        NotStoredError: The digests differ.
    """
    if stored != digest:
        raise NotStoredError(Status.DUPLICATE_INSTANCE, "another instance with this SOPInstanceUID is stored")
