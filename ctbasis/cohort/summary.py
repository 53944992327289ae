"""The summary of a cohort: one page, and CSV and Parquet of the same rows."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from ctbasis.cohort.summary_page import render_summary
from ctbasis.cohort.summary_table import to_csv, to_parquet
from ctbasis.storage.outputs import write_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ctbasis.cohort.record import SeriesRecord

PAGE, CSV, PARQUET = "summary.html", "summary.csv", "summary.parquet"

SUMMARY = (PAGE, CSV, PARQUET)
"""Files of a summary."""


def write_summary(
    records: Sequence[SeriesRecord], out: Path, *, facts: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write `summary.html`, `summary.csv` and `summary.parquet` into a folder, each completely or not at all.

    Args:
        records: The series, in the order of the rows. Their links are relative to `out`.
        out: Folder of the cohort; it is created if it does not exist.
        facts: What the page states about the cohort, such as source, mode and parameters, by name. With
            de-identification, the caller leaves names of the source out.

    Raises:
        CtbasisError: The disk is full or write-protected.
    """
    for name, content in (
        (CSV, to_csv(records)),
        (PARQUET, to_parquet(records)),
        (PAGE, render_summary(records, facts)),
    ):
        write_file(out / name, content)
