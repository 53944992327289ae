"""`ctbasis demo`: a phantom denoised in both modes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import cloup

from ctbasis.cli.options import PATH
from ctbasis.printable import show


@cloup.command()
@click.option("--out", type=PATH, default=Path("demo"), show_default=True, help="Folder for the results.")
@click.option("--photons", type=float, help="I0: photons per detector element without a patient; fewer are noisier.")
@click.option("--slices", type=click.IntRange(min=2), help="Number of slices of the phantom.")
@click.option("--edge", type=click.IntRange(min=32), help="Rows and columns of a slice.")
@click.option("--seed", type=int, help="Seed of the phantom and of the noise.")
def demo(out: Path, **chosen: Any) -> None:
    """Denoise a low-dose chest phantom in both modes and compare them with the truth.

    The phantom is stored on a real S3 server on loopback and goes twice through the compiled pipeline: by the talk's
    method (global mode, rank 50, Apache Mahout on Spark) and in patch mode.
    """
    from ctbasis.demo.comparison import table
    from ctbasis.demo.demo import demo as run_demo

    done = run_demo(out, **{name: value for name, value in chosen.items() if value is not None})
    show(*table(done.scores).split("\n"))
    show(f"open {done.out / 'demo.png'} and {done.out / 'report.html'}, {done.out / 'patch' / 'report.html'}")
