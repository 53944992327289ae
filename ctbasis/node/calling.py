"""How a node requests associations: its title, and the encryption of connections to peers."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.node.listening import Tls
    from ctbasis.node.peers import Peer


@dataclass(frozen=True)
class Caller:
    """This side of the associations that it requests.

    Attributes:
        title: Its AE title.
        context: Settings of TLS, for peers whose connections are encrypted; None takes the authorities of the system.
    """

    title: str
    context: ssl.SSLContext | None = None

    @classmethod
    def of(cls, title: str, *, authority: Path | None = None, own: Tls | None = None) -> Self:
        """Return the caller with the TLS files of a user.

        Args:
            title: AE title.
            authority: Certificates, PEM, one of which must have signed a peer's certificate; None for the authorities
                of the system.
            own: Certificate that this side shows, and its key; None for none.

        Raises:
            CtbasisError: A file cannot be read.
        """
        if authority is None and own is None:
            return cls(title)
        try:
            context = ssl.create_default_context(cafile=authority)
        except (OSError, ValueError) as error:
            raise CtbasisError(
                f"the certificates of --peer-ca cannot be used ({getattr(error, 'reason', None) or error})",
                expected="a PEM file with the authorities that sign the certificates of peers",
                remedy="correct --peer-ca",
            ) from None
        if own is not None:
            own.load_into(context)
        return cls(title, context)

    def tls_of(self, peer: Peer) -> tuple[ssl.SSLContext, str] | None:
        """Return the settings of TLS for a peer, and its host, which its certificate must name; None without TLS."""
        if not peer.tls:
            return None
        return self.context or ssl.create_default_context(), peer.host
