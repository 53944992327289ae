"""Page of `ctbasis bench traffic` for docs/bench: the table of all measurements, and a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from ctbasis.bench.page import machine, save, table
from ctbasis.report.figures import COLOURS
from ctbasis.storage.outputs import write_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Row = dict[str, Any]

COLUMNS = {
    "engine": "engine",
    "cols": "n",
    "shuffle_mib": "shuffled, MiB",
    "expected_mib": "executors × products × n (k + p), MiB",
    "ratio": "ratio",
    "driver_mib": "results to the driver, MiB",
    "one_sum_mib": "n (k + p), MiB",
    "driver_heap_mib": "driver's heap at most, MiB",
    "seconds": "s, with the start of Spark",
}

MARKERS: tuple[dict[str, Any], ...] = (
    {"marker": "o", "markersize": 11, "fillstyle": "none"},
    {"marker": "s", "markersize": 4},
)
"""Markers of the engines, which are seen where they lie upon each other."""


def write_traffic_page(rows: Sequence[Row], folder: Path) -> None:
    """Write traffic.md and traffic.png to `folder`.

    Args:
        rows: Rows of `bench_traffic`.
        folder: Created if it does not exist; files of a former run are replaced.

    Raises:
        CtbasisError: The disk is full, or this user may not write there.
    """
    first = rows[0]
    introduction = (
        f"Written by `ctbasis bench traffic --page`, on {machine()}: {first['executors']} executors of one core, each "
        f"a process of its own on this machine, and matrices of {first['rows']:,} × n int16. The event log of Spark "
        f"gives the bytes. A factorization has {first['products']} products AᵀY (q + 1 power iterations), each a sum "
        "of n (k + p) doubles of each executor. The ratio includes all smaller sums, such as those of the error "
        "report. The driver receives the sum of all executors, and sends it to them for the next product. Its heap "
        "includes garbage that the JVM had not yet collected."
    )
    lines = ["# `ctbasis bench traffic`", "", introduction, ""]
    lines += table(list(COLUMNS.values()), [[_cell(row[key]) for key in COLUMNS] for row in rows])
    lines += ["", "![Bytes shuffled against the number of columns](traffic.png)"]
    save(_plot(rows), folder / "traffic.png")
    write_file(folder / "traffic.md", "\n".join(lines) + "\n")


def _cell(value: object) -> str:
    if value == 0:  # an application so short that Spark recorded no use of the heap
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits
    return f"{value:,}" if isinstance(value, int) else str(value)


def _plot(rows: Sequence[Row]) -> Figure:
    """Draw the bytes shuffled against n, with the expected bytes and, for comparison, a line that grows with n²."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, engine in enumerate(dict.fromkeys(row["engine"] for row in rows)):
        own = [row for row in rows if row["engine"] == engine]
        sizes, shuffled = [row["cols"] for row in own], [row["shuffle_mib"] for row in own]
        marker = MARKERS[number % len(MARKERS)]
        axes.plot(sizes, shuffled, linestyle="", label=engine, color=COLOURS[number % len(COLOURS)], **marker)
    sizes = sorted({row["cols"] for row in rows})
    expected = [next(row["expected_mib"] for row in rows if row["cols"] == size) for size in sizes]
    axes.plot(sizes, expected, "-", color="#999999", label="executors × products × n (k + p) × 8 B")
    squares = [expected[0] * (size / sizes[0]) ** 2 for size in sizes]
    axes.plot(sizes, squares, ":", color="#999999", label="growth with n²")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("columns n")
    axes.set_ylabel("MiB shuffled")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
