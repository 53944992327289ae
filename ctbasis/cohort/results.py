"""The results of series, put in their folders below the output of a cohort.

A series that was denoised alone has everything in its folder. Series that were joined to one matrix share what is made
once for a matrix, in the folder of their group, and have a folder each for the rest.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ctbasis.cohort.record import SeriesRecord, State
from ctbasis.errors import CtbasisError
from ctbasis.storage.publication import publish

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SERIES = "series.json"
"""File that completes the result of a series: its record, and the digests by which a later run knows it."""

GROUP = "group.json"
"""File that completes what joined series share."""

SHARED = ("basis", "basis-images", "figure1.png", "report.html", "metrics.json", "qc.json")
"""What the steps write once for all series of a matrix."""


@dataclass(frozen=True)
class WrittenSeries:
    """One series of a matrix, as the reconstruct step wrote it.

    Attributes:
        source: SeriesInstanceUID of the source series.
        folder: Its folder in `denoised` and `noise`; empty for the only series of the matrix.
    """

    source: str
    folder: str


@dataclass(frozen=True)
class Destination:
    """Where results are put, and what is stated beside them.

    Attributes:
        out: Folder or `s3://bucket/prefix` of the cohort's results.
        known_by: Digests by which a later run knows the series: `stamp`, `content`, `settings`.
        steps: Seconds that each step took.
        seconds: Seconds that a series took, from its fetch on.
    """

    out: str
    known_by: Mapping[str, str]
    steps: Mapping[str, float]
    seconds: float


def publish_alone(result: Path, record: SeriesRecord, destination: Destination) -> SeriesRecord:
    """Put the result of one series in its folder, and return its record.

    Args:
        result: Folder with all that the steps wrote; it is moved, or can be removed afterwards.
        record: The series before it was denoised.
        destination: Where it is put.

    Raises:
        CtbasisError: The report is missing, or the output cannot be written.
    """
    page = f"{record.folder}/report.html"
    done = replace(record, state=State.DONE, seconds=destination.seconds, report=page).measured(result)
    _publish(result, done, destination)
    return done


def publish_together(
    result: Path,
    written: Sequence[WrittenSeries],
    records: Sequence[SeriesRecord],
    group: str,
    destination: Destination,
    scratch: Path,
) -> list[SeriesRecord]:
    """Put first what joined series share in the folder of their group, then each series in its own.

    Args:
        result: Folder with all that the steps wrote; what is put in place is moved out of it.
        written: The series in it, in the order of the matrix.
        records: The series before they were denoised.
        group: Folder below the output for what they share.
        destination: Where it is put.
        scratch: Folder on the volume of `result` for the parts on their way.

    Returns:
        The records of the series, in their order.

    Raises:
        CtbasisError: A series is missing, or the output cannot be written.
    """
    done = []
    for number, record in enumerate(records):
        own = [one for one in written if one.source == record.row.series]
        _move_series(result, own, scratch / f"series-{number}")
        page = f"{group}/report.html"
        done.append(replace(record, state=State.DONE, seconds=destination.seconds, report=page).measured(result))
    together = fresh(scratch / "group")
    for shared in SHARED:
        if (result / shared).exists():
            (result / shared).rename(together / shared)
    (together / GROUP).write_text(json.dumps({"series": [one.folder for one in records]}) + "\n")
    publish(together, f"{destination.out}/{group}", last=GROUP)
    for number, record in enumerate(done):
        _publish(scratch / f"series-{number}", record, destination)
    return done


def fresh(folder: Path) -> Path:
    """Make a folder without what an attempt left in it whose process was killed; return it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _move_series(result: Path, written: Sequence[WrittenSeries], target: Path) -> None:
    """Move what the steps wrote of one series; a series with several volumes keeps a folder for each."""
    if not written:
        raise CtbasisError(
            "a series of the group is missing from its matrix",
            expected="all series of the group",
            cause="a series' files changed between the inventory and the fetch",
            remedy="run the cohort again",
        )
    fresh(target)
    for kind in ("denoised", "noise"):
        if not (result / kind).is_dir():
            continue
        for one in written:
            own = target / kind if len(written) == 1 else target / kind / one.folder
            own.parent.mkdir(exist_ok=True)
            (result / kind / one.folder).rename(own)


def _publish(result: Path, record: SeriesRecord, destination: Destination) -> None:
    steps = {name: round(seconds, 3) for name, seconds in destination.steps.items()}
    content = {"record": record.to_json(), **destination.known_by, "steps": steps}
    (result / SERIES).write_text(json.dumps(content) + "\n", encoding="utf-8")
    publish(result, f"{destination.out}/{record.folder}", last=SERIES)
