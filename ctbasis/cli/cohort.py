"""`ctbasis cohort`: many series of one source, each denoised on its own or with others of its geometry."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import cloup

from ctbasis.cli.mode import with_mode
from ctbasis.cli.options import (
    SOURCE_HELP,
    PathType,
    absolute,
    grouped,
    mode_option,
    own_option,
    parameter_option,
    parameter_options,
    verb,
    where_option,
)
from ctbasis.errors import CtbasisError
from ctbasis.parameters import COHORT_PARAMETER, MODE, NOT_OF_A_COHORT, PARAMETER, SOURCE
from ctbasis.plans import Group
from ctbasis.printable import show


class FolderOrBucketType(PathType):
    """A folder, or `s3://bucket/prefix`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the absolute path or the URI as text; refuse a bad one by `click.BadParameter`."""
        from ctbasis.storage.s3 import split_uri

        text = str(value)
        if "://" not in text:
            return absolute(str(super().convert(value, param, ctx)))
        try:
            split_uri(text, what="output")
        except CtbasisError as error:
            self.fail(str(error), param, ctx)
        return text


PARTLY = 3
"""Exit code if at least one series was denoised, and at least one was not although its headers allow it."""

OUTPUT = (
    parameter_option(
        COHORT_PARAMETER["out"],
        type=FolderOrBucketType(path_type=Path),
        required=True,
        essential=True,
        short="Folder or s3://bucket/prefix for the results.",
    ),
    parameter_option(COHORT_PARAMETER["template"]),
    parameter_option(COHORT_PARAMETER["again"]),
)

PLACE = (
    own_option(
        Group.PLACE,
        "--parallelism",
        type=click.IntRange(1, 256),
        default=None,
        help="Series that are denoised at the same time, by one process each; by default one for each CPU. Fewer take "
        "less memory.",
    ),
)

METHOD = (
    own_option(
        Group.METHOD,
        "--basis-from",
        type=click.IntRange(0),
        default=0,
        metavar="N",
        help="Patch mode: learn one basis on N series of the selection and apply it to all, in place of one basis for "
        "each series. It saves the time of learning; see docs/how-to/cohort.md. 0 learns one for each.",
    ),
)

DECLARED_OTHERWISE = (SOURCE, MODE, *(PARAMETER[name] for name in NOT_OF_A_COHORT))


@verb()
@cloup.argument("source", help=SOURCE_HELP)
@grouped(where_option("Denoise"), *OUTPUT, *PLACE, *METHOD, mode_option(), *parameter_options(but=DECLARED_OTHERWISE))
def cohort(
    source: str,
    out: str,
    where: str,
    template: str,
    *,
    again: bool,
    parallelism: int | None,
    basis_from: int,
    mode: str,
    **parameters: Any,
) -> None:
    """Denoise every series of SOURCE, whatever sizes, kernels and scanners it holds, and summarize.

    A series that cannot be denoised costs itself: the others finish, and the summary names it. Exit code 0: all series
    are denoised; 3: some are not; 2: the command was refused, or no series could be denoised; 130: interrupted.
    """
    from ctbasis.cohort.plan import CohortPlan
    from ctbasis.cohort.run import run_cohort
    from ctbasis.cohort.template import default_template
    from ctbasis.threads import available_cpus

    plan = CohortPlan(
        source=absolute(source),
        out=out,
        template=template or default_template(deidentified=parameters["deidentify"]),
        where=where,
        basis_from=basis_from,
        parallelism=parallelism or available_cpus(),
        parameters=with_mode(mode, parameters),
    )
    done = run_cohort(plan, again=again)
    show(f"{done.out}: {done}, in {done.seconds:.0f} s; see summary.html")
    done.require_any()
    if done.is_partial:
        sys.exit(PARTLY)
