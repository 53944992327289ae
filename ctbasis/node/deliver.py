"""Delivery of results: every destination gets each instance, however often it is down or refuses."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
from pydicom.uid import CTImageStorage

from ctbasis.errors import CtbasisError
from ctbasis.node.channel import channel
from ctbasis.node.outgoing import pause
from ctbasis.node.scu import LITTLE_ENDIAN
from ctbasis.printable import say
from ctbasis.traces import Traces

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.node.calling import Caller
    from ctbasis.node.channel import Channel
    from ctbasis.node.outgoing import Delivery, Outgoing
    from ctbasis.node.peers import Peer, WebPeer

RESULTS = ((CTImageStorage, LITTLE_ENDIAN),)
"""SOP class and transfer syntaxes of results."""

MOST_REFUSALS = 200
"""How often an instance is offered to a destination that refuses it: about two days at the longest pause."""


@dataclass
class Courier:
    """Sends what is due to one destination.

    Attributes:
        destination: The destination.
        caller: The node as a requestor of associations.
        outgoing: What is to be sent.
        stopping: Tells whether the node stops; no further instance is begun then.
        traces: Traces of deliveries.
    """

    destination: Peer | WebPeer
    caller: Caller
    outgoing: Outgoing
    stopping: Callable[[], bool]
    traces: Traces = field(default_factory=Traces)
    _failures: int = field(default=0, init=False)
    _due: float = field(default=0.0, init=False)

    def step(self) -> int:
        """Send what is due and return how many instances were acknowledged; 0 while the destination has a pause."""
        if time.monotonic() < self._due:
            return 0
        waiting = self.outgoing.due(str(self.destination))
        if not waiting:
            return 0
        try:
            with self.traces.span("deliver", waiting=len(waiting)) as span:
                sent = self._send(waiting)
                span.set(sent=sent)
        except CtbasisError as error:
            self._fail(error.found)
            return 0
        return sent

    def _send(self, waiting: list[Delivery]) -> int:
        """Send instances on one channel; stop at the first that gets no answer."""
        sent = 0
        with channel(self.destination, self.caller, RESULTS) as opened:
            for delivery in waiting:
                if self.stopping():
                    return sent
                if delivery.doubtful and self._is_there(opened, delivery):
                    self.outgoing.sent(delivery.id)
                    sent += 1
                    continue
                self.outgoing.begin(delivery.id)
                try:
                    answer = opened.store(Path(delivery.file))
                except OSError as error:
                    self.outgoing.refused(delivery, f"its file cannot be read ({error.strerror})", give_up=True)
                    continue
                if answer.stored:
                    self.outgoing.sent(delivery.id)
                    self._failures = 0
                    sent += 1
                elif answer.status is None:
                    # Whether the destination has stored it is not known: the delivery stays marked as being sent.
                    self._fail(f"{self.destination}: {answer}")
                    return sent
                else:
                    self._refuse(delivery, str(answer))
        return sent

    @staticmethod
    def _is_there(opened: Channel, delivery: Delivery) -> bool:
        header = pydicom.dcmread(delivery.file, specific_tags=["StudyInstanceUID", "SeriesInstanceUID"])
        return opened.has_instance(study=header.StudyInstanceUID, series=header.SeriesInstanceUID, sop=delivery.sop)

    def _refuse(self, delivery: Delivery, answer: str) -> None:
        give_up = delivery.attempts + 1 >= MOST_REFUSALS
        self.outgoing.refused(delivery, answer, give_up=give_up)
        if delivery.attempts == 0 or give_up:
            what = "is given up" if give_up else "is offered again later"
            say(f"node: {self.destination} refused an instance of job {delivery.job} with {answer}; it {what}")

    def _fail(self, reason: str) -> None:
        self._failures += 1
        seconds = pause(self._failures)
        self._due = time.monotonic() + seconds
        waiting = self.outgoing.summary().get(str(self.destination), 0)
        say(f"node: {reason}; {waiting} instances wait, next attempt in {seconds:.0f} s")
