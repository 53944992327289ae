"""HTML page of a score: pictures, curves and tables in one self-contained file, in the style of the report."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.ticker import AutoLocator

import ctbasis.report
from ctbasis.printable import page_value
from ctbasis.report.figures import (
    COLOURS,
    DASHES,
    LABEL,
    TICK,
    TITLE,
    WINDOWS,
    colour_bar,
    draw_image,
    new_figure,
    png,
    set_axes,
)
from ctbasis.report.noisy_truth import noisy_truth_warning
from ctbasis.report.page import SCORES, number
from ctbasis.report.smoothed_removal import MOST_RATIO, SMOOTHING, smoothed
from ctbasis.storage.outputs import write_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from ctbasis.score.score import Comparison, Shown

MORE_SCORES = {"rmse_bone": "RMSE, bone (HU)", "rmse_edges": "RMSE, edges (HU)"}
"""Labels of the scores that the report does not have."""

MEASURES = {
    "with_truth": "the truth: the grey scale changed",
    "with_gradient": "the gradient of the truth: more was removed at edges",
    "with_detail": "the detail of the truth: edges became softer",
}
"""Labels of the correlations of ctbasis/score/structure.py."""

ANATOMY_REMOVED = 3.0
"""|z| of a correlation above which the page warns that anatomy was removed."""

LOST = 0.5
"""Contrast recovery below which the page warns that nodules are lost."""


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page to `path`.

    Args:
        comparison: The measurements.
        path: HTML file; its folder is created if it does not exist.

    Raises:
        CtbasisError: The file cannot be written.
    """
    write_file(path, render(comparison))


def write_folder(comparison: Comparison, out: Path) -> None:
    """Write score.json and score.html into the folder `out`."""
    write_file(out / "score.json", json.dumps(comparison.scores, indent=2) + "\n")
    write_page(comparison, out / "score.html")


def render(comparison: Comparison) -> str:
    """Return the HTML of the page."""
    folders = [Path(__file__).parent, *map(Path, ctbasis.report.__path__)]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        finalize=page_value,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["number"] = number
    scores = comparison.scores
    named = [("image", scores), *([("input", scores["before"])] if "before" in scores else [])]
    figures = {"slices": slices_figure(comparison.shown, comparison.spacing[1:]), "curves": curves(comparison)}
    if comparison.patches:
        figures["nodules"] = nodules_figure(comparison)
    return environment.get_template("score.html.j2").render(
        scores=scores,
        shown=comparison.shown.index + 1,
        warnings=_warnings(scores),
        rows=[
            {"name": name, "values": {label: number(of[key]) for key, label in {**SCORES, **MORE_SCORES}.items()}}
            for name, of in named
        ],
        textures=_textures(scores, named),
        nodules=_nodules(named),
        removed=scores.get("removed"),
        measures=MEASURES,
        images={name: f"data:image/png;base64,{b64encode(png(drawn)).decode()}" for name, drawn in figures.items()},
    )


def _textures(scores: Mapping[str, Any], named: list[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    frequencies = ("mean_frequency", "peak_frequency")
    sharpness = {"f50": scores["mtf"]["truth"]["f50"], "transfer50": None}
    rows = [{"name": "truth", **dict.fromkeys(frequencies), **sharpness}]
    for name, of in named:
        rows.append({"name": name, **{key: of["nps"][key] for key in frequencies}, **scores["mtf"][_key(name)]})
    return rows


def _key(name: str) -> str:
    return "noisy" if name == "input" else name


def _nodules(named: list[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    listed = [(name, of["nodules"]) for name, of in named if "nodules" in of]
    if not listed:
        return []
    return [
        {
            **{key: kinds[0][key] for key in ("diameter_mm", "contrast_hu", "count")},
            "recovered": {
                name: number(kind["recovered"]) + (f" ± {kind['spread']:.2g}" if kind["spread"] is not None else "")
                for (name, _), kind in zip(listed, kinds, strict=True)
            },
        }
        for kinds in zip(*(kinds for _, kinds in listed), strict=True)
    ]


def _warnings(scores: Mapping[str, Any]) -> list[str]:
    warnings = []
    for name, label in MEASURES.items():
        z = scores.get("removed", {}).get(name, {}).get("z")
        if z is not None and abs(z) > ANATOMY_REMOVED:
            warnings.append(f"The removed component correlates with {label} (z = {z:.3g}), more than pure noise would.")
    if scores.get("noise_corrected"):
        warnings.append(noisy_truth_warning(scores))
    ratio = scores.get("removed", {}).get("smoothed_removal")
    if ratio is not None and ratio > MOST_RATIO:
        warnings.append(
            f"Smoothed by {SMOOTHING:g} pixels, the removed component is {ratio:.2f} times as strong as the true "
            "noise, so anatomy of low contrast was removed."
        )
    warnings += [
        f"Nodules of {kind['diameter_mm']:g} mm and {kind['contrast_hu']:+g} HU keep {kind['recovered']:.0%} of their "
        "contrast."
        for kind in scores.get("nodules", [])
        if kind["recovered"] < LOST
    ]
    return warnings


def slices_figure(shown: Shown, pixel_spacing: tuple[float, float]) -> Figure:
    """Draw truth, input and image in both windows; below, the error and the removed component.

    The removed component is drawn before and after smoothing. The lower pictures have scales of their own.
    """
    aspect = pixel_spacing[0] / pixel_spacing[1]
    columns = {"truth": shown.truth, "image": shown.image}
    below = {"image - truth": shown.image - shown.truth}
    if shown.noisy is not None:
        columns = {"truth": shown.truth, "input": shown.noisy, "image": shown.image}
        below["removed: input - image"] = shown.noisy - shown.image
        below[f"removed, smoothed by {SMOOTHING:g} pixels"] = smoothed(below["removed: input - image"])
    height = shown.truth.shape[0] * aspect / shown.truth.shape[1]
    figure = new_figure(3.6 * len(columns) + 1.2, 3.6 * height * 3 + 1.6)
    axes = figure.subplots(3, len(columns), squeeze=False)
    for column, (name, image) in enumerate(columns.items()):
        axes[0, column].set_title(name, fontsize=TITLE)
        for row, window in enumerate(WINDOWS):
            drawn = draw_image(axes[row, column], image, window.limits, "gray", aspect)
            if column == len(columns) - 1:
                colour_bar(figure, drawn, list(axes[row]), "HU")
    for row, window in enumerate(WINDOWS):
        axes[row, 0].set_ylabel(f"{window.name} window", fontsize=LABEL)
    for axis, (name, image) in zip(axes[2], below.items(), strict=False):
        limit = max(1.0, float(np.percentile(np.abs(image), 99.5)))
        drawn = draw_image(axis, image, (-limit, limit), "PuOr_r", aspect)
        axis.set_title(name, fontsize=TITLE)
        colour_bar(figure, drawn, axis, "HU")
    for axis in axes[2, len(below) :]:
        axis.set_axis_off()
    return figure


def curves(comparison: Comparison) -> Figure:
    """Draw noise power spectra, edge-spread functions and modulation transfer functions."""
    figure = new_figure(15, 4.2)
    left, middle, right = figure.subplots(1, 3)
    labels = {"image": "image", "noisy": "input", "truth": "truth"}
    for index, (name, power) in enumerate(comparison.power.items()):
        if power.squares:
            f, values = power.radial()
            left.plot(f, values, color=COLOURS[index], linestyle=DASHES[index], label=labels[name])
    _finish(left, "noise power of image - truth", "1/mm", "HU² mm²")
    if comparison.edges.measured:
        for index, name in enumerate(("image", "noisy", "truth")):
            if name in comparison.edges.names:
                style = {"color": COLOURS[index], "linestyle": DASHES[index], "label": labels[name]}
                middle.plot(comparison.edges.distance, comparison.edges.edge_spread(name), **style)
                right.plot(*comparison.edges.mtf(name), **style)
        middle.set_xlim(-4, 4)
        right.set_ylim(0, 1.1)
    _finish(middle, "edge spread at the skin", "mm, positive inside", "HU")
    _finish(right, "modulation transfer", "1/mm", "")
    return figure


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    set_axes(axes, title, x, y)
    axes.xaxis.set_major_locator(AutoLocator())
    if axes.lines:
        axes.legend(fontsize=TICK)


def nodules_figure(comparison: Comparison) -> Figure:
    """Draw one nodule of each kind in truth, input and image."""
    kinds = sorted(comparison.patches)
    names = [name for name in ("truth", "noisy", "image") if name in comparison.patches[kinds[0]]]
    figure = new_figure(1.9 * len(kinds) + 0.6, 2.1 * len(names) + 0.4)
    axes = figure.subplots(len(names), len(kinds), squeeze=False)
    aspect = comparison.spacing[1] / comparison.spacing[2]
    for column, kind in enumerate(kinds):
        axes[0, column].set_title(f"{kind[0]:g} mm {kind[1]:+g} HU", fontsize=TICK)
        for row, name in enumerate(names):
            image: NDArray[np.float32] = comparison.patches[kind][name]
            draw_image(axes[row, column], image, (-1000.0, 0.0), "gray", aspect)
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel({"noisy": "input"}.get(name, name), fontsize=LABEL)
    return figure
