"""Time of a series from `storescu` to the node and to Orthanc, by turns.

    python -m tests.node.rate SERIES [TURNS]

Prints the median time in seconds of both, and the ratio of their rates.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from ctbasis.node.database import Database
from ctbasis.node.inbox import Inbox
from ctbasis.node.listening import Listening
from ctbasis.node.queue import Queue
from ctbasis.node.scp import Server
from tests.node import orthanc
from tests.node.peers import send


def main() -> None:
    """Measure and print."""
    medians = {
        name: statistics.median(values)
        for name, values in times(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5).items()
    }
    lines = [f"{name}: {value:.2f} s" for name, value in medians.items()]
    sys.stdout.write(
        "\n".join([*lines, f"rate of the node: {medians['Orthanc'] / medians['node']:.2f} of Orthanc's\n"])
    )


def times(series: Path, turns: int) -> dict[str, list[float]]:
    """Return the seconds that storescu took to send a folder to the node and to Orthanc, turn by turn."""
    taken: dict[str, list[float]] = {"node": [], "Orthanc": []}
    for _ in range(turns):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            database = Database(folder / "node.db")
            with Server(Listening("CTBASIS", "127.0.0.1", 0), Inbox(folder / "inbox", Queue(database))) as server:
                taken["node"].append(seconds(series, server.port, "CTBASIS"))
            database.close()
        with tempfile.TemporaryDirectory() as name, orthanc.running(Path(name)) as archive:
            taken["Orthanc"].append(seconds(series, archive.peer.port, archive.peer.title))
    return taken


def seconds(series: Path, port: int, title: str) -> float:
    """Return the time that storescu takes to send the files of a folder."""
    start = time.monotonic()
    done = send(series, port, title=title)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return time.monotonic() - start


if __name__ == "__main__":
    main()
