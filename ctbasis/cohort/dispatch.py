"""Jobs through worker processes: objects are fetched ahead, and every job is computed by a process that lives on.

One thread of this process stands for each worker process. A job passes from the threads of the fetching processes to
those of the computing ones; the number of jobs that are fetched and not yet computed is bounded, and with it the disk
space that they take.
"""

from __future__ import annotations

import queue
import shutil
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from ctbasis.cohort.denoise import Member, Task
from ctbasis.cohort.plan import digest
from ctbasis.cohort.record import SeriesRecord, State, failed
from ctbasis.cohort.state import known_by
from ctbasis.cohort.workers import Worker
from ctbasis.errors import CtbasisError
from ctbasis.worker_process import StoppedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ctbasis.cohort.plan import CohortPlan
    from ctbasis.cohort.preparation import Assignment
    from ctbasis.cohort.state import Known
    from ctbasis.parameters import SvdPlan

Records: TypeAlias = "list[SeriesRecord]"

SERIES_PER_FETCHER = 4
"""Computing processes that one fetching process serves; it fetches eight objects at the same time."""

FETCHES_IN_VAIN = 10
"""Consecutive jobs none of whose series can be fetched, after which the run ends: a key expired, or a server is off."""


@dataclass
class _Fetched:
    assignment: Assignment
    workspace: Path
    sources: list[Path | None]
    failures: dict[int, SeriesRecord]
    content: str
    seconds: float


@dataclass(frozen=True)
class Processes:
    """The worker processes of a run.

    Attributes:
        computing: Processes that denoise.
        fetching: Processes that fetch.
    """

    computing: tuple[Worker, ...]
    fetching: tuple[Worker, ...]


@contextmanager
def worker_processes(parallelism: int, cpus: int, folder: Path) -> Iterator[Processes]:
    """Provide worker processes; they end with the context, at once if it ends by an error.

    Args:
        parallelism: Processes that compute.
        cpus: CPUs that they share.
        folder: Folder for their logs and temporary files.
    """
    share = max(1, cpus // parallelism)
    computing = tuple(Worker(f"worker-{number}", folder, share) for number in range(parallelism))
    fetching = tuple(Worker(f"fetch-{number}", folder, 1) for number in range(-(-parallelism // SERIES_PER_FETCHER)))
    try:
        yield Processes(computing, fetching)
    except BaseException:
        for worker in (*computing, *fetching):
            worker.stop()
        raise
    for worker in (*computing, *fetching):
        worker.end()


@dataclass(frozen=True)
class Dispatch:
    """What the worker processes do with jobs.

    Attributes:
        plan: The plan of the cohort.
        svd: Parameters of the svd step, with the basis and the memory of one process.
        settings: Digest of the settings.
        folder: Folder for the files of jobs under way.
        processes: The worker processes.
        request: `denoise`, or `learn`.
    """

    plan: CohortPlan
    svd: SvdPlan
    settings: str
    folder: Path
    processes: Processes
    request: str = "denoise"

    def run(self, assignments: Iterator[Assignment]) -> Iterator[Records]:
        """Yield the records of one job after another, as they are computed.

        Args:
            assignments: The jobs; read as the run proceeds.
        """
        passage = _Passage(self, assignments)
        work = [(passage.fetch, worker) for worker in self.processes.fetching]
        work += [(passage.compute, worker) for worker in self.processes.computing]
        threads = [threading.Thread(target=target, args=(worker,), daemon=True) for target, worker in work]
        for thread in threads:
            thread.start()
        try:
            yield from passage.results(len(threads))
        finally:
            passage.stop()
        for thread in threads:
            thread.join()

    def task(self, fetched: _Fetched) -> Task:
        """Return the task of a worker for a job whose objects were fetched."""
        job = fetched.assignment.job
        members = tuple(
            Member(
                SeriesRecord(row=one.row, state=State.NOT_RUN, folder=one.folder),
                source,
                published=self._is_current(known, fetched.content),
            )
            for one, known, source in zip(job.series, fetched.assignment.known, fetched.sources, strict=True)
            if source is not None
        )
        return Task(
            members,
            fetched.workspace,
            self.plan.out,
            job.group,
            self.svd,
            self.plan.deidentification,
            self.plan.output,
            {**known_by(job, self.settings), "content": fetched.content},
            fetched.seconds,
        )

    def unchanged(self, fetched: _Fetched) -> Records | None:
        """Return the records if the content of all objects is what it was; None if the job must be computed."""
        known = fetched.assignment.known
        if fetched.failures or not all(self._is_current(one, fetched.content) for one in known):
            return None
        job = fetched.assignment.job
        records = []
        for one, series in zip(known, job.series, strict=True):
            if one is not None:
                one.stamped(self.plan.out, job.stamp)
                records.append(replace(one.record, state=State.UNCHANGED, row=series.row))
        return records

    def _is_current(self, known: Known | None, content: str) -> bool:
        return known is not None and (known.content, known.settings) == (content, self.settings)


class _Passage:
    """The state that the threads of one run share."""

    def __init__(self, dispatch: Dispatch, assignments: Iterator[Assignment]) -> None:
        self.dispatch = dispatch
        self._assignments = assignments
        self._lock = threading.Lock()
        self._number = 0
        self._in_vain = 0
        self._over = threading.Event()
        # Besides the jobs being computed, each process has one that is fetched.
        self._slots = threading.Semaphore(2 * len(dispatch.processes.computing))
        self._ready: queue.SimpleQueue[_Fetched | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Records | BaseException | None] = queue.SimpleQueue()
        self._fetching = len(dispatch.processes.fetching)

    def results(self, threads: int) -> Iterator[Records]:
        """Yield the records of each job until all threads have ended."""
        while threads:
            result = self._results.get()
            if result is None:
                threads -= 1
            elif isinstance(result, BaseException):
                raise result
            else:
                yield result

    def stop(self) -> None:
        """Begin no further job."""
        self._over.set()
        self._slots.release(len(self.dispatch.processes.fetching))

    def fetch(self, worker: Worker) -> None:
        """Fetch one job after another."""
        with self._reporting():
            while not self._over.is_set():
                self._slots.acquire()
                taken = self._next()
                if taken is None:
                    break
                number, assignment = taken
                self._pass_on(self._fetched(worker, number, assignment))
        with self._lock:
            self._fetching -= 1
            last = not self._fetching
        if last:
            for _ in self.dispatch.processes.computing:
                self._ready.put(None)
        self._results.put(None)

    def compute(self, worker: Worker) -> None:
        """Compute one job after another."""
        with self._reporting():
            while (fetched := self._ready.get()) is not None and not self._over.is_set():
                records = self._computed(worker, fetched)
                self._end(fetched, records)
        self._results.put(None)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except StoppedError:
            return
        except BaseException as error:  # noqa: BLE001 - raised again where the results are read
            self._over.set()
            self._results.put(error)

    def _next(self) -> tuple[int, Assignment] | None:
        with self._lock:
            if self._over.is_set() or self._in_vain >= FETCHES_IN_VAIN:
                return None
            assignment = next(self._assignments, None)
            if assignment is None:
                return None
            self._number += 1
            return self._number, assignment

    def _fetched(self, worker: Worker, number: int, assignment: Assignment) -> _Fetched:
        plan, job = self.dispatch.plan, assignment.job
        workspace = self.dispatch.folder / f"{self.dispatch.request}-{number}"
        workspace.mkdir()
        sources: list[Path | None] = []
        failures: dict[int, SeriesRecord] = {}
        contents, seconds = [], 0.0
        for index, (series, listed) in enumerate(zip(job.series, assignment.objects, strict=True)):
            folder = workspace / f"source-{index}"
            request = {
                "request": "fetch",
                "source": listed.uri,
                "folder": str(folder),
                "deidentification": plan.deidentification.to_json(),
                "only": {"study": series.row.study, "series": series.row.series} if listed.has_archives else None,
            }
            try:
                done = worker.call(request)
            except CtbasisError as error:
                failures[index] = failed(SeriesRecord(row=series.row, state=State.NOT_RUN), error)
                sources.append(None)
                continue
            contents.append(done["content"])
            seconds += done["seconds"]
            sources.append(folder)
        with self._lock:
            self._in_vain = 0 if contents else self._in_vain + 1
        return _Fetched(assignment, workspace, sources, failures, digest(sorted(contents)), seconds)

    def _pass_on(self, fetched: _Fetched) -> None:
        if len(fetched.failures) == len(fetched.sources):
            self._end(fetched, [])
        elif (records := self.dispatch.unchanged(fetched)) is not None:
            self._end(fetched, records)
        else:
            self._ready.put(fetched)

    def _computed(self, worker: Worker, fetched: _Fetched) -> Records:
        task = self.dispatch.task(fetched)
        request: dict[str, Any] = {"request": self.dispatch.request, "task": task.to_json()}
        if self.dispatch.request == "learn":
            request["bases"] = str(self.dispatch.folder / f"bases-{fetched.workspace.name}")
        try:
            answer = worker.call(request)
        except CtbasisError as error:
            return [failed(one.record, error) for one in task.members]
        return [SeriesRecord.from_json(stored) for stored in answer["records"]]

    def _end(self, fetched: _Fetched, records: Records) -> None:
        shutil.rmtree(fetched.workspace, ignore_errors=True)
        self._slots.release()
        self._results.put([*records, *fetched.failures.values()])
