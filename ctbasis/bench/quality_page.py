"""The rows and images of `ctbasis bench quality` as docs/bench holds them: a page of tables, and a picture a series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.bench.denoisers import PATCH, PEERS
from ctbasis.bench.page import machine, table
from ctbasis.report.figures import LABEL, TITLE, WINDOWS, draw_image, new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from ctbasis.bench.quality import Views

COLUMNS = {
    "method": "method",
    "setting": "setting",
    "rmse_body": "RMSE body, HU",
    "rmse_lung": "lung",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "nodule_600": "nodule +600",
    "nodule_150": "+150",
    "edge_ratio": "edge ratio",
    "seconds": "seconds",
    "seconds_per_slice": "a slice",
}
"""Columns of the tables, and their headings."""

LOWER, HIGHER = ("rmse_body", "rmse_lung"), ("psnr", "ssim")
"""Columns whose best value is set in bold: the least, the most."""

DPI = 110
"""Of the pictures: about the pixels of a binned slice."""

REMOVED = 60.0
"""HU at the ends of the scale of what was removed."""

OURS = PATCH[0].name
"""The mode that is shown."""


def write_quality_page(views: Sequence[Views], folder: Path) -> None:
    """Write quality.md and a picture of each series, resolution and kernel to `folder`.

    Args:
        views: Of `bench_quality`.
        folder: Made if it is not there; what is in it of a former run is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = (
        "Written by `ctbasis bench quality --page`. docs/explanation/quality.md defines what is measured, and how. The "
        f"best value of a column is in bold. Seconds on {machine()}."
    )
    lines = ["# `ctbasis bench quality`", "", made, "", *_wins(views)]
    for index, ((series, resolution, kernel), own) in enumerate(_groups(views).items(), start=1):
        lines += ["", f"## {series}, {resolution}, {kernel}"]
        for view in own:
            first = view.rows[0]
            lines += [
                "",
                f"Noise of {first['noise_body']:.1f} HU in the body, {first['noise_lung']:.1f} HU in the lung:",
                "",
                *_table(view.rows),
            ]
        name = f"quality-{index}.jpg"
        _picture(own).savefig(folder / name, dpi=DPI, pil_kwargs={"quality": 85})
        lines += ["", f"![{series}: truth, noisy, the best peer, global mode, patch mode, what it removed]({name})"]
    (folder / "quality.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _groups(views: Sequence[Views]) -> dict[tuple[str, str, str], list[Views]]:
    groups: dict[tuple[str, str, str], list[Views]] = {}
    for view in views:
        first = view.rows[0]
        groups.setdefault((first["series"], first["resolution"], first["kernel"]), []).append(view)
    return groups


def _wins(views: Sequence[Views]) -> list[str]:
    """Return a table of how patch mode stands to the input and to the best of all peers in every case."""
    error = ("of noisy", "of the best peer")
    heads = ("case", "RMSE body", *error, "RMSE lung", *error, "SSIM", "of the best peer")
    lines: list[list[str]] = []
    peers = {peer.name for peer in PEERS}
    for view in views:
        rows = {row["method"]: row for row in view.rows}
        ours, others = rows.get(OURS), [row for row in view.rows if row["method"] in peers and "ssim" in row]
        if ours is None or not others:
            continue
        cells = [ours["case"]]
        for key in LOWER:
            best = min(others, key=lambda row: row[key])
            cells += [
                f"{ours[key]:.1f} HU",
                f"{ours[key] / rows['noisy'][key] - 1:+.0%}",
                f"{ours[key] / best[key] - 1:+.0%} ({best['method']})",
            ]
        best = max(others, key=lambda row: row["ssim"])
        cells += [f"{ours['ssim']:.3f}", f"{best['ssim']:.3f} ({best['method']})"]
        lines.append(cells)
    return table(heads, lines)


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    # A peer that is not installed has a row without scores; the noisy image always has them.
    best = {key: min(row[key] for row in rows if key in row) for key in LOWER}
    best |= {key: max(row[key] for row in rows if key in row) for key in HIGHER}
    cells = [[_cell(row.get(key), bold=key in best and row.get(key) == best[key]) for key in COLUMNS] for row in rows]
    return table(list(COLUMNS.values()), cells)


def _cell(value: object, *, bold: bool) -> str:
    text = "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
    return f"**{text}**" if bold else text


def _picture(views: Sequence[Views]) -> Figure:
    """Draw a slice of every dose: a row a dose and window, a column a method, and what patch mode removed and erred."""
    shown = [_shown(view) for view in views]
    heads = list(shown[0])
    high, wide = views[0].truth.shape
    size = 2.2
    figure = new_figure(size * (len(heads) + 1), size * 2 * len(views) * high / wide * views[0].aspect)
    grid = figure.subplots(2 * len(views), len(heads) + 1, squeeze=False)
    for index, (view, images) in enumerate(zip(views, shown, strict=True)):
        for number, window in enumerate(WINDOWS):
            axes = grid[2 * index + number]
            for column, (head, image) in enumerate(images.items()):
                draw_image(axes[column], image, window.limits, "gray", view.aspect)
                if number == 0:
                    axes[column].set_title(head, fontsize=TITLE)
            axes[0].set_ylabel(f"{view.rows[0]['noise_body']:.0f} HU, {window.name}", fontsize=LABEL)
        removed = view.images["noisy"] - view.images[OURS] if OURS in view.images else np.zeros_like(view.truth)
        draw_image(grid[2 * index, -1], removed, (-REMOVED, REMOVED), "PuOr_r", view.aspect)
        grid[2 * index, -1].set_title(f"removed, ±{REMOVED:.0f} HU", fontsize=TITLE)
        error = view.images.get(OURS, view.truth) - view.truth
        draw_image(grid[2 * index + 1, -1], error, (-REMOVED, REMOVED), "PuOr_r", view.aspect)
        grid[2 * index + 1, -1].set_title("error, same scale", fontsize=TITLE)
    return figure


def _shown(view: Views) -> dict[str, Any]:
    """Return the images of a row of the picture, by heading: of the peers and of global mode the best."""
    scores = {row["method"]: row["rmse_body"] for row in view.rows if "rmse_body" in row}
    peers = [peer.name for peer in PEERS if peer.name in scores]
    modes = [name for name in scores if name.startswith("global")]
    shown = {"truth": view.truth, "noisy": view.images["noisy"]}
    for names in (peers, modes):
        if names:
            best = min(names, key=scores.__getitem__)
            shown[best] = view.images[best]
    if OURS in view.images:
        shown[OURS] = view.images[OURS]
    return shown
