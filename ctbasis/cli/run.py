"""`ctbasis run` and `ctbasis denoise`: the compiled pipeline on this machine."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import cloup

from ctbasis.choices import AUTO
from ctbasis.cli.mode import mode_of_basis, resolve_mode, with_mode
from ctbasis.cli.options import (
    PATH,
    SOURCE_HELP,
    absolute,
    given_parameters,
    grouped,
    mode_option,
    own_option,
    parameter_options,
    verb,
    where_option,
)
from ctbasis.parameters import BASIS, MODE, ON_KUBEFLOW, SOURCE
from ctbasis.plans import Group
from ctbasis.printable import show

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
@grouped(OUT, where_option("Denoise"), mode_option(), *parameter_options(but=(SOURCE, MODE, *ON_KUBEFLOW)))
def run(source: str, out: Path, mode: str, where: str, **parameters: Any) -> None:
    """Denoise the CT at SOURCE on this machine, through the compiled pipeline."""
    resolved = with_mode(mode, parameters)
    with _selected(source, where, parameters) as chosen:
        _run(chosen, out, resolved)


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
    *parameter_options(but=(SOURCE, MODE, BASIS, *ON_KUBEFLOW), essential=("truth", "rank", "seed", "deidentify")),
)
def denoise(series: str, basis: str, out: Path, **parameters: Any) -> None:
    """Denoise SERIES with the stored basis of another run, on this machine.

    Patch mode estimates the noise from SERIES. Global mode projects its slices onto the basis images, and the report
    states how much of SERIES the basis does not represent.
    """
    uri = absolute(basis)
    resolved = resolve_mode(AUTO, given_parameters(), basis_mode=mode_of_basis(uri))
    show(f"{basis} is a basis of {'patches' if resolved.mode == 'patch' else 'slices'}: mode {resolved.mode}")
    _run(series, out, {**parameters, "mode": resolved.mode, "basis": uri})


@contextmanager
def _selected(source: str, where: str, parameters: dict[str, Any]) -> Iterator[str]:
    """Yield the source of the series that `where` selects: `source` itself for an empty expression."""
    if not where:
        yield source
        return
    from ctbasis.cohort.selected_source import selected_source
    from ctbasis.dicom.deidentify.deidentification import Deidentification

    identity = Deidentification.of(parameters["retain"]) if parameters["deidentify"] else None
    with selected_source(absolute(source), where, identity) as chosen:
        yield chosen


def _run(source: str, out: Path, parameters: dict[str, Any]) -> None:
    from ctbasis.kubeflow.local import run as run_locally

    places = {"source": absolute(source), "truth": absolute(parameters["truth"])}
    done = run_locally({**parameters, **places}, out=out)
    show(f"{done.out}: {', '.join(sorted(path.name for path in done.out.glob('[!.]*')))} in {done.seconds:.0f} s")
