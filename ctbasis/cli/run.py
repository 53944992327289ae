"""`ctbasis run` and `ctbasis denoise`: the compiled pipeline on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cloup

from ctbasis.choices import AUTO
from ctbasis.cli.mode import resolve_mode
from ctbasis.cli.options import (
    PATH,
    absolute,
    given_parameters,
    grouped,
    mode_option,
    own_option,
    parameter_options,
    verb,
)
from ctbasis.parameters import BASIS, MODE, SOURCE
from ctbasis.plans import Group
from ctbasis.printable import say, show

if TYPE_CHECKING:
    from pathlib import Path

SOURCE_HELP = "A folder, a zip archive, a DICOMDIR, or s3://bucket/prefix."

OUT = own_option(
    Group.OUTPUT,
    "--out",
    type=PATH,
    required=True,
    essential=True,
    help="Folder for the results: denoised DICOM series, basis, pictures, report and numbers. A former run's folder is "
    "replaced.",
    short="Folder for the results.",
)


@verb()
@cloup.argument("source", help=SOURCE_HELP)
@grouped(OUT, mode_option(), *parameter_options(but=(SOURCE, MODE)))
def run(source: str, out: Path, mode: str, **parameters: Any) -> None:
    """Denoise the CT at SOURCE on this machine, through the compiled pipeline."""
    basis = absolute(parameters["basis"])
    resolved = resolve_mode(mode, given_parameters(), basis_mode=_mode_of(basis) if mode == AUTO else "")
    if resolved.line:
        say(resolved.line)
    _run(source, out, {**parameters, "mode": resolved.mode, "basis": basis})


@verb()
@cloup.argument("series", help=SOURCE_HELP)
@grouped(
    OUT,
    own_option(
        Group.METHOD,
        "--basis",
        required=True,
        metavar="URI",
        essential=True,
        help="The `basis/` of another run, in either mode; it decides the mode.",
    ),
    *parameter_options(but=(SOURCE, MODE, BASIS), essential=("truth", "rank", "seed", "deidentify")),
)
def denoise(series: str, basis: str, out: Path, **parameters: Any) -> None:
    """Denoise SERIES with the stored basis of another run, on this machine.

    Patch mode estimates the noise from SERIES. Global mode projects its slices onto the basis images, and the report
    states how much of SERIES the basis does not represent.
    """
    uri = absolute(basis)
    resolved = resolve_mode(AUTO, given_parameters(), basis_mode=_mode_of(uri))
    show(f"{basis} is a basis of {'patches' if resolved.mode == 'patch' else 'slices'}: mode {resolved.mode}")
    _run(series, out, {**parameters, "mode": resolved.mode, "basis": uri})


def _mode_of(basis: str) -> str:
    """Return the mode of the run that made `basis`, an empty string without a basis."""
    if not basis:
        return ""
    from ctbasis.patch.bases import kind_at

    return kind_at(basis)


def _run(source: str, out: Path, parameters: dict[str, Any]) -> None:
    from ctbasis.kubeflow.local import run as run_locally

    places = {"source": absolute(source), "truth": absolute(parameters["truth"])}
    done = run_locally({**parameters, **places}, out=out)
    show(f"{done.out}: {', '.join(sorted(path.name for path in done.out.glob('[!.]*')))} in {done.seconds:.0f} s")
