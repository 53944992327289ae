"""What the served model tells the process that denoises."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A volume that is to be denoised.

    Attributes:
        hu: File of its HU, a NumPy array (slices, rows, columns).
        spacing: Distance in mm between slices, rows and columns.
        denoised: File for the denoised HU, a NumPy array, float32.
        sigma: File for the standard deviation of the noise in HU, a NumPy array, float32.
        bases: Store of `ctbasis.node.bases.StoredBases`.
        unfit: What is done with a volume that no basis fits, one of `ctbasis.node.task.UNFIT`.
    """

    hu: str
    spacing: tuple[float, float, float]
    denoised: str
    sigma: str
    bases: str
    unfit: str
