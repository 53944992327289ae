"""`ctbasis simulate-dose`, `simulate-inserts` and `score`: make series with known truth, and score them against it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from ctbasis.cli.options import OUTPUT_FILE, OUTPUT_FOLDER, PATH, PathType
from ctbasis.printable import say, show

if TYPE_CHECKING:
    from ctbasis.score.ldct_benchmark import Exam

MOST_NODULES = 1000
"""Nodules of each kind that can be asked for, at most; a pair of lungs has room for far fewer."""

MOST_SIZE = 100_000
"""Largest number of slices, rows and columns of a phantom."""

MOST_NOISE = 1000.0
"""Largest noise of a truth in HU."""


class NodulesType(PathType):
    """A number of nodules, or a path."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number or the path; refuse a bad one by `click.BadParameter`."""
        if not str(value).isdecimal():
            return super().convert(value, param, ctx)
        return click.IntRange(min=1, max=MOST_NODULES).convert(value, param, ctx)


class TruthNoiseType(click.FloatRange):
    """Noise in HU, or auto."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or None for auto; refuse a bad one by `click.BadParameter`."""
        if value == "auto":
            return None
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{value} is no number of HU", param, ctx)


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


@cloup.command(name="simulate-inserts")
@click.option("--out", type=PATH, required=True, help="Folder for the DICOM series and inserts.json.")
@click.option(
    "--slices", type=click.IntRange(1, MOST_SIZE), default=32, show_default=True, help="Number of slices, all alike."
)
@click.option(
    "--size",
    type=click.IntRange(1, MOST_SIZE),
    default=256,
    show_default=True,
    help="Rows and columns, which span 231 mm; at least 42. More make the pixels smaller.",
)
@click.option("--spacing", type=float, default=2.5, show_default=True, help="mm between slices.")
@click.option("--json", "json_file", type=OUTPUT_FILE, help="JSON file to which what is printed is written too.")
def simulate_inserts(out: Path, json_file: Path | None, **settings: Any) -> None:
    """Make a phantom of water with rods of four contrasts in three sizes; print its inserts as JSON.

    `ctbasis score --truth` of this folder gives the task-based transfer function (TTF) by contrast.
    """
    from ctbasis.simulate.insert_series import write_insert_phantom
    from ctbasis.storage.outputs import write_file

    text = json.dumps(write_insert_phantom(out, **settings))
    if json_file is not None:
        write_file(json_file, text + "\n")
    show(text)


@cloup.command()
@click.option(
    "--truth", type=PATH, help="Folder of the clean DICOM series, or of the full-dose scan of the same patient."
)
@click.option(
    "--repeat",
    type=PATH,
    help="Instead of --truth: folder of a second scan of the same anatomy, with noise of its own. Needs --noisy.",
)
@click.option(
    "--image-repeat",
    type=PATH,
    help="With --repeat: folder of the denoised second scan, to divide the error into noise and bias.",
)
@click.option("--image", type=PATH, required=True, help="Folder of the series to score, of the same geometry.")
@click.option(
    "--noisy",
    type=PATH,
    help="Folder of the noisy series that the image was computed from, to score it and the removed component.",
)
@click.option(
    "--nodules", type=PATH, help="JSON file with the nodules in the truth; by default nodules.json in its folder."
)
@click.option(
    "--truth-noise",
    type=TruthNoiseType(min=0, max=MOST_NOISE),
    default="auto",
    show_default=True,
    metavar="HU|auto",
    help="Noise of the truth in soft tissue, if the truth is no noiseless copy but, for example, the full-dose scan of "
    "the same patient: HU, or auto to measure it.",
)
@click.option(
    "--protocol",
    type=click.Choice(["ctbasis", "ldct-benchmark"]),
    default="ctbasis",
    show_default=True,
    help="Definitions of the scores: ours, or SSIM, PSNR, RMSE and VIF as the package ldct-benchmark has them.",
)
@click.option(
    "--exam",
    type=click.Choice(["chest", "abdomen", "neuro"]),
    default="chest",
    show_default=True,
    help="ldct-benchmark: exam whose window is applied.",
)
@click.option("--page", type=OUTPUT_FILE, help="HTML file for the numbers with pictures; self-contained.")
@click.option("--out", type=OUTPUT_FOLDER, help="Folder for score.json and, with --truth, score.html.")
def score(
    *,
    truth: Path | None,
    repeat: Path | None,
    image_repeat: Path | None,
    image: Path,
    noisy: Path | None,
    nodules: Path | None,
    truth_noise: float | None,
    protocol: str,
    exam: Exam,
    page: Path | None,
    out: Path | None,
) -> None:
    """Compare a series with its clean copy, or with a second scan, and print scores as JSON.

    docs/explanation/quality.md defines each number.
    """
    if (truth is None) == (repeat is None):
        raise click.UsageError("Give one of --truth and --repeat.")
    if truth is None or protocol == "ldct-benchmark":
        if page is not None or nodules is not None or truth_noise is not None:
            raise click.UsageError("--page, --nodules and --truth-noise need --truth and the protocol ctbasis.")
        _print_scores(_without_page(truth, repeat, image, image_repeat, noisy, protocol=protocol, exam=exam), out)
        return
    if image_repeat is not None:
        raise click.UsageError("--image-repeat needs --repeat.")
    from ctbasis.report.noisy_truth import noisy_truth_warning
    from ctbasis.score.score import compare_with_truth

    comparison = compare_with_truth(truth, image, noisy, nodules, truth_noise=truth_noise)
    if comparison.scores["noise_corrected"]:
        say(noisy_truth_warning(comparison.scores))
    if page is not None or out is not None:
        from ctbasis.score.score_page import write_folder, write_page

        if page is not None:
            write_page(comparison, page)
        if out is not None:
            write_folder(comparison, out)
    show(*json.dumps(comparison.scores, indent=2).split("\n"))


def _without_page(
    truth: Path | None,
    repeat: Path | None,
    image: Path,
    image_repeat: Path | None,
    noisy: Path | None,
    *,
    protocol: str,
    exam: Exam,
) -> dict[str, Any]:
    """Return the scores of repeats, or those of ldct-benchmark."""
    from ctbasis.score.ldct_benchmark import score_ldct_benchmark
    from ctbasis.score.repeats import score_repeats

    if truth is not None:
        if image_repeat is not None:
            raise click.UsageError("--image-repeat needs --repeat.")
        return score_ldct_benchmark(truth, image, noisy, exam=exam)
    if protocol != "ctbasis":
        raise click.UsageError("--protocol ldct-benchmark needs --truth.")
    if repeat is None or noisy is None:
        raise click.UsageError("--repeat needs --noisy, the scan that was denoised.")
    return score_repeats(image, noisy, repeat, image_repeat)


def _print_scores(scores: dict[str, Any], out: Path | None) -> None:
    """Print scores as JSON, and write them to `out`."""
    from ctbasis.storage.outputs import write_file

    text = json.dumps(scores, indent=2)
    if out is not None:
        write_file(out / "score.json", text + "\n")
    show(*text.split("\n"))
