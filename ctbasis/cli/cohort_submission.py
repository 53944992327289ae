"""`ctbasis submit --cohort`: a run of the pipeline of cohorts on a Kubeflow server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ctbasis.cli.cohort import PARTLY
from ctbasis.cli.options import SERVER, Declared, given_parameters, own_option
from ctbasis.parameters import COHORT_PARAMETERS, NOT_OF_A_COHORT
from ctbasis.printable import show

if TYPE_CHECKING:
    from collections.abc import Mapping

OUT = "out"
"""Parameter of the pipeline of cohorts that is the option --cohort here, where --out is a folder of this machine."""

OTHERS = tuple(parameter for parameter in COHORT_PARAMETERS if parameter.name != OUT)


def cohort_options() -> list[Declared]:
    """Declare --cohort and the options that belong to it."""
    cohort = own_option(
        SERVER,
        "--cohort",
        default="",
        metavar="s3://...",
        help="Denoise every series of SOURCE by the pipeline of cohorts, and put the results below this prefix, which "
        "the server's pods can write to; see docs/how-to/cohort.md. Exit code 3 tells that some series failed.",
    )
    return [
        cohort,
        *(
            own_option(
                SERVER,
                parameter.flag,
                default=parameter.default,
                is_flag=parameter.type is bool,
                metavar=parameter.metavar,
                help=f"With --cohort: {parameter.help[0].lower()}{parameter.help[1:]}",
            )
            for parameter in OTHERS
        ),
    ]


def cohort_arguments(out: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the pipeline that is submitted: of that of cohorts if there is an output for one.

    Args:
        out: The option --cohort.
        given: The values of all options that are parameters of one of the pipelines, by name.

    Raises:
        click.UsageError: An option belongs to the other pipeline.
        CtbasisError: The output is not on S3, or the expression that selects series is not valid.
    """
    foreign = NOT_OF_A_COHORT if out else tuple(parameter.name for parameter in OTHERS)
    if named := sorted(set(foreign) & given_parameters()):
        flags = ", ".join(f"--{name}" for name in named)
        raise click.UsageError(f"{flags} {'does not go with' if out else 'belongs to'} --cohort.")
    if out:
        from ctbasis.cohort.selection import Selection
        from ctbasis.storage.s3 import split_uri

        # Refused here, and not by a step of the run.
        split_uri(out, what="output")
        Selection(given["where"])
    chosen = {name: value for name, value in given.items() if name not in foreign}
    return {**chosen, OUT: out} if out else chosen


def show_cohort(client: Any, run_id: str, out: str, *, timeout: float | None) -> None:
    """Wait for a run of the pipeline of cohorts, and print what became of the series.

    Args:
        client: From `ctbasis.kubeflow.server.connect`.
        run_id: Id of the run.
        out: Prefix of the results.
        timeout: Longest wait in seconds; None for no limit.

    Raises:
        CtbasisError: The run failed, which it does if no series could be denoised; or it has not ended in time.
        SystemExit: Some series failed.
    """
    from ctbasis.cohort.record import State
    from ctbasis.kubeflow.artifacts import fetch_metrics
    from ctbasis.kubeflow.follow import wait_for

    wait_for(client, run_id, timeout=timeout)
    metrics = fetch_metrics(client, run_id)
    counts = {state: int(metrics.get(str(state), 0)) for state in State}
    show(f"{out}: {', '.join(f'{count} {state}' for state, count in counts.items() if count)}; see summary.html")
    if counts[State.FAILED] or counts[State.NOT_RUN]:
        sys.exit(PARTLY)
