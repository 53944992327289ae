"""Options that the verbs of the DICOM network and of served models share, and what becomes of their values."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from ctbasis.cli.options import PATH, own_option
from ctbasis.errors import CtbasisError
from ctbasis.plans import Group
from ctbasis.printable import say

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.node.calling import Caller
    from ctbasis.node.listening import Tls

LARGEST_PORT = 65535


class Amount(click.FloatRange):
    """A finite number, as `click.FloatRange`; that accepts NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; refuse NaN and infinity."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


AET = own_option(
    Group.PLACE,
    "--aet",
    default="CTBASIS",
    show_default=True,
    essential=True,
    help="AE title of this node. A peer that calls another one is rejected.",
)


def port_option(default: int = 11112, *, essential: bool) -> Any:
    """Declare `--port`; the short page shows it if it is essential."""
    return own_option(
        Group.PLACE,
        "--port",
        type=click.IntRange(0, LARGEST_PORT),
        default=default,
        show_default=True,
        essential=essential,
        help="Port to listen on; 0 takes a free one.",
    )


HOST = own_option(
    Group.PLACE,
    "--host",
    default="",
    help="Address of this machine to listen on; without it, all. 127.0.0.1 keeps other machines out.",
)

TLS_CERT = own_option(
    Group.PLACE, "--tls-cert", type=PATH, help="Certificate of this node, PEM; a listening node then uses TLS."
)
TLS_KEY = own_option(
    Group.PLACE, "--tls-key", type=PATH, help="Private key of the certificate, PEM, without a passphrase."
)


def tls_ca_option(who: str) -> Any:
    """Declare `--tls-ca` of a server whose requestors are each a `who`."""
    return own_option(
        Group.PLACE,
        "--tls-ca",
        type=PATH,
        help=f"Authorities, PEM, one of which must have signed a {who}'s certificate; without it, {who}s need none.",
    )


def bases_option(what: str, *, required: bool = False) -> Any:
    """Declare `--basis` of a verb that denoises each `what` by the stored basis that fits it."""
    return own_option(
        Group.METHOD,
        "--basis",
        multiple=True,
        required=required,
        metavar="URI",
        essential=True,
        help="The `basis/` of a run in patch mode; may be given several times, such as one for each kernel. The one "
        f"that fits the noise and the spacing of a {what} is used.",
        short="Stored basis; may be given several times, and the one that fits is used.",
    )


def unfit_option(what: str, refused: str) -> Any:
    """Declare `--if-no-basis-fits`, with the name `unfit`; `refused` says what a refusal means."""
    return own_option(
        Group.METHOD,
        "--if-no-basis-fits",
        "unfit",
        type=click.Choice(("learn", "refuse")),
        default="learn",
        show_default=True,
        essential=True,
        help=f"What happens to a {what} of another spacing or kernel than all bases: a basis is learned on it, which "
        f"takes about twice the time, or {refused}.",
        short=f"Learn a basis on a {what} that no basis fits, or refuse it.",
    )


def largest_request_option(default: float, help_text: str) -> Any:
    """Declare `--largest-request` in GB."""
    return own_option(
        Group.PLACE,
        "--largest-request",
        type=Amount(min=0.001),
        default=default,
        show_default=True,
        metavar="GB",
        help=help_text,
    )


PEER_CA = own_option(
    Group.PLACE,
    "--peer-ca",
    type=PATH,
    help="Authorities, PEM, one of which must have signed the certificate of a peer dicom+tls://AET@HOST:PORT; without "
    "it, those of the system. A certificate must name the host.",
)


def parse_host(text: str) -> str:
    """Return the address to listen on, without brackets; empty for all.

    Raises:
        CtbasisError: The text is no address.
    """
    from ctbasis.addresses import parse_address

    if not text:
        return ""
    return parse_address(text, what="--host", schemes=("",), example="127.0.0.1", path_allowed=False).host


def tls_files(certificate: Path | None, key: Path | None, authority: Path | None = None) -> Tls | None:
    """Return the files of this side's TLS; None without any.

    Raises:
        CtbasisError: A file is given without another that it needs.
    """
    from ctbasis.node.listening import Tls

    if certificate is None and key is None and authority is None:
        return None
    if certificate is None or key is None:
        raise CtbasisError(
            "--tls-cert, --tls-key and --tls-ca are not complete",
            expected="--tls-cert and --tls-key, and optionally --tls-ca",
            remedy="name the files of the certificate and of its key",
        )
    return Tls(certificate, key, authority)


def require_pynetdicom() -> None:
    """Refuse to go on without the extra `node`.

    Raises:
        CtbasisError: pynetdicom is not installed.
    """
    if find_spec("pynetdicom") is None:
        raise CtbasisError(
            "pynetdicom is not installed", expected="the extra node", remedy="pip install 'ctbasis[node]'"
        )


def caller_of(aet: str, peer_ca: Path | None, own: Tls | None) -> Caller:
    """Return this side as a requestor of associations.

    Raises:
        CtbasisError: The title is none, or a file cannot be used.
    """
    from ctbasis.node.calling import Caller
    from ctbasis.node.peers import parse_title

    return Caller.of(parse_title(aet, what="--aet"), authority=peer_ca, own=own)


def http_token(host: str, allowed: str) -> str:
    """Return the bearer token of the HTTP server; warn if there is none and other machines reach the server.

    Args:
        host: Address that the server listens on; empty for all.
        allowed: What everybody may do without a token.

    Raises:
        CtbasisError: The token protects nothing.
    """
    from ctbasis.web.token import LOOPBACK, TOKEN, token_of_environment

    token = token_of_environment()
    if not token and host not in LOOPBACK:
        say(f"WARNING: {TOKEN} is not set: whoever reaches the HTTP port may {allowed}")
    return token
