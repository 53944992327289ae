"""Page of `ctbasis bench ttf` for docs/bench: f50, f10 and contrast of inserts by method, dose and contrast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctbasis.bench.denoisers import PATCH
from ctbasis.bench.page import machine, table
from ctbasis.bench.task_images import INPUT
from ctbasis.bench.task_page import command_of
from ctbasis.bench.ttf import BLUR
from ctbasis.storage.outputs import write_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Row = Mapping[str, Any]

OURS = PATCH[0].name
"""The mode that the sentences describe."""

TABLES = {"f50": "f50, 1/mm", "f10": "f10, 1/mm", "recovered": "Contrast kept"}
"""Titles of the tables by the key of their numbers."""


def write_ttf_page(rows: Sequence[Row], folder: Path) -> None:
    """Write ttf.md to `folder`, or ttf-series.md for inserts in a series.

    Args:
        rows: Rows of `bench_ttf`.
        folder: Created if it does not exist; the page of a former run is replaced.
    """
    found = [row for row in rows if "contrast_hu" in row]
    series = bool(rows[0]["series"])
    command = command_of("ttf", rows, ["--series DIR"] if series else [])
    introduction = (
        f"Written by `{command}`. [Tasks](../explanation/tasks.md) defines the task-based transfer "
        "function (TTF) and the inserts. Frequencies have the standard error of a jackknife over groups of slices. "
        f"`truth` is the volume without noise, whose inserts are blurred by a Gaussian of {BLUR} mm and by their "
        f"pixels; inserted noise does not blur, so the input differs from it by noise alone. On {machine()}."
    )
    lines = [
        f"# `ctbasis bench ttf{' --series' if series else ''}`",
        "",
        introduction,
        "",
        *(f"{row['method']}: {row['setting']}." for row in rows if "contrast_hu" not in row),
        *_sentences(found),
    ]
    for background in dict.fromkeys(row["background"] for row in found):
        own = [row for row in found if row["background"] == background]
        lines += ["", f"## {background[0].upper()}{background[1:]}"]
        for key, title in TABLES.items():
            lines += ["", f"### {title}: {background}", "", *_table(own, key)]
    write_file(folder / ("ttf-series.md" if series else "ttf.md"), "\n".join(lines) + "\n")


def _sentences(rows: Sequence[Row]) -> list[str]:
    """Return f50 of patch mode relative to that of the input, for each background and dose."""
    lines: list[str] = []
    cases = dict.fromkeys((row["background"], row["dose"]) for row in rows if row["method"] == OURS)
    for background, dose in cases:
        own = [row for row in rows if (row["background"], row["dose"]) == (background, dose)]
        before = {row["contrast_hu"]: row["f50"] for row in own if row["method"] == INPUT}
        after = {row["contrast_hu"]: row["f50"] for row in own if row["method"] == OURS}
        ratios = [
            f"{after[contrast] / value:.0%} at {contrast:+g} HU"
            for contrast, value in before.items()
            if value and after[contrast]
        ]
        at = "the full dose" if dose == 1 else f"{dose:g} of the full dose"
        lines += (
            [f"{background}, {at}: patch mode has {', '.join(ratios)} of the f50 of its input.", ""] if ratios else []
        )
    return lines[:-1]


def _table(rows: Sequence[Row], key: str) -> list[str]:
    contrasts = list(dict.fromkeys(row["contrast_hu"] for row in rows))
    lines = []
    for method, dose in dict.fromkeys((row["method"], row["dose"]) for row in rows):
        own = {row["contrast_hu"]: row for row in rows if (row["method"], row["dose"]) == (method, dose)}
        cells = [method, next(iter(own.values()))["setting"], "" if dose is None else f"{dose:g}"]
        lines.append([*cells, *(_number(own[contrast], key) for contrast in contrasts)])
    counts = {row["contrast_hu"]: row["count"] for row in rows}
    heads = [f"{contrast:+g} HU, {counts[contrast]} inserts" for contrast in contrasts]
    return table(["method", "setting", "dose", *heads], lines)


def _number(row: Row, key: str) -> str:
    value, error = row[key], row.get(f"{key}_error")
    if key == "recovered":
        return "" if value is None else f"{value:.0%}"
    if value is None:
        return f"> {row['nyquist']:.2f}" if row["recovered"] is not None else ""
    return f"{value:.3f}" + (f" ± {error:.3f}" if error is not None else "")
