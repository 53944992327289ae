"""The patch bases of a run as one artifact (`basis/`): learned on its series, to be applied to them or to others.

    attributes    kind: patch, version, complete, count
    1/ 2/ ...     a `PatchBasis` each: one for all series of the run whose patches and noise are alike

Series of one kernel and one spacing share a basis, however many patients they are of; so a run on a cohort leaves the
basis of that cohort. No patient's data are in it: means, directions and variances of millions of patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import open_complete
from ctbasis.patch.basis import VERSION, PatchBasis
from ctbasis.storage import stores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctbasis.patch.noise import Noise
    from ctbasis.patch.rows import Shape
    from ctbasis.patch.volume import Volume

ALIKE_NOISE = 0.2
"""Distance of two noises' covariances, over the first, up to which they are of one kernel: estimates differ by 0.1."""

OTHER_NOISE = 0.4
"""The same, beyond which a basis is said not to be made for a series' noise."""

ALIKE_SPACING = 1.25
"""Ratio of two spacings up to which they are alike."""

OTHER_SPACING = 2.0
"""Ratio of two spacings beyond which a basis is refused: its patches are of other anatomy."""


@dataclass(frozen=True)
class PatchBases:
    """The bases of one run.

    Attributes:
        bases: At least one.
        uri: Where they are stored, empty where they are not.
    """

    bases: tuple[PatchBasis, ...]
    uri: str = ""

    def save(self, uri: str) -> None:
        """Write them to `uri`, complete or not at all."""
        group = stores.open_group(uri, mode="w")
        group.attrs.update({"complete": False})
        for number, basis in enumerate(self.bases, start=1):
            basis.save(f"{uri}/{number}")
        group.attrs.update({"kind": "patch", "version": VERSION, "count": len(self.bases), "complete": True})

    @classmethod
    def open(cls, uri: str) -> Self:
        """Read the bases at `uri`: of a run, or one of them alone.

        Raises:
            CtbasisError: There are none, they are not complete, or of another kind or version.
        """
        uri = uri.rstrip("/")
        attributes: dict[str, Any] = dict(open_complete(uri, "basis").attrs)
        if basis_kind(attributes) != "patch":
            raise CtbasisError(
                f"the basis at {uri} is of slices, of a run in global mode",
                expected="the basis of a run in patch mode",
                remedy="apply it by `ctbasis denoise`, which tells the kind, or run with --mode global",
            )
        if "count" not in attributes:
            return cls((PatchBasis.open(uri),), uri)
        if attributes["version"] != VERSION:
            raise CtbasisError(
                f"the basis at {uri} is of version {attributes['version']}",
                expected=f"version {VERSION}",
                cause="another version of ctbasis wrote it",
                remedy="learn it again",
            )
        numbers = range(1, int(attributes["count"]) + 1)
        return cls(tuple(PatchBasis.open(f"{uri}/{number}") for number in numbers), uri)

    def fitting(self, volume: Volume, noise: Noise) -> tuple[int, list[str]]:
        """Choose the basis that fits a series best.

        Args:
            volume: The series.
            noise: Its own.

        Returns:
            Which, from 0 on, and what is to be said to the user of how it fits.

        Raises:
            CtbasisError: None does: their patches are larger than the volume, or of anatomy at another scale.
        """
        misfits = [misfit(basis, volume) for basis in self.bases]
        fit = [number for number, reason in enumerate(misfits) if not reason]
        if not fit:
            raise CtbasisError(
                f"no basis at {self.uri or 'hand'} fits the series: {'; '.join(dict.fromkeys(misfits))}",
                expected=f"a spacing within {OTHER_SPACING:g} times the basis's, and a volume no smaller than a patch",
                remedy="learn a basis on this series, by leaving --basis out",
            )
        apart = {number: distance(self.bases[number], noise) for number in fit}
        chosen = min(fit, key=apart.__getitem__)
        basis = self.bases[chosen]
        notes = []
        if ratio(basis.spacing, volume.spacing) > ALIKE_SPACING:
            notes.append(
                f"the basis was learned at a spacing of {words(basis.spacing)} mm, this series has "
                f"{words(volume.spacing)} mm: patches of another scale, which cost sharpness or leave noise"
            )
        if apart[chosen] > OTHER_NOISE:
            notes.append(
                "the noise of this series is correlated otherwise than that of the basis (another reconstruction "
                f"kernel, {apart[chosen]:.0%} apart): the threshold does not mean what it says; learn a basis on this "
                "series"
            )
        return chosen, notes


def basis_kind(attributes: dict[str, Any]) -> str:
    """Return what a basis store with these attributes is a basis of: patch, or global (slices)."""
    return "patch" if attributes.get("kind") == "patch" else "global"


def kind_at(uri: str) -> str:
    """Return what the basis at `uri` is a basis of: patch, or global (slices).

    Raises:
        CtbasisError: There is none, or it is not complete.
    """
    return basis_kind(dict(open_complete(uri.rstrip("/"), "basis").attrs))


def misfit(basis: PatchBasis, volume: Volume) -> str:
    """Say why a basis cannot be applied to a volume; empty where it can."""
    if any(edge > size for edge, size in zip(basis.shape, volume.shape, strict=True)):
        return f"a patch of {words(basis.shape)} voxels, a volume of {words(volume.shape)}"
    if ratio(basis.spacing, volume.spacing) > OTHER_SPACING:
        return f"learned at a spacing of {words(basis.spacing)} mm, the series has {words(volume.spacing)} mm"
    return ""


def grouped(volumes: Sequence[Volume], noises: Sequence[Noise], shapes: Sequence[Shape]) -> list[list[int]]:
    """Return which series can share a basis: one patch, one spacing, one correlation of the noise."""
    groups: list[list[int]] = []
    for number, (volume, noise, shape) in enumerate(zip(volumes, noises, shapes, strict=True)):
        for group in groups:
            first = group[0]
            if (
                shapes[first] == shape
                and ratio(volumes[first].spacing, volume.spacing) <= ALIKE_SPACING
                and _apart(noises[first].patch_covariance(shape), noise.patch_covariance(shape)) <= ALIKE_NOISE
            ):
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


def distance(basis: PatchBasis, noise: Noise) -> float:
    """Return how far the noise of a series is from that of a basis, over the latter."""
    return _apart(basis.covariance, noise.patch_covariance(basis.shape))


def _apart(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(one - other) / max(float(np.linalg.norm(one)), 1e-12))


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the largest ratio of two spacings, either way."""
    pairs = [(max(a, 1e-6), max(b, 1e-6)) for a, b in zip(one, other, strict=True)]
    return max(max(a / b, b / a) for a, b in pairs)


def words(numbers: Sequence[float]) -> str:
    """Return numbers as a person writes a size."""
    return " x ".join(f"{number:.3g}" for number in numbers)
