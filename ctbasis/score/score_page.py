"""The page of a score: pictures, curves and tables in one self-contained HTML file, in the report's style."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.ticker import AutoLocator

import ctbasis.report
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
from ctbasis.report.page import SCORES, number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from ctbasis.score.score import Findings, Shown

MORE_SCORES = {"rmse_bone": "RMSE, bone (HU)", "rmse_edges": "RMSE, edges (HU)"}

MEASURES = {
    "with_truth": "the truth: a change of grey scale",
    "with_gradient": "its gradient: more removed at edges",
    "with_detail": "its detail: edges made softer",
}

ANATOMY_REMOVED = 3.0
"""z of a correlation from which the reader is told that anatomy was removed."""

LOST = 0.5
"""Contrast recovery below which the reader is told that nodules are lost."""


def write_page(found: Findings, path: Path) -> None:
    """Write the page to `path`.

    Args:
        found: What was measured.
        path: Of the HTML file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(found), encoding="utf-8")


def write_folder(found: Findings, out: Path) -> None:
    """Write score.json and score.html into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "score.json").write_text(json.dumps(found.scores, indent=2) + "\n", encoding="utf-8")
    write_page(found, out / "score.html")


def render(found: Findings) -> str:
    """Return the page."""
    folders = [Path(__file__).parent, *map(Path, ctbasis.report.__path__)]
    environment = Environment(
        loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["number"] = number
    scores = found.scores
    named = [("image", scores), *([("input", scores["before"])] if "before" in scores else [])]
    figures = {"slices": slices_figure(found.shown, found.spacing[1:]), "curves": curves(found)}
    if found.patches:
        figures["nodules"] = nodules_figure(found)
    return environment.get_template("score.html.j2").render(
        scores=scores,
        shown=found.shown.index + 1,
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
    rows = [{"name": "truth", "mean_frequency": None, "f50": scores["mtf"]["truth"]["f50"], "transfer50": None}]
    for name, of in named:
        rows.append({"name": name, "mean_frequency": of["nps"]["mean_frequency"], **scores["mtf"][_key(name)]})
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
    said = []
    for name, label in MEASURES.items():
        z = scores.get("removed", {}).get(name, {}).get("z")
        if z is not None and abs(z) > ANATOMY_REMOVED:
            said.append(f"What was removed correlates with {label} (z = {z:.3g}), more than noise alone would.")
    said += [
        f"Nodules of {kind['diameter_mm']:g} mm and {kind['contrast_hu']:+g} HU keep {kind['recovered']:.0%} of their "
        "contrast."
        for kind in scores.get("nodules", [])
        if kind["recovered"] < LOST
    ]
    return said


def slices_figure(shown: Shown, pixel_spacing: tuple[float, float]) -> Figure:
    """Draw truth, input and image in both windows, and below what is wrong and what was removed."""
    aspect = pixel_spacing[0] / pixel_spacing[1]
    columns = {"truth": shown.truth, "image": shown.image}
    below = {"image - truth": shown.image - shown.truth}
    if shown.noisy is not None:
        columns = {"truth": shown.truth, "input": shown.noisy, "image": shown.image}
        below["removed: input - image"] = shown.noisy - shown.image
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
    limit = max(1.0, *(float(np.percentile(np.abs(image), 99.5)) for image in below.values()))
    for axis, (name, image) in zip(axes[2], below.items(), strict=False):
        drawn = draw_image(axis, image, (-limit, limit), "PuOr_r", aspect)
        axis.set_title(name, fontsize=TITLE)
    colour_bar(figure, drawn, list(axes[2]), "HU")
    for axis in axes[2, len(below) :]:
        axis.set_axis_off()
    return figure


def curves(found: Findings) -> Figure:
    """Draw noise power, edge-spread and modulation transfer."""
    figure = new_figure(15, 4.2)
    left, middle, right = figure.subplots(1, 3)
    labels = {"image": "image", "noisy": "input", "truth": "truth"}
    for index, (name, power) in enumerate(found.power.items()):
        if power.squares:
            f, values = power.radial()
            left.plot(f, values, color=COLOURS[index], linestyle=DASHES[index], label=labels[name])
    _finish(left, "noise power of image - truth", "1/mm", "HU² mm²")
    if found.edges.measured:
        for index, name in enumerate(("image", "noisy", "truth")):
            if name in found.edges.names:
                style = {"color": COLOURS[index], "linestyle": DASHES[index], "label": labels[name]}
                middle.plot(found.edges.distance, found.edges.edge_spread(name), **style)
                right.plot(*found.edges.mtf(name), **style)
        middle.set_xlim(-4, 4)
        right.set_ylim(0, 1.1)
    _finish(middle, "edge spread at the skin", "mm, inside positive", "HU")
    _finish(right, "modulation transfer", "1/mm", "")
    return figure


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    set_axes(axes, title, x, y)
    axes.xaxis.set_major_locator(AutoLocator())
    if axes.lines:
        axes.legend(fontsize=TICK)


def nodules_figure(found: Findings) -> Figure:
    """Draw one nodule of each kind in truth, input and image."""
    kinds = sorted(found.patches)
    names = [name for name in ("truth", "noisy", "image") if name in found.patches[kinds[0]]]
    figure = new_figure(1.9 * len(kinds) + 0.6, 2.1 * len(names) + 0.4)
    axes = figure.subplots(len(names), len(kinds), squeeze=False)
    aspect = found.spacing[1] / found.spacing[2]
    for column, kind in enumerate(kinds):
        axes[0, column].set_title(f"{kind[0]:g} mm {kind[1]:+g} HU", fontsize=TICK)
        for row, name in enumerate(names):
            image: NDArray[np.float32] = found.patches[kind][name]
            draw_image(axes[row, column], image, (-1000.0, 0.0), "gray", aspect)
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel({"noisy": "input"}.get(name, name), fontsize=LABEL)
    return figure
