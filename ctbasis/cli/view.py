"""`ctbasis view`: a result, or a job of a running node, in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctbasis.cli.network import TLS_CERT, TLS_KEY, parse_host, port_option, tls_files
from ctbasis.cli.options import PATH, PathType, grouped, own_option, verb
from ctbasis.errors import CtbasisError
from ctbasis.plans import Group

if TYPE_CHECKING:
    from ctbasis.viewer.result import Result


class _Place(PathType):
    """The folder of a run as a path, or the address of a node as text."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path or the address."""
        if str(value).lower().startswith(("http://", "https://")):
            return str(value)
        return super().convert(value, param, ctx)


@verb()
@click.argument("result", metavar="DIR|URL", type=_Place())
@grouped(
    own_option(
        Group.SOURCE,
        "--source",
        type=PATH,
        essential=True,
        help="Folder of the series that was denoised, the SOURCE of the run. It is the series before denoising; the "
        "result does not hold it. A node has it itself.",
        short="Folder of the series that was denoised, the SOURCE of the run.",
    ),
    own_option(
        Group.SOURCE,
        "--job",
        type=click.IntRange(1, 2**63 - 1),
        essential=True,
        help="Number of the job of a node. Without it, the newest jobs of the node are listed.",
        short="Number of the job of a node; without it, its jobs are listed.",
    ),
    own_option(
        Group.SOURCE,
        "--series",
        type=click.IntRange(1, 10_000),
        default=1,
        show_default=True,
        help="Number of the series, where the run or the job denoised several.",
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
def view(result: Path | str, source: Path | None, job: int | None, series: int, **options: Any) -> None:
    """Show the result DIR of a run in a browser: before, after, removed and noise, side by side in three planes.

    URL, http://HOST:PORT or https://HOST:PORT, is a running node (`ctbasis node --http-port`): the files of the job are
    fetched with DICOMWEB_TOKEN, which is the node's CTBASIS_HTTP_TOKEN, and removed at the end.
    It prints the address of the page and runs until Ctrl-C. The page loads nothing from a network. The address holds
    the token that the page sends: CTBASIS_HTTP_TOKEN, or a random one. Not for diagnosis.
    """
    from importlib.util import find_spec

    if find_spec("fastapi") is None:
        raise CtbasisError(
            "FastAPI is not installed", expected="the extra serving", remedy="pip install 'ctbasis[serving]'"
        )
    from ctbasis.viewer.result import open_result

    if isinstance(result, str):
        if source is not None:
            raise CtbasisError(
                "--source is given for a node",
                expected="a node alone: it keeps the series that it received",
                remedy="leave --source out, or name the folder of a run instead of the node",
            )
        from ctbasis.node.viewing import RunningNode
        from ctbasis.printable import say, show

        node = RunningNode(result)
        if job is None:
            show(*node.job_lines())
            say("view: choose a job that is done by --job NUMBER")
            return
        with node.fetched(job, series) as shown:
            _serve(shown, options)
        return
    if source is None or job is not None:
        raise CtbasisError(
            "--source is missing" if source is None else "--job is given for the folder of a run",
            expected="the folder of a run with --source, or the address http://HOST:PORT of a node with --job",
            remedy="name the series that was denoised by --source, without --job",
        )
    _serve(open_result(result, source, series=series), options)


def _serve(result: Result, options: dict[str, Any]) -> None:
    """Serve a result until the process is ended."""
    from ctbasis.viewer.serve import Viewing, new_token
    from ctbasis.web.token import token_of_environment

    host = parse_host(options["host"])
    tls = tls_files(options["tls_cert"], options["tls_key"])
    given = token_of_environment()
    Viewing(
        result,
        host=host,
        port=options["port"],
        context=tls.context() if tls is not None else None,
        token=given or new_token(),
        given=bool(given),
    ).run()
