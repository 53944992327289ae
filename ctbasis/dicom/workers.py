"""A pool of processes for untrusted files. A process that crashes costs one item, and a new process takes its place.

`ProcessPoolExecutor` gives up the whole pool if one process dies. This pool reports the item that the process was
working on, with the cause of death, and continues with the other items.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
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
"""Forked processes start in milliseconds with all imported modules, and share the memory of the parent."""

TASKS_PER_WORKER = 4
"""Enough tasks that no worker is idle for long at the end, and few enough that distributing them takes no time."""

MAX_TASK_ITEMS = 64
"""Items per task, so that progress is visible and few results have to wait for earlier ones."""

TASKS_AHEAD = 4
"""Tasks per worker that may begin before the first unfinished task is done, which bounds the results in memory."""

STANDARD_ERROR = 2
"""File descriptor of standard error, to which compiled code writes."""

MAX_CRASHES = 100
"""Processes that may die in one pass; without a limit, a source full of bad files would take hours."""

ENDINGS = {
    signal.SIGPROF: "it takes longer than any valid file should",
    signal.SIGKILL: "its process was killed, probably because memory ran out",
}


class WorkerCrashError(Exception):
    """Too many processes died, or one died while it did work for which no file can be the cause."""


@dataclass(frozen=True)
class _Raised:
    """An exception raised by the work, to be sent back to the parent."""

    error: Exception


@dataclass
class _Task:
    """Items for one process, with the results that have arrived."""

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
    """A pool of worker processes, started when they are first needed. Leaving the context ends them.

    Args:
        count: Number of processes. They share the memory that this process has when they start.
        max_crashes: Number of processes that may die in one pass.
    """

    def __init__(self, count: int, *, max_crashes: int = MAX_CRASHES) -> None:
        self.count = count
        self.max_crashes = max_crashes
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(self._workers)

    def map(
        self, work: Callable[[T], R], items: Sequence[T], on_crash: Callable[[T, str], R] | None = None
    ) -> Iterator[R]:
        """Yield the result of `work` for each item, in the order of the items.

        Args:
            work: Function of one item. It, the items and the results are pickled.
            items: The items.
            on_crash: Returns the result for an item whose process died, from the item and the cause of death. None if
                no item can be the cause.

        Raises:
            WorkerCrashError: A process died and `on_crash` is None, or more than `max_crashes` died.
            Exception: An exception raised by `work`.
        """
        size = max(1, min(MAX_TASK_ITEMS, -(-len(items) // (self.count * TASKS_PER_WORKER))))
        tasks = [_Task(items[start : start + size], []) for start in range(0, len(items), size)]
        waiting = deque(tasks)
        crashes = following = 0
        try:
            while following < len(tasks):
                # Tasks begin in order, so this bounds the distance between the last one begun and the first unfinished.
                self._assign(work, waiting, following + self.count * TASKS_AHEAD - (len(tasks) - len(waiting)))
                for worker, task in self._ready():
                    crashes += not self._receive(worker, task, on_crash)
                    if crashes > self.max_crashes:
                        raise WorkerCrashError(f"{crashes} processes died")
                    if worker.task is None and not task.done:
                        waiting.appendleft(task)
                while following < len(tasks) and tasks[following].done:
                    yield from tasks[following].results
                    tasks[following].results = list(tasks[following].items)[:0]
                    tasks[following].items = ()
                    following += 1
        finally:
            # If the caller stops early, the processes that are still working must end.
            self._end([worker for worker in self._workers if worker.task is not None])

    def _assign(self, work: Callable[[Any], Any], waiting: deque[_Task], count: int) -> None:
        for _ in range(self.count - len(self._workers)):
            self._workers.append(_start([worker.pipe for worker in self._workers]))
        for worker in self._workers:
            if worker.task is None and waiting and (count > 0 or waiting[0].results):
                worker.task = waiting.popleft()
                count -= 1
                try:
                    worker.pipe.send((work, worker.task.items[len(worker.task.results) :]))
                except OSError:
                    # The process died while idle; `_receive` will notice.
                    continue

    def _ready(self) -> list[tuple[_Worker, _Task]]:
        """Wait until at least one worker has sent a result or died; return these workers with their tasks."""
        busy = {worker.pipe: (worker, worker.task) for worker in self._workers if worker.task is not None}
        return [busy[pipe] for pipe in wait(list(busy)) if pipe in busy]

    def _receive(self, worker: _Worker, task: _Task, on_crash: Callable[[Any, str], Any] | None) -> bool:
        """Receive one result; return False if the process died instead."""
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            self._handle_crash(worker, task, on_crash)
            return False
        if isinstance(answer, _Raised):
            raise answer.error
        task.results.append(answer)
        task.killed = False
        if task.done:
            worker.task = None
        return True

    def _handle_crash(self, worker: _Worker, task: _Task, on_crash: Callable[[Any, str], Any] | None) -> None:
        worker.process.join()
        exit_code = worker.process.exitcode or 0
        worker.task = None
        self._end([worker])
        if on_crash is None:
            raise WorkerCrashError(_describe_exit(exit_code))
        if exit_code == -signal.SIGKILL and not task.killed:
            # The machine may have been short of memory although the file is good, so it is tried once more.
            task.killed = True
            return
        task.results.append(on_crash(task.items[len(task.results)], _describe_exit(exit_code)))
        task.killed = False

    def _end(self, workers: list[_Worker]) -> None:
        for worker in list(workers):
            worker.process.kill()
            worker.process.join()
            worker.process.close()
            worker.pipe.close()
            self._workers.remove(worker)


def _describe_exit(exit_code: int) -> str:
    if exit_code >= 0:
        return f"its process ended with {exit_code}"
    name = signal.Signals(-exit_code)
    return ENDINGS.get(name, f"its process crashed ({name.name})")


def _start(siblings: list[Connection]) -> _Worker:
    parent_end, child_end = FORK.Pipe()
    process = FORK.Process(target=_serve, args=(child_end, [parent_end, *siblings]), daemon=True)
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork while threads exist, such as zarr's. The child uses none of them, and zarr starts
        # its threads again after a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    child_end.close()
    return _Worker(process, parent_end)


def _serve(pipe: Connection, inherited: list[Connection]) -> None:
    """Process tasks until the parent closes the connection."""
    for connection in inherited:
        # If they stayed open here, sibling processes would not notice the death of the parent.
        connection.close()
    # Ctrl-C is sent to all processes; the parent handles it. Signal handlers of the parent must not run here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stop in (signal.SIGTERM, signal.SIGPROF):
        signal.signal(stop, signal.SIG_DFL)
    # The signal alone describes a crash sufficiently; a memory dump would contain patient data.
    faulthandler.disable()
    # Messages of decoders about damaged files are discarded; the result describes the problem.
    with Path(os.devnull).open("wb") as null:
        os.dup2(null.fileno(), STANDARD_ERROR)
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
    except Exception as error:  # noqa: BLE001 - it is raised again in the parent
        return _Raised(_portable(error))


def _portable(error: Exception) -> Exception:
    """Return an exception that the parent can unpickle, with the type and the text of `error` if its type allows it."""
    # A library such as tblib, which distributed imports, may have changed how all exceptions are pickled: with their
    # traceback and the exceptions during whose handling they were raised, which the parent often cannot unpickle.
    error.__cause__ = error.__context__ = error.__traceback__ = None
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - made in this process
    except Exception:  # noqa: BLE001 - a constructor with other arguments raises anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
