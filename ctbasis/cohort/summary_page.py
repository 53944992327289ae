"""The summary of a cohort as one self-contained HTML page."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from ctbasis.cohort.distribution import DOTS_SHOWN, distribution, kernel, scanner
from ctbasis.cohort.record import State
from ctbasis.report.page import page_environment
from ctbasis.report.thumbnail import EDGE, smaller

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctbasis.cohort.record import SeriesRecord

FULL_THUMBNAILS = 300
"""Series up to which the page holds thumbnails as large as they are; with more it holds smaller ones."""

SMALL_EDGE = 64
"""Pixels along the edges of a pane of the smaller thumbnails, about 2 KB each: 2,000 series are a page of 8 MB."""

UID_SHOWN = 12
"""Last characters of a UID that a row shows."""


@dataclass(frozen=True)
class PageRow:
    """A row of the page: the texts of its cells."""

    record: SeriesRecord
    name: str
    scanner: str
    kernel: str
    image: str
    report: str
    uid: str
    seconds: str
    before: str
    after: str
    removed: str


def render_summary(records: Sequence[SeriesRecord], facts: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        records: The series, in the order of the rows.
        facts: What to state about the cohort, such as source, mode and parameters, by name.
    """
    states = Counter(record.state for record in records)
    denoised = states[State.DONE] + states[State.UNCHANGED]
    edge = EDGE if len(records) <= FULL_THUMBNAILS else SMALL_EDGE
    return (
        page_environment(Path(__file__).parent)
        .get_template("summary.html.j2")
        .render(
            title=f"{denoised:,} of {len(records):,} series denoised",
            facts=facts,
            states=[(state, states[state]) for state in State if states[state]],
            totals=_totals(records),
            rows=[_row(record, edge) for record in records],
            distribution=distribution(records),
            dots=DOTS_SHOWN,
        )
    )


def _totals(records: Sequence[SeriesRecord]) -> list[tuple[str, str]]:
    """Return the numbers of the whole cohort: name and value."""
    totals = [("slices", f"{sum(record.row.slices for record in records):,}")]
    seconds = [record.seconds for record in records if record.seconds is not None]
    if seconds:
        totals.append(("seconds a series, median", _seconds(float(np.median(seconds)))))
    removed = [record.removed for record in records if record.removed is not None]
    if removed:
        totals.append(("noise removed, median", _share(float(np.median(removed)))))
    warned = sum(bool(record.warnings) for record in records)
    return [*totals, ("series with warnings", f"{warned:,}")]


def _row(record: SeriesRecord, edge: int) -> PageRow:
    return PageRow(
        record=record,
        name=record.row.description.strip() or "Series without description",
        scanner=scanner(record),
        kernel=kernel(record),
        image=_image(record.thumbnail, edge),
        report=quote(record.report),
        uid=_tail(record.row.series),
        seconds=_seconds(record.seconds),
        before=_hu(record.noise_before),
        after=_hu(record.noise_after),
        removed=_share(record.removed),
    )


def _image(thumbnail: bytes, edge: int) -> str:
    """Return the thumbnail as a data URL with panes of `edge` pixels; empty without one."""
    if not thumbnail:
        return ""
    strip = thumbnail if edge == EDGE else smaller(thumbnail, edge)
    return f"data:image/webp;base64,{b64encode(strip).decode()}"


def _tail(uid: str) -> str:
    return uid if len(uid) <= UID_SHOWN else f"…{uid[-UID_SHOWN:].lstrip('.')}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _hu(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
