"""What the node tells the process that denoises."""

from __future__ import annotations

from dataclasses import dataclass

LEARN, REFUSE = "learn", "refuse"
UNFIT = (LEARN, REFUSE)
"""What is done with a series that no stored basis fits: a basis is learned on it, or it is refused."""


@dataclass(frozen=True)
class Task:
    """A series that is to be denoised.

    Attributes:
        source: Folder with the instances of the series, and nothing else.
        out: Folder for the result: one folder below it for each volume of the series.
        bases: Store of `StoredBases`; empty for none.
        unfit: One of `UNFIT`.
    """

    source: str
    out: str
    bases: str
    unfit: str
