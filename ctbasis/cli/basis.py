"""`ctbasis factor` and `ctbasis reconstruct`: a stored basis from DICOM files, and DICOM files from a stored basis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import cloup

from ctbasis.cli.options import OUTPUT_FILE, PATH, absolute, grouped, own_option, parameter_option, verb
from ctbasis.parameters import (
    CLUSTER,
    COMPRESS,
    DEIDENTIFY,
    METHOD,
    OVERSAMPLE,
    POWER_ITERS,
    RETAIN,
    SEED,
    DeidentificationPlan,
    SvdPlan,
)
from ctbasis.plans import Group
from ctbasis.printable import show

if TYPE_CHECKING:
    from pathlib import Path


@verb()
@cloup.argument("source", help="A folder or s3://bucket/prefix.")
@grouped(
    own_option(
        Group.OUTPUT,
        "--out",
        required=True,
        metavar="BASIS",
        essential=True,
        help="Folder or s3://bucket/prefix for the factors; replaced if it exists.",
    ),
    own_option(
        Group.OUTPUT,
        "--qc",
        type=OUTPUT_FILE,
        essential=True,
        help="JSON file that lists what was read, set aside and tolerated.",
    ),
    own_option(
        Group.GLOBAL_MODE,
        "--rank",
        type=click.IntRange(min=1),
        default=50,
        show_default=True,
        essential=True,
        help="k: number of basis vectors to keep.",
    ),
    *map(parameter_option, (OVERSAMPLE, POWER_ITERS, SEED, METHOD, CLUSTER, DEIDENTIFY, RETAIN)),
)
def factor(source: str, out: str, rank: int, qc: Path | None, **parameters: Any) -> None:
    """Factor SOURCE straight from its DICOM files, on Spark; no matrix is stored.

    Executors decode the slices in parallel and pass them to the engine spark. The factors are those of `ctbasis run` in
    global mode, and `ctbasis reconstruct` writes a DICOM series from them.
    """
    from ctbasis.steps.svd import factorize_source

    identity = DeidentificationPlan.of(**{name: parameters.pop(name) for name in DeidentificationPlan.names()})
    plan = SvdPlan.of(rank=str(rank), ranks=str(rank), **parameters)
    qc_file = absolute(str(qc)) if qc else ""
    factorize_source(absolute(source), absolute(out), plan, deidentification=identity, qc=qc_file)
    show(f"{out}: rank {rank}; next: ctbasis reconstruct {out} --rank {rank} --out DIR")


@cloup.command()
@click.argument("basis")
@click.option("--rank", type=int, required=True, help="k: number of basis vectors to use, at most those stored.")
@click.option("--out", type=PATH, required=True, help="Folder for the derived DICOM series.")
@click.option("--basis-images", type=PATH, help="Folder for the basis images as a DICOM series.")
@click.option(
    COMPRESS.flag, type=click.Choice(COMPRESS.choices), default=COMPRESS.default, show_default=True, help=COMPRESS.help
)
def reconstruct(basis: str, rank: int, out: Path, basis_images: Path | None, compress: str) -> None:
    """Write the rank-k DICOM series from a stored BASIS (a folder or s3://bucket/prefix), without a factorization."""
    from ctbasis.steps.reconstruct import reconstruct as write

    write(basis, out, rank=rank, compression=compress, basis_images=basis_images)
