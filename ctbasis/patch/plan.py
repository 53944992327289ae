"""The parameters of patch mode: what the user may turn, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ctbasis.errors import CtbasisError

TAU = 3.0
"""Standard deviations of noise below which a weight is dropped."""

TARGET_NOISE = 8.0
"""HU in soft tissue: the least that chest scans of standard dose commonly have in slices of 3 to 5 mm."""

CLASSES = 128
"""Of the patches of every texture of the noise, at most. Half as many leave 1 to 2 % more error in the body; twice as
many need a long series to be learned from, and take longer."""

LARGEST_TAU = 20.0
"""Beyond, nothing but the mean of every class is left, and surely a mistake was made."""

LARGEST_TARGET = 1000.0
"""HU. Nobody wants more noise than soft tissue differs from air by."""

LARGEST_STRIDE = 5
"""Edge of a patch: beyond, voxels would be in none."""


@dataclass(frozen=True)
class PatchPlan:
    """What was asked of patch mode, and what came of it.

    Attributes:
        engine: Which engine ran it.
        tau: Hard threshold, standard deviations of noise.
        wiener: Whether the second stage was done.
        stride: Voxels between patches within the slice.
        target_noise: HU in soft tissue, of the scan that the series is made to look like.
        basis: URI of the basis that was given, empty where it was learned.
        classes: Of the patches of every texture of the noise, at most.
        seed: Of the draw of patches.
        patches: By basis used: edges of a patch.
        bases: By series: which basis it was denoised with, from 1 on.
        factored_by: What made the bases, in words.
        notes: What is to be said to the user.
    """

    engine: str
    tau: float
    wiener: bool
    stride: int
    target_noise: float = TARGET_NOISE
    basis: str = ""
    classes: int = CLASSES
    seed: int = 0
    patches: list[list[int]] = field(default_factory=list)
    bases: list[int] = field(default_factory=list)
    factored_by: str = ""
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, attributes: dict[str, Any]) -> PatchPlan:
        """Return the plan that `vars` made of one."""
        return cls(**attributes)

    @property
    def summary(self) -> str:
        """What was done, for DerivationDescription."""
        stage = " and a Wiener second stage" if self.wiener else ""
        learned = "a stored basis" if self.basis else "a basis learned on the series"
        return (
            f"3-D patches ({'; '.join('x'.join(map(str, edges)) for edges in self.patches)} voxels) whitened by the "
            f"estimated noise, on {learned}, weights below {self.tau:g} standard deviations of noise dropped{stage}, "
            f"target noise {self.target_noise:g} HU, stride {self.stride}, engine {self.engine}"
        )


def parse_tau(text: str) -> float:
    """Read the threshold as the user writes it.

    Raises:
        CtbasisError: It is no number, negative or absurd.
    """
    expected = f"a number from 0 (nothing is removed) to {LARGEST_TAU:g}, such as {TAU:g}"
    return _number("tau", text, LARGEST_TAU, expected)


def parse_target_noise(text: str) -> float:
    """Read the noise of the scan that the series is made to look like as the user writes it.

    Raises:
        CtbasisError: It is no number, negative or absurd.
    """
    expected = f"HU from 0 (all noise that is found is removed) to {LARGEST_TARGET:g}, such as {TARGET_NOISE:g}"
    return _number("target_noise", text, LARGEST_TARGET, expected)


def _number(name: str, text: str, most: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= most:
        raise CtbasisError(f"{name} is {text.strip()!r}", expected=expected)
    return value


def check_stride(stride: int) -> int:
    """Refuse a stride that leaves voxels out.

    Raises:
        CtbasisError: It does.
    """
    if not 1 <= stride <= LARGEST_STRIDE:
        raise CtbasisError(f"stride is {stride}", expected=f"a whole number from 1 to {LARGEST_STRIDE}")
    return stride
