"""The pool of worker processes: order of results, crashes, exceptions and resource limits."""

from __future__ import annotations

import copyreg
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
import tblib.pickling_support

from ctbasis.dicom.resource_limits import limited
from ctbasis.dicom.workers import WorkerCrashError, Workers
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Iterator


def square(number: int) -> int:
    return number * number


def crash_sometimes(number: int) -> int:
    if number % 7 == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return number * number


def crashed_result(number: int, ending: str) -> int:
    assert "SIGSEGV" in ending
    return -number


def raise_at_five(number: int) -> int:
    if number == 5:
        raise KeyError(number)
    return number


class ArgumentsError(Exception):
    """An exception that cannot be unpickled, because its constructor takes other arguments than it keeps."""

    def __init__(self, message: str, pattern: str) -> None:
        super().__init__(message)
        self.pattern = pattern


def raise_one_that_cannot_be_unpickled(number: int) -> int:
    raise ArgumentsError("unbalanced", str(number))


def refuse_because_of_one_that_cannot_be_unpickled(number: int) -> int:
    try:
        return raise_one_that_cannot_be_unpickled(number)
    except ArgumentsError as error:
        raise CtbasisError(f"not valid: {error}") from error


def loop_at_one(number: int) -> int:
    with limited(seconds=0.2):
        while number == 1:
            pass
    return number


def exceed_memory(_: int) -> bool:
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
def test_results_are_in_the_order_of_the_items(workers: Workers, count: int) -> None:
    for _ in range(2):
        assert list(workers.map(square, range(count))) == [number**2 for number in range(count)]


def test_a_process_that_dies_costs_one_item_only(workers: Workers) -> None:
    expected = [-number if number % 7 == 3 else number**2 for number in range(40)]
    assert list(workers.map(crash_sometimes, range(40), crashed_result)) == expected
    assert list(workers.map(square, range(40))) == [number**2 for number in range(40)]


def test_a_crash_without_a_handler_raises_an_error(workers: Workers) -> None:
    with pytest.raises(WorkerCrashError, match="SIGSEGV"):
        list(workers.map(crash_sometimes, range(40)))
    assert list(workers.map(square, [3])) == [9]


def test_too_many_crashes_raise_an_error() -> None:
    with Workers(2, max_crashes=2) as workers, pytest.raises(WorkerCrashError, match="3 processes died"):
        list(workers.map(crash_sometimes, range(40), crashed_result))


def test_an_exception_in_a_worker_is_raised_in_the_parent(workers: Workers) -> None:
    with pytest.raises(KeyError):
        list(workers.map(raise_at_five, range(40)))
    assert list(workers.map(square, [3])) == [9]


def test_an_exception_that_cannot_be_unpickled_is_raised_with_its_type_and_its_text(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tblib, if another test has imported it, can unpickle it.
    monkeypatch.delitem(copyreg.dispatch_table, ArgumentsError, raising=False)
    with pytest.raises(RuntimeError, match=r"^ArgumentsError: unbalanced$"):
        list(workers.map(raise_one_that_cannot_be_unpickled, [1]))


def test_a_refusal_reaches_the_parent_where_a_library_pickles_exceptions_with_their_causes(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # distributed calls tblib.pickling_support.install() when it is imported. The entries are removed after the test.
    for kind in (CtbasisError, ArgumentsError):
        monkeypatch.setitem(copyreg.dispatch_table, kind, tblib.pickling_support.pickle_exception)
    with pytest.raises(CtbasisError, match="not valid: unbalanced"):
        list(workers.map(refuse_because_of_one_that_cannot_be_unpickled, [1]))


def test_work_beyond_the_time_limit_is_killed(workers: Workers) -> None:
    endings: list[str] = []

    def record_ending(number: int, ending: str) -> int:
        endings.append(ending)
        return -number

    assert list(workers.map(loop_at_one, range(4), record_ending)) == [0, -1, 2, 3]
    assert endings == ["it takes longer than any valid file should"]


def test_work_beyond_the_memory_limit_raises_memory_error_and_the_limit_is_lifted_afterwards(workers: Workers) -> None:
    assert list(workers.map(exceed_memory, [1])) == [True]


def test_abandoning_the_iteration_stops_the_processes_at_work(workers: Workers) -> None:
    results = workers.map(square, range(1000))
    assert next(results) == 0
    del results
    assert list(workers.map(square, [4])) == [16]


def test_leaving_the_context_ends_the_processes() -> None:
    with Workers(2) as workers:
        (first, *_) = workers.map(process_id, range(10))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(first, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a worker outlived its context")


def process_id(_: int) -> int:
    return os.getpid()
