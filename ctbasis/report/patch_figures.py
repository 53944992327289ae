"""Figures of the report in patch mode."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps

from ctbasis.patch.basis import whitening
from ctbasis.report.figures import (
    COLOURS,
    DASHES,
    LABEL,
    SMOOTHED_EXPLANATION,
    SMOOTHED_LIMIT,
    TICK,
    TITLE,
    WINDOWS,
    colour_bar,
    draw_explanation,
    draw_image,
    draw_removed,
    new_figure,
    set_axes,
)
from ctbasis.report.quality import LUNG
from ctbasis.report.smoothed_removal import SMOOTHING, smoothed

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from ctbasis.patch.basis import PatchBasis
    from ctbasis.patch.noise import Noise

TEXTURE_COLOURS = "Set2"

CLASSES_SHOWN = 4
"""Classes that are drawn, those with the most patches."""

VECTORS_SHOWN = 8
"""Basis vectors of each class that are drawn."""

BONE = 250.0
"""HU above which a voxel counts as bone, for the choice of profiles."""

VESSEL = -500.0
"""HU above which a voxel beside lung counts as a vessel, for the choice of profiles."""

SOFT = (-50.0, 150.0)
"""HU of soft tissue, for the choice of profiles."""

PROFILE_LENGTH = 100.0
"""Length of a profile in mm."""

VESSEL_MARGIN = 8.0
"""Distance in mm on either side of a vessel of which at least half must be lung."""

MIN_FRACTION = 0.02
"""Fraction of a profile that must show its tissue; without such a line, the profile is omitted."""


@dataclass(frozen=True)
class SliceViews:
    """The images of one slice before and after denoising.

    Attributes:
        before: HU, (Rows, Columns).
        after: HU.
        sigma: Estimated standard deviation of the noise, HU.
        truth: HU; None where it is not known.
        pixel_spacing: Distance in mm between rows and between columns.
        caption: Text that identifies the slice.
    """

    before: NDArray[np.float32]
    after: NDArray[np.float32]
    sigma: NDArray[np.float32]
    truth: NDArray[np.float32] | None
    pixel_spacing: tuple[float, float]
    caption: str

    @property
    def aspect(self) -> float:
        """Height of a pixel divided by its width."""
        return self.pixel_spacing[0] / self.pixel_spacing[1]


@dataclass(frozen=True)
class Profile:
    """A line through a slice.

    Attributes:
        name: Tissue that the line passes through.
        row: Image row.
        columns: Range of columns.
    """

    name: str
    row: int
    columns: slice


def patch_figure1(views: SliceViews) -> Figure:
    """Draw a slice before and after denoising in both windows, the removed component, and sigma of the noise.

    The removed component is also drawn after a Gaussian of SMOOTHING pixels, which shows anatomy weaker than the noise.
    """
    images = [("before", views.before), ("denoised", views.after)]
    if views.truth is not None:
        images.append(("truth", views.truth))
    height = views.before.shape[0] * views.aspect / views.before.shape[1]
    figure = new_figure(3.6 * (len(images) + 2) + 4.2, 3.6 * height * 2 + 1.0)
    axes = figure.subplots(2, len(images) + 2, squeeze=False)
    figure.suptitle(views.caption, fontsize=LABEL)
    for row, window in enumerate(WINDOWS):
        for column, (title, image) in enumerate(images):
            drawn = draw_image(axes[row, column], image, window.limits, "gray", views.aspect)
            if row == 0:
                axes[row, column].set_title(title, fontsize=TITLE)
        colour_bar(figure, drawn, list(axes[row, : len(images)]), "HU")
        axes[row, 0].set_ylabel(
            f"{window.name} window\ncenter {window.center:g}, width {window.width:g} HU", fontsize=LABEL
        )
    removed = views.before - views.after
    draw_removed(figure, axes[0, -2], removed, "removed: must show no anatomy", views.aspect)
    top = max(1.0, float(np.percentile(views.sigma, 99.5)))
    drawn = draw_image(axes[1, -2], views.sigma, (0, top), "viridis", views.aspect)
    axes[1, -2].set_title("estimated noise", fontsize=TITLE)
    colour_bar(figure, drawn, axes[1, -2], "sigma, HU")
    title = f"removed, smoothed by {SMOOTHING:g} pixels"
    draw_removed(figure, axes[0, -1], smoothed(removed), title, views.aspect, least=SMOOTHED_LIMIT)
    draw_explanation(axes[1, -1], SMOOTHED_EXPLANATION)
    return figure


def draw_profiles(views: SliceViews, lines: list[Profile]) -> Figure:
    """Draw HU along lines through the slice before and after denoising, and through the truth where it is known."""
    figure = new_figure(4.6 * len(lines), 3.8)
    grid = figure.subplots(1, len(lines), squeeze=False)[0]
    for axes, line in zip(grid, lines, strict=True):
        x = np.arange(line.columns.start, line.columns.stop) * views.pixel_spacing[1]
        at = line.row, line.columns
        axes.plot(x, views.before[at], color="0.65", linewidth=1.0, label="before")
        axes.plot(x, views.after[at], color=COLOURS[1], linewidth=1.6, label="denoised")
        if views.truth is not None:
            axes.plot(x, views.truth[at], color=COLOURS[0], linestyle=DASHES[1], linewidth=1.2, label="truth")
        set_axes(axes, f"{line.name}, row {line.row + 1}", "position along the row (mm)", "HU")
    grid[0].legend(fontsize=TICK)
    return figure


def choose_profiles(views: SliceViews) -> list[Profile]:
    """Return lines through lung and vessels, through bone, and through soft tissue, if the slice shows them.

    Each line is the part of a row, PROFILE_LENGTH mm long, with the largest fraction of that tissue.
    """
    hu = views.after if views.truth is None else views.truth
    lung = (hu > LUNG[0]) & (hu < LUNG[1])
    margin = max(2, round(VESSEL_MARGIN / views.pixel_spacing[1]))
    between = _half_before(lung, margin) & _half_before(lung[:, ::-1], margin)[:, ::-1]
    kinds = {
        "through lung and vessels": (hu > VESSEL) & between,
        "through bone": hu > BONE,
        "through soft tissue": (hu > SOFT[0]) & (hu < SOFT[1]),
    }
    width = min(hu.shape[1], max(8, round(PROFILE_LENGTH / views.pixel_spacing[1])))
    lines = []
    for name, where in kinds.items():
        # A line that is half bone passes ribs or spine and other tissue. More than half would favour a metal implant.
        score = np.minimum(_fractions(where, width), 0.5 if "bone" in name else 1.0)
        row, first = (int(at) for at in np.unravel_index(int(np.argmax(score)), score.shape))
        if score[row, first] > MIN_FRACTION:
            lines.append(Profile(name, row, slice(first, first + width)))
    return lines or [Profile("through the middle", hu.shape[0] // 2, slice(0, hu.shape[1]))]


def _half_before(where: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Return for every voxel whether at least half of the `width` voxels before it in its row are true in `where`."""
    padded = np.pad(where, ((0, 0), (width, 0)))
    return _fractions(padded, width)[:, : where.shape[1]] >= 0.5  # noqa: PLR2004 - half


def _fractions(where: NDArray[np.bool_], width: int) -> NDArray[np.float64]:
    """Return the fraction of true voxels in every part of a row of `width` voxels, (rows, first columns)."""
    sums = np.cumsum(np.pad(where, ((0, 0), (1, 0))), axis=1)
    return np.asarray((sums[:, width:] - sums[:, :-width]) / width)


def noise_figure(views: SliceViews, noise: Noise, along: NDArray[np.float64], texture: NDArray[np.uint8]) -> Figure:
    """Draw sigma of the slice, sigma along the slices, the map of noise textures, and the correlation of each texture.

    Args:
        views: The slice.
        noise: Noise of its series.
        along: Median sigma of every slice of the series, HU, (slices,).
        texture: Noise texture of every cell of the slice, (rows, columns).
    """
    figure = new_figure(12, 3.8)
    one, two, three, four = figure.subplots(1, 4, width_ratios=[1.2, 1.2, 0.9, 1.2])
    top = max(1.0, float(np.percentile(views.sigma, 99.5)))
    colour_bar(figure, draw_image(one, views.sigma, (0, top), "viridis", views.aspect), one, "sigma, HU")
    one.set_title(views.caption, fontsize=TICK)
    marker = "." if len(along) == 1 else ""
    two.plot(np.arange(1, len(along) + 1), along, color=COLOURS[0], marker=marker)
    two.set_ylim(0, max(1.0, 1.15 * float(along.max())))
    two.locator_params(axis="x", nbins=5)
    set_axes(two, "noise along the slices", "slice", "median sigma of the slice, HU")
    number = len(noise.texture_covariances)
    draw_image(three, texture, (0, max(1, number - 1)), TEXTURE_COLOURS, views.aspect)
    three.set_title("noise textures" if number > 1 else "one noise texture", fontsize=TITLE)
    colour_bar(
        figure, draw_image(four, _mosaic(noise), (-1, 1), "PuOr_r", views.aspect), four, "correlation with neighbours"
    )
    four.set_title("correlation by texture" if number > 1 else "correlation", fontsize=TITLE)
    if number > 1:
        for index, (top, left) in enumerate(_corners(noise)):
            shade = colormaps[TEXTURE_COLOURS](index / (number - 1))
            four.plot(left, top, marker="s", markersize=5, color=shade, markeredgecolor="black")
    return figure


def _corners(noise: Noise) -> list[tuple[int, int]]:
    """Return row and column of the first pixel of the tile of every texture; one pixel separates the tiles."""
    number, high, wide, _ = noise.texture_covariances.shape
    columns = math.ceil(math.sqrt(number))
    return [(index // columns * (high + 1), index % columns * (wide + 1)) for index in range(number)]


def _mosaic(noise: Noise) -> NDArray[np.float32]:
    """Return one image with the covariance within a slice of every texture, as tiles."""
    _, high, wide, slices = noise.texture_covariances.shape
    corners = _corners(noise)
    last = np.max(corners, axis=0)
    tiles = np.full((last[0] + high, last[1] + wide), np.nan, np.float32)
    for (top, left), texture in zip(corners, noise.texture_covariances, strict=True):
        tiles[top : top + high, left : left + wide] = texture[:, :, slices // 2]
    return tiles


def energies(basis: PatchBasis, tau: float) -> Figure:
    """Draw the variance of the coefficients of every class. Directions with a variance near 1 hold only noise.

    Args:
        basis: The basis.
        tau: Hard threshold in standard deviations of noise, which is marked.
    """
    figure = new_figure(11, 4.2)
    axes = figure.subplots()
    energy = np.concatenate([texture.energy for texture in basis.textures])
    counts = np.array(basis.provenance.get("patches", [1] * len(energy)), float)
    index = np.arange(1, energy.shape[1] + 1)
    for number, values in enumerate(energy):
        weight = 0.15 + 0.85 * counts[number] / max(1.0, counts.max())
        axes.semilogy(index, np.maximum(values, 1e-3), color=COLOURS[0], alpha=weight, linewidth=1)
    axes.axhline(1, color=COLOURS[1], linestyle=DASHES[1], label="noise only")
    if tau > 0:
        axes.axhline(tau**2, color=COLOURS[2], linestyle=DASHES[2], label=f"square of the threshold tau = {tau:g}")
    set_axes(axes, "variance of the coefficients, one line per class", "basis vector", "variance (noise = 1)")
    axes.legend(fontsize=TICK)
    return figure


def basis_patches(basis: PatchBasis) -> Figure:
    """Draw the mean patch and the first basis vectors of the largest classes: un-whitened, middle slice of a patch."""
    every = [(texture, number) for texture in basis.textures for number in range(len(texture.mean))]
    counts = np.array(basis.provenance.get("patches", [1] * len(every)))
    classes = np.argsort(-counts, kind="stable")[:CLASSES_SHOWN]
    columns = min(VECTORS_SHOWN, len(basis.covariance)) + 1
    figure = new_figure(1.15 * columns + 1, 1.3 * len(classes) + 0.4)
    grid = figure.subplots(len(classes), columns, squeeze=False)
    middle = basis.shape[2] // 2
    share = counts / max(1, counts.sum())
    for row, chosen in enumerate(classes):
        texture, number = every[chosen]
        unwhiten = whitening(texture.covariance)[1]
        shown = [texture.mean[number], *texture.vectors[number][:, : columns - 1].T]
        for column, whitened in enumerate(shown):
            patch = (unwhiten @ whitened).reshape(basis.shape)[:, :, middle].astype(np.float32)
            limit = float(np.abs(patch).max()) or 1.0
            draw_image(grid[row, column], patch, (-limit, limit), "gray", basis.spacing[0] / basis.spacing[1])
            if row == 0:
                grid[row, column].set_title("mean" if column == 0 else f"$v_{{{column}}}$", fontsize=LABEL)
        grid[row, 0].set_ylabel(f"{share[chosen]:.0%}", fontsize=LABEL)
    return figure
