"""When a series is complete: its study has been quiet for a stated time, and no sender of it is still connected.

A series is complete before, if a scanner or an archive has listed its instances (announced.py) and all have arrived.
Without a list DICOM has no end of a series. A sender that makes a pause longer than the stated time, such as a scanner
between two reconstructions, gives a further job when the rest of the series comes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ctbasis.node.announced import Announced

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.node.queue import Queue


@dataclass(frozen=True)
class Completeness:
    """Decides when series are complete.

    Attributes:
        queue: Queue of the node.
        quiet: Seconds for which a study must be quiet.
        busy: Returns the studies of which a connected peer has sent instances.
        since: Time at which the node began to listen, seconds since 1970. No sender could reach it before, so that the
            quiet time of what an earlier process received begins then.
        announced: Lists of the instances of series.
    """

    queue: Queue
    quiet: float
    busy: Callable[[], set[str]]
    since: float = 0.0
    announced: Announced = field(default_factory=Announced)

    def step(self, *, now: float | None = None) -> list[int]:
        """Make jobs of the series that are complete; return the numbers of the jobs.

        Args:
            now: Seconds since 1970; None for the time of the clock.
        """
        moment = time.time() if now is None else now
        busy = self.busy()
        made = []
        for study, series in self.announced.take_complete(self.queue):
            made += self.queue.complete(study, series=[series])
        for study, newest in self.queue.pending_studies().items():
            # A clock that was set back must not keep a study waiting for ever.
            if study not in busy and abs(moment - max(newest, self.since)) >= self.quiet:
                made += self.queue.complete(study)
        return made
