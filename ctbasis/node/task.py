"""What the node tells the process that denoises, and where that puts the results of a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

RESULTS = "results"
"""Folder of the results of jobs, in the folder of a node."""

LEARN, REFUSE = "learn", "refuse"
UNFIT = (LEARN, REFUSE)
"""What is done with a series that no stored basis fits: a basis is learned on it, or it is refused."""


@dataclass(frozen=True)
class Task:
    """A series that is to be denoised.

    Attributes:
        source: Folder with the instances of the series, and nothing else.
        out: Folder for the result: `volume_folder` and `noise_folder` below it for each volume of the series.
        bases: Store of `StoredBases`; empty for none.
        unfit: One of `UNFIT`.
        noise_maps: Whether maps of the noise are written, which are not delivered.
    """

    source: str
    out: str
    bases: str
    unfit: str
    noise_maps: bool = False


def results_of(results: Path, job: int) -> Path:
    """Return the folder for the result of a job, in the folder of all results."""
    return results / f"{job:08d}"


def volume_folder(out: Path, number: int) -> Path:
    """Return the folder for a denoised volume, in that of its job; `number` counts from 1."""
    return out / f"volume-{number}"


def noise_folder(out: Path, number: int) -> Path:
    """Return the folder for the noise maps of a volume, in that of its job; `number` counts from 1."""
    return out / f"noise-{number}"
