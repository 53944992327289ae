"""When a series is complete: after a quiet time that begins with the last instance, or with the node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctbasis.node.completeness import Completeness
from ctbasis.node.queue import Instance

if TYPE_CHECKING:
    from ctbasis.node.queue import Queue


def receive(queue: Queue, number: int, *, at: float, study: str = "2.25.1", series: str = "2.25.2") -> None:
    one = Instance(f"2.25.9.{number}", "1.2", study, series, f"{number}.dcm", "d", 1, "CT1")
    assert queue.record(one, now=at)


def test_a_study_is_complete_when_all_its_series_are_quiet(queue: Queue) -> None:
    complete = Completeness(queue, 30.0, set)
    receive(queue, 1, at=100.0)
    receive(queue, 2, at=120.0, series="2.25.3")
    assert complete.step(now=149.0) == []
    assert len(complete.step(now=150.0)) == 2
    assert complete.step(now=500.0) == []


def test_studies_do_not_wait_for_each_other(queue: Queue) -> None:
    complete = Completeness(queue, 30.0, set)
    receive(queue, 1, at=100.0)
    receive(queue, 2, at=129.0, study="2.25.7")
    assert len(complete.step(now=130.0)) == 1


def test_a_study_whose_sender_is_connected_is_not_complete(queue: Queue) -> None:
    busy = {"2.25.1"}
    complete = Completeness(queue, 30.0, lambda: busy)
    receive(queue, 1, at=100.0)
    assert complete.step(now=1000.0) == []
    busy.clear()
    assert len(complete.step(now=1000.0)) == 1


def test_a_sender_gets_the_quiet_time_after_the_node_was_down(queue: Queue) -> None:
    complete = Completeness(queue, 30.0, set, since=1000.0)
    receive(queue, 1, at=100.0)
    assert complete.step(now=1029.0) == []
    assert len(complete.step(now=1030.0)) == 1


def test_a_clock_that_was_set_back_keeps_no_study_for_ever(queue: Queue) -> None:
    complete = Completeness(queue, 30.0, set)
    receive(queue, 1, at=1e6)
    assert complete.step(now=1e6 - 10) == []
    assert len(complete.step(now=1e6 - 3600)) == 1
