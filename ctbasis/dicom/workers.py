"""Processes that read untrusted files and may be lost to them: each loss costs one item, and a fresh process goes on.

`ProcessPoolExecutor` gives up the whole pool when one process dies. Here the item that it was at is reported as lost,
with how the process ended, and a new process takes up the rest.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import signal
import warnings
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess

T = TypeVar("T")
R = TypeVar("R")

FORK = multiprocessing.get_context("fork")
"""Forked processes start in milliseconds with all that is imported, and share memory that was there before."""

TASKS_PER_WORKER = 4
"""Enough that no worker idles long at the end of a pass, few enough that handing them out costs nothing."""

LARGEST_TASK = 64
"""Items in a task at most, so that progress shows and few results wait for an earlier one."""

AHEAD = 4
"""Tasks for each worker that may be begun before the first unfinished one is done: results wait in memory."""

STANDARD_ERROR = 2
"""Its file descriptor, which compiled code writes to."""

MOST_LOSSES = 100
"""Processes that a pass may lose to its files: with more it would take hours to find out that none is good."""

ENDINGS = {
    signal.SIGPROF: "it takes longer than any file should",
    signal.SIGKILL: "its process was killed, as happens when memory runs out",
}


class LostError(Exception):
    """A process died at work that no file can be blamed for, or more died than the files can be blamed for."""


@dataclass(frozen=True)
class _Raised:
    """An exception of the work itself, on its way back."""

    error: Exception


@dataclass
class _Task:
    """Items that one process works through, with the results that have arrived."""

    items: Sequence[Any]
    results: list[Any]
    killed: bool = False

    @property
    def done(self) -> bool:
        return len(self.results) == len(self.items)


@dataclass
class _Worker:
    process: ForkProcess
    pipe: Connection
    task: _Task | None = None


class Workers:
    """`count` processes, started when they are first needed; a context manager, which ends them.

    Args:
        count: Of processes. What this process has in memory when they start is shared with them.
        most_losses: Processes that a pass may lose before it is given up.
    """

    def __init__(self, count: int, *, most_losses: int = MOST_LOSSES) -> None:
        self.count = count
        self.most_losses = most_losses
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(self._workers)

    def map(self, work: Callable[[T], R], items: Sequence[T], lost: Callable[[T, str], R] | None = None) -> Iterator[R]:
        """Yield what `work` makes of each item, in order.

        Args:
            work: Of one item; it, items and results are pickled.
            items: What is worked through.
            lost: Makes the result of an item whose process died, from the item and how that ended. None where no item
                can be to blame.

        Raises:
            LostError: A process died and `lost` is None, or more than `most_losses` did.
            Exception: What `work` raised.
        """
        size = max(1, min(LARGEST_TASK, -(-len(items) // (self.count * TASKS_PER_WORKER))))
        tasks = [_Task(items[start : start + size], []) for start in range(0, len(items), size)]
        waiting = deque(tasks)
        losses = following = 0
        try:
            while following < len(tasks):
                # Tasks begin in order, so this bounds how far the last begun is ahead of the first unfinished.
                self._hand_out(work, waiting, following + self.count * AHEAD - (len(tasks) - len(waiting)))
                for worker, task in self._answering():
                    losses += not self._receive(worker, task, lost)
                    if losses > self.most_losses:
                        raise LostError(f"{losses} processes died")
                    if worker.task is None and not task.done:
                        waiting.appendleft(task)
                while following < len(tasks) and tasks[following].done:
                    yield from tasks[following].results
                    tasks[following].results = list(tasks[following].items)[:0]
                    tasks[following].items = ()
                    following += 1
        finally:
            # An iteration that was left leaves work behind that nobody will collect.
            self._end([worker for worker in self._workers if worker.task is not None])

    def _hand_out(self, work: Callable[[Any], Any], waiting: deque[_Task], count: int) -> None:
        for _ in range(self.count - len(self._workers)):
            self._workers.append(_start([worker.pipe for worker in self._workers]))
        for worker in self._workers:
            if worker.task is None and waiting and (count > 0 or waiting[0].results):
                worker.task = waiting.popleft()
                count -= 1
                try:
                    worker.pipe.send((work, worker.task.items[len(worker.task.results) :]))
                except OSError:
                    # It died idle, and reading from it will say so.
                    continue

    def _answering(self) -> list[tuple[_Worker, _Task]]:
        busy = {worker.pipe: (worker, worker.task) for worker in self._workers if worker.task is not None}
        return [busy[pipe] for pipe in wait(list(busy)) if pipe in busy]

    def _receive(self, worker: _Worker, task: _Task, lost: Callable[[Any, str], Any] | None) -> bool:
        """Take one result; return False where there was a dead process instead."""
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            self._bury(worker, task, lost)
            return False
        if isinstance(answer, _Raised):
            raise answer.error
        task.results.append(answer)
        task.killed = False
        if task.done:
            worker.task = None
        return True

    def _bury(self, worker: _Worker, task: _Task, lost: Callable[[Any, str], Any] | None) -> None:
        worker.process.join()
        ending = worker.process.exitcode or 0
        worker.task = None
        self._end([worker])
        if lost is None:
            raise LostError(_words(ending))
        if ending == -signal.SIGKILL and not task.killed:
            # Perhaps the machine was short of memory and the file is good: once more.
            task.killed = True
            return
        task.results.append(lost(task.items[len(task.results)], _words(ending)))
        task.killed = False

    def _end(self, workers: list[_Worker]) -> None:
        for worker in list(workers):
            worker.process.kill()
            worker.process.join()
            worker.process.close()
            worker.pipe.close()
            self._workers.remove(worker)


def _words(ending: int) -> str:
    if ending >= 0:
        return f"its process ended with {ending}"
    name = signal.Signals(-ending)
    return ENDINGS.get(name, f"its process crashed ({name.name})")


def _start(others: list[Connection]) -> _Worker:
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=_serve, args=(theirs, [ours, *others]), daemon=True)
    with warnings.catch_warnings():
        # Python 3.12 warns of forking while there are threads, such as zarr's: the child uses none of them, and zarr
        # starts its own anew after a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _serve(pipe: Connection, inherited: list[Connection]) -> None:
    """Work through tasks until the other end is closed."""
    for other in inherited:
        # Held open here, they would keep a sibling waiting for ever after the parent's death.
        other.close()
    # An interrupt from the keyboard goes to all; the parent answers it. A stop meant for the parent is not ours to
    # answer with its handlers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stop in (signal.SIGTERM, signal.SIGPROF):
        signal.signal(stop, signal.SIG_DFL)
    # A crash says enough by its signal, and a dump of memory would hold a patient's data.
    faulthandler.disable()
    # What decoders write about a damaged file, be it tracebacks of compiled code, a result says in words.
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), STANDARD_ERROR)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            work, items = pipe.recv()
            for item in items:
                pipe.send(_result(work, item))
        except (EOFError, OSError):
            return


def _result(work: Callable[[Any], Any], item: Any) -> Any:
    try:
        return work(item)
    except Exception as error:  # noqa: BLE001 - it is raised again where it is waited for
        return _Raised(error)
