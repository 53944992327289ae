from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from ctbasis.dicom.limits import limited
from ctbasis.dicom.workers import LostError, Workers

if TYPE_CHECKING:
    from collections.abc import Iterator


def squared(number: int) -> int:
    return number * number


def dying(number: int) -> int:
    if number % 7 == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return number * number


def told(number: int, ending: str) -> int:
    assert "SIGSEGV" in ending
    return -number


def raising(number: int) -> int:
    if number == 5:
        raise KeyError(number)
    return number


def spinning(number: int) -> int:
    with limited(seconds=0.2):
        while number == 1:
            pass
    return number


def hoarding(_: int) -> bool:
    try:
        with limited(memory=1 << 28):
            bytearray(1 << 30)
    except MemoryError:
        return len(bytearray(1 << 29)) > 0
    return False


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(2) as running:
        yield running


@pytest.mark.parametrize("count", [0, 1, 5, 200])
def test_results_come_in_the_order_of_items(workers: Workers, count: int) -> None:
    for _ in range(2):
        assert list(workers.map(squared, range(count))) == [number**2 for number in range(count)]


def test_a_process_that_dies_costs_its_item_alone(workers: Workers) -> None:
    expected = [-number if number % 7 == 3 else number**2 for number in range(40)]
    assert list(workers.map(dying, range(40), told)) == expected
    assert list(workers.map(squared, range(40))) == [number**2 for number in range(40)]


def test_a_process_that_dies_where_no_item_is_to_blame_ends_the_pass(workers: Workers) -> None:
    with pytest.raises(LostError, match="SIGSEGV"):
        list(workers.map(dying, range(40)))
    assert list(workers.map(squared, [3])) == [9]


def test_too_many_deaths_end_the_pass() -> None:
    with Workers(2, most_losses=2) as workers, pytest.raises(LostError, match="3 processes died"):
        list(workers.map(dying, range(40), told))


def test_an_exception_of_the_work_is_raised_where_it_is_waited_for(workers: Workers) -> None:
    with pytest.raises(KeyError):
        list(workers.map(raising, range(40)))
    assert list(workers.map(squared, [3])) == [9]


def test_work_that_takes_too_long_is_ended(workers: Workers) -> None:
    endings: list[str] = []

    def note(number: int, ending: str) -> int:
        endings.append(ending)
        return -number

    assert list(workers.map(spinning, range(4), note)) == [0, -1, 2, 3]
    assert endings == ["it takes longer than any file should"]


def test_work_that_takes_too_much_memory_hears_so_and_the_limit_is_lifted_after_it(workers: Workers) -> None:
    assert list(workers.map(hoarding, [1])) == [True]


def test_an_iteration_that_is_left_leaves_no_process_at_work(workers: Workers) -> None:
    results = workers.map(squared, range(1000))
    assert next(results) == 0
    del results
    assert list(workers.map(squared, [4])) == [16]


def test_processes_end_with_their_parent_s_context() -> None:
    with Workers(2) as workers:
        (first, *_) = workers.map(own_id, range(10))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(first, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a worker outlived its context")


def own_id(_: int) -> int:
    return os.getpid()
