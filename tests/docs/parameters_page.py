"""Write docs/reference/parameters.md from ctbasis/parameters.py: `make reference`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctbasis.cli.mode import OPTIONS_OF_MODE
from ctbasis.parameters import COHORT_PARAMETERS, NOT_OF_A_COHORT, PARAMETERS
from ctbasis.plans import Group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctbasis.plans import Parameter

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "parameters.md"

INTRODUCTION = f"""# Parameters

<!-- Written by `make reference` from ctbasis/parameters.py. A test compares the two. -->

These are the parameters of the pipeline. On the command line, a parameter `like_this` is the option `--like-this` of
`ctbasis run`, `ctbasis denoise` and `ctbasis submit`; those under "{Group.SERVING.value}" are options of
`ctbasis submit` alone. In the Kubeflow UI and in the notebook, the names are those of
the first column.

The default of `mode` differs between the two. The compiled package has the default of the table. The command line has
the default `auto`, which selects the mode from the other options: the mode of the run that made `--basis`; else global
mode if {", ".join(f"`{flag}`" for flag in OPTIONS_OF_MODE["global"].values())} is given; else patch mode.
"""

COHORT = f"""`ctbasis cohort` and the pipeline of cohorts (`pipeline/cohort.yaml`) have these parameters besides. They
do not have {", ".join(f"`{name}`" for name in NOT_OF_A_COHORT)}."""


def page() -> str:
    """Return the page: one table for each group of parameters, and one for those of a cohort."""
    order = list(Group)
    parts = [INTRODUCTION]
    ordered = sorted(PARAMETERS, key=lambda one: order.index(one.group))
    parts += [
        _table(group.value, list(parameters)) for group, parameters in groupby(ordered, key=lambda one: one.group)
    ]
    return "\n\n".join(part.strip() for part in [*parts, _table("Cohort", COHORT_PARAMETERS, COHORT)]) + "\n"


def _table(title: str, parameters: Sequence[Parameter[Any]], text: str = "") -> str:
    head = ["| name | values | default | description |", "| --- | --- | --- | --- |"]
    return "\n".join([f"## {title}", "", *([text, ""] if text else []), *head, *map(_row, parameters)])


def _row(one: Parameter[Any]) -> str:
    default = str(one.default).lower() if one.type is bool else str(one.default)
    cells = (f"`{one.name}`", _values(one), f"`{default}`" if default else "", one.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _values(one: Parameter[Any]) -> str:
    """Return the valid values of a parameter."""
    if one.choices:
        return ", ".join(f"`{choice}`" for choice in one.choices)
    if one.type is bool:
        return "`true`, `false`"
    if one.type is str:
        return one.metavar or "text"
    kind = "integer" if one.type is int else "number"
    least = "" if one.least is None else f" from {one.least:g}"
    return f"{kind}{least}" + ("" if one.most is None else f" to {one.most:g}")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
