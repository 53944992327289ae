"""Reports of storage commitment: a sender that asks whether the node has its instances is told so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from ctbasis.errors import CtbasisError
from ctbasis.node import scu
from ctbasis.node.status import Status
from ctbasis.printable import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctbasis.node.calling import Caller
    from ctbasis.node.outgoing import Commitment, Outgoing
    from ctbasis.node.peers import Peer
    from ctbasis.node.scp import Server

MOST_ATTEMPTS = 100
"""How often a report is tried: about a day at the longest pause."""


@dataclass(frozen=True)
class Reporter:
    """Sends reports of storage commitment.

    A requestor whose address is known gets an association for it, another one the association that it has open.

    Attributes:
        caller: The node as a requestor of associations.
        peers: Peers with an address, by AE title.
        outgoing: Requests whose report is due.
        server: Server of the node, which knows the open associations.
    """

    caller: Caller
    peers: Mapping[str, Peer]
    outgoing: Outgoing
    server: Server

    def step(self) -> int:
        """Send the reports that are due and return how many arrived."""
        reported = 0
        for commitment in self.outgoing.due_commitments():
            found = self.outgoing.check_commitment(commitment)
            outcome = {sop: (sop_class, found[sop]) for sop_class, sop in commitment.instances}
            answer = self._report(commitment, outcome)
            if answer.status == Status.SUCCESS:
                self.outgoing.commitment_reported(commitment.id)
                reported += 1
                continue
            give_up = commitment.attempts + 1 >= MOST_ATTEMPTS
            self.outgoing.commitment_failed(commitment, give_up=give_up)
            if commitment.attempts == 0 or give_up:
                say(f"node: the report of storage commitment to {commitment.title} failed: {answer}")
        return reported

    def _report(self, commitment: Commitment, outcome: Mapping[str, tuple[str, Status]]) -> scu.Answer:
        peer = self.peers.get(commitment.title)
        if peer is None:
            opened = self.server.association_of(commitment.title)
            if opened is None:
                return scu.Answer(None, "it has no open association, and its address is not known (--allow)")
            return scu.report_commitment(opened, commitment.transaction, outcome)
        try:
            with scu.association(peer, self.caller, scu.COMMITMENT, provides=StorageCommitmentPushModel) as opened:
                return scu.report_commitment(opened, commitment.transaction, outcome)
        except CtbasisError as error:
            return scu.Answer(None, error.found)
