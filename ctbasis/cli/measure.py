"""`ctbasis simulate-dose` and `ctbasis score`: make a low-dose series, and compare a series with its clean copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import cloup

from ctbasis.cli.options import PATH


@cloup.command(name="simulate-dose")
@click.argument("series", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder to make with the noisy DICOM series.")
@click.option("--photons", type=float, default=6e4, show_default=True, help="I0: photons a detector element counts.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise, and of the nodules' places.")
@click.option(
    "--electronic", type=float, default=10.0, show_default=True, help="Read-out noise, photons: tells where few arrive."
)
@click.option("--views", type=int, help="Angles over the half turn; without it pi/2 a column. Fewer are faster.")
@click.option(
    "--modulation",
    type=float,
    default=0.0,
    show_default=True,
    help="Of the tube current: 0 constant, 0.5 least noise for the dose, 1 the same noise in every view.",
)
@click.option(
    "--bow-tie",
    type=float,
    default=0.0,
    show_default=True,
    help="Radius in mm of the cylinder it evens out; 0 has none.",
)
@click.option(
    "--kernel",
    type=click.Choice(["hann", "cosine", "shepp-logan", "ram-lak"]),
    default="hann",
    show_default=True,
    help="Of the reconstruction, from soft to sharp.",
)
@click.option(
    "--nodules",
    metavar="FILE|N",
    help="Spheres to insert before the noise: a JSON list, or how many of 3, 5, 8 mm and +150, +600 HU each to place.",
)
@click.option("--truth-out", type=PATH, help="With --nodules: folder to make with them and no noise, and nodules.json.")
@click.option("--workers", type=int, help="Threads; without it all cores. The files do not depend on it.")
def simulate_dose(series: Path, out: Path, nodules: str | None, truth_out: Path | None, **settings: Any) -> None:
    """Insert the noise of a low dose into SERIES, in the projection domain."""
    from ctbasis.simulate.dose import simulate_low_dose

    inserted = int(nodules) if nodules and nodules.isdecimal() else Path(nodules) if nodules else None
    click.echo(json.dumps(simulate_low_dose(series, out, nodules=inserted, truth=truth_out, **settings)))


@cloup.command()
@click.option("--truth", type=PATH, required=True, help="Folder of the clean DICOM series.")
@click.option("--image", type=PATH, required=True, help="Folder of the series to score, same geometry.")
@click.option("--noisy", type=PATH, help="What the image was made from: scored too, and what was removed from it.")
@click.option(
    "--nodules", type=PATH, help="JSON of the nodules that the truth holds; without it nodules.json in its folder."
)
@click.option("--page", type=PATH, help="HTML file to write: the numbers with pictures, self-contained.")
@click.option("--out", type=PATH, help="Folder for score.json and score.html.")
def score(
    truth: Path, image: Path, noisy: Path | None, nodules: Path | None, page: Path | None, out: Path | None
) -> None:
    """Score a series against its clean copy and print JSON; docs/explanation/quality.md defines each number."""
    from ctbasis.score.score import findings

    found = findings(truth, image, noisy, nodules)
    if page is not None or out is not None:
        from ctbasis.score.score_page import write_folder, write_page

        if page is not None:
            write_page(found, page)
        if out is not None:
            write_folder(found, out)
    click.echo(json.dumps(found.scores, indent=2))
