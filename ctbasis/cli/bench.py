"""`ctbasis bench`: measurements of this project and its peers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import cloup

from ctbasis.cli.options import PATH

if TYPE_CHECKING:
    from pathlib import Path


@cloup.command()
@click.argument("what", type=click.Choice(["pipeline", "ingest", "svd", "quality"]), nargs=-1)
@click.option(
    "--series",
    type=PATH,
    multiple=True,
    help="A folder with one CT series; without it a phantom of 133 x 512 x 512. quality: repeatable, each is tuned on "
    "the next; without it two phantoms.",
)
@click.option(
    "--case",
    "names",
    multiple=True,
    help="svd: float64, int16, rank-50, stock, wide, growth, or out-of-core, which takes a quarter of an hour; without "
    "it all but the last. Repeatable.",
)
@click.option("--rows", type=click.IntRange(min=1), help="svd, a case of your own: rows of the made matrix.")
@click.option("--cols", type=click.IntRange(min=1), help="svd, a case of your own: its columns.")
@click.option("--dtype", type=click.Choice(["float64", "float32", "int16"]), help="svd, a case of your own: on disk.")
@click.option("--rank", type=click.IntRange(min=1), help="svd, a case of your own or --series: k.")
@click.option("--oversample", type=click.IntRange(min=0), help="svd, likewise: p.")
@click.option("--power-iters", type=click.IntRange(min=0), help="svd, likewise: q.")
@click.option("--memory", help="svd, likewise: that engine numpy may take, such as 3GiB.")
@click.option(
    "--engine",
    "contenders",
    multiple=True,
    help="svd, likewise: engines, peers, bare-blas and bare-read to run; repeatable.",
)
@click.option("--slices", type=click.IntRange(min=1), help="quality: slices scored of each series; time goes with it.")
@click.option("--noise", "levels", type=float, multiple=True, help="quality: HU of noise in the body; repeatable.")
@click.option(
    "--kernel",
    "kernels",
    type=click.Choice(["hann", "cosine", "shepp-logan", "ram-lak"]),
    multiple=True,
    help="quality: of the reconstruction; repeatable.",
)
@click.option(
    "--resolution",
    "resolutions",
    type=click.Choice(["binned", "native"]),
    multiple=True,
    help="quality: of the truth, 2 x 2 binned without it; native takes four times the time; repeatable.",
)
@click.option("--method", "methods", multiple=True, help="quality: peers and modes to run, all without it; repeatable.")
@click.option("--json", "json_file", type=PATH, help="Also write the rows there as JSON.")
@click.option("--page", type=PATH, help="svd, quality: also write tables and pictures to this folder.")
def bench(
    what: tuple[str, ...],
    series: tuple[Path, ...],
    names: tuple[str, ...],
    json_file: Path | None,
    page: Path | None,
    **own: Any,
) -> None:
    """Measure WHAT, or everything but quality: ratios come from one run, side by side."""
    from ctbasis.bench.cases import chosen_cases
    from ctbasis.bench.page import write_page
    from ctbasis.bench.quality import Views, Wanted
    from ctbasis.bench.quality_page import write_quality_page
    from ctbasis.bench.run import bench as measure
    from ctbasis.bench.run import table

    given = {name: value for name, value in own.items() if value not in (None, ())}
    quality = {name: given.pop(name) for name in list(given) if name in Wanted.__dataclass_fields__}
    views: list[Views] = []
    rows = measure(what, series, chosen_cases(names, given, series=bool(series)), Wanted(**quality), views=views)
    click.echo(table(rows))
    if json_file is not None:
        json_file.write_text(json.dumps({"rows": rows}, indent=2))
    if page is not None:
        own_rows = [row for row in rows if row["bench"] == "svd"]
        if own_rows:
            write_page(own_rows, page)
        if views:
            write_quality_page(views, page)
