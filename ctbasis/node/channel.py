"""The way to a destination: instances are stored there, and looked up, by C-STORE and C-FIND or by STOW-RS and QIDO-RS.

A further kind of destination is a further class with these two methods, and a line in `channel`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ctbasis.node import scu
from ctbasis.node.peers import WebPeer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pynetdicom.association import Association

    from ctbasis.node.calling import Caller
    from ctbasis.node.peers import Peer
    from ctbasis.node.scu import Answer, Contexts


class Channel(Protocol):
    """An open way to a destination."""

    def store(self, file: Path) -> Answer:
        """Send an instance and return the answer.

        Raises:
            CtbasisError: The destination denies access.
            OSError: The file cannot be read.
        """
        ...

    def has_instance(self, *, study: str, series: str, sop: str) -> bool:
        """Return whether the destination has an instance; False if it cannot be asked."""
        ...


@dataclass(frozen=True)
class AssociationChannel:
    """The way to a DICOM node.

    Attributes:
        association: The association.
    """

    association: Association

    def store(self, file: Path) -> Answer:
        """Send an instance by C-STORE; see `Channel`."""
        return scu.store(self.association, file)

    def has_instance(self, *, study: str, series: str, sop: str) -> bool:
        """Ask by C-FIND; see `Channel`."""
        return scu.has_instance(self.association, study=study, series=series, sop=sop)


@contextmanager
def channel(destination: Peer | WebPeer, caller: Caller, contexts: Contexts) -> Iterator[Channel]:
    """Open a way to a destination for the time of the context.

    Args:
        destination: The destination.
        caller: This side.
        contexts: SOP classes and transfer syntaxes of the instances, which a DICOM node must accept.

    Raises:
        UnreachableError: A DICOM node does not answer, or rejects the association.
        CtbasisError: The credentials for a DICOMweb server cannot be used.
    """
    if isinstance(destination, WebPeer):
        # requests and the libraries of Google, which a node without such a destination does without.
        from ctbasis.node.stow_client import WebChannel

        yield WebChannel(destination)
        return
    with scu.association(destination, caller, (*contexts, *scu.FIND)) as opened:
        yield AssociationChannel(opened)
