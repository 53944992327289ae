"""The summary of a cohort as tables: CSV and Parquet of the same rows."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

from ctbasis.cohort.series_row import COLUMNS
from ctbasis.printable import csv_cell, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ctbasis.cohort.record import SeriesRecord

WARNING_SEPARATOR = " | "
"""Text between the warnings of a series in a cell of the CSV table."""


@dataclass(frozen=True)
class TableColumn:
    """A column of the tables.

    Attributes:
        kind: Type of its values: str, int, float, or tuple for a list of texts.
        value: Returns the value of a record; None if it is not known.
        unit: Unit; empty for none.
        meaning: What the column holds, one line.
    """

    kind: type
    value: Callable[[SeriesRecord], Any]
    unit: str
    meaning: str


def _of_row(name: str) -> Callable[[SeriesRecord], Any]:
    return lambda record: getattr(record.row, name)


OUTCOMES: Mapping[str, TableColumn] = {
    "state": TableColumn(str, lambda record: str(record.state), "", "done, unchanged, failed, set aside or not run"),
    "reason": TableColumn(str, lambda record: record.reason, "", "why the series is not denoised"),
    "mode": TableColumn(str, lambda record: record.mode, "", "patch or global"),
    "seconds": TableColumn(float, lambda record: record.seconds, "s", "wall-clock time"),
    "noise_before": TableColumn(float, lambda record: record.noise_before, "HU", "noise of the input in soft tissue"),
    "noise_after": TableColumn(float, lambda record: record.noise_after, "HU", "the same of the denoised series"),
    "removed": TableColumn(float, lambda record: record.removed, "", "1 - noise_after / noise_before"),
    "warnings": TableColumn(tuple, lambda record: record.warnings, "", "warnings of the report"),
    "folder": TableColumn(str, lambda record: record.folder, "", "folder of the outputs, relative to the cohort's"),
    "report": TableColumn(str, lambda record: record.report, "", "page of the report, relative to the cohort's folder"),
}
"""Columns that say what became of a series."""

UNPUBLISHED = {"digest"}
"""Columns of the inventory that are left out: whoever has the source could find a pseudonym's patient by them."""

TABLE: Mapping[str, TableColumn] = {
    **{
        name: TableColumn(column.kind, _of_row(name), column.unit, column.meaning)
        for name, column in COLUMNS.items()
        if name not in UNPUBLISHED
    },
    **OUTCOMES,
}
"""All columns by name, in the order of the tables."""


def to_csv(records: Iterable[SeriesRecord]) -> bytes:
    """Return the rows as CSV in UTF-8, with a header.

    An unknown value is empty; several warnings are separated by " | ". A text that a spreadsheet would take for a
    formula begins with an apostrophe.
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TABLE)
    for record in records:
        values = (column.value(record) for column in TABLE.values())
        writer.writerow(
            csv_cell(WARNING_SEPARATOR.join(value) if isinstance(value, tuple) else value) for value in values
        )
    return text.getvalue().encode()


def to_parquet(records: Sequence[SeriesRecord]) -> bytes:
    """Return the rows as a Parquet file. An unknown value is null; the warnings are a list of texts."""
    import pyarrow as pa
    from pyarrow import parquet

    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), tuple: pa.list_(pa.string())}
    fields = [
        pa.field(name, types[column.kind], metadata={"unit": column.unit, "meaning": column.meaning})
        for name, column in TABLE.items()
    ]
    rows = [{name: _printable(column.value(record)) for name, column in TABLE.items()} for record in records]
    buffer = BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), buffer, compression="zstd")
    return buffer.getvalue()


def _printable(value: Any) -> Any:
    """Return texts printable; a lone surrogate, for one, is no UTF-8."""
    if isinstance(value, tuple):
        return [printable(text) for text in value]
    return printable(value) if isinstance(value, str) else value
