"""`ctbasis simulate-dose` and `ctbasis score`: make a low-dose series, and compare a series with its clean copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import cloup

from ctbasis.cli.options import OUTPUT_FILE, OUTPUT_FOLDER, PATH, PathType
from ctbasis.printable import show

MOST_NODULES = 1000
"""Nodules of each kind that can be asked for, at most; a pair of lungs has room for far fewer."""


class NodulesType(PathType):
    """A number of nodules, or a path."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number or the path; refuse a bad one by `click.BadParameter`."""
        if not str(value).isdecimal():
            return super().convert(value, param, ctx)
        return click.IntRange(min=1, max=MOST_NODULES).convert(value, param, ctx)


@cloup.command(name="simulate-dose")
@click.argument("series", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder for the noisy DICOM series.")
@click.option(
    "--photons", type=float, default=6e4, show_default=True, help="I0: photons per detector element without a patient."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the noise and of the positions of nodules."
)
@click.option(
    "--electronic",
    type=float,
    default=10.0,
    show_default=True,
    help="Standard deviation of the read-out noise in photons; it matters where few photons arrive.",
)
@click.option(
    "--views",
    type=int,
    help="Number of projection angles over half a turn; by default pi/2 times the columns. Fewer are faster.",
)
@click.option(
    "--modulation",
    type=float,
    default=0.0,
    show_default=True,
    help="Tube current modulation: 0 constant current, 0.5 least noise for the dose, 1 equal noise in every view.",
)
@click.option(
    "--bow-tie",
    type=float,
    default=0.0,
    show_default=True,
    help="Bow-tie filter: radius in mm of the water cylinder that it compensates; 0 for none.",
)
@click.option(
    "--kernel",
    type=click.Choice(["hann", "cosine", "shepp-logan", "ram-lak"]),
    default="hann",
    show_default=True,
    help="Kernel of the reconstruction, from soft to sharp.",
)
@click.option(
    "--nodules",
    type=NodulesType(path_type=Path),
    metavar="FILE|N",
    help="Spheres to insert before the noise: a JSON file that lists them, or a number N to place N of each kind (3, "
    "5, 8 mm; +150, +600 HU).",
)
@click.option(
    "--truth-out",
    type=PATH,
    help="With --nodules: folder for the series with nodules and without noise, and nodules.json.",
)
@click.option("--workers", type=int, help="Number of threads; by default one per core. The files do not depend on it.")
def simulate_dose(series: Path, out: Path, nodules: Path | int | None, truth_out: Path | None, **settings: Any) -> None:
    """Insert the noise of a lower dose into SERIES, in the projection domain; print the settings as JSON."""
    from ctbasis.simulate.low_dose_series import simulate_low_dose

    show(json.dumps(simulate_low_dose(series, out, nodules=nodules, truth=truth_out, **settings)))


@cloup.command()
@click.option("--truth", type=PATH, required=True, help="Folder of the clean DICOM series.")
@click.option("--image", type=PATH, required=True, help="Folder of the series to score, of the same geometry.")
@click.option(
    "--noisy",
    type=PATH,
    help="Folder of the noisy series that the image was computed from, to score it and the removed component.",
)
@click.option(
    "--nodules", type=PATH, help="JSON file with the nodules in the truth; by default nodules.json in its folder."
)
@click.option("--page", type=OUTPUT_FILE, help="HTML file for the numbers with pictures; self-contained.")
@click.option("--out", type=OUTPUT_FOLDER, help="Folder for score.json and score.html.")
def score(
    truth: Path, image: Path, noisy: Path | None, nodules: Path | None, page: Path | None, out: Path | None
) -> None:
    """Compare a series with its clean copy and print scores as JSON.

    docs/explanation/quality.md defines each number.
    """
    from ctbasis.score.score import compare_with_truth

    comparison = compare_with_truth(truth, image, noisy, nodules)
    if page is not None or out is not None:
        from ctbasis.score.score_page import write_folder, write_page

        if page is not None:
            write_page(comparison, page)
        if out is not None:
            write_folder(comparison, out)
    show(*json.dumps(comparison.scores, indent=2).split("\n"))
