"""Page of `ctbasis bench quality` for docs/bench: tables of all cases, and a picture of each series."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.bench.denoisers import PATCH, PEERS
from ctbasis.bench.page import machine, table
from ctbasis.report.figures import LABEL, TITLE, WINDOWS, draw_image, new_figure
from ctbasis.storage.outputs import write_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from ctbasis.bench.quality import CaseResult

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
    "smoothed_removal": "smoothed removal",
    "rmse_body_corrected": "RMSE body, noise-corrected",
    "rmse_lung_corrected": "lung, noise-corrected",
    "seconds": "seconds",
    "seconds_per_slice": "a slice",
}
"""Columns of the tables, and their headings."""

LOWER, HIGHER = ("rmse_body", "rmse_lung"), ("psnr", "ssim")
"""Columns whose best value is bold: the smallest, the largest."""

DPI = 110
"""Resolution of the pictures: about one pixel per voxel of a binned slice."""

REMOVED = 60.0
"""HU at the ends of the scale for the removed component and the error."""

OURS = PATCH[0].name
"""The mode that the pictures show."""


def write_quality_page(results: Sequence[CaseResult], folder: Path) -> None:
    """Write quality.md and a picture of each series, resolution and kernel to `folder`.

    Args:
        results: Results of `bench_quality`.
        folder: Created if it does not exist; files of a former run are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    introduction = (
        "Written by `ctbasis bench quality --page`. docs/explanation/quality.md defines what is measured, and how. The "
        f"best value of a column is in bold. Seconds on {machine()}."
    )
    lines = ["# `ctbasis bench quality`", "", introduction, "", *_wins(results)]
    for index, ((series, resolution, kernel), own) in enumerate(_groups(results).items(), start=1):
        lines += ["", f"## {series}, {resolution}, {kernel}"]
        for result in own:
            first = result.rows[0]
            lines += [
                "",
                f"Noise of {first['noise_body']:.1f} HU in the body, {first['noise_lung']:.1f} HU in the lung:",
                "",
                *_table(result.rows),
            ]
        name = f"quality-{index}.jpg"
        picture = io.BytesIO()
        _picture(own).savefig(picture, format="jpeg", dpi=DPI, pil_kwargs={"quality": 85})
        write_file(folder / name, picture.getvalue())
        alt = "truth, noisy, the best peer, global mode, patch mode, and the component that patch mode removed"
        lines += ["", f"![{series}: {alt}]({name})"]
    write_file(folder / "quality.md", "\n".join(lines) + "\n")


def _groups(results: Sequence[CaseResult]) -> dict[tuple[str, str, str], list[CaseResult]]:
    groups: dict[tuple[str, str, str], list[CaseResult]] = {}
    for result in results:
        first = result.rows[0]
        groups.setdefault((first["series"], first["resolution"], first["kernel"]), []).append(result)
    return groups


def _wins(results: Sequence[CaseResult]) -> list[str]:
    """Return a table of patch mode relative to the noisy input and to the best of all peers in every case."""
    error = ("of noisy", "of the best peer")
    heads = ("case", "RMSE body", *error, "RMSE lung", *error, "SSIM", "of the best peer")
    lines: list[list[str]] = []
    peers = {peer.name for peer in PEERS}
    for result in results:
        rows = {row["method"]: row for row in result.rows}
        ours, others = rows.get(OURS), [row for row in result.rows if row["method"] in peers and "ssim" in row]
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


def _picture(results: Sequence[CaseResult]) -> Figure:
    """Draw one slice of every dose: a row per dose and window, a column per method.

    The last column is the component that patch mode removed, and its error.
    """
    shown = [_shown(result) for result in results]
    heads = list(shown[0])
    high, wide = results[0].truth.shape
    size = 2.2
    figure = new_figure(size * (len(heads) + 1), size * 2 * len(results) * high / wide * results[0].aspect)
    grid = figure.subplots(2 * len(results), len(heads) + 1, squeeze=False)
    for index, (result, images) in enumerate(zip(results, shown, strict=True)):
        for number, window in enumerate(WINDOWS):
            axes = grid[2 * index + number]
            for column, (head, image) in enumerate(images.items()):
                draw_image(axes[column], image, window.limits, "gray", result.aspect)
                if number == 0:
                    axes[column].set_title(head, fontsize=TITLE)
            axes[0].set_ylabel(f"{result.rows[0]['noise_body']:.0f} HU, {window.name}", fontsize=LABEL)
        removed = result.images["noisy"] - result.images[OURS] if OURS in result.images else np.zeros_like(result.truth)
        draw_image(grid[2 * index, -1], removed, (-REMOVED, REMOVED), "PuOr_r", result.aspect)
        grid[2 * index, -1].set_title(f"removed, ±{REMOVED:.0f} HU", fontsize=TITLE)
        error = result.images.get(OURS, result.truth) - result.truth
        draw_image(grid[2 * index + 1, -1], error, (-REMOVED, REMOVED), "PuOr_r", result.aspect)
        grid[2 * index + 1, -1].set_title("error, same scale", fontsize=TITLE)
    return figure


def _shown(result: CaseResult) -> dict[str, Any]:
    """Return the images of a row of the picture by heading: the best peer, the best rank of global mode, patch mode."""
    scores = {row["method"]: row["rmse_body"] for row in result.rows if "rmse_body" in row}
    peers = [peer.name for peer in PEERS if peer.name in scores]
    modes = [name for name in scores if name.startswith("global")]
    shown = {"truth": result.truth, "noisy": result.images["noisy"]}
    for names in (peers, modes):
        if names:
            best = min(names, key=scores.__getitem__)
            shown[best] = result.images[best]
    if OURS in result.images:
        shown[OURS] = result.images[OURS]
    return shown
