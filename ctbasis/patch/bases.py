"""The patch bases of a run as one artifact (`basis/`): learned on the series of the run, for use on these or on others.

    attributes    kind: patch, version, complete, count, manifest
    1/ 2/ ...     one `PatchBasis` for each group of series with similar patches and noise

Series with the same kernel and spacing share a basis, even if they belong to different patients. A run on a cohort
therefore produces the basis of that cohort. The bases contain no patient data: they are means, directions and variances
of millions of patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.patch.basis import PatchBasis
from ctbasis.storage.array_store import ArrayStore, StoreWriter
from ctbasis.storage.schemas import FACTORS, PATCH_BASES, PATCH_BASIS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctbasis.patch.noise import Noise
    from ctbasis.patch.rows import Shape
    from ctbasis.patch.volume import Volume

SAME_KERNEL_DISTANCE = 0.2
"""Relative distance of two noise covariances up to which they are taken to come from the same reconstruction kernel.
Estimates for one kernel differ by 0.1."""

OTHER_KERNEL_DISTANCE = 0.4
"""Relative distance of the noise covariances of series and basis above which a note warns of another kernel."""

SIMILAR_SPACING_RATIO = 1.25
"""Ratio of two spacings up to which they are treated as equal."""

MAX_SPACING_RATIO = 2.0
"""Ratio of the spacings of series and basis above which the basis is rejected: its patches show anatomy at another
scale."""


@dataclass(frozen=True)
class PatchBases:
    """The bases of one run.

    Attributes:
        bases: At least one basis.
        uri: Where they are stored; empty if they are not.
    """

    bases: tuple[PatchBasis, ...]
    uri: str = ""

    def save(self, uri: str) -> None:
        """Write the bases to `uri`. The attribute `complete` becomes true last, so that a partial write is detected."""
        writer = StoreWriter.create(uri, PATCH_BASES)
        for number, basis in enumerate(self.bases, start=1):
            basis.save(f"{uri}/{number}")
        writer.finish({"count": len(self.bases)}, members=len(self.bases))

    @classmethod
    def open(cls, uri: str) -> Self:
        """Read the bases at `uri`: all bases of a run, or a single one of them.

        Raises:
            CtbasisError: There are no bases at `uri`, they are incomplete, or they have another kind or version.
        """
        uri = uri.rstrip("/")
        store = ArrayStore.open(uri, PATCH_BASES, PATCH_BASIS, FACTORS)
        if store.schema is FACTORS:
            raise CtbasisError(
                f"the basis at {uri} is a basis of slices, from a run in global mode",
                expected="the basis of a run in patch mode",
                remedy="apply it with `ctbasis denoise`, which recognizes the kind, or run with --mode global",
            )
        if store.schema is PATCH_BASIS:
            return cls((PatchBasis.read(store),), uri)
        return cls(tuple(PatchBasis.read(member) for member in store.members(PATCH_BASIS)), uri)

    def select(self, volume: Volume, noise: Noise) -> tuple[int, list[str]]:
        """Select the basis that fits a series best.

        Args:
            volume: The series.
            noise: Noise of the series.

        Returns:
            The index of the basis, and notes for the user about how well it fits.

        Raises:
            CtbasisError: No basis can be used: their patches are larger than the volume, or show anatomy at another
                scale.
        """
        reasons = [incompatibility(basis, volume) for basis in self.bases]
        compatible = [number for number, reason in enumerate(reasons) if not reason]
        if not compatible:
            raise CtbasisError(
                f"no basis at {self.uri or 'hand'} fits the series: {'; '.join(dict.fromkeys(reasons))}",
                expected=f"a spacing within a factor of {MAX_SPACING_RATIO:g} of that of the basis, and a volume no "
                "smaller than a patch",
                cause="the basis was learned on series with another protocol",
                remedy="learn a basis on this series: omit --basis",
            )
        distances = {number: covariance_distance(self.bases[number], noise) for number in compatible}
        chosen = min(compatible, key=distances.__getitem__)
        basis = self.bases[chosen]
        notes = []
        if spacing_ratio(basis.spacing, volume.spacing) > SIMILAR_SPACING_RATIO:
            notes.append(
                f"the basis was learned at a spacing of {format_size(basis.spacing)} mm, this series has "
                f"{format_size(volume.spacing)} mm. Its patches show anatomy at another scale, so the result may be "
                "less sharp or keep more noise"
            )
        if distances[chosen] > OTHER_KERNEL_DISTANCE:
            notes.append(
                "the noise of this series has another correlation than the noise of the basis (another reconstruction "
                f"kernel; the covariances differ by {distances[chosen]:.0%}). The threshold tau is not accurate for "
                "it; learn a basis on this series"
            )
        return chosen, notes


def kind_at(uri: str) -> str:
    """Return the kind of the basis at `uri`: `patch`, or `global` (a basis of slices).

    Raises:
        CtbasisError: There is no basis at `uri`, or it is incomplete or damaged.
    """
    store = ArrayStore.open(uri.rstrip("/"), FACTORS, PATCH_BASES, PATCH_BASIS)
    return "global" if store.schema is FACTORS else "patch"


def incompatibility(basis: PatchBasis, volume: Volume) -> str:
    """Return the reason why a basis cannot be applied to a volume; empty if it can."""
    if any(edge > size for edge, size in zip(basis.shape, volume.shape, strict=True)):
        return f"a patch has {format_size(basis.shape)} voxels, the volume only {format_size(volume.shape)}"
    if spacing_ratio(basis.spacing, volume.spacing) > MAX_SPACING_RATIO:
        return (
            f"the basis was learned at a spacing of {format_size(basis.spacing)} mm, the series has "
            f"{format_size(volume.spacing)} mm"
        )
    return ""


def group_series(volumes: Sequence[Volume], noises: Sequence[Noise], shapes: Sequence[Shape]) -> list[list[int]]:
    """Group the series that can share a basis: same patch shape, similar spacing and similar noise covariance.

    Returns:
        Indices of the series of each group.
    """
    groups: list[list[int]] = []
    for number, (volume, noise, shape) in enumerate(zip(volumes, noises, shapes, strict=True)):
        for group in groups:
            first = group[0]
            if (
                shapes[first] == shape
                and spacing_ratio(volumes[first].spacing, volume.spacing) <= SIMILAR_SPACING_RATIO
                and _relative_distance(noises[first].patch_covariance(shape), noise.patch_covariance(shape))
                <= SAME_KERNEL_DISTANCE
            ):
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


def covariance_distance(basis: PatchBasis, noise: Noise) -> float:
    """Return the distance between the noise covariances of a basis and a series, relative to that of the basis."""
    return _relative_distance(basis.covariance, noise.patch_covariance(basis.shape))


def _relative_distance(reference: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(reference - other) / max(float(np.linalg.norm(reference)), 1e-12))


def spacing_ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the largest ratio, at least 1, of two spacings over all axes."""
    pairs = [(max(a, 1e-6), max(b, 1e-6)) for a, b in zip(one, other, strict=True)]
    return max(max(a / b, b / a) for a, b in pairs)


def format_size(numbers: Sequence[float]) -> str:
    """Return a size as text, such as `5 x 5 x 3`."""
    return " x ".join(f"{number:.3g}" for number in numbers)
