"""The durable queue: what is recorded once stays, and nothing is done twice."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.node.database import Database
from ctbasis.node.outgoing import LONGEST_PAUSE, pause
from ctbasis.node.queue import MOST_ATTEMPTS, Instance, JobState, Queue
from ctbasis.node.status import NotStoredError, Status

if TYPE_CHECKING:
    from ctbasis.node.outgoing import Outgoing


def instance(number: int, *, series: str = "2.25.7", study: str = "2.25.1", digest: str = "") -> Instance:
    return Instance(f"2.25.100.{number}", "1.2.3", study, series, f"f/{number}.dcm", digest or f"d{number}", 10, "CT1")


def test_an_instance_is_recorded_once(queue: Queue) -> None:
    assert queue.record(instance(1))
    assert not queue.record(instance(1))
    found = queue.find("2.25.100.1")
    assert found == instance(1)


def test_other_bytes_under_a_known_sop_instance_uid_are_refused(queue: Queue) -> None:
    queue.record(instance(1))
    with pytest.raises(NotStoredError) as refused:
        queue.record(instance(1, digest="other"))
    assert refused.value.status is Status.DUPLICATE_INSTANCE
    assert queue.find("2.25.100.1") == instance(1)


def test_a_study_gives_a_job_for_each_series(queue: Queue) -> None:
    for number in range(6):
        queue.record(instance(number, series=f"2.25.{number % 2}"))
    queue.record(instance(9, study="2.25.2"))
    jobs = queue.complete("2.25.1")
    assert [(job.series, job.instances) for job in queue.jobs()] == [("2.25.0", 3), ("2.25.1", 3)]
    assert len(jobs) == 2
    assert list(queue.pending_studies()) == ["2.25.2"]
    assert queue.complete("2.25.1") == []


def test_instances_that_come_late_give_a_further_job_for_the_whole_series(queue: Queue) -> None:
    queue.record(instance(1))
    queue.complete("2.25.1")
    queue.record(instance(2))
    queue.complete("2.25.1")
    first, second = queue.jobs()
    assert queue.files(first) == ["f/1.dcm"]
    assert queue.files(second) == ["f/1.dcm", "f/2.dcm"]


def test_a_job_that_ran_when_the_node_died_runs_again(tmp_path: Path) -> None:
    database = Database(tmp_path / "other.db")
    queue = Queue(database)
    queue.record(instance(1))
    queue.complete("2.25.1")
    started = queue.start()
    assert started is not None
    assert queue.start() is None
    database.close()
    again = Queue(Database(tmp_path / "other.db"))
    assert again.resume() == 1
    restarted = again.start()
    assert restarted is not None
    # The series was not to blame.
    assert (restarted.id, restarted.attempts) == (started.id, 1)


def test_a_job_whose_process_always_dies_is_given_up(queue: Queue) -> None:
    queue.record(instance(1))
    queue.complete("2.25.1")
    for _ in range(MOST_ATTEMPTS - 1):
        job = queue.start()
        assert job is not None
        assert queue.retry(job)
    job = queue.start()
    assert job is not None
    assert not queue.retry(job)


def test_a_job_and_its_deliveries_are_one_transaction(queue: Queue, outgoing: Outgoing) -> None:
    queue.record(instance(1))
    (number,) = queue.complete("2.25.1")
    queue.start()
    with pytest.raises(sqlite3.Error):
        # A file that SQLite cannot store fails after the job was marked.
        queue.finish(number, {}, [(object(), Path("x"))], ["A@h:1"])  # type: ignore[list-item]
    job = queue.job(number)
    assert job is not None
    assert job.state is JobState.RUNNING
    assert outgoing.counts() == {}


def test_a_result_that_is_made_again_is_not_sent_again(queue: Queue, outgoing: Outgoing) -> None:
    for number in (1, 2):
        queue.record(instance(number))
        queue.complete("2.25.1")
        job = queue.start()
        assert job is not None
        queue.finish(job.id, {}, [("2.25.5", Path("x.dcm"))], ["A@h:1", "B@h:2"])
        for destination in ("A@h:1", "B@h:2"):
            for delivery in outgoing.due(destination):
                outgoing.begin(delivery.id)
                outgoing.sent(delivery.id)
    assert outgoing.counts() == {"sent": 2}


def test_a_delivery_without_an_answer_is_doubtful_and_a_refused_one_waits(queue: Queue, outgoing: Outgoing) -> None:
    queue.record(instance(1))
    queue.complete("2.25.1")
    job = queue.start()
    assert job is not None
    queue.finish(job.id, {}, [("2.25.5", Path("x")), ("2.25.6", Path("y"))], ["A@h:1"])
    first, second = outgoing.due("A@h:1")
    outgoing.begin(first.id)
    outgoing.refused(second, "status 0xA700", give_up=False)
    (due,) = outgoing.due("A@h:1")
    assert (due.id, due.doubtful) == (first.id, True)
    assert len(outgoing.due("A@h:1", now=2e10)) == 2
    outgoing.refused(second, "status 0xA900", give_up=True)
    assert outgoing.counts(job.id) == {"sending": 1, "failed": 1}


def test_pauses_double_and_are_bounded() -> None:
    assert [pause(attempts) for attempts in (1, 2, 3)] == [5.0, 10.0, 20.0]
    assert pause(10_000) == LONGEST_PAUSE


def test_what_waits_for_a_delivery_does_not_expire(queue: Queue, outgoing: Outgoing) -> None:
    queue.record(instance(1))
    queue.complete("2.25.1")
    job = queue.start()
    assert job is not None
    queue.finish(job.id, {}, [("2.25.5", Path("x"))], ["A@h:1"])
    assert queue.expire(2e10) == ([], [])
    outgoing.sent(outgoing.due("A@h:1")[0].id)
    queue.record(instance(2))
    assert queue.expire(2e10) == ([], [])
    queue.complete("2.25.1")
    assert queue.expire(2e10) == ([], [])
    late = queue.start()
    assert late is not None
    queue.give_up(late.id, JobState.FAILED, {})
    assert queue.expire(1.0) == ([], [])
    assert queue.expire(2e10) == ([job.id, late.id], ["f/1.dcm", "f/2.dcm"])
    assert queue.jobs() == []


@pytest.mark.parametrize("damage", ["of another program", "of another version", "no database", "truncated"])
def test_a_database_that_is_not_the_nodes_own_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "node.db"
    if damage == "no database":
        path.write_bytes(b"thesis" * 1000)
    elif damage == "of another program":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE thesis (page)")
        connection.close()
    else:
        Database(path).close()
        if damage == "truncated":
            path.write_bytes(path.read_bytes()[:-4096])
        else:
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA user_version = 99")
            connection.close()
    before = path.read_bytes()
    with pytest.raises(CtbasisError, match=r"node\.db cannot be opened"):
        Database(path)
    assert path.read_bytes() == before
