"""`ctbasis bench`: measurements of this project and its peers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import cloup

from ctbasis.cli.options import OUTPUT_FILE, OUTPUT_FOLDER, PATH
from ctbasis.printable import show

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ctbasis.bench.quality import CaseResult
    from ctbasis.bench.task_cases import TaskSettings

MOST = 10**12
"""Largest size or number; more fits no machine, and no float holds a number of thousands of digits."""

MILLIMETRES = click.FloatRange(0.01, 1000)
"""A distance."""


@cloup.command()
@click.argument(
    "what", type=click.Choice(["pipeline", "ingest", "svd", "quality", "task", "ttf", "checks", "traffic"]), nargs=-1
)
@click.option(
    "--series",
    type=PATH,
    multiple=True,
    help="Folder with one CT series; by default a phantom of 133 x 512 x 512. quality: repeatable; settings for each "
    "series are tuned on the next; by default two phantoms.",
)
@click.option(
    "--case",
    "names",
    multiple=True,
    help="svd: float64, int16, rank-50, stock, wide, growth, out-of-core, which takes a quarter of an hour, or cohort, "
    "which takes 20 GB of disk. By default all but the last two. Repeatable.",
)
@click.option("--rows", type=click.IntRange(1, MOST), help="svd, own case, and traffic: rows of the generated matrix.")
@click.option("--cols", type=click.IntRange(1, MOST), help="svd, own case, and traffic: columns of the matrix.")
@click.option(
    "--dtype",
    type=click.Choice(["float64", "float32", "int16"]),
    help="svd, own case: data type of the matrix on disk.",
)
@click.option("--rank", type=click.IntRange(1, MOST), help="svd, own case or --series: rank k.")
@click.option("--oversample", type=click.IntRange(0, MOST), help="svd, own case or --series: oversampling p.")
@click.option("--power-iters", type=click.IntRange(0, MOST), help="svd, own case or --series: power iterations q.")
@click.option(
    "--executors", type=click.IntRange(1, MOST), help="traffic: executors of one core on this machine, by default 2."
)
@click.option("--memory", help="svd, own case or --series: memory that the engine numpy may take, such as 3GiB.")
@click.option(
    "--engine",
    "contenders",
    multiple=True,
    help="svd, own case or --series: engines, peers, bare-blas and bare-read to run; repeatable.",
)
@click.option(
    "--slices",
    type=click.IntRange(1, MOST),
    help="quality: number of slices scored of each series; the time is proportional to it.",
)
@click.option(
    "--noise",
    "levels",
    type=float,
    multiple=True,
    help="quality, task, ttf: noise in the body, HU; repeatable. task, ttf: that of the full dose, one value.",
)
@click.option(
    "--realisations",
    type=click.IntRange(4, 1000),
    help="task: noise realisations of the volume at each dose, an even number; the time is proportional to it.",
)
@click.option(
    "--fewer",
    type=(str, click.IntRange(4, 1000)),
    multiple=True,
    metavar="METHOD N",
    help="task: a slow method that gets only N of the realisations; repeatable.",
)
@click.option(
    "--task",
    "tasks",
    type=click.Choice(["detect-3mm", "detect-4mm", "detect-10mm", "shape-8mm", "size-8mm"]),
    multiple=True,
    help="task: tasks, by default detect-4mm, detect-10mm and shape-8mm; repeatable. More tasks share the same regions "
    "of interest.",
)
@click.option(
    "--channels",
    type=click.Choice(["auto", "laguerre-gauss", "dog", "gabor"]),
    multiple=True,
    help="task: channels of the Hotelling observer; auto, the default, are Laguerre-Gauss, and Gabor for shapes; "
    "repeatable.",
)
@click.option(
    "--internal-noise",
    type=click.FloatRange(0, 100),
    help="task: internal noise of the observers, in standard deviations of what they decide by; by default 0. It "
    "divides d' by the root of 1 plus its square.",
)
@click.option(
    "--keep",
    type=OUTPUT_FOLDER,
    help="task: folder for the images of every realisation; a run that was killed goes on with them.",
)
@click.option(
    "--kernel",
    "kernels",
    type=click.Choice(["hann", "cosine", "shepp-logan", "ram-lak"]),
    multiple=True,
    help="quality: kernel of the reconstruction; repeatable.",
)
@click.option(
    "--resolution",
    "resolutions",
    type=click.Choice(["binned", "native"]),
    multiple=True,
    help="quality: resolution of the truth, by default binned 2 x 2; native takes four times as long; repeatable.",
)
@click.option(
    "--method", "methods", multiple=True, help="quality, task, ttf: peers and modes to run, by default all; repeatable."
)
@click.option(
    "--pair",
    type=PATH,
    nargs=2,
    metavar="LOW FULL",
    help="quality: low and full dose of the same real slices, instead of simulated noise: two folders of DICOM, or two "
    ".npy files of HU (slices, rows, columns).",
)
@click.option(
    "--field",
    type=PATH,
    nargs=2,
    metavar="SERIES FIELD",
    help="quality: a real series and a field of the noise that its slices have in addition at a lower dose (0 where it "
    "is not known), in the forms of --pair: true errors without a truth.",
)
@click.option(
    "--spacing",
    type=(MILLIMETRES, MILLIMETRES, MILLIMETRES),
    help="quality: mm between slices, rows and columns of .npy files; by default 10 .75 .75, slices that are denoised "
    "one by one.",
)
@click.option("--json", "json_file", type=OUTPUT_FILE, help="JSON file to which the rows are written too.")
@click.option("--page", type=OUTPUT_FOLDER, help="svd, quality, task, ttf, traffic: folder for tables and pictures.")
def bench(
    what: tuple[str, ...],
    series: tuple[Path, ...],
    names: tuple[str, ...],
    pair: tuple[Path, Path] | None,
    field: tuple[Path, Path] | None,
    spacing: tuple[float, float, float] | None,
    json_file: Path | None,
    page: Path | None,
    *,
    keep: Path | None,
    **own: Any,
) -> None:
    """Measure WHAT: by default pipeline, ingest and svd. Ratios are between measurements of one session.

    `checks` measures what the checksums of the stores cost.
    `traffic` measures what the engines spark and mahout send between executors, at four numbers of columns.
    `svd` also measures peers on the same matrices, `quality` also measures other denoisers on the same noise.
    `task` measures what model observers detect in denoised images, and which dose that is worth.
    `ttf` measures how sharp denoisers leave disc inserts, by their contrast.
    An own case of svd is a matrix that --rows, --cols and --dtype describe.
    """
    from ctbasis.bench.cases import chosen_cases
    from ctbasis.bench.page import write_page
    from ctbasis.bench.quality_cases import QualitySettings
    from ctbasis.bench.quality_page import write_quality_page
    from ctbasis.bench.run import bench as measure
    from ctbasis.bench.run import table
    from ctbasis.bench.task_page import write_task_page
    from ctbasis.bench.traffic import TrafficCase
    from ctbasis.bench.traffic_page import write_traffic_page
    from ctbasis.bench.ttf_page import write_ttf_page
    from ctbasis.storage.outputs import write_file

    given = {name: value for name, value in own.items() if value not in (None, ())}
    own_names = ("realisations", "fewer", "tasks", "channels", "internal_noise")
    only_tasks: dict[str, Any] = {name: given.pop(name) for name in own_names if name in given}
    quality = {name: given.pop(name) for name in list(given) if name in QualitySettings.__dataclass_fields__}
    traffic = TrafficCase.of(given) if "traffic" in what else None
    given.pop("executors", None)
    results: list[CaseResult] = []
    rows = measure(
        what,
        series,
        chosen_cases(names, given, series=bool(series)),
        QualitySettings(**quality),
        traffic=traffic,
        results=results,
        pair=pair,
        field=field,
        spacing=spacing,
        tasks=_task_settings(quality, only_tasks),
        keep=keep,
    )
    show(*table(rows).split("\n"))
    if json_file is not None:
        write_file(json_file, json.dumps({"rows": rows}, indent=2))
    if page is not None:
        own_rows = [row for row in rows if row["bench"] == "svd"]
        if own_rows:
            write_page(own_rows, page)
        sent = [row for row in rows if row["bench"] == "traffic"]
        if sent:
            write_traffic_page(sent, page)
        if results:
            write_quality_page(results, page)
        if any(row["bench"] == "task" for row in rows):
            write_task_page([row for row in rows if row["bench"] == "task"], page)
        if any(row["bench"] == "ttf" for row in rows):
            write_ttf_page([row for row in rows if row["bench"] == "ttf"], page)


def _task_settings(quality: Mapping[str, Any], own: Mapping[str, Any]) -> TaskSettings:
    """Return the settings of task from the options that it shares with quality, and its own."""
    from ctbasis.bench.task_cases import TaskSettings

    given: dict[str, Any] = {"methods": quality.get("methods"), **own}
    given["level"] = next(iter(quality.get("levels", ())), None)
    return TaskSettings(**{name: value for name, value in given.items() if value is not None})
