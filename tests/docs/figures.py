"""Draw the figures of docs/explanation, and write their numbers into the tables beside them: `make figures`.

Both come from one phantom with simulated noise, so that truth and noise are known apart.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import ctbasis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PAGES = Path(__file__).parents[2] / "docs" / "explanation"

SLICES, EDGE, PHOTONS, SEED = 60, 96, 2e4, 0
RANKS = (1, 2, 5, 10, 15, 20, 30, 40, 50, 60)
PATCH = (5, 5, 5)
PATCHES = 20_000
DIRECTIONS = (1, 2, 5, 10, 20, 50, 100, 125)
BODY_HU = -300
LEAST = 0.8
"""Lower end of the logarithmic axes."""
STYLE = {"svg.hashsalt": "ctbasis", "svg.fonttype": "none", "font.size": 11, "font.family": "sans-serif"}

Rows = list[tuple[int, ...] | tuple[float, ...]]


def volumes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the phantom and its simulated noise, HU, with axes (slices, rows, columns)."""
    phantom = ctbasis.chest_phantom(SLICES, EDGE, EDGE, structured=True)
    noisy = ctbasis.simulate_dose(phantom, PHOTONS, seed=SEED)
    truth = phantom.hu.astype(np.float64)
    return truth, noisy.hu - truth


def errors_by_rank(truth: NDArray[np.float64], noise: NDArray[np.float64]) -> Rows:
    """Return, for each rank k, the RMS in the body of what A V Vᵀ loses of anatomy and keeps of noise, and both.

    A holds one slice a column. V are its right singular vectors, so the error of the rank-k matrix is
    N V Vᵀ - T (I - V Vᵀ), for A = T + N.
    """
    T, N = (one.reshape(len(one), -1).T for one in (truth, noise))
    body = T > BODY_HU
    _, _, Vt = np.linalg.svd(T + N, full_matrices=False)
    rows: Rows = []
    for k in RANKS:
        projection = Vt[:k].T @ Vt[:k]
        lost, kept = T - T @ projection, N @ projection
        rows.append((k, *(_rms(one[body]) for one in (lost, kept, kept - lost))))
    return rows


def variance_by_direction(truth: NDArray[np.float64], noise: NDArray[np.float64]) -> Rows:
    """Return the variances of whitened patches along their singular vectors: of the noisy series, and of its noise."""
    centre = tuple(edge // 2 for edge in PATCH)
    windows = [np.lib.stride_tricks.sliding_window_view(one, PATCH) for one in (truth, noise)]
    inside = truth[tuple(slice(edge, -edge) for edge in centre)] > BODY_HU
    chosen = np.random.default_rng(SEED).choice(np.flatnonzero(inside), PATCHES, replace=False)
    where = np.unravel_index(chosen, inside.shape)
    clean, noisy = (one[where].reshape(PATCHES, -1) for one in windows)
    values, vectors = np.linalg.eigh(np.cov(noisy, rowvar=False))
    whitener = vectors / np.sqrt(values) @ vectors.T
    both, alone = (np.linalg.eigvalsh(np.cov(rows @ whitener, rowvar=False))[::-1] for rows in (clean + noisy, noisy))
    return [(i, float(both[i - 1]), float(alone[i - 1])) for i in range(1, len(both) + 1)]


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


def draw(path: Path, rows: Rows, labels: Sequence[str], *, x: str, y: str, log: bool, title: str) -> None:
    """Write a line plot as SVG: text stays text, lines differ by dash and marker as well as by colour."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        columns = np.array(rows, dtype=float).T
        for column, label, form in zip(columns[1:], labels, ("-", "--", ":"), strict=False):
            # At full rank no anatomy is lost, and a logarithm cannot show zero.
            values = np.where(column < LEAST, np.nan, column)
            axes.plot(columns[0], values, form, label=label, linewidth=2)
        axes.set(xlabel=x, ylabel=y, yscale="log", xscale="log" if log else "linear")
        axes.set_ylim(bottom=LEAST)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None, "Title": title})


def fill(page: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what stands between the marks of a table in a page."""
    text = page.read_text(encoding="utf-8")
    marks = re.compile(rf"(<!-- {name}: make figures -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    assert marks.search(text), (page, name)
    table = "\n".join(lines)
    page.write_text(marks.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text), encoding="utf-8")


def main() -> None:
    """Draw both figures and fill both tables."""
    truth, noise = volumes()
    ranks = errors_by_rank(truth, noise)
    labels = ("anatomy lost", "noise kept", "error")
    draw(
        PAGES / "rank.svg",
        ranks,
        labels,
        x="rank k",
        y="RMS in the body, HU",
        log=False,
        title="Anatomy lost and noise kept by the rank",
    )
    head = ["| rank | anatomy lost, HU | noise kept, HU | error, HU |", "| --- | --- | --- | --- |"]
    fill(
        PAGES / "svd-and-ct.md",
        "rank",
        [*head, *(f"| {k} | " + " | ".join(f"{one:.1f}" for one in rest) + " |" for k, *rest in ranks)],
    )
    variances = variance_by_direction(truth, noise)
    draw(
        PAGES / "patches.svg",
        variances,
        ("noisy patches", "noise alone"),
        x="direction, the strongest first",
        y="variance, 1 = noise",
        log=True,
        title="Variance of whitened patches by direction",
    )
    head = ["| direction | noisy patches | noise alone |", "| --- | --- | --- |"]
    shown = [row for row in variances if row[0] in DIRECTIONS]
    fill(
        PAGES / "svd-and-ct.md",
        "patches",
        [*head, *(f"| {i} | {both:.3g} | {alone:.2f} |" for i, both, alone in shown)],
    )


if __name__ == "__main__":
    main()
