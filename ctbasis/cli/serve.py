"""`ctbasis serve`: a model behind HTTP."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from ctbasis.cli.network import (
    HOST,
    TLS_CERT,
    TLS_KEY,
    bases_option,
    http_token,
    largest_request_option,
    parse_host,
    port_option,
    tls_ca_option,
    tls_files,
    unfit_option,
)
from ctbasis.cli.options import absolute, grouped, own_option, verb
from ctbasis.errors import CtbasisError
from ctbasis.plans import Group

if TYPE_CHECKING:
    from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@verb()
@grouped(
    bases_option("volume", required=True),
    unfit_option("volume", "the answer is 422"),
    own_option(
        Group.PLACE,
        "--name",
        default="ctbasis",
        show_default=True,
        essential=True,
        help="Name of the model in the addresses /v2/models/NAME.",
    ),
    port_option(8080, essential=True),
    HOST,
    own_option(
        Group.PLACE,
        "--queue",
        type=click.IntRange(0, 1000),
        default=8,
        show_default=True,
        help="Requests that may wait while one is in work; further ones are answered by 503.",
    ),
    largest_request_option(
        1.0, "Size of one request at most, in 10^9 bytes. A request takes about four times its size of memory."
    ),
    TLS_CERT,
    TLS_KEY,
    tls_ca_option("client"),
)
def serve(basis: tuple[str, ...], name: str, unfit: str, **options: Any) -> None:
    """Serve stored bases as a model over HTTP, by the Open Inference Protocol, version 2.

    Clients send HU and spacing of a small volume, and get the denoised HU and the noise. They must send the bearer
    token of CTBASIS_HTTP_TOKEN, if that is set. It runs until SIGTERM or Ctrl-C. Results are not for diagnosis.
    """
    from importlib.util import find_spec

    if find_spec("fastapi") is None:
        raise CtbasisError(
            "FastAPI is not installed", expected="the extra serving", remedy="pip install 'ctbasis[serving]'"
        )
    if NAME.fullmatch(name) is None:
        raise CtbasisError(
            f"--name is {name[:70]!r}", expected="letters, digits, `.`, `_` and `-`", remedy="choose another name"
        )
    host = parse_host(options["host"])
    files: tuple[Path | None, ...] = (options["tls_cert"], options["tls_key"], options["tls_ca"])
    tls = tls_files(*files)
    token = http_token(host, "send volumes")
    from ctbasis.serving.serve import Serving
    from ctbasis.traces import Traces

    Serving(
        bases=tuple(map(absolute, basis)),
        name=name,
        host=host,
        port=options["port"],
        token=token,
        context=tls.context() if tls is not None else None,
        unfit=unfit,
        queue=options["queue"],
        body_bytes=int(options["largest_request"] * 1e9),
        traces=Traces.from_environment("ctbasis-serve"),
    ).run()
