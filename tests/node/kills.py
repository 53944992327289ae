"""Kill a node again and again while senders send to it, and count what was lost and what was sent twice.

    python -m tests.node.kills [KILLS] [SERIES] [SEED] [--slices 6] [--edge 96] [--ahead 12]

Four senders send series at once, as scanners do: an instance without an answer is sent again. Together they are at most
`AHEAD` series ahead of the node, so that it receives, denoises and sends at the same time until the end. A destination
counts every C-STORE request. The node is a process that is killed with SIGKILL and started again, once in each of as
many equal shares of the run as there are kills, at a random moment of the share.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage

import ctbasis
from ctbasis.demo.ports import free_ports
from ctbasis.node.database import Database
from ctbasis.node.outgoing import Outgoing
from ctbasis.node.queue import ENDED, JobState, Queue
from tests.node.peers import TITLE, Archive

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SENDERS = 4
SLICES, EDGE = 6, 96
QUIET = 4.0
"""Quiet time of the node, in seconds. A loaded machine delays senders, too."""

AHEAD = 12
"""Series that have been sent or are being sent, and whose jobs have not ended, at most."""

MOST_SECONDS = 3600.0


@dataclass
class Outcome:
    """What a run of kills gave.

    Attributes:
        kills: How often the node was killed.
        acknowledged: Instances that the node acknowledged.
        lost: Acknowledged instances that it does not have, or has with other bytes.
        jobs: Jobs by state.
        undelivered: Instances of results that the destination does not have.
        twice: Instances that the destination was sent more than once.
        moments: What the node did when it was killed, by the number of kills.
        memory: Memory of the node's process in MiB before each kill, and at the end.
        seconds: Seconds of the run, from the first start of the node until the last delivery.
        killed_at: Second of each kill.
    """

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    jobs: dict[str, int] = field(default_factory=dict)
    undelivered: int = 0
    twice: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)
    seconds: float = 0.0
    killed_at: list[int] = field(default_factory=list)

    def row(self, series: int, slices: int) -> str:
        """Return the outcome as a row of the table of docs/how-to/pacs.md."""
        memory = f"{min(self.memory)} to {max(self.memory)} MiB, {self.memory[-1]} MiB at the end"
        return (
            f"| {series} series of {slices} slices from {SENDERS} senders, {self.kills} times `kill -9` | "
            f"{self.acknowledged} instances acknowledged, {self.lost} lost, {self.undelivered} not delivered, "
            f"{self.twice} sent twice; {self.seconds:.0f} s; memory of the node {memory} |"
        )


@dataclass(frozen=True)
class Instance:
    """An instance that a sender sends: its SOPInstanceUID and its file."""

    sop: str
    content: bytes


def make_series(count: int, folder: Path, slices: int = SLICES, edge: int = EDGE) -> tuple[list[list[Instance]], Path]:
    """Return the instances of `count` series, each in a study of its own, and a basis in `folder` that fits them."""
    phantom = ctbasis.chest_phantom(slices=slices, rows=edge, columns=edge)
    ctbasis.write_series(ctbasis.simulate_dose(phantom, photons=4e3), folder / "series")
    ctbasis.denoise(ctbasis.read(folder / "series"), keep_basis=folder / "basis")
    paths = sorted((folder / "series").iterdir())
    made = []
    for number in range(1, count + 1):
        series = []
        for index, path in enumerate(paths):
            ds = pydicom.dcmread(path)
            ds.StudyInstanceUID, ds.SeriesInstanceUID = f"2.25.{number}", f"2.25.{number}.1"
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.{number}.1.{index}"
            stream = BytesIO()
            ds.save_as(stream, enforce_file_format=True)
            series.append(Instance(ds.SOPInstanceUID, stream.getvalue()))
        made.append(series)
    return made, folder / "basis"


def send(
    series: Sequence[Sequence[Instance]],
    port: int,
    acknowledged: set[str],
    stop: threading.Event,
    room: threading.Semaphore,
) -> None:
    """Send series one after the other until every instance is acknowledged, each as soon as there is `room` for it."""
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context(CTImageStorage)
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = 30.0
    for one in series:
        room.acquire()
        waiting = list(one)
        while waiting and not stop.is_set():
            opened = entity.associate("127.0.0.1", port, ae_title="CTBASIS")
            while opened.is_established and waiting:
                with suppress(RuntimeError):
                    answer = opened.send_c_store(pydicom.dcmread(BytesIO(waiting[0].content)))
                    if answer and answer.Status == 0:
                        acknowledged.add(waiting.pop(0).sop)
                        continue
                break
            if opened.is_established:
                opened.release()
            elif waiting:
                time.sleep(0.2)


@contextmanager
def node(state: Path, port: int, destination: int, basis: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a node until it listens, and kill it in the end."""
    command = [sys.executable, "-m", "ctbasis.cli", "node", "--state", str(state), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--basis", str(basis), "--if-no-basis-fits", "refuse", "--quiet", str(QUIET)]
    command += ["--forward", f"{TITLE}@127.0.0.1:{destination}", "--associations", "64"]
    with (state.parent / "node.log").open("ab") as log, subprocess.Popen(command, stderr=log, stdout=log) as process:
        try:
            wait_until_it_listens(port, process)
            yield process
        finally:
            process.kill()
            process.wait()


def wait_until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context("1.2.840.10008.1.1")
    while process.poll() is None:
        opened = entity.associate("127.0.0.1", port, ae_title="CTBASIS")
        if opened.is_established:
            opened.release()
            return
        time.sleep(0.2)
    raise RuntimeError("the node ended by itself; see node.log")


def run(
    kills: int, count: int, seed: int, folder: Path, *, slices: int = SLICES, edge: int = EDGE, ahead: int = AHEAD
) -> Outcome:
    """Kill a node `kills` times while `count` series are sent to it; see `Outcome`.

    Args:
        kills: How often.
        count: Number of series.
        seed: Seed of the moments of the kills.
        folder: Folder for the series, the state of the node and its log.
        slices: Slices of a series.
        edge: Rows and columns of a slice.
        ahead: How many series the senders may be ahead of the node.
    """
    rng = random.Random(seed)
    outcome = Outcome()
    archive, state = Archive(), folder / "node"
    series, basis = make_series(count, folder, slices, edge)
    acknowledged: set[str] = set()
    (port,) = free_ports(1)
    stop = threading.Event()
    pace = Pace(state, threading.Semaphore(ahead))
    senders = [
        threading.Thread(target=send, args=(series[number::SENDERS], port, acknowledged, stop, pace.room), daemon=True)
        for number in range(SENDERS)
    ]
    start = time.monotonic()
    with archive.listening() as destination:
        for number in range(kills + 1):
            with node(state, port, destination, basis) as process:
                for sender in senders if number == 0 else ():
                    sender.start()
                if number == kills:
                    pace.wait_for(count, process)
                    for sender in senders:
                        sender.join()
                    wait_until_done(state, len(acknowledged))
                    outcome.memory.append(memory_of(process.pid))
                else:
                    pace.wait_for(count * (number + rng.random()) / kills, process)
                    # The wait ends when a job ends; the kill shall come at any moment.
                    time.sleep(rng.uniform(0.0, 2.0))
                    outcome.memory.append(memory_of(process.pid))
                    outcome.moments[moment(state)] += 1
                    os.kill(process.pid, signal.SIGKILL)
                    outcome.kills += 1
                    outcome.killed_at.append(round(time.monotonic() - start))
    outcome.seconds = time.monotonic() - start
    stop.set()
    count_faults(outcome, state, series, acknowledged, archive)
    return outcome


@contextmanager
def log_on_failure(log: Path) -> Iterator[None]:
    """Print the end of the node's log if the block fails."""
    try:
        yield
    except RuntimeError:
        sys.stderr.write(log.read_text(errors="replace")[-5000:])
        raise


class Pace:
    """How far a node is, and the room that it leaves the senders.

    Args:
        state: Folder of the node's state.
        room: One for each series that may be sent; there is room again when a job ends.
    """

    def __init__(self, state: Path, room: threading.Semaphore) -> None:
        self.room = room
        self._state = state
        self._done = 0

    def wait_for(self, series: float, process: subprocess.Popen[bytes]) -> None:
        """Wait until the jobs of more than `series` series, or of as many if it is a whole number, have ended.

        Raises:
            RuntimeError: The node ended by itself, or takes more than `MOST_SECONDS`.
        """
        deadline = time.monotonic() + MOST_SECONDS
        while self._update() < series:
            if process.poll() is not None:
                raise RuntimeError("the node ended by itself; see node.log")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self._done} series are done after {MOST_SECONDS:.0f} s; see node.log")
            time.sleep(0.5)

    def _update(self) -> int:
        with suppress(sqlite3.Error):
            connection = sqlite3.connect(f"file:{self._state / 'node.db'}?mode=ro", uri=True, timeout=10)
            try:
                query = "SELECT count(DISTINCT series) FROM jobs WHERE state IN (?, ?, ?)"
                (done,) = connection.execute(query, [str(state) for state in ENDED]).fetchone()
            finally:
                connection.close()
            if done > self._done:
                self.room.release(done - self._done)
                self._done = done
        return self._done


def memory_of(pid: int) -> int:
    """Return the resident memory of a process in MiB."""
    import psutil

    return int(psutil.Process(pid).memory_info().rss >> 20)


def moment(state: Path) -> str:
    """Return what a node is doing."""
    with suppress(sqlite3.Error):
        connection = sqlite3.connect(f"file:{state / 'node.db'}?mode=ro", uri=True, timeout=10)
        try:
            (sending,) = connection.execute("SELECT count(*) FROM deliveries WHERE state = 'sending'").fetchone()
            (running,) = connection.execute("SELECT count(*) FROM jobs WHERE state = 'running'").fetchone()
            (waiting,) = connection.execute("SELECT count(*) FROM instances WHERE job IS NULL").fetchone()
        finally:
            connection.close()
        return "sends" if sending else "denoises" if running else "receives" if waiting else "waits"
    return "starts"


def wait_until_done(state: Path, instances: int) -> None:
    """Wait until every instance belongs to a job, every job has ended, and every delivery is over."""
    deadline = time.monotonic() + MOST_SECONDS
    while time.monotonic() < deadline:
        database = Database(state / "node.db")
        try:
            queue, outgoing = Queue(database), Outgoing(database)
            over = queue.counts().keys() <= set(map(str, ENDED)) and not queue.pending_studies()
            if over and outgoing.counts().keys() <= {"sent"} and len(queue.known_files()) == instances:
                return
        finally:
            database.close()
        time.sleep(1)
    raise RuntimeError("the node does not come to an end; see node.log")


def count_faults(
    outcome: Outcome, state: Path, series: Sequence[Sequence[Instance]], acknowledged: set[str], archive: Archive
) -> None:
    """Compare what was sent with what the node has, and what it made with what the destination has."""
    outcome.acknowledged = len(acknowledged)
    database = Database(state / "node.db")
    queue = Queue(database)
    for instance in (one for of_series in series for one in of_series):
        kept: Any = queue.find(instance.sop)
        intact = kept is not None and _same(state / "inbox" / kept.file, instance.content)
        outcome.lost += instance.sop in acknowledged and not intact
    jobs = queue.jobs()
    outcome.jobs = queue.counts()
    # The last job of a series has all of its instances.
    last = {job.series: job for job in jobs}
    for one in series:
        job = last.get(f"{one[0].sop.rpartition('.')[0]}")
        made = set() if job is None or job.state is not JobState.DONE else _results(state, job.id)
        outcome.undelivered += len(one) if len(made) != len(one) else len(made - archive.stored.keys())
    outcome.twice = sum(count > 1 for count in archive.requests.values())
    database.close()


def _same(path: Path, content: bytes) -> bool:
    return path.exists() and pydicom.dcmread(path) == pydicom.dcmread(BytesIO(content))


def _results(state: Path, job: int) -> set[str]:
    files = (state / "results" / f"{job:08d}").rglob("*.dcm")
    return {str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for path in files}


def main() -> None:
    """Run and print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("kills", 20), ("series", 100), ("seed", 27)):
        parser.add_argument(name, type=int, nargs="?", default=value, metavar=name.upper(), help="default: %(default)s")
    for name, value in (("slices", SLICES), ("edge", EDGE), ("ahead", AHEAD)):
        parser.add_argument(f"--{name}", type=int, default=value, help="default: %(default)s")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ctbasis-kills-") as folder, log_on_failure(Path(folder) / "node.log"):
        sizes = {"slices": given.slices, "edge": given.edge, "ahead": given.ahead}
        outcome = run(given.kills, given.series, given.seed, Path(folder), **sizes)
    lines = [f"{name}: {value}" for name, value in vars(outcome).items()]
    sys.stdout.write("\n".join([*lines, outcome.row(given.series, given.slices)]) + "\n")
    sys.exit(bool(outcome.lost or outcome.undelivered or outcome.twice))


if __name__ == "__main__":
    main()
