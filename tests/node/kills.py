"""Kill a node again and again while senders send to it, and count what was lost and what was sent twice.

    python -m tests.node.kills [KILLS] [SERIES] [SEED]

Four senders send series at once, as scanners do: an instance without an answer is sent again. A destination counts
every C-STORE request. The node is a process that is killed with SIGKILL at random moments and started again.
"""

from __future__ import annotations

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
    """

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    jobs: dict[str, int] = field(default_factory=dict)
    undelivered: int = 0
    twice: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Instance:
    """An instance that a sender sends: its SOPInstanceUID and its file."""

    sop: str
    content: bytes


def make_series(count: int, folder: Path, slices: int = SLICES) -> tuple[list[list[Instance]], Path]:
    """Return the instances of `count` series, each in a study of its own, and a basis in `folder` that fits them."""
    phantom = ctbasis.chest_phantom(slices=slices, rows=EDGE, columns=EDGE)
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


def send(series: Sequence[Sequence[Instance]], port: int, acknowledged: set[str], stop: threading.Event) -> None:
    """Send series one after the other until every instance is acknowledged."""
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context(CTImageStorage)
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = 30.0
    for one in series:
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
            wait_for(port, process)
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context("1.2.840.10008.1.1")
    while process.poll() is None:
        opened = entity.associate("127.0.0.1", port, ae_title="CTBASIS")
        if opened.is_established:
            opened.release()
            return
        time.sleep(0.2)
    raise RuntimeError("the node ended by itself; see node.log")


def run(kills: int, count: int, seed: int, folder: Path, *, slices: int = SLICES) -> Outcome:
    """Kill a node `kills` times while `count` series of `slices` slices are sent to it; see `Outcome`."""
    rng = random.Random(seed)
    outcome = Outcome()
    archive, state = Archive(), folder / "node"
    series, basis = make_series(count, folder, slices)
    acknowledged: set[str] = set()
    (port,) = free_ports(1)
    stop = threading.Event()
    senders = [
        threading.Thread(target=send, args=(series[number::SENDERS], port, acknowledged, stop), daemon=True)
        for number in range(SENDERS)
    ]
    with archive.listening() as destination:
        for number in range(kills + 1):
            with node(state, port, destination, basis) as process:
                for sender in senders if number == 0 else ():
                    sender.start()
                if number == kills:
                    for sender in senders:
                        sender.join()
                    wait_until_done(state, len(acknowledged))
                    outcome.memory.append(memory_of(process.pid))
                else:
                    time.sleep(rng.uniform(0.0, 12.0))
                    outcome.memory.append(memory_of(process.pid))
                    outcome.moments[moment(state)] += 1
                    os.kill(process.pid, signal.SIGKILL)
                    outcome.kills += 1
    stop.set()
    count_faults(outcome, state, series, acknowledged, archive)
    return outcome


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
    kills, count, seed = ([int(text) for text in sys.argv[1:]] + [20, 100, 27][len(sys.argv) - 1 :])[:3]
    with tempfile.TemporaryDirectory(prefix="ctbasis-kills-") as folder:
        start = time.monotonic()
        outcome = run(kills, count, seed, Path(folder))
    lines = [f"{name}: {value}" for name, value in vars(outcome).items()]
    sys.stdout.write("\n".join([*lines, f"seconds: {time.monotonic() - start:.0f}"]) + "\n")
    sys.exit(bool(outcome.lost or outcome.undelivered or outcome.twice))


if __name__ == "__main__":
    main()
