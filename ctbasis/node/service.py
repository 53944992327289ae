"""The node as a whole: it receives, completes, denoises, delivers and reports until it is stopped.

STATE/node.db          the queue
STATE/inbox/           received instances
STATE/results/JOB/     the denoised series of a job; with an HTTP server, also maps of its noise, for `ctbasis view`
STATE/bases.zarr       the stored bases
STATE/worker/          log and temporary files of the process that denoises
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.node.announced import Announced
from ctbasis.node.calling import Caller
from ctbasis.node.commitment import Reporter
from ctbasis.node.completeness import Completeness
from ctbasis.node.database import DATABASE, Database
from ctbasis.node.deliver import Courier
from ctbasis.node.denoiser import Denoiser, ProcessDiedError, RefusedError
from ctbasis.node.inbox import Inbox
from ctbasis.node.outgoing import Outgoing
from ctbasis.node.peers import Peer
from ctbasis.node.queue import Job, JobState, Queue
from ctbasis.node.scp import Server
from ctbasis.node.stow import Studies
from ctbasis.node.task import LEARN, RESULTS, Task, results_of
from ctbasis.printable import say
from ctbasis.storage.outputs import locked
from ctbasis.traces import Traces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctbasis.node.bases import StoredBases
    from ctbasis.node.listening import HttpListening, Listening
    from ctbasis.node.peers import WebPeer
    from ctbasis.web.server import HttpServer

POLL_SECONDS = 0.2
"""Seconds between looks at the queue."""

EXPIRE_SECONDS = 60.0
"""Seconds between looks for what may be removed."""

FREE_FOR_RESULTS = 1 << 30
"""Free bytes of the disk below which no job is started: a result that does not fit would fail its job."""

DAY = 86400.0


@dataclass(frozen=True)
class NodeSettings:
    """What a user decides about a node.

    Attributes:
        state: Folder for everything that the node keeps.
        listening: How it listens.
        bases: URIs of stored bases.
        unfit: What is done with a series that no basis fits: `learn` or `refuse`.
        destinations: Where results go.
        peers: Peers whose address is known, for reports of storage commitment.
        quiet: Seconds for which a study must be quiet before its series are complete.
        keep: Days for which received instances and results are kept after the last delivery.
        http: How its HTTP server listens; None for no such server.
        caller: The node as a requestor of associations; None for its title, without TLS files.
        traces: Traces of requests, jobs and deliveries.
    """

    state: Path
    listening: Listening
    bases: tuple[str, ...] = ()
    unfit: str = LEARN
    destinations: tuple[Peer | WebPeer, ...] = ()
    peers: tuple[Peer, ...] = ()
    quiet: float = 30.0
    keep: float = 7.0
    http: HttpListening | None = None
    caller: Caller | None = None
    traces: Traces = field(default_factory=Traces)


@dataclass
class Node:
    """A node that runs within its `running` context.

    Attributes:
        settings: What the user decided.
        queue: What was received and is to be denoised.
        outgoing: What is to be sent.
        inbox: Received instances.
        server: The server; only while the node runs.
        web: The HTTP server; only while the node runs, and None if it has none.
    """

    settings: NodeSettings
    queue: Queue = field(init=False)
    outgoing: Outgoing = field(init=False)
    inbox: Inbox = field(init=False)
    server: Server = field(init=False)
    web: HttpServer | None = field(default=None, init=False)
    _studies: Studies = field(default_factory=Studies, init=False)
    _announced: Announced = field(default_factory=Announced, init=False)
    _stopping: threading.Event = field(default_factory=threading.Event, init=False)
    _short_of_space: bool = field(default=False, init=False)

    @contextmanager
    def running(self) -> Iterator[Node]:
        """Run the node for the time of the context.

        Raises:
            CtbasisError: Another node uses the folder, a basis cannot be used, the database is not the node's own, or
                the port is in use.
        """
        # NumPy and SciPy, which take seconds to import.
        from ctbasis.node.bases import StoredBases

        state = self.settings.state
        _make(state)
        with ExitStack() as stack:
            stack.enter_context(locked(state / "node"))
            database = Database(state / DATABASE)
            stack.callback(database.close)
            stack.callback(self.settings.traces.close)
            self.queue, self.outgoing = Queue(database), Outgoing(database)
            self.inbox = Inbox(state / "inbox", self.queue)
            bases = StoredBases.collect(self.settings.bases, str(state / "bases.zarr"))
            removed, resumed = self.inbox.remove_remains(), self.queue.resume()
            if removed or resumed:
                say(f"node: {resumed} jobs of an earlier process start again; {removed} unfinished files removed")
            self.server = stack.enter_context(
                Server(self.settings.listening, self.inbox, self.outgoing, self._announced)
            )
            if self.settings.http is not None:
                # FastAPI, which a node without HTTP does without.
                from ctbasis.node.http import http_server

                self.web = stack.enter_context(
                    http_server(
                        self.settings.http,
                        inbox=self.inbox,
                        queue=self.queue,
                        outgoing=self.outgoing,
                        studies=self._studies,
                        results=state / RESULTS,
                        traces=self.settings.traces,
                    )
                )
            denoiser = Denoiser(state / "worker")
            stack.enter_context(self._threads(self._loops(bases, denoiser)))
            # Ends the series in work, so that the thread that waits for it ends too; called before the threads end.
            stack.callback(denoiser.stop)
            stack.callback(self._stopping.set)
            yield self

    def run(self) -> None:
        """Run until SIGINT or SIGTERM; the first of them ends what is in work, and nothing that was received is lost.

        Raises:
            CtbasisError: See `running`.
        """
        # The text of an error in a thread of pynetdicom may quote a data set.
        threading.excepthook = _report_thread
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stopping.set())
        listening = self.settings.listening
        with self.running():
            say(
                f"node: {listening.title} listens on port {self.server.port}"
                f"{f', HTTP on port {self.web.port}' if self.web is not None else ''}"
                f"{', with TLS' if listening.tls else ''}, {len(self.settings.bases) or 'no'} bases, results go to "
                f"{', '.join(map(str, self.settings.destinations)) or 'no destination'}"
            )
            while not self._stopping.wait(POLL_SECONDS):
                pass
        say("node: stopped")

    def _loops(self, bases: StoredBases, denoiser: Denoiser) -> dict[str, Callable[[], float]]:
        """Return the steps that are repeated, each with the seconds until the next as its result."""
        complete = Completeness(
            self.queue,
            self.settings.quiet,
            lambda: self.server.busy_studies() | self._studies.busy(),
            since=time.time(),
            announced=self._announced,
        )
        caller = self.settings.caller or Caller(self.settings.listening.title)
        known = [one for one in (*self.settings.destinations, *self.settings.peers) if isinstance(one, Peer)]
        reporter = Reporter(caller, {peer.title: peer for peer in known if peer.host}, self.outgoing, self.server)

        def completing() -> float:
            for number in complete.step():
                job = self.queue.job(number)
                say(f"node: job {number}: a series of {job.instances if job else 0} instances is complete")
            return POLL_SECONDS

        broken_off = False

        def denoising() -> float:
            nonlocal broken_off
            if broken_off:
                self.queue.resume()
            broken_off = True
            job = self.queue.start() if self._has_space() else None
            if job is not None:
                with self.settings.traces.span("job", job=job.id, instances=job.instances) as span:
                    self._denoise(job, bases, denoiser)
                    ended = self.queue.job(job.id)
                    span.set(state=str(ended.state) if ended is not None else "removed")
            # An error before leaves the job to the next passage.
            broken_off = False
            return POLL_SECONDS if job is None else 0.0

        def reporting() -> float:
            reporter.step()
            return POLL_SECONDS

        def expiring() -> float:
            before = time.time() - self.settings.keep * DAY
            jobs, files = self.queue.expire(before)
            self.inbox.remove(files)
            for job in jobs:
                shutil.rmtree(self._results(job), ignore_errors=True)
            self.outgoing.forget_commitments(before)
            return EXPIRE_SECONDS

        loops: dict[str, Callable[[], float]] = {
            "complete": completing,
            "denoise": denoising,
            "report": reporting,
            "expire": expiring,
        }
        for number, destination in enumerate(self.settings.destinations):
            courier = Courier(destination, caller, self.outgoing, self._stopping.is_set, self.settings.traces)
            loops[f"deliver-{number}"] = partial(_deliver, courier)
        return loops

    @contextmanager
    def _threads(self, loops: dict[str, Callable[[], float]]) -> Iterator[None]:
        threads = [
            threading.Thread(target=self._repeat, args=item, name=item[0], daemon=True) for item in loops.items()
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()

    def _repeat(self, name: str, step: Callable[[], float]) -> None:
        """Repeat a step; whatever one passage provokes, the node goes on."""
        while not self._stopping.is_set():
            try:
                seconds = step()
            except (OSError, sqlite3.Error) as error:
                say(f"node: {name}: the disk fails or is full ({type(error).__name__}); next attempt in 5 s")
                seconds = 5.0
            except Exception as error:  # noqa: BLE001 - the text of an unexpected error may hold patient data
                say(f"node: {name}: {type(error).__name__}; next attempt in 5 s")
                seconds = 5.0
            self._stopping.wait(seconds)

    def _has_space(self) -> bool:
        """Return whether the disk has room for a result; say so when it has none any more."""
        enough = shutil.disk_usage(self.settings.state).free > FREE_FOR_RESULTS
        if not enough and not self._short_of_space:
            say(f"node: less than {FREE_FOR_RESULTS >> 20} MiB of the disk are free; jobs wait")
        self._short_of_space = not enough
        return enough

    def _denoise(self, job: Job, bases: StoredBases, denoiser: Denoiser) -> None:
        """Denoise the series of a job and record what became of it."""
        source, out = self.settings.state / "worker" / "source", self._results(job.id)
        for folder in (source, out):
            shutil.rmtree(folder, ignore_errors=True)
        source.mkdir(parents=True, mode=0o700)
        for number, file in enumerate(self.queue.files(job)):
            (source / f"{number:06d}.dcm").hardlink_to(self.inbox.folder / file)
        start = time.monotonic()
        viewed = self.settings.http is not None
        task = Task(str(source), str(out), bases.uri, self.settings.unfit, noise_maps=viewed)
        try:
            with self.settings.traces.stages(lambda stage: self.queue.report_stage(job.id, stage)) as report:
                record = denoiser.denoise(task, report)
        except RefusedError as refused:
            self._give_up(job, JobState.REFUSED, CtbasisError.from_text(str(refused)))
        except CtbasisError as error:
            self._give_up(job, JobState.FAILED, error)
        except ProcessDiedError as died:
            if self._stopping.is_set() or self.queue.retry(job):
                return
            self._give_up(job, JobState.FAILED, CtbasisError(f"the process that denoised it {died}"))
        else:
            outputs = [(sop, Path(file)) for sop, file in record.pop("outputs")]
            self.queue.finish(job.id, record, outputs, [str(one) for one in self.settings.destinations])
            say(f"node: job {job.id}: denoised in {time.monotonic() - start:.1f} s, {len(outputs)} instances")
        finally:
            shutil.rmtree(source, ignore_errors=True)

    def _give_up(self, job: Job, state: JobState, error: CtbasisError) -> None:
        record = {name: getattr(error, name) for name in ("found", "expected", "cause", "remedy")}
        self.queue.give_up(job.id, state, record)
        # What was found may name a series; the record holds it.
        say(f"node: job {job.id}: {state}; the reason is in its record")

    def _results(self, job: int) -> Path:
        return results_of(self.settings.state / RESULTS, job)


def _report_thread(failure: threading.ExceptHookArgs) -> None:
    say(f"node: an association ended by {failure.exc_type.__name__}")


def _deliver(courier: Courier) -> float:
    return 0.0 if courier.step() else POLL_SECONDS


def _make(state: Path) -> None:
    """Make the folder of a node; refuse one in which files of others could be taken for its own.

    Raises:
        CtbasisError: It cannot be made, or holds files and no database of a node.
    """
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = next((path for path in sorted(state.iterdir()) if not path.name.startswith(".")), None)
    except OSError as error:
        raise CtbasisError(
            f"{state} cannot be made ({error.strerror})",
            expected="a folder for received instances and results, with free space, that this user may write to",
            remedy="name another --state folder",
        ) from error
    if found is not None and not (state / DATABASE).exists():
        raise CtbasisError(
            f"{state} holds {found.name}, and no {DATABASE}",
            expected="a new or empty folder, or that of a node which ran before",
            cause="the folder is used for something else",
            remedy="name another --state folder",
        )
