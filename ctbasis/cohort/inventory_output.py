"""The inventory as lines of text: a table for a reader, CSV and JSON for a program. Rows are written one by one."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from ctbasis.cohort.series_row import COLUMNS
from ctbasis.printable import csv_cell, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from ctbasis.cohort.inventory import Others
    from ctbasis.cohort.series_row import SeriesRow

KINDS = {str: "text", int: "integer", float: "number"}
"""Types of columns in the documentation."""

MAX_CELL = 40
"""Characters of a cell of the table; UIDs are shown whole."""

TITLES = ("series", "modality", "size", "spacing mm", "kernel", "scanner", "CTDIvol mGy", "exposure mAs", "MB", "")


def column_table() -> Iterator[str]:
    """Yield the lines of the table of columns in the documentation, in Markdown."""
    for name, column in COLUMNS.items():
        yield f"| `{name}` | {KINDS[column.kind]} | {column.unit} | {column.meaning} |"


def json_lines(rows: Iterable[SeriesRow], others: Iterable[Others]) -> Iterator[str]:
    """Yield the lines of a JSON document: an object with the lists `series` and `others`, one element a line."""
    yield '{"series": ['
    yield from _separated(json.dumps(row.to_json()) for row in rows)
    yield '], "others": ['
    yield from _separated(json.dumps(asdict(entry)) for entry in others)
    yield "]}"


def csv_lines(rows: Iterable[SeriesRow]) -> Iterator[str]:
    """Yield the lines of a CSV table with a header: the columns of `COLUMNS`. An absent value is empty."""
    yield _csv_line(COLUMNS)
    for row in rows:
        yield _csv_line(csv_cell(value) for value in row.values().values())


def table_lines(rows: Iterable[SeriesRow]) -> Iterator[str]:
    """Yield the lines of a table: a line for each study, then its series, then what is set aside.

    Columns are as wide as the values of the first series of each study need; wider values move the rest of their line.
    """
    study: tuple[str, str] | None = None
    gathered: list[SeriesRow] = []
    for row in rows:
        if study != (row.patient, row.study) and gathered:
            yield from _study_lines(gathered)
            gathered = []
        study = row.patient, row.study
        gathered.append(row)
    if gathered:
        yield from _study_lines(gathered)


def other_lines(others: Iterable[Others]) -> Iterator[str]:
    """Yield a line for each reason for which objects of no series are set aside."""
    for entry in others:
        size = "" if entry.bytes is None else f", {_megabytes(entry.bytes)} MB"
        yield f"{entry.objects:,} objects of no series{size}: {entry.reason}"


def total_line(series: int, usable: int, slices: int, size: int | None) -> str:
    """Return the line below the table."""
    stated = "" if size is None else f", {_megabytes(size)} MB"
    return f"{series:,} series, {usable:,} can be denoised: {slices:,} slices{stated}"


def _study_lines(rows: Sequence[SeriesRow]) -> Iterator[str]:
    yield f"patient {rows[0].patient or '(none)'}, study {rows[0].study or '(none)'}"
    cells = [TITLES, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(TITLES))]
    for line in cells:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _cells(row: SeriesRow) -> tuple[str, ...]:
    size = f"{row.rows} × {row.columns} × {row.slices}" if row.rows else ""
    spacing = f"{row.pixel_spacing:.3g}, {row.spacing:.3g}" if row.slices else ""
    scanner = " ".join(part for part in (row.manufacturer, row.model) if part)
    return (
        printable(row.series or "(none)"),
        *(_cell(text) for text in (row.modality, size, spacing, row.kernel, scanner)),
        *("" if number is None else f"{number:.4g}" for number in (row.ctdi_vol, row.exposure)),
        "" if row.bytes is None else _megabytes(row.bytes),
        _remark(row),
    )


def _remark(row: SeriesRow) -> str:
    """Return what a reader should know of a row: why it is refused, or what is set aside."""
    if row.refused:
        return printable(f"refused: {row.refused}")
    aside = ", ".join(f"{count} x {reason}" for reason, count in row.reasons)
    volumes = f"{row.volumes} volumes" if row.volumes > 1 else ""
    return printable("; ".join(part for part in (volumes, f"set aside: {aside}" if aside else "") if part))


def _cell(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= MAX_CELL else f"{shown[: MAX_CELL - 1]}…"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def _csv_line(cells: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _separated(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines, with a comma after each but the last."""
    previous = ""
    for line in lines:
        if previous:
            yield f"{previous},"
        previous = line
    if previous:
        yield previous
