"""The plan of a run in patch mode: the parameters of the user, and the choices that the run made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ctbasis.parameters import PatchMode

if TYPE_CHECKING:
    from collections.abc import Mapping

CLASSES = 128
"""Largest number of classes of patches for every noise texture. Half as many leave 1 to 2 % more error in the body;
twice as many need a long series to learn from, and take longer."""


@dataclass(frozen=True, kw_only=True)
class PatchPlan(PatchMode):
    """The parameters of patch mode and the choices that the run made. Stores keep it as an attribute.

    Attributes:
        engine: Engine of the run.
        basis: URI of the stored basis; empty if the basis was learned from the series.
        classes: Largest number of classes of patches for every noise texture.
        seed: Seed of the sample of patches.
        patches: For each basis that was used, the edges of its patch in voxels.
        bases: For each part of a series, the number of the basis it was denoised with, from 1; 0 for a part that holds
            nothing but air, which is returned unchanged.
        factored_by: How the bases were computed, as text.
        notes: Messages for the user.

    Raises:
        CtbasisError: On construction, if a parameter is out of bounds.
    """

    engine: str
    basis: str = ""
    classes: int = CLASSES
    seed: int = 0
    patches: list[list[int]] = field(default_factory=list)
    bases: list[int] = field(default_factory=list)
    factored_by: str = ""
    notes: list[str] = field(default_factory=list)

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Self:
        """Return the plan from the attributes of a store, the `vars` of a plan."""
        return cls(**attributes)

    @property
    def summary(self) -> str:
        """Description of the method for the DICOM attribute DerivationDescription."""
        stage = " and a Wiener second stage" if self.wiener else ""
        learned = "a stored basis" if self.basis else "a basis learned on the series"
        return (
            f"3-D patches ({'; '.join('x'.join(map(str, edges)) for edges in self.patches)} voxels) whitened by the "
            f"estimated noise, on {learned}, coefficients below {self.tau:g} standard deviations of noise set to zero"
            f"{stage}, target noise {self.target_noise:g} HU, stride {self.stride}, engine {self.engine}"
        )
