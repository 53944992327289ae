"""Peers of the node as a user names them: an application entity (AE) with its address, or a DICOMweb server."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ctbasis.addresses import parse_address
from ctbasis.errors import CtbasisError
from ctbasis.sources.dicomweb_server import SCHEMES as WEB_SCHEMES

TITLE = re.compile(r"[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?")
"""An AE title: 1 to 16 characters of the default repertoire without backslash, none of the outer ones a space (PS3.5
6.2)."""

EXAMPLE = "ORTHANC@localhost:4242"
WEB_EXAMPLE = "dicomweb+https://pacs.example.org/dicom-web"

TLS_SCHEME = "dicom+tls://"
"""Begin of the name of a peer whose connections are encrypted."""


@dataclass(frozen=True)
class Peer:
    """An application entity.

    Attributes:
        title: AE title.
        host: Host; empty if only the title is known.
        port: Port; 0 if only the title is known.
        tls: Whether connections to it are encrypted.
    """

    title: str
    host: str = ""
    port: int = 0
    tls: bool = False

    def __str__(self) -> str:
        if not self.host:
            return self.title
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{TLS_SCHEME if self.tls else ''}{self.title}@{host}:{self.port}"


@dataclass(frozen=True)
class WebPeer:
    """A DICOMweb server.

    Attributes:
        uri: Its URI, such as `dicomweb+https://pacs.example.org/dicom-web`.
    """

    uri: str

    def __str__(self) -> str:
        return self.uri


def parse_title(text: str, *, what: str) -> str:
    """Return an AE title.

    Args:
        text: The title.
        what: What it stands for, the subject of an error message.

    Raises:
        CtbasisError: The text is no AE title.
    """
    if TITLE.fullmatch(text) is None:
        raise CtbasisError(
            f"{what} is {text[:40]!r}",
            expected="an AE title: 1 to 16 printable ASCII characters without a backslash, such as CTBASIS",
            remedy=f"correct {what}",
        )
    return text


def parse_peer(text: str, *, what: str, needs_address: bool = True) -> Peer:
    """Return the peer that `TITLE@host:port` or `dicom+tls://TITLE@host:port` names.

    Args:
        text: The title and the address.
        what: What it stands for, the subject of an error message.
        needs_address: Whether a title alone is refused.

    Raises:
        CtbasisError: The text names no peer.
    """
    tls = text.startswith(TLS_SCHEME)
    title, separator, address = text.removeprefix(TLS_SCHEME).rpartition("@")
    if not separator:
        if needs_address or tls:
            raise CtbasisError(
                f"{what} is {text[:60]!r}, which has no @",
                expected=f"an AE title and an address, such as {EXAMPLE}",
                remedy=f"correct {what}",
            )
        return Peer(parse_title(text, what=what))
    parsed = parse_address(
        address,
        what=f"the address of {what}",
        schemes=("",),
        example="localhost:4242",
        needs_port=True,
        path_allowed=False,
    )
    return Peer(parse_title(title, what=what), parsed.host, parsed.port or 0, tls)


def parse_destination(text: str, *, what: str) -> Peer | WebPeer:
    """Return the peer or the DICOMweb server that a text names.

    Args:
        text: `TITLE@host:port`, `dicom+tls://TITLE@host:port`, or a URI that begins with `dicomweb+https://` or
            `dicomweb+http://`.
        what: What it stands for, the subject of an error message.

    Raises:
        CtbasisError: The text names neither.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or f"{scheme}://" == TLS_SCHEME:
        return parse_peer(text, what=what)
    if scheme.lower() not in WEB_SCHEMES:
        raise CtbasisError(
            f"{what} has another scheme than a DICOM node or a DICOMweb server",
            expected=f"an AE title and an address, such as {EXAMPLE}, or {WEB_EXAMPLE}",
            remedy=f"correct {what}",
        )
    parse_address(
        f"{scheme.lower().removeprefix('dicomweb+')}://{rest}",
        what=f"the address of {what}",
        schemes=("http", "https"),
        example=WEB_EXAMPLE,
    )
    return WebPeer(f"{scheme.lower()}://{rest.rstrip('/')}")
