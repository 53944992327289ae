"""The picture of the demo: one slice of the truth, of the input and of both results, and what each result removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from pydicom.pixels.processing import apply_rescale

from ctbasis.errors import CtbasisError
from ctbasis.report.figures import LABEL, TITLE, Window, colour_bar, draw_image, new_figure, png

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from ctbasis.demo.comparison import Scores

WINDOW = Window("lung", -400, 1600)
"""A window that shows lung and mediastinum in one picture."""

INCHES = 3.8
"""Width of one image."""


def write_picture(path: Path, folders: Mapping[str, Path], scores: Mapping[str, Scores]) -> None:
    """Draw the middle slice of the truth, of the input and of both results, and the components that were removed.

    Args:
        path: PNG file to write.
        folders: Folders of the DICOM series: the truth, the input, the result in global mode, the result in patch mode.
            Files in order of their names are slices in the same order in all four.
        scores: Scores of the input and of both results, in the same order as `folders`.

    Raises:
        CtbasisError: The series differ in their number of slices or in image size.
    """
    slices = [middle_slice(folder) for folder in folders.values()]
    if len({image.shape for image in slices}) > 1:
        raise CtbasisError(
            f"images of {', '.join(str(image.shape) for image in slices)} pixels", expected="images of one size"
        )
    truth, noisy, *results = slices
    names = list(scores)
    figure = new_figure(INCHES * 4 + 0.8, INCHES * 2 + 1.6)
    figure.suptitle(
        f"middle slice of the phantom, window center {WINDOW.center:g}, width {WINDOW.width:g} HU", fontsize=LABEL
    )
    axes = figure.subplots(2, 4)
    drawn = draw_image(axes[0, 0], truth, WINDOW.limits, "gray", 1.0)
    axes[0, 0].set_title("truth (phantom)\n", fontsize=TITLE)
    for column, (name, image) in enumerate(zip(names, (noisy, *results), strict=True), start=1):
        drawn = draw_image(axes[0, column], image, WINDOW.limits, "gray", 1.0)
        axes[0, column].set_title(f"{name}\n{_errors(scores[name])}", fontsize=TITLE)
    colour_bar(figure, drawn, list(axes[0]), "HU")
    removed = {"the noise itself\ninput - truth": noisy - truth}
    removed |= {f"removed by {name}": noisy - image for name, image in zip(names[1:], results, strict=True)}
    limit = float(np.ceil(np.percentile(np.abs(noisy - truth), 99)))
    for column, (title, difference) in enumerate(removed.items(), start=1):
        drawn = draw_image(axes[1, column], difference, (-limit, limit), "PuOr_r", 1.0)
        axes[1, column].set_title(title, fontsize=TITLE)
    colour_bar(figure, drawn, list(axes[1]), "HU removed")
    _explain(axes[1, 0])
    path.write_bytes(png(figure))


def middle_slice(folder: Path) -> NDArray[np.float32]:
    """Return the HU of the file in the middle of a folder with one DICOM series, (Rows, Columns).

    Raises:
        CtbasisError: The folder holds no DICOM file.
    """
    files = sorted(folder.glob("*.dcm"))
    if not files:
        raise CtbasisError(f"{folder} holds no DICOM file", expected="the slices of one series")
    dataset: Any = pydicom.dcmread(files[len(files) // 2])
    return np.asarray(apply_rescale(dataset.pixel_array, dataset), np.float32)


def _errors(scores: Scores) -> str:
    return f"error: body {scores.rmse_body:.0f} HU, lung {scores.rmse_lung:.0f} HU"


def _explain(axes: Axes) -> None:
    axes.set_axis_off()
    axes.text(
        0.5,
        0.5,
        "A good result removes the noise\nand nothing else. Anatomy that\nshows here is missing above.",
        ha="center",
        va="center",
        fontsize=LABEL,
        transform=axes.transAxes,
    )
