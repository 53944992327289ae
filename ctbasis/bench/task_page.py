"""Page of `ctbasis bench task` for docs/bench: sentences, dose-equivalence curves, and tables of all numbers."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ctbasis.bench.denoisers import METHODS, PATCH
from ctbasis.bench.page import machine, table
from ctbasis.bench.task_cases import KNOWN, TASKS, TaskSettings
from ctbasis.bench.task_images import INPUT
from ctbasis.report.figures import COLOURS, DASHES, LABEL, TICK, TITLE, new_figure
from ctbasis.storage.outputs import write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Row = Mapping[str, Any]

OURS = PATCH[0].name
"""The mode that the sentences describe."""

DPI = 110
"""Resolution of the figure."""

NAME = "task"
"""Name of page and figure, without suffix; those of other tasks than by default name them too."""


def write_task_page(rows: Sequence[Row], folder: Path) -> None:
    """Write task.md and task.png to `folder`; pages of other tasks than by default have the tasks in their names.

    Args:
        rows: Rows of `bench_task`.
        folder: Created if it does not exist; files of a former run are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [row for row in rows if "d_prime" not in row]
    measured = [row for row in rows if "d_prime" in row]
    images = measured[0]["images"]
    names = {task.name: name for name, task in KNOWN.items()}
    tasks = [names[task] for task in dict.fromkeys(row["task"] for row in measured)]
    others = [] if tasks == [names[task.name] for task in TASKS] else tasks
    name = "-".join([NAME, *others])
    command = command_of("task", rows, [f"--task {task}" for task in others])
    noise = measured[0]["internal_noise"]
    internal = f" Observers have an internal noise of {noise:.3g}." if noise else ""
    introduction = (
        f"Written by `{command}`. [Tasks](../explanation/tasks.md) defines what is measured, and how. "
        f"d' has its exact 95 % interval, from {images} regions of interest in independent noise{_fewer(measured)}."
        f"{internal} Seconds are processor time of one core, on {machine()}."
    )
    explanation = (
        "Each curve shows the dose that a denoised image is worth (vertical) at the dose at which it was taken. On the "
        "grey line, denoising changes nothing. Where a curve crosses the dotted line, a denoised image has the d' of "
        "the full dose."
    )
    alt = "Dose-equivalence curves: the dose that a denoised image is worth, by task and observer"
    title = "".join(f" --task {task}" for task in others)
    lines = [f"# `ctbasis bench task{title}`", "", introduction, ""]
    lines += [f"{row['method']}: {row['setting']}." for row in missing]
    lines += [*_summary(measured), f"![{alt}]({name}.png)", "", explanation]
    lines += ["", "## Patch mode", "", *_sentences(measured)] if any(row["method"] == OURS for row in measured) else []
    for task, observer in dict.fromkeys((row["task"], row["observer"]) for row in measured):
        own = [row for row in measured if (row["task"], row["observer"]) == (task, observer)]
        lines += ["", f"## {task}: {observer}", "", *_detectability(own)]
    lines += ["", "## Noise, texture and sharpness", "", *_texture(measured)]
    picture = io.BytesIO()
    _figure(measured).savefig(picture, format="png", dpi=DPI)
    write_file(folder / f"{name}.png", picture.getvalue())
    write_file(folder / f"{name}.md", "\n".join(lines) + "\n")


def command_of(bench: str, rows: Iterable[Row], options: Sequence[str] = ()) -> str:
    """Return the command that wrote a page, with the methods if they are not those by default.

    Args:
        bench: Name of the benchmark.
        rows: Its rows, those of peers that are not installed too.
        options: Options before the methods.
    """
    run = {str(row["method"]).split(" k=")[0] for row in rows}
    default = TaskSettings().methods
    methods = [] if run >= {*default} else [f"--method {name}" for name in METHODS if name in run]
    return " ".join([f"ctbasis bench {bench}", *options, *methods, "--page"])


def _fewer(rows: Sequence[Row]) -> str:
    """Return which methods have fewer regions of interest."""
    images = {row["method"]: row["images"] for row in rows if row["task"] == rows[0]["task"]}
    return "".join(f"; {name}: {count} regions" for name, count in images.items() if count < images[INPUT])


def _summary(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each dose: for which tasks patch mode equals more dose, and for which less."""
    lines: list[str] = []
    for dose in sorted({row["dose"] for row in rows}, reverse=True):
        found: dict[str, list[str]] = {"more": [], "less": [], "": []}
        for row in _ours(rows):
            if row["dose"] == dose:
                sign = _sign(row)
                size = f"**{abs(row['equivalent_dose'] - 1):.0%} {sign} dose** for " if sign else ""
                found[sign].append(f"{size}{row['task']} ({row['observer']})")
        told = [f"equals {', '.join(found[sign])}" for sign in ("more", "less") if found[sign]]
        told += [f"is worth its own dose within the band for {', '.join(found[''])}"] if found[""] else []
        if told:
            at = "the full dose" if dose == 1 else f"{dose:g} of the full dose"
            lines += [f"At {at}, patch mode {'; it '.join(told)}.", ""]
    return lines


def _ours(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["method"] == OURS and "equivalent_dose" in row]


def _sign(row: Row) -> str:
    """Return whether an image is worth more or less dose; empty if the band holds both."""
    return "more" if row["equivalent_low"] > 1 else "less" if row["equivalent_high"] < 1 else ""


def _sentences(rows: Iterable[Row]) -> list[str]:
    """Return where patch mode is worth more dose, less dose, and where the bands do not tell."""
    found: dict[str, list[str]] = {"more": [], "less": [], "": []}
    for row in _ours(rows):
        found[_sign(row)].append(f"{row['task']}, {row['observer']}, at {row['dose']:g}: {_relative(row)}")
    told = {
        "more": "Patch mode is worth **more** dose than its images were taken with",
        "less": "Patch mode **loses**: its images are worth less dose than they were taken with",
        "": "The bands do not tell",
    }
    lines = []
    for key, values in found.items():
        if values:
            lines += [f"{told[key]}:", "", *(f"- {value}" for value in values), ""]
    return lines[:-1]


def _detectability(rows: Sequence[Row]) -> list[str]:
    doses = sorted(
        {row["dose"] for row in rows if row["method"] != INPUT} or {row["dose"] for row in rows}, reverse=True
    )
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        by_dose = {row["dose"]: row for row in rows if row["method"] == method}
        cells = [method, next(iter(by_dose.values()))["setting"]]
        for dose in doses:
            row = by_dose[dose]
            cells.append(f"{row['d_prime']:.2f} ({row['d_prime_low']:.2f} to {row['d_prime_high']:.2f})")
            cells.append(_relative(row) if method != INPUT else "")
        reached = next((row for row in by_dose.values() if "reached_dose" in row), None)
        cells.append("1" if method == INPUT else _reached(reached, min(doses)) if reached else "")
        seconds = max((row["seconds_per_megavoxel"] or 0.0 for row in by_dose.values()), default=0.0)
        cells.append(f"{seconds:.3g}" if seconds else "")
        lines.append(cells)
    heads = ["method", "setting"]
    for dose in doses:
        heads += [f"d' at {dose:g}", "worth, more dose"]
    return table([*heads, "dose that reaches the full dose's d'", "core-seconds a million voxels"], lines)


def _relative(row: Row) -> str:
    """Return how much more dose a denoised image is worth, with its band."""
    value, low, high = (row[f"equivalent_{end}"] - 1 for end in ("dose", "low", "high"))
    return f"{value:+.0%} ({low:+.0%} to {high:+.0%})"


def _reached(row: Row, least: float) -> str:
    """Return the reached dose with its band; doses outside the measured ones are extrapolated, and not given."""

    def text(dose: float) -> str:
        return f"< {least:g}" if dose < least else "> 2" if dose > 2 else f"{dose:.2f}"  # noqa: PLR2004 - twice

    return f"{text(row['reached_dose'])} ({text(row['reached_low'])} to {text(row['reached_high'])})"


def _texture(rows: Sequence[Row]) -> list[str]:
    """Return a table of noise and edges; edges are those of the tasks whose discs are large enough."""
    tasks = [task for task in dict.fromkeys(row["task"] for row in rows) if _any(rows, task, "f50")]
    heads = ["method", "dose", "error in the body, HU", "f_av, 1/mm", "f_peak, 1/mm"]
    for task in tasks:
        heads += [f"f50, 1/mm ({task})", "contrast kept"]
    lines = []
    for method, dose in dict.fromkeys((row["method"], row["dose"]) for row in rows):
        own = {row["task"]: row for row in rows if (row["method"], row["dose"]) == (method, dose)}
        first = next(iter(own.values()))
        cells = [method, f"{dose:g}", *(_number(first[key]) for key in ("noise_hu", "f_av", "f_peak"))]
        for task in tasks:
            cells += [_number(own[task]["f50"]), _number(own[task]["recovered"])]
        lines.append(cells)
    return table(heads, lines)


def _any(rows: Iterable[Row], task: str, key: str) -> bool:
    return any(row[key] is not None for row in rows if row["task"] == task)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _figure(rows: Sequence[Row]) -> Figure:
    """Draw the equivalent dose against the dose: a column per task, a row per observer, a line per method."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    observers = list(dict.fromkeys(row["observer"] for row in rows))
    methods = [method for method in dict.fromkeys(row["method"] for row in rows) if method != INPUT]
    figure = new_figure(4.6 * len(tasks), 3.9 * len(observers) + 0.6)
    grid = figure.subplots(len(observers), len(tasks), squeeze=False, sharex=True, sharey=True)
    for axes, observer in zip(grid, observers, strict=True):
        for panel, task in zip(axes, tasks, strict=True):
            for number, method in enumerate(methods):
                _curve(panel, [row for row in rows if _key(row) == (task, observer, method)], method, number)
            doses = sorted({row["dose"] for row in rows})
            panel.plot(doses, doses, color="#999999", zorder=0)
            panel.axhline(1.0, color="black", linestyle=":", linewidth=1)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log", base=2)
            panel.set_title(f"{task}, {observer}", fontsize=TITLE)
            panel.tick_params(labelsize=TICK)
        axes[0].set_ylabel("worth the dose", fontsize=LABEL)
    for panel in grid[-1]:
        panel.set_xlabel("dose of the image", fontsize=LABEL)
        panel.set_xlim(0.22, 1.15)
        panel.set_ylim(0.03, 4)
        ticks = [0.25, 0.5, 1.0]
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        worth = [0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0]
        panel.set_yticks(worth, [f"{tick:.3g}" for tick in worth])
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=LABEL, frameon=False)
    return figure


def _key(row: Row) -> tuple[str, str, str]:
    return row["task"], row["observer"], row["method"]


def _curve(panel: Axes, rows: Sequence[Row], method: str, number: int) -> None:
    """Draw the curve of a method with its band; the curve of patch mode is black and thick."""
    own = sorted(rows, key=lambda row: float(row["dose"]))
    x = [row["dose"] for row in own]
    worth = {end: [row["dose"] * row[f"equivalent_{end}"] for row in own] for end in ("dose", "low", "high")}
    colour, dashes, width = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)], 1.5
    if method == OURS:
        colour, dashes, width = "black", "-", 3.0
    panel.plot(x, worth["dose"], color=colour, linestyle=dashes, linewidth=width, marker="o", ms=4, label=method)
    panel.fill_between(x, worth["low"], worth["high"], color=colour, alpha=0.12, linewidth=0)
