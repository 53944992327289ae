"""Noise before and after denoising by scanner and kernel: the numbers of the summary's box plots."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ctbasis.cohort.record import SeriesRecord

GROUPS_SHOWN = 24
"""Groups with a box plot of their own, the largest ones; the others share one."""

DOTS_SHOWN = 60
"""Series up to which a box plot shows each as a dot."""

UNKNOWN = "not stated"
"""Name of a scanner or a kernel that the headers do not state."""

STEPS = (1, 2, 5, 10)
"""Distance between the ticks of an axis, times a power of ten."""


@dataclass(frozen=True)
class Box:
    """A box plot of the noise of several series, HU.

    Attributes:
        low: 5th percentile.
        first: First quartile.
        median: Median.
        third: Third quartile.
        high: 95th percentile.
        dots: Noise of each series; empty where there are more than DOTS_SHOWN.
    """

    low: float
    first: float
    median: float
    third: float
    high: float
    dots: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Box:
        """Return the box plot of at least one value."""
        low, first, median, third, high = map(float, np.percentile(values, [5, 25, 50, 75, 95]))
        return cls(low, first, median, third, high, tuple(sorted(values)) if len(values) <= DOTS_SHOWN else ())


@dataclass(frozen=True)
class Group:
    """The series of one scanner and kernel whose noise is known.

    Attributes:
        scanner: Manufacturer and model; empty for the group of all others.
        kernel: Reconstruction kernel.
        count: Number of series.
        before: Noise of the input.
        after: Noise of the denoised series.
        removed: Median of the share of the noise that was removed.
    """

    scanner: str
    kernel: str
    count: int
    before: Box
    after: Box
    removed: float


@dataclass(frozen=True)
class Distribution:
    """Box plots on one axis.

    Attributes:
        groups: Box plots, the group with the most series first.
        ticks: HU of the ticks from 0 to the end of the axis; empty if there is no group.
    """

    groups: tuple[Group, ...]
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Return where a noise lies on the axis, in percent of its length."""
        return round(100 * value / self.ticks[-1], 2)


def scanner(record: SeriesRecord) -> str:
    """Return manufacturer and model; the manufacturer once where the model repeats it."""
    manufacturer, model = record.row.manufacturer.strip(), record.row.model.strip()
    if model.lower().startswith(manufacturer.lower()):
        manufacturer = ""
    return f"{manufacturer} {model}".strip() or UNKNOWN


def kernel(record: SeriesRecord) -> str:
    """Return the kernel."""
    return record.row.kernel.strip() or UNKNOWN


def distribution(records: Iterable[SeriesRecord]) -> Distribution:
    """Return the box plots of the series whose noise is known before and after denoising."""
    members = defaultdict(list)
    for record in records:
        if record.removed is not None:
            members[scanner(record), kernel(record)].append(record)
    largest = sorted(members, key=lambda name: (-len(members[name]), name))
    groups = [_group(name, members[name]) for name in largest[:GROUPS_SHOWN]]
    if others := largest[GROUPS_SHOWN:]:
        rest = [record for name in others for record in members[name]]
        groups.append(_group(("", f"{len(others)} other combinations"), rest))
    highest = max((value for group in groups for box in (group.before, group.after) for value in _ends(box)), default=0)
    return Distribution(tuple(groups), _ticks(highest) if groups else ())


def _group(name: tuple[str, str], records: Sequence[SeriesRecord]) -> Group:
    before = [record.noise_before for record in records if record.noise_before is not None]
    after = [record.noise_after for record in records if record.noise_after is not None]
    removed = [record.removed for record in records if record.removed is not None]
    return Group(*name, len(records), Box.of(before), Box.of(after), float(np.median(removed)))


def _ends(box: Box) -> tuple[float, ...]:
    return (box.high, *box.dots[-1:])


def _ticks(highest: float) -> tuple[float, ...]:
    """Return at most seven ticks from 0 to the first one that is not below `highest`."""
    highest = max(highest, 1.0)
    magnitude = 10 ** math.floor(math.log10(highest / 6))
    step = next(magnitude * factor for factor in STEPS if magnitude * factor * 6 >= highest)
    return tuple(round(step * index, 6) for index in range(math.ceil(highest / step) + 1))
