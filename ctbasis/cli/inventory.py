"""`ctbasis inventory`: the studies and series of a source, from headers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ctbasis.cli.options import OUTPUT_FILE, absolute, where_option
from ctbasis.parameters import DEIDENTIFY, RETAIN, DeidentificationPlan
from ctbasis.printable import say, show

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ctbasis.cohort.inventory import Inventory


@click.command()
@click.argument("source")
@click.option("--json", "form", flag_value="json", help="Write a JSON document with every column and remark.")
@click.option("--csv", "form", flag_value="csv", help="Write every column as CSV.")
@where_option("List").option
@click.option("--deidentify", is_flag=True, help=DEIDENTIFY.help)
@click.option("--retain", default="", metavar=RETAIN.metavar, help=RETAIN.help)
@click.option(
    "--state",
    type=OUTPUT_FILE,
    metavar="FILE",
    help="Index of the headers that were read: an interrupted inventory continues from it, and a repeated one reads "
    "only what is new or changed. By default it is in the user's cache. It holds what the headers say, also of "
    "patients, and its owner alone can read it. Without CTBASIS_DEIDENTIFY_SALT, --deidentify keeps none.",
)
def inventory(source: str, form: str | None, where: str, state: Path | None, retain: str, *, deidentify: bool) -> None:
    """List the studies and series of SOURCE: sizes, kernels, scanners, dose, and what a run would set aside and why.

    Only headers are read, by ranges: no pixel data is transferred. SOURCE is as of `ctbasis run`.
    """
    from ctbasis.cohort.inventory import open_inventory
    from ctbasis.cohort.selection import Selection
    from ctbasis.dicom.deidentify.deidentification import Deidentification

    Selection(where)
    DeidentificationPlan(deidentify=deidentify, retain=retain)
    identity = Deidentification.of(retain) if deidentify else None
    if identity is not None:
        say(str(identity))
    with open_inventory(absolute(source), state=state, deidentification=identity) as opened:
        try:
            opened.update()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the headers that were read are kept, and the same command continues") from None
        _show(opened, form or "table", where)


def _show(opened: Inventory, form: str, where: str) -> None:
    from ctbasis.cohort.inventory_output import csv_lines, json_lines, other_lines, table_lines, total_line

    if form == "json":
        _show_each(json_lines(opened.rows(where), opened.others()))
    elif form == "csv":
        _show_each(csv_lines(opened.rows(where)))
    else:
        _show_each(table_lines(opened.rows(where)))
        series = usable = slices = 0
        size: int | None = 0
        for row in opened.rows(where):
            series, usable, slices = series + 1, usable + row.usable, slices + row.slices
            size = None if size is None or row.bytes is None else size + row.bytes
        show(*other_lines(opened.others()), total_line(series, usable, slices, size))


def _show_each(lines: Iterable[str]) -> None:
    for line in lines:
        show(line)
