"""How a node listens: its title, address, limits and encryption."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


@dataclass(frozen=True)
class Tls:
    """Files of an encrypted connection, PEM.

    Attributes:
        certificate: Certificate of the node, with those between it and the root.
        key: Private key of the certificate, without a passphrase.
        authority: Certificates of those who may sign a client's certificate; None if clients need none.
    """

    certificate: Path
    key: Path
    authority: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return the settings of the server's side.

        Raises:
            CtbasisError: A file cannot be read, or the key is not that of the certificate.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.authority is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        self.load_into(context)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Give a context the certificate, and on the server's side the authorities.

        Raises:
            CtbasisError: A file cannot be read, or the key is not that of the certificate.
        """
        try:
            # A passphrase would be asked for at the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
            if self.authority is not None and context.protocol is ssl.PROTOCOL_TLS_SERVER:
                context.load_verify_locations(self.authority)
        except (OSError, ValueError) as error:
            raise CtbasisError(
                f"the TLS files cannot be used ({type(error).__name__}: {getattr(error, 'reason', None) or error})",
                expected="PEM files: a certificate, its key without a passphrase, and optionally authorities",
                cause="a file is missing or another, or the key is that of another certificate",
                remedy="correct --tls-cert, --tls-key or --tls-ca",
            ) from None


@dataclass(frozen=True)
class Listening:
    """How the server listens.

    Attributes:
        title: AE title of the node; a peer that calls another one is rejected.
        host: Address to listen on; empty for all.
        port: Port; 0 for a free one.
        allowed: AE titles that may connect; empty for all.
        associations: Associations at the same time at most.
        seconds: Seconds without a byte, or within a PDU, after which an association is aborted.
        tls: Files of an encrypted connection; None for a plain one.
    """

    title: str
    host: str = ""
    port: int = 11112
    allowed: Collection[str] = ()
    associations: int = 16
    seconds: float = 60.0
    tls: Tls | None = None


LARGEST_BODY = 8 << 30
"""Bytes of an HTTP request at most, unless the user says otherwise: a study of several thousand slices."""


@dataclass(frozen=True)
class HttpListening:
    """How the HTTP server of a node listens.

    Attributes:
        host: Address to listen on; empty for all.
        port: Port; 0 for a free one.
        token: Bearer token that clients must send; empty demands none.
        body_bytes: Bytes of a request at most.
        tls: Files of an encrypted connection; None for a plain one.
    """

    host: str = ""
    port: int = 8080
    token: str = ""
    body_bytes: int = LARGEST_BODY
    tls: Tls | None = None
