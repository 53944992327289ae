"""Kill `ctbasis run` at random moments over a former result, and say what is left each time.

    python -m tests.kubeflow.kills [KILLS] [SEED] [ENGINE]

Each round starts a run into a folder that holds a former result, kills it (SIGKILL) at a random moment, and waits until
its processes have ended. The folder must hold the former or the new result, byte for byte as runs that were not killed
make them; nothing else may be left beside it or in the folder for temporary files; a neighbour's files must be
unchanged; no process of the run may be left. The rank of a run is another than that of the former result, so that the
two differ.

The kills are spread evenly over the parts of a run: its start, each step, the exchange of the results for the former
ones, which takes milliseconds, and the end around it. Within a part, the moment is drawn from the part's duration in a
first run; if the part ends earlier this time, the kill falls into a later part, or onto a run that has ended. The table
at the end counts what was left by the part in which the run really was. A run that is not killed ends the measurement.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil

from ctbasis.simulate.phantom import write_chest
from ctbasis.storage.outputs import Results
from ctbasis.storage.working_folder import NEW, WORK

if TYPE_CHECKING:
    from collections.abc import Mapping

CTBASIS = Path(sys.executable).with_name("ctbasis")

PLACES = {"ct", "neighbour.partial", "out", "tmp", "log"}
"""The series, the files of a neighbour, the result, the place of temporary files, and the output of the killed run."""

SETTLED_SECONDS = 60.0
"""Time in seconds that the watchdog has to end the steps and to remove the working folders."""

MARK = "CTBASIS_KILLS_MARK"
"""Environment variable by which the processes of a run are found, its watchdog among them."""

EXCHANGE_SECONDS = 0.03
"""Time in seconds after the begin of the exchange within which the kills fall; on an idle machine it takes less."""

RANKS = ("2", "3")
"""The ranks of the two results that replace one another."""

FAULTS = ("file left", "torn", "process left")


def content(folder: Path) -> str:
    """Return a digest of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def left_beside(folder: Path) -> list[Path]:
    """Return what a run left beside its result, and among the temporary files; the JVM's counters do not matter."""
    temporary = [path for path in (folder / "tmp").iterdir() if not path.name.startswith("hsperfdata_")]
    return [path for path in folder.iterdir() if path.name not in PLACES] + temporary


def processes(mark: str) -> list[psutil.Process]:
    """Return the processes that carry the mark of a run in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def start(folder: Path, engine: str, rank: str, log: IO[str], mark: str = "") -> subprocess.Popen[str]:
    """Start a run that writes its temporary files to `tmp` and its output to `log`."""
    options = ("--engine", engine, "--rank", rank, "--ranks", rank, "--seed", "1")
    return subprocess.Popen(
        [str(CTBASIS), "run", str(folder / "ct"), "--out", str(folder / "out"), *options],
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(folder / "tmp"), MARK: mark, "PYTHONUNBUFFERED": "1"},
        text=True,
    )


def part_of(folder: Path) -> str:
    """Return the part that a run is in, by its output so far and its working folder."""
    if any(folder.glob(f".out{WORK}*/{NEW}")):
        return "exchange"
    log = (folder / "log").read_text()
    begun: list[str] = re.findall(r"^(\w+) \.\.\.$", log, re.MULTILINE)
    return "end" if "\ncleanup success" in log else begun[-1] if begun else "start"


def pause(part: str) -> float:
    """Return the time between two looks at a run in seconds. The exchange, which is short, follows the cleanup."""
    return 0.0005 if part in {"cleanup", "end"} else 0.02


def run_to_its_end(folder: Path, engine: str, rank: str) -> dict[str, float]:
    """Run without a kill; return the duration of each of its parts in seconds."""
    began: dict[str, float] = {}
    with (folder / "log").open("w") as log, start(folder, engine, rank, log) as run:
        while run.poll() is None:
            began.setdefault(now := part_of(folder), time.monotonic())
            time.sleep(pause(now))
        assert run.returncode == 0, (folder / "log").read_text()
    ends = [*list(began.values())[1:], time.monotonic()]
    return {part: end - begin for (part, begin), end in zip(began.items(), ends, strict=True)}


def kill_once(folder: Path, engine: str, results: Mapping[str, str], part: str, later: float) -> tuple[str, str]:
    """Kill a run; return the part that it was in, and what is left, in one word.

    Args:
        folder: Folder with the series, the former result and the neighbour's files.
        engine: Engine of the run.
        results: The rank of each whole result by the digest of its files.
        part: Part of the run to wait for.
        later: Time between the begin of the part and the kill, in seconds.
    """
    out, mark = folder / "out", uuid.uuid4().hex
    former = results[content(out)]
    (rank,) = set(RANKS) - {former}
    with (folder / "log").open("w") as log, start(folder, engine, rank, log, mark) as run:
        while run.poll() is None and (now := part_of(folder)) != part:
            time.sleep(pause(now))
        time.sleep(later)
        part = part_of(folder) if run.poll() is None else "after its end"
        run.kill()
    deadline = time.monotonic() + SETTLED_SECONDS
    while (left := processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    if left:
        return part, "process left"
    if left_beside(folder):
        return part, "file left"
    whole = results.get(content(out))
    if whole is None or Results().foreign(out) is not None:
        return part, "torn"
    return part, "former" if whole == former else "new"


def main(kills: int = 200, seed: int = 0, engine: str = "numpy") -> None:
    """Kill runs and print how often what was left."""
    drawn = random.Random(seed)
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_chest(folder / "ct", slices=6, rows=64, columns=64)
        (folder / "tmp").mkdir()
        (folder / "neighbour.partial").mkdir()
        (folder / "neighbour.partial" / "notes.txt").write_text("precious")
        results, parts = {}, {}
        for rank in RANKS:
            parts = run_to_its_end(folder, engine, rank)
            results[content(folder / "out")] = rank
        for number in range(kills):
            part = list(parts)[number % len(parts)]
            later = drawn.uniform(0, EXCHANGE_SECONDS if part == "exchange" else parts[part])
            real, left = kill_once(folder, engine, results, part, later)
            counts[real][left] += 1
            sys.stdout.write(f"{number + 1}: killed {later:.3f} s after the begin of {part}, in {real}: {left}\n")
            sys.stdout.write("".join(f"    {path.relative_to(folder)}\n" for path in left_beside(folder)))
            sys.stdout.flush()
            if left in FAULTS:
                break
        kept = (folder / "neighbour.partial" / "notes.txt").read_text() == "precious"
        run_to_its_end(folder, engine, RANKS[0])
        clean = not left_beside(folder) and Results().foreign(folder / "out") is None
    total = sum(counts.values(), Counter())
    for part in [*parts, "after its end", "all"]:
        lefts = total if part == "all" else counts[part]
        sys.stdout.write(
            f"{part}: {lefts.total()} kills: " + ", ".join(f"{n} {left}" for left, n in lefts.items()) + "\n"
        )
    sys.stdout.write(
        f"the neighbour's file is {'unchanged' if kept else 'CHANGED'}; "
        f"a run afterwards leaves {'nothing but its result' if clean else 'OTHER FILES'}\n"
    )
    sys.exit(bool(set(total) & set(FAULTS)) or not kept or not clean)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:4])
