"""`ctbasis view`: a result in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ctbasis.cli.network import TLS_CERT, TLS_KEY, parse_host, port_option, tls_files
from ctbasis.cli.options import PATH, grouped, own_option, verb
from ctbasis.errors import CtbasisError
from ctbasis.plans import Group

if TYPE_CHECKING:
    from pathlib import Path


@verb()
@click.argument("result", metavar="DIR", type=PATH)
@grouped(
    own_option(
        Group.SOURCE,
        "--source",
        type=PATH,
        required=True,
        essential=True,
        help="Folder of the series that was denoised, the SOURCE of the run. It is the series before denoising; the "
        "result does not hold it.",
        short="Folder of the series that was denoised, the SOURCE of the run.",
    ),
    own_option(
        Group.SOURCE,
        "--series",
        type=click.IntRange(1, 10_000),
        default=1,
        show_default=True,
        help="Number of the series, where the run denoised several.",
    ),
    port_option(0, essential=True),
    own_option(
        Group.PLACE,
        "--host",
        default="127.0.0.1",
        show_default=True,
        help="Address of this machine to listen on. One that other machines reach needs --tls-cert and --tls-key.",
    ),
    TLS_CERT,
    TLS_KEY,
)
def view(result: Path, source: Path, series: int, **options: Any) -> None:
    """Show the result DIR of a run in a browser: before, after, removed and noise, side by side in three planes.

    It prints the address of the page and runs until Ctrl-C. The page loads nothing from a network. The address holds
    the token that the page sends: CTBASIS_HTTP_TOKEN, or a random one. Not for diagnosis.
    """
    from importlib.util import find_spec

    if find_spec("fastapi") is None:
        raise CtbasisError(
            "FastAPI is not installed", expected="the extra serving", remedy="pip install 'ctbasis[serving]'"
        )
    from ctbasis.viewer.result import open_result
    from ctbasis.viewer.serve import Viewing, new_token
    from ctbasis.web.token import token_of_environment

    host = parse_host(options["host"])
    tls = tls_files(options["tls_cert"], options["tls_key"])
    given = token_of_environment()
    Viewing(
        open_result(result, source, series=series),
        host=host,
        port=options["port"],
        context=tls.context() if tls is not None else None,
        token=given or new_token(),
        given=bool(given),
    ).run()
