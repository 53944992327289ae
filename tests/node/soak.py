"""Measure a node as a whole, and print the table of docs/how-to/pacs.md.

    python -m tests.node.soak SERIES [--series 500] [--slices 20] [--kills 20] [--turns 5]

SERIES is a folder with a CT series. Three measurements, one after the other, on this machine and whatever else runs on
it; the table names the load:

1. Receiving: the series from dcmtk's `storescu` to the node and to Orthanc, by turns.
2. Turnaround: from the start of `storescu` until the last denoised instance is in Orthanc. The basis was learned on the
   series before. The quiet time of the node is part of it.
3. Kills: small series from four senders at once, while the node is killed at random moments; see `tests.node.kills`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import ctbasis
from ctbasis.node.listening import Listening
from ctbasis.node.service import Node, NodeSettings
from tests.node import kills, orthanc, rate

QUIET = 5.0
"""Quiet time of the node in the measurement of the turnaround, seconds."""

MOST_SECONDS = 3600.0


def receiving(series: Path, turns: int) -> str:
    """Return the row of the table about receiving."""
    medians = {name: statistics.median(values) for name, values in rate.times(series, turns).items()}
    ratio = medians["Orthanc"] / medians["node"]
    return (
        f"| receiving {count(series)} instances from `storescu` | {medians['node']:.1f} s, Orthanc "
        f"{medians['Orthanc']:.1f} s: {ratio:.2f} of its rate |"
    )


def turnaround(series: Path) -> str:
    """Return the row of the table about the time until a denoised series is in the archive."""
    with tempfile.TemporaryDirectory(prefix="ctbasis-soak-") as name:
        folder = Path(name)
        (folder / "orthanc").mkdir()
        basis, volume = folder / "basis", ctbasis.read(series)
        ctbasis.denoise(volume, keep_basis=basis)
        with orthanc.running(folder / "orthanc") as archive:
            settings = NodeSettings(
                state=folder / "node",
                listening=Listening("CTBASIS", "127.0.0.1", 0),
                bases=(str(basis),),
                unfit="refuse",
                destinations=(archive.peer,),
                quiet=QUIET,
            )
            with Node(settings).running() as node:
                start = time.monotonic()
                received = rate.seconds(series, node.server.port, "CTBASIS")
                expected = volume.shape[0]
                while (there := archive.get("/statistics")["CountInstances"]) < expected:
                    if time.monotonic() - start > MOST_SECONDS:
                        raise RuntimeError(f"{there} of {expected} instances came back; jobs: {node.queue.jobs()}")
                    time.sleep(0.2)
                seconds = time.monotonic() - start
                (job,) = node.queue.jobs()
        stages = ", ".join(f"{stage} {taken:.0f} s" for stage, taken in job.record["seconds"].items())
    size = " x ".join(map(str, volume.shape))
    return (
        f"| {size} from `storescu`, denoised, back in Orthanc | {seconds:.0f} s: received in {received:.0f} s, quiet "
        f"time {QUIET:.0f} s, {stages} |"
    )


def killed(series: int, slices: int, times: int) -> str:
    """Return the row of the table about kills."""
    with tempfile.TemporaryDirectory(prefix="ctbasis-soak-") as folder:
        return kills.run(times, series, 27, Path(folder), slices=slices).row(series, slices)


def count(series: Path) -> int:
    """Return the number of files of a folder."""
    return sum(path.is_file() for path in series.rglob("*"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ct", type=Path, metavar="SERIES", help="folder with a CT series")
    for name, value in (("series", 500), ("slices", 20), ("kills", 20), ("turns", 5)):
        parser.add_argument(f"--{name}", type=int, default=value, help="default: %(default)s")
    given = parser.parse_args()
    sys.stdout.write("| measurement | result |\n| --- | --- |\n")
    for row in (
        lambda: receiving(given.ct, given.turns),
        lambda: turnaround(given.ct),
        lambda: killed(given.series, given.slices, given.kills),
    ):
        sys.stdout.write(f"{row()}\n")
        sys.stdout.flush()
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    sys.stdout.write(f"| machine | {os.cpu_count()} cores, load at the end {load} |\n")


if __name__ == "__main__":
    main()
