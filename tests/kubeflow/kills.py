"""Kill `ctbasis run` at random moments over a former result, and say what is left each time.

    python -m tests.kubeflow.kills [KILLS] [SEED]

Each round starts a run into a folder that holds a former result, kills it (SIGKILL) after a random time, waits until
the watchdog has ended its steps, and looks: the folder must hold the former or the new result, whole; nothing of the
run's content may be left beside it; a neighbour's files must be unchanged. A run that is not killed ends the
measurement; after it, nothing of ctbasis may be left beside the result.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from ctbasis.simulate.phantom import write_chest
from ctbasis.storage.outputs import OWNER, Results

CTBASIS = Path(sys.executable).with_name("ctbasis")

PLACES = {"ct", "neighbour.partial", "out"}
"""The series, the files of a neighbour, and the result."""

SETTLED_SECONDS = 30.0
"""Time in seconds that the watchdog has to end the steps and to remove the working folder."""


def content(folder: Path) -> str:
    """Return a digest of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def left_beside(folder: Path) -> list[Path]:
    """Return what is in the folder beside the source, the result and the neighbour's files."""
    others = [path for path in folder.iterdir() if path.name not in PLACES]
    return [found for path in others for found in (path.rglob("*") if path.is_dir() else [])]


def run_command(source: Path, out: Path) -> list[str]:
    """Return the command of one run."""
    options = ("--engine", "numpy", "--rank", "2", "--ranks", "2", "--seed", "1")
    return [str(CTBASIS), "run", str(source), "--out", str(out), *options]


def kill_once(source: Path, folder: Path, seconds: float) -> str:
    """Kill a run after a time; return what is left, in one word.

    Args:
        source: The series.
        folder: Folder with the former result `out` and with a neighbour's files.
        seconds: Time after which the run is killed.
    """
    out, former = folder / "out", content(folder / "out")
    with subprocess.Popen(run_command(source, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        time.sleep(seconds)
        below = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
        run.kill()
    deadline = time.monotonic() + SETTLED_SECONDS
    while time.monotonic() < deadline and any(process.is_running() for process in below):
        time.sleep(0.05)
    if any(process.is_running() for process in below):
        return "process left"
    if left := left_beside(folder):
        # A run that is killed before its watchdog is there leaves an empty working folder to the next run.
        return "file left" if any(path.name != OWNER for path in left) else "former, working folder left"
    if Results().foreign(out) is not None:
        return "torn"
    return "former" if content(out) == former else "new"


def main(kills: int = 200, seed: int = 0) -> None:
    """Print how often what was left."""
    drawn, counts = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_chest(folder / "ct", slices=6, rows=64, columns=64)
        (folder / "neighbour.partial").mkdir()
        (folder / "neighbour.partial" / "notes.txt").write_text("precious")
        began = time.monotonic()
        subprocess.run(run_command(folder / "ct", folder / "out"), check=True, stdout=subprocess.DEVNULL)
        whole = time.monotonic() - began
        for number in range(kills):
            seconds = drawn.uniform(0, 1.1 * whole)
            left = kill_once(folder / "ct", folder, seconds)
            counts[left] += 1
            sys.stdout.write(f"{number + 1}: killed after {seconds:.2f} of {whole:.2f} s: {left}\n")
            sys.stdout.flush()
        kept = (folder / "neighbour.partial" / "notes.txt").read_text() == "precious"
        subprocess.run(run_command(folder / "ct", folder / "out"), check=True, stdout=subprocess.DEVNULL)
        clean = {path.name for path in folder.iterdir()} == PLACES and Results().foreign(folder / "out") is None
        sys.stdout.write(
            f"{dict(counts)}; the neighbour's file is {'unchanged' if kept else 'CHANGED'}; "
            f"a run afterwards leaves {'nothing but its result' if clean else 'OTHER FILES'}\n"
        )
    sys.exit(bool(set(counts) & {"file left", "torn", "process left"}) or not kept or not clean)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
