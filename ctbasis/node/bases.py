"""Which stored basis fits a series: chosen by the noise and the spacing of the series, as `ctbasis denoise` does.

A node holds the bases of several runs, such as one for each kernel, slice spacing and scanner. They are copied into one
store when the node starts, so that a source that changes or disappears later changes nothing. A basis fits if its
spacing and the correlation of its noise are those of the series; the kernel and the scanner act on the image through
these two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.matrix.volumes import series_of
from ctbasis.patch.bases import PatchBases
from ctbasis.patch.estimate import fit_part
from ctbasis.patch.parts import parts_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctbasis.dicom.volume import Volume
    from ctbasis.patch.basis import PatchBasis
    from ctbasis.patch.noise import Noise

DIGITS = 16
"""Hexadecimal digits of the SHA-256 that identifies a basis in DerivationDescription."""


@dataclass(frozen=True)
class Choice:
    """The basis that was chosen for a series.

    Attributes:
        uri: URI of the one basis; empty if none fits.
        digest: Its identifier, the start of the SHA-256 of its arrays; empty if none fits.
        reason: Why none fits; empty if one does.
        noises: Noise of each part of the series, as far as the choice has estimated it, for `denoise_on_basis`.
    """

    uri: str = ""
    digest: str = ""
    reason: str = ""
    noises: tuple[Noise | None, ...] = field(default=(), repr=False, compare=False)

    @property
    def text(self) -> str:
        """A sentence for DerivationDescription."""
        if self.uri:
            return f"Basis {self.digest}."
        return f"Basis learned on this series{f': {self.reason}' if self.reason else ''}."


@dataclass(frozen=True)
class StoredBases:
    """The bases that a node holds, in one store.

    Attributes:
        bases: The bases; None if the node holds none.
        uri: Their store.
    """

    bases: PatchBases | None = None
    uri: str = ""

    @classmethod
    def collect(cls, uris: Sequence[str], uri: str) -> Self:
        """Copy the bases of several runs into one store.

        Args:
            uris: The `basis/` of each run, in patch mode.
            uri: Store to write; replaced if it exists.

        Raises:
            CtbasisError: A basis is missing, incomplete, damaged, of another version, or of a run in global mode.
        """
        if not uris:
            return cls()
        found = [basis for one in uris for basis in PatchBases.open(one).bases]
        # Without their URI: the reason why none fits goes to DICOM headers and clients, and names no path.
        collected = PatchBases(tuple(found))
        collected.save(uri)
        return cls(collected, uri)

    @classmethod
    def open(cls, uri: str) -> Self:
        """Open the store that `collect` wrote; an empty URI holds no bases.

        Raises:
            CtbasisError: It is missing or damaged.
        """
        return cls(PatchBases(PatchBases.open(uri).bases), uri) if uri else cls()

    def choose(self, volume: Volume) -> Choice:
        """Choose the basis that fits a volume, by the noise of its longest part without gaps."""
        if self.bases is None:
            return Choice()
        hu = np.moveaxis(volume.clipped_hu(), 0, -1)
        parts = parts_of([series_of(volume)])
        part = max(parts, key=lambda one: one.slices.count)
        of_part, noise = fit_part(hu, part, shapes=[basis.shape for basis in self.bases.bases])
        noises = tuple(noise if one is part else None for one in parts)
        try:
            number, misfits = self.bases.select(of_part, noise)
        except CtbasisError as error:
            return Choice(reason=error.found, noises=noises)
        if misfits:
            return Choice(reason=misfits[0], noises=noises)
        return Choice(f"{self.uri}/{number + 1}", digest_of(self.bases.bases[number]), noises=noises)

    def describe(self) -> list[dict[str, Any]]:
        """Return what a user wants to know of each basis: digest, spacing in mm, voxels of a patch, provenance."""
        if self.bases is None:
            return []
        return [
            {
                "digest": digest_of(basis),
                "spacing": list(basis.spacing),
                "patch": list(basis.shape),
                "provenance": basis.provenance,
            }
            for basis in self.bases.bases
        ]


def digest_of(basis: PatchBasis) -> str:
    """Return the identifier of a basis, the start of its SHA-256."""
    return basis.sha256[:DIGITS]
