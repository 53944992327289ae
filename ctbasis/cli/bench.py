"""`ctbasis bench`: measurements of this project and its peers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import cloup

from ctbasis.cli.options import OUTPUT_FILE, OUTPUT_FOLDER, PATH
from ctbasis.printable import show

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.bench.quality import CaseResult

MOST = 10**12
"""Largest size or number; more fits no machine, and no float holds a number of thousands of digits."""


@cloup.command()
@click.argument("what", type=click.Choice(["pipeline", "ingest", "svd", "quality"]), nargs=-1)
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
    help="svd: float64, int16, rank-50, stock, wide, growth, or out-of-core, which takes a quarter of an hour. By "
    "default all but out-of-core. Repeatable.",
)
@click.option("--rows", type=click.IntRange(1, MOST), help="svd, own case: rows of the generated matrix.")
@click.option("--cols", type=click.IntRange(1, MOST), help="svd, own case: columns of the matrix.")
@click.option(
    "--dtype",
    type=click.Choice(["float64", "float32", "int16"]),
    help="svd, own case: data type of the matrix on disk.",
)
@click.option("--rank", type=click.IntRange(1, MOST), help="svd, own case or --series: rank k.")
@click.option("--oversample", type=click.IntRange(0, MOST), help="svd, own case or --series: oversampling p.")
@click.option("--power-iters", type=click.IntRange(0, MOST), help="svd, own case or --series: power iterations q.")
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
@click.option("--noise", "levels", type=float, multiple=True, help="quality: noise in the body, HU; repeatable.")
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
@click.option("--method", "methods", multiple=True, help="quality: peers and modes to run, by default all; repeatable.")
@click.option("--json", "json_file", type=OUTPUT_FILE, help="JSON file to which the rows are written too.")
@click.option("--page", type=OUTPUT_FOLDER, help="svd, quality: folder for tables and pictures.")
def bench(
    what: tuple[str, ...],
    series: tuple[Path, ...],
    names: tuple[str, ...],
    json_file: Path | None,
    page: Path | None,
    **own: Any,
) -> None:
    """Measure WHAT: by default pipeline, ingest and svd. Ratios are between measurements of one session.

    `svd` also measures peers on the same matrices, `quality` also measures other denoisers on the same noise.
    An own case of svd is a matrix that --rows, --cols and --dtype describe.
    """
    from ctbasis.bench.cases import chosen_cases
    from ctbasis.bench.page import write_page
    from ctbasis.bench.quality_cases import QualitySettings
    from ctbasis.bench.quality_page import write_quality_page
    from ctbasis.bench.run import bench as measure
    from ctbasis.bench.run import table
    from ctbasis.storage.outputs import write_file

    given = {name: value for name, value in own.items() if value not in (None, ())}
    quality = {name: given.pop(name) for name in list(given) if name in QualitySettings.__dataclass_fields__}
    results: list[CaseResult] = []
    rows = measure(
        what, series, chosen_cases(names, given, series=bool(series)), QualitySettings(**quality), results=results
    )
    show(*table(rows).split("\n"))
    if json_file is not None:
        write_file(json_file, json.dumps({"rows": rows}, indent=2))
    if page is not None:
        own_rows = [row for row in rows if row["bench"] == "svd"]
        if own_rows:
            write_page(own_rows, page)
        if results:
            write_quality_page(results, page)
