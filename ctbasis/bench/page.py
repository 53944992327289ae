"""Page of `ctbasis bench svd` for docs/bench: tables of all cases, and two plots."""

from __future__ import annotations

import io
import platform
from typing import TYPE_CHECKING, Any

import psutil
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ctbasis.bench.cases import GROWTH
from ctbasis.bench.contenders import BOUNDS
from ctbasis.report.figures import COLOURS, DASHES, DPI
from ctbasis.storage.outputs import write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    Row = dict[str, Any]

COLUMNS = {
    "engine": "engine",
    "first_seconds": "first run, s",
    "seconds": "seconds",
    "cpu_seconds": "CPU s",
    "peak_mib": "peak MiB",
    "residual_over_optimal": "residual / optimal",
    "over_bare_blas": "× bare BLAS",
    "over_scikit_learn": "× scikit-learn",
    "over_mahout_stock": "× stock kernels",
    "us_per_row": "µs a row",
    "share_of_bound": "share of what binds",
    "sigma": "σ, of σ₁",
    "angle": "angle, degrees",
    "hu_rms": "rms HU",
    "hu_max": "max HU",
}
"""Columns of the tables and their headings; a table has the columns for which its case has values."""


def write_page(rows: Sequence[Row], folder: Path) -> None:
    """Write svd.md, speed.png and, if growth was measured, growth.png to `folder`.

    Args:
        rows: Rows of `bench_svd`.
        folder: Created if it does not exist; files of a former run are replaced.

    Raises:
        CtbasisError: The disk is full, or this user may not write there.
    """
    cases = {name: [row for row in rows if row["case"] == name] for name in dict.fromkeys(row["case"] for row in rows)}
    growth = cases.pop(GROWTH, [])
    introduction = (
        f"Written by `ctbasis bench svd --page`, on {machine()}; the contenders of a case run in turn. `bare-blas` and "
        "`bare-read` are bounds: the products of the exact method on float64 in memory, and reading the bytes of A "
        "from the disk or its cache. The matrices of growth and out-of-core consist of repeated blocks. A contender "
        "runs once, in its own process; in growth it runs several times, and the fastest run counts. Free memory is "
        "touched before each run, because the host of a virtual machine returns slowly the memory that it took back."
    )
    lines = ["# `ctbasis bench svd`", "", introduction]
    for name, own in cases.items():
        first = own[0]
        size = f"{first['rows']:,} × {first['cols']} {first['dtype']}, k = {first['rank']}"
        lines += ["", f"## {name}: {size}, p = {first['oversample']}, q = {first['power_iters']}", "", *_table(own)]
    if cases:
        lines += ["", "![Seconds of every engine and peer, case by case](speed.png)"]
        save(_speed(cases), folder / "speed.png")
    if growth:
        lines += [
            "",
            "## growth",
            "",
            *_table(growth, "rows"),
            "",
            "![Time a row against the number of rows](growth.png)",
        ]
        save(_growth(growth), folder / "growth.png")
    write_file(folder / "svd.md", "\n".join(lines) + "\n")


def machine() -> str:
    """Return what a page is made on, in words."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{psutil.cpu_count()} cores and {memory:.0f} GiB, Python {platform.python_version()}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def _table(rows: Sequence[Row], *before: str) -> list[str]:
    keys = [*before, *(key for key in COLUMNS if any(row.get(key) is not None for row in rows))]
    return table([COLUMNS.get(key, key) for key in keys], [[_cell(row.get(key)) for key in keys] for row in rows])


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 0.01 else f"{value:.4g}"  # noqa: PLR2004
    return f"{value:,}" if isinstance(value, int) else str(value)


def _speed(cases: dict[str, list[Row]]) -> Figure:
    """Draw the seconds of every contender, one panel per case."""
    figure = Figure(figsize=(9, 1.2 + 0.27 * sum(len(rows) + 2 for rows in cases.values())), layout="constrained")
    panels = figure.subplots(len(cases), 1, squeeze=False, height_ratios=[len(rows) + 1 for rows in cases.values()])
    for axes, (name, rows) in zip(panels[:, 0], cases.items(), strict=True):
        engines, seconds = [row["engine"] for row in rows], [row["seconds"] for row in rows]
        colours = ["#999999" if engine in BOUNDS else COLOURS[0] for engine in engines]
        # Points instead of bars, because the length of a bar has no meaning on a logarithmic axis.
        axes.scatter(seconds, engines, color=colours, zorder=2)
        for engine, value in zip(engines, seconds, strict=True):
            axes.annotate(f"{value:.3g} s", (value, engine), (7, -4), textcoords="offset points")
        axes.grid(axis="x", color="#dddddd")
        axes.margins(y=0.5 / len(rows))
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlim(min(seconds) / 2, max(seconds) * 3)
        axes.spines[["top", "right"]].set_visible(False)
        first = rows[0]
        axes.set_title(f"{name}: {first['rows']:,} × {first['cols']} {first['dtype']}, k = {first['rank']}", loc="left")
    panels[-1, 0].set_xlabel("seconds (grey: bounds)")
    return figure


def _growth(rows: Sequence[Row]) -> Figure:
    """Draw the time per row against the number of rows."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, engine in enumerate(dict.fromkeys(row["engine"] for row in rows)):
        own = [row for row in rows if row["engine"] == engine]
        sizes, times = [row["rows"] for row in own], [row["us_per_row"] for row in own]
        colour = "#999999" if engine in BOUNDS else COLOURS[number % len(COLOURS)]
        dashes = ":" if engine in BOUNDS else DASHES[number % len(DASHES)]
        axes.plot(sizes, times, marker="o", label=engine, color=colour, linestyle=dashes)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rows")
    axes.set_ylabel("µs a row")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    write_file(path, content.getvalue())
