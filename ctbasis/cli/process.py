"""`ctbasis process`: a folder in, a folder out, as routers call a container."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import cloup

from ctbasis.cli.options import PATH, absolute, grouped, own_option
from ctbasis.plans import Group
from ctbasis.printable import show

if TYPE_CHECKING:
    from pathlib import Path


@cloup.command()
@click.argument("source", metavar="[IN]", type=PATH, required=False)
@click.argument("out", metavar="[OUT]", type=PATH, required=False)
@grouped(
    own_option(
        Group.METHOD,
        "--basis",
        multiple=True,
        metavar="URI",
        help="The `basis/` of a run in patch mode; may be given several times, and the one that fits is used. Without "
        "it, that of process.settings.basis in task.json, else every basis in the folder HOLOSCAN_MODEL_PATH.",
    ),
    own_option(
        Group.METHOD,
        "--if-no-basis-fits",
        "unfit",
        type=click.Choice(("learn", "refuse")),
        help="Learn a basis on a series that no basis fits, which is the default, or refuse it and write nothing.",
    ),
)
def process(source: Path | None, out: Path | None, basis: tuple[str, ...], unfit: str | None) -> None:
    """Denoise the CT series in the folder IN, and write them and result.json to the empty folder OUT.

    Without IN and OUT, the folders are those of mercure (MERCURE_IN_DIR, MERCURE_OUT_DIR) or of a MONAI Application
    Package (HOLOSCAN_INPUT_PATH, HOLOSCAN_OUTPUT_PATH). Results are not for diagnosis.
    """
    from ctbasis.node.container import Settings
    from ctbasis.node.container import process as run

    record = run(Settings.of(source, out, tuple(map(absolute, basis)), unfit or ""))
    for volume in record["volumes"]:
        show(f"{volume['slices']} slices, basis {volume['basis']}")
