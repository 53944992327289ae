"""Options of the verbs that ask a Kubeflow server: its address, the user's profile on it, and spans of time."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from ctbasis.cli.options import SERVER, own_option

if TYPE_CHECKING:
    from ctbasis.cli.options import Declared

UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Duration(click.ParamType[timedelta]):
    """A number and a unit: 30m, 24h, 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the duration that a text states."""
        if isinstance(value, timedelta):
            return value
        match = re.fullmatch(r"([0-9]{1,6})([mhd])", str(value), re.ASCII)
        if match is None:
            self.fail(f"{value!r} is no duration such as 30m, 24h or 7d", param, ctx)
        return timedelta(**{UNITS[match[2]]: int(match[1])})


def server_options(
    *, required: bool = True, host_help: str = "Address of the Kubeflow UI."
) -> tuple[Declared, Declared]:
    """Return the options `--host` and `--namespace`.

    Args:
        required: Whether `--host` must be given; if not, it is empty.
        host_help: The help of `--host`.
    """
    needed: dict[str, Any] = {"required": True} if required else {"default": ""}
    host = own_option(
        SERVER, "--host", envvar="CTBASIS_KFP_HOST", show_envvar=True, essential=True, help=host_help, **needed
    )
    namespace = own_option(
        SERVER,
        "--namespace",
        envvar="CTBASIS_KFP_NAMESPACE",
        show_envvar=True,
        default="",
        essential=True,
        help="Your profile on a server with many users. A server for a single user has none, and it is refused.",
        short="Your profile.",
    )
    return host, namespace
