"""Figures of the report in global mode, and what other figures share with them.

Each function returns a Matplotlib figure. None uses pyplot, so there is no global state and no display is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ctbasis.report.smoothed_removal import SMOOTHING, smoothed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

    from ctbasis.matrix.slice_store import Series
    from ctbasis.svd.plan import Plan

DPI = 150
"""Resolution at which a 512 x 512 slice in Figure 1 has about as many pixels as voxels."""

TITLE, LABEL, TICK = 12, 12, 10

# The palette of Okabe and Ito remains distinguishable under all common kinds of colour blindness. Dash patterns add a
# second distinction.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))

WEIGHTS_SHOWN = 5
"""Basis images whose weights are drawn."""

SERIES_SHOWN = 6
"""Series whose weights are drawn."""


REMOVED_EXPLANATION = (
    "removed component\n$A - A_k$\n\nIt should look like noise.\nAn outline of anatomy here\nis missing from the image."
)

SMOOTHED_EXPLANATION = (
    f"The removed component\nsmoothed by {SMOOTHING:g} pixels:\nnoise is averaged out,\n"
    "anatomy of low contrast\nremains.\n\nIt should look like\nblurred noise."
)

SMOOTHED_LIMIT = 2.0
"""Smallest HU at the ends of the scale of a smoothed removed component."""


@dataclass(frozen=True)
class Window:
    """A display window.

    Attributes:
        name: Tissue that the window displays.
        center: WindowCenter, HU.
        width: WindowWidth, HU.
    """

    name: str
    center: float
    width: float

    @property
    def limits(self) -> tuple[float, float]:
        """HU that are displayed black and white."""
        return self.center - self.width / 2, self.center + self.width / 2


WINDOWS = (Window("lung", -600, 1500), Window("soft tissue", 40, 400))


@dataclass(frozen=True)
class ShownRank:
    """A rank of Figure 1, as requested and as used.

    Attributes:
        asked: k as requested.
        stored: Rank of the stored factors.
        full: Full rank, min(m, n).
    """

    asked: int
    stored: int
    full: int

    @property
    def identity(self) -> bool:
        """Whether A_k is A itself, so that nothing is computed and nothing is removed."""
        return self.asked >= self.full

    @property
    def run(self) -> int:
        """The k that is used."""
        return self.full if self.identity else min(self.asked, self.stored)

    @property
    def label(self) -> str:
        """Text that names the rank as used, and as requested where that differs."""
        used = f"k={self.run}, full rank" if self.identity else f"k={self.run}"
        return used if self.asked == self.run else f"{used} ({self.asked} requested)"

    def title(self, plan: Plan) -> str:
        """Return the label with the parameters of the factorization."""
        if self.identity:
            return f"{self.label}\nidentical to the original"
        larger = f", factored at k={plan.rank}" if plan.rank != self.run else ""
        return f"{self.label}\np={plan.oversample}, q={plan.power_iters}{larger}"


def figure1(
    original: NDArray[np.float32],
    shown: Sequence[tuple[ShownRank, NDArray[np.float32]]],
    *,
    plan: Plan,
    pixel_spacing: tuple[float, float],
    caption: str,
) -> Figure:
    """Draw the original and the image of each rank in both windows, and the removed component below each rank.

    The removed component is also drawn after a Gaussian of SMOOTHING pixels, which shows anatomy weaker than the noise.

    Args:
        original: HU, (Rows, Columns).
        shown: Ranks with their images, HU, (Rows, Columns).
        plan: Plan of the factorization, for the titles.
        pixel_spacing: Distance in mm between rows and between columns.
        caption: Text that identifies the slice.
    """
    aspect = pixel_spacing[0] / pixel_spacing[1]
    height = original.shape[0] * aspect / original.shape[1]
    figure = new_figure(3.6 * (len(shown) + 1) + 1.2, 3.6 * height * 4 + 2.4)
    axes = figure.subplots(4, len(shown) + 1, squeeze=False)
    figure.suptitle(caption, fontsize=LABEL)
    images = [original, *(image for _, image in shown)]
    titles = ["original\n", *(rank.title(plan) for rank, _ in shown)]
    for column, (title, image) in enumerate(zip(titles, images, strict=True)):
        axes[0, column].set_title(title, fontsize=TITLE)
        for row, window in enumerate(WINDOWS):
            drawn = draw_image(axes[row, column], image, window.limits, "gray", aspect)
            if column == len(shown):
                colour_bar(figure, drawn, list(axes[row]), "HU")
    for row, window in enumerate(WINDOWS):
        axes[row, 0].set_ylabel(
            f"{window.name} window\ncenter {window.center:g}, width {window.width:g} HU", fontsize=LABEL
        )
    for column, (rank, image) in enumerate(shown, start=1):
        removed = original - image
        draw_removed(figure, axes[2, column], removed, "", aspect, location="bottom")
        draw_removed(figure, axes[3, column], smoothed(removed), "", aspect, least=SMOOTHED_LIMIT, location="bottom")
        if rank.identity:
            for below in axes[2:, column]:
                below.text(
                    0.5, 0.5, "nothing removed", ha="center", va="center", fontsize=TITLE, transform=below.transAxes
                )
    draw_explanation(axes[2, 0], REMOVED_EXPLANATION)
    draw_explanation(axes[3, 0], SMOOTHED_EXPLANATION)
    return figure


def draw_removed(
    figure: Figure,
    axes: Axes,
    removed: NDArray[np.float32],
    title: str,
    aspect: float,
    *,
    least: float = 1.0,
    location: str = "right",
) -> None:
    """Draw a removed component in its own scale, so that faint outlines are as visible as strong ones.

    Args:
        figure: The figure.
        axes: Axes to draw in.
        removed: HU, (Rows, Columns).
        title: Title of the picture.
        aspect: Height of a pixel divided by its width.
        least: Smallest HU at the ends of the scale.
        location: Side of the colour bar.
    """
    limit = max(least, float(np.ceil(np.percentile(np.abs(removed), 99.5))))
    drawn = draw_image(axes, removed, (-limit, limit), "PuOr_r", aspect)
    axes.set_title(title, fontsize=TITLE)
    colour_bar(figure, drawn, axes, "HU removed", location=location)


def scree(s: NDArray[np.float64], energy: float, shown: Sequence[ShownRank]) -> Figure:
    """Draw the singular values and the cumulative energy.

    Args:
        s: Singular values, descending, (k,).
        energy: ||A||_F^2, to which the squared singular values add up at full rank.
        shown: Ranks to mark; those above the number of singular values are not marked.
    """
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    index = np.arange(1, len(s) + 1)
    left.semilogy(index, np.maximum(s, np.finfo(float).tiny), ".-", color=COLOURS[0], markersize=5)
    set_axes(left, "singular values", "i", r"$\sigma_i$ (HU)")
    right.plot(index, np.cumsum(s**2) / energy, ".-", color=COLOURS[0], markersize=5)
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    set_axes(right, "energy captured by the first i singular values", "i", r"$\sum\sigma^2\,/\,\|A\|_F^2$")
    marks = sorted({rank.run for rank in shown if rank.run <= len(s)})
    for number, k in enumerate(marks):
        for axes in (left, right):
            style = {"color": COLOURS[1 + number % 5], "linestyle": DASHES[1 + number % 5]}
            axes.axvline(k, label=f"k={k}", linewidth=1.5, **style)
    if marks:
        left.legend(fontsize=TICK)
    return figure


def basis_images(basis: NDArray[np.float32], s: NDArray[np.float64], *, pixel_spacing: tuple[float, float]) -> Figure:
    """Draw the first basis images, each in its own grey scale about 0. The sign of a basis image is arbitrary.

    Args:
        basis: Columns of U, (images, Rows, Columns).
        s: Singular values, descending.
        pixel_spacing: Distance in mm between rows and between columns.
    """
    aspect = pixel_spacing[0] / pixel_spacing[1]
    columns = min(4, len(basis))
    rows = -(-len(basis) // columns)
    height = basis.shape[1] * aspect / basis.shape[2]
    figure = new_figure(2.9 * columns, (2.9 * height + 0.4) * rows)
    for number, (axes, image) in enumerate(
        zip(figure.subplots(rows, columns, squeeze=False).flat, basis, strict=False)
    ):
        limit = float(np.percentile(np.abs(image), 99.5)) or 1.0
        draw_image(axes, image, (-limit, limit), "gray", aspect)
        axes.set_title(f"$u_{{{number + 1}}}$,  $\\sigma_{{{number + 1}}}$ = {s[number]:.3g} HU", fontsize=LABEL)
    for axes in list(figure.axes)[len(basis) :]:
        axes.set_axis_off()
    return figure


def weights_along_slices(weights: NDArray[np.float64], series: Sequence[Series], rows: int) -> Figure:
    """Draw the weights of the first basis images along the slices, one panel per series.

    Args:
        weights: V diag(s), (n, k), HU.
        series: Series of the matrix; the first `SERIES_SHOWN` are drawn.
        rows: m. A weight divided by sqrt(m) is the RMS that the basis image contributes to a slice, in HU.
    """
    drawn = list(series)[:SERIES_SHOWN]
    across = min(2, len(drawn))
    down = -(-len(drawn) // across)
    figure = new_figure(11, 3.6 * down + 0.6)
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes, entry, number in zip(grid.flat, drawn, range(1, len(drawn) + 1), strict=False):
        part = weights[entry.columns] / np.sqrt(rows)
        for i in range(min(WEIGHTS_SHOWN, part.shape[1])):
            axes.plot(
                np.arange(1, entry.count + 1),
                part[:, i],
                color=COLOURS[i],
                linestyle=DASHES[i],
                label=f"$u_{{{i + 1}}}$",
                marker="." if entry.count == 1 else "",
            )
        set_axes(
            axes,
            f"series {number} of {len(series)}",
            "slice",
            "HU (RMS over the slice)" if number % across == 1 % across else "",
        )
        axes.axhline(0, color="0.6", linewidth=0.8)
    for axes in list(grid.flat)[len(drawn) :]:
        axes.set_axis_off()
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=TICK)
    return figure


def png(figure: Figure) -> bytes:
    """Return `figure` as PNG, with low compression effort: noisy CT images hardly compress."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, pil_kwargs={"compress_level": 3})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """Return a plot as SVG, the same bytes for the same plot: element ids have a fixed salt, and there is no date."""
    buffer = BytesIO()
    with rc_context({"svg.hashsalt": "ctbasis"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure.

    Args:
        width: Width in inches.
        height: Height in inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def draw_image(
    axes: Axes, image: NDArray[np.float32] | NDArray[np.uint8], limits: tuple[float, float], colours: str, aspect: float
) -> AxesImage:
    """Draw an image without ticks.

    Args:
        axes: Axes to draw in.
        image: Values, (Rows, Columns).
        limits: Values at the ends of the colour scale.
        colours: Name of the colour map.
        aspect: Height of a pixel divided by its width.
    """
    axes.set_xticks([])
    axes.set_yticks([])
    return axes.imshow(image, cmap=colours, vmin=limits[0], vmax=limits[1], aspect=aspect, interpolation="antialiased")


def colour_bar(
    figure: Figure, drawn: AxesImage, beside: Axes | list[Axes], label: str, *, location: str = "right"
) -> None:
    """Draw a labelled colour bar beside axes."""
    bar = figure.colorbar(drawn, ax=beside, location=location, pad=0.01, aspect=25)
    bar.set_label(label, fontsize=LABEL)
    bar.locator = MaxNLocator(5, prune="both")
    bar.update_ticks()
    bar.ax.tick_params(labelsize=TICK)


def set_axes(axes: Axes, title: str, x: str, y: str) -> None:
    """Give axes a title, labels and a grid."""
    axes.set_title(title, fontsize=TITLE)
    axes.set_xlabel(x, fontsize=LABEL)
    axes.set_ylabel(y, fontsize=LABEL)
    axes.tick_params(labelsize=TICK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="0.9")


def draw_explanation(axes: Axes, text: str) -> None:
    """Write a text in the middle of axes that show no picture."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=TITLE, transform=axes.transAxes)
