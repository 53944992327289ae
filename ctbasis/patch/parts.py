"""The parts of a series that patch mode denoises on their own: runs of slices that share anatomy.

A patch spans slices that show the same anatomy. A series is therefore cut where slices are missing, and where slices
lie too far apart. Each part has its own noise and its own depth of patches, so a single slice beyond a gap has patches
of one slice, and the rest of the series keeps its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ctbasis.matrix.slice_store import Series

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_STEP = 5.5
"""Distance in mm between two neighbouring slices above which patches do not span both. In full-dose slices of 3 mm,
patches of three slices 6 mm apart leave more error in body and soft tissue than patches of one slice, and 4 mm apart
as much in these and less in the lung."""


@dataclass(frozen=True)
class Part:
    """A part of a series.

    Attributes:
        number: Index of the series, from 0.
        name: The series and, if it has several parts, the slices, counted from 1: `series 2, slices 5 to 9`.
        slices: The part as a series of its own, without gaps.
    """

    number: int
    name: str
    slices: Series

    @classmethod
    def from_attributes(cls, entry: Mapping[str, Any]) -> Self:
        """Return the part from an attribute of a store, the result of `to_attributes`.

        Raises:
            KeyError, TypeError, ValueError: An attribute is missing, or has another type.
        """
        return cls(int(entry["number"]), str(entry["name"]), Series.from_attributes(entry["slices"]))

    def to_attributes(self) -> dict[str, Any]:
        """Return the part as a dictionary that is fit for JSON."""
        return {"number": self.number, "name": self.name, "slices": vars(self.slices)}


def parts_of(series: Sequence[Series]) -> list[Part]:
    """Return the parts of all series of a matrix, in the order of the columns."""
    parts = []
    for number, entry in enumerate(series):
        runs = shared_anatomy(entry)
        for run in runs:
            first, last = run.first - entry.first + 1, run.first - entry.first + run.count
            slices = f", slice {first}" if first == last else f", slices {first} to {last}"
            parts.append(Part(number, f"series {number + 1}{slices if len(runs) > 1 else ''}", run))
    return parts


def shared_anatomy(series: Series) -> list[Series]:
    """Return the runs of slices that share anatomy, each as a series of its own.

    Args:
        series: Its `breaks` and the steps between its `positions` say where it is cut; without positions, `spacing`.
    """
    cuts = set(series.breaks)
    if series.positions:
        cuts |= {int(at) + 1 for at in np.flatnonzero(np.diff(series.positions) > MAX_STEP)}
    elif series.spacing > MAX_STEP:
        cuts = set(range(1, series.count))
    return [_run(series, start, stop) for start, stop in pairwise((0, *sorted(cuts), series.count))]


def _run(series: Series, start: int, stop: int) -> Series:
    positions = series.positions[start:stop]
    spacing = float(np.median(np.diff(positions))) if len(positions) > 1 else series.spacing
    return Series(
        series.SeriesInstanceUID,
        series.first + start,
        stop - start,
        spacing if stop - start > 1 else 0.0,
        series.pixel_spacing,
        (),
        positions,
    )


def notes_on_parts(parts: Sequence[Part]) -> list[tuple[str, str]]:
    """Return a note, see `named_notes`, about each series that has several parts."""
    counts = Counter(part.number for part in parts)
    reason = f"slices are missing or lie more than {MAX_STEP:g} mm apart"
    return [
        (f"series {number + 1}", f"{count} parts are denoised on their own, each with its own noise, because {reason}")
        for number, count in counts.items()
        if count > 1
    ]


def named_notes(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Return notes for the user that name the parts they are about; a note about many parts is one note.

    Args:
        notes: Name of a part, and a note about it.
    """
    names: dict[str, list[str]] = {}
    for name, note in notes:
        names.setdefault(note, []).append(name)
    return [f"{'; '.join(about)}: {note}" for note, about in names.items()]


def without_series(note: str) -> str:
    """Return a note of `named_notes` about a matrix of one series without the series' number."""
    return note.removeprefix("series 1: ").replace("series 1, ", "")
