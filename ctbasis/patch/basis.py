"""A basis of patches: its parts, how noise is whitened for it, and how it is stored.

A patch y (HU divided by sigma) is whitened with the covariance C of the noise, w = C^(-1/2) y, so that its noise is
white with variance 1. The patches are sorted into classes (ctbasis/patch/classes.py). Every class has its own basis:
the eigenvectors of the Gram matrix of its whitened patches, which are the right singular vectors of the matrix of those
patches. Where the noise has several textures (ctbasis/patch/texture.py), the patches of each texture are whitened with
its own C and have their own classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.matrix.slice_store import array_of, open_complete
from ctbasis.patch.classes import Classes
from ctbasis.storage import stores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.patch.noise import Noise
    from ctbasis.patch.rows import Shape

VERSION = 2
"""Version of the layout of a stored basis and of the meaning of its arrays."""

MIN_EIGENVALUE = 5e-2
"""Smallest eigenvalue of the noise covariance that is used, relative to the mean eigenvalue. A soft kernel leaves some
directions almost without noise, and no estimated covariance is accurate to one twentieth."""


@dataclass(frozen=True)
class TextureBasis:
    """The bases of patches whose noise has the same texture.

    Attributes:
        covariance: Covariance of the noise divided by sigma, (voxels, voxels).
        lead: Matrix that maps a patch divided by sigma to its leading coefficients, (voxels, LEADING).
        classes: Classes by leading coefficients.
        mean: Mean whitened patch of each class, (classes, voxels).
        vectors: Basis of each class in the whitened space, in columns, (classes, voxels, voxels).
        energy: Variance of the coefficient on each vector, including that of the noise, 1, (classes, voxels).
    """

    covariance: NDArray[np.float64]
    lead: NDArray[np.float32]
    classes: Classes
    mean: NDArray[np.float32]
    vectors: NDArray[np.float32]
    energy: NDArray[np.float32]


STORED = ("covariance", "lead", "mean", "vectors", "energy")
"""Attributes of a `TextureBasis` that are stored as arrays of the same name."""


@dataclass(frozen=True)
class PatchBasis:
    """A basis that was learned from one or several series.

    Attributes:
        shape: Rows, columns and slices of a patch.
        spacing: Distance in mm between rows, columns and slices of the first volume that it was learned on.
        covariance: Covariance of the noise divided by sigma, averaged over the volumes and over all textures,
            (voxels, voxels).
        textures: The bases of each texture of the noise.
        provenance: Version of ctbasis, patches of every class, number of series, seed and engine; no patient data.
    """

    shape: Shape
    spacing: tuple[float, float, float]
    covariance: NDArray[np.float64]
    textures: tuple[TextureBasis, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """Number of classes of all textures together."""
        return sum(len(texture.mean) for texture in self.textures)

    def match_textures(self, noise: Noise) -> NDArray[np.intp]:
        """Return, for every noise texture of a series, the index of the basis texture with the nearest covariance."""
        return nearest_covariances(
            np.stack([texture.covariance for texture in self.textures]), noise.patch_covariances(self.shape)
        )

    def save(self, uri: str) -> None:
        """Write the basis to `uri`. The attribute `complete` becomes true last, so that a partial write is detected."""
        group = stores.open_group(uri, mode="w")
        group.attrs.update({"complete": False})
        arrays: dict[str, NDArray[Any]] = {"covariance": self.covariance}
        for number, texture in enumerate(self.textures, start=1):
            arrays |= {f"{name}-{number}": getattr(texture, name) for name in STORED}
            arrays |= {f"class_{name}-{number}": getattr(texture.classes, name) for name in ("centre", "forms")}
        for name, values in arrays.items():
            group.create_array(name, data=np.ascontiguousarray(values))
        attributes: dict[str, Any] = {
            "kind": "patch",
            "version": VERSION,
            "shape": list(self.shape),
            "spacing": list(self.spacing),
            "textures": len(self.textures),
        }
        group.attrs.update({**attributes, "provenance": self.provenance, "complete": True})

    @classmethod
    def open(cls, uri: str) -> Self:
        """Read the basis at `uri`.

        Raises:
            CtbasisError: There is no basis at `uri`, it is incomplete, or it has another kind or version.
        """
        group = open_complete(uri, "patch basis")
        kind, version = group.attrs.get("kind"), group.attrs.get("version")
        if (kind, version) != ("patch", VERSION):
            raise CtbasisError(
                f"the basis at {uri} is of kind {kind}, version {version}",
                expected=f"kind patch, version {VERSION}",
                cause="it is a basis of slices (global mode), or another version of ctbasis wrote it",
                remedy="learn the basis again with this version, in patch mode",
            )
        attributes: dict[str, Any] = dict(group.attrs)

        def read(name: str) -> NDArray[Any]:
            return np.asarray(array_of(group, name)[:])

        textures = tuple(
            TextureBasis(
                classes=Classes(read(f"class_centre-{number}"), read(f"class_forms-{number}")),
                **{name: read(f"{name}-{number}") for name in STORED},
            )
            for number in range(1, int(attributes["textures"]) + 1)
        )
        rows, columns, slices = attributes["shape"]
        dy, dx, dz = attributes["spacing"]
        return cls(
            shape=(rows, columns, slices),
            spacing=(dy, dx, dz),
            covariance=read("covariance"),
            textures=textures,
            provenance=attributes["provenance"],
        )


def nearest_covariances(candidates: NDArray[np.float64], covariances: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the index of the candidate that is nearest, in Frobenius norm, to each of `covariances`."""
    distances = [[np.linalg.norm(candidate - other) for candidate in candidates] for other in covariances]
    return np.asarray(np.argmin(distances, axis=1))


def whitening(covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the symmetric matrices C^(-1/2), which whitens, and C^(1/2), which reverses it.

    Eigenvalues of C below MIN_EIGENVALUE of their mean are raised to that value.

    Args:
        covariance: Covariance matrix C of the noise, (voxels, voxels).
    """
    values, vectors = np.linalg.eigh(covariance)
    root = np.sqrt(np.maximum(values, MIN_EIGENVALUE * max(float(values.mean()), 1e-12)))
    return (vectors / root) @ vectors.T, (vectors * root) @ vectors.T
