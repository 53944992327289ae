"""A basis of patches: its parts, how noise is whitened for it, and how it is stored.

A patch y (HU divided by sigma) is whitened with the covariance C of the noise, w = C^(-1/2) y, so that its noise is
white with variance 1. The patches are sorted into classes (ctbasis/patch/classes.py). Every class has its own basis:
the eigenvectors of the Gram matrix of its whitened patches, which are the right singular vectors of the matrix of those
patches. Where the noise has several textures (ctbasis/patch/texture.py), the patches of each texture are whitened with
its own C and have their own classes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ctbasis.matrix.slice_store import checked_attributes
from ctbasis.patch.classes import Classes
from ctbasis.storage.array_store import ArrayStore, StoreWriter
from ctbasis.storage.schemas import PATCH_BASIS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.patch.noise import Noise
    from ctbasis.patch.rows import Shape

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
        """Write the basis to `uri`. The attribute `complete` becomes true last, so that a partial write is detected.

        Raises:
            CtbasisError: There are files at `uri` that are not those of a store.
            OSError: The folder cannot be written.
        """
        writer = StoreWriter.create(uri, PATCH_BASIS)
        arrays: dict[str, NDArray[Any]] = {"covariance": self.covariance}
        for number, texture in enumerate(self.textures, start=1):
            arrays |= {f"{name}-{number}": getattr(texture, name) for name in STORED}
            arrays |= {f"class_{name}-{number}": getattr(texture.classes, name) for name in ("centre", "forms")}
        for name, values in arrays.items():
            writer.put(name, values)
        writer.finish(
            {
                "shape": list(self.shape),
                "spacing": list(self.spacing),
                "textures": len(self.textures),
                "provenance": self.provenance,
            }
        )

    @classmethod
    def open(cls, uri: str) -> Self:
        """Read the basis at `uri`.

        Raises:
            CtbasisError: There is no basis at `uri`, it is incomplete or damaged, or it has another kind or version.
        """
        return cls.read(ArrayStore.open(uri, PATCH_BASIS))

    @classmethod
    def read(cls, store: ArrayStore) -> Self:
        """Read the basis from an open store.

        Raises:
            CtbasisError: A chunk is missing or damaged, or an attribute is not valid.
        """
        attributes = store.attributes
        textures = tuple(
            TextureBasis(
                classes=Classes(
                    store.array(f"class_centre-{number}").read(), store.array(f"class_forms-{number}").read()
                ),
                **{name: store.array(f"{name}-{number}").read() for name in STORED},
            )
            for number in range(1, int(attributes["textures"]) + 1)
        )
        with checked_attributes(store):
            rows, columns, slices = map(int, attributes["shape"])
            dy, dx, dz = map(float, attributes["spacing"])
            covariance = store.array("covariance").read()
            if min(rows, columns, slices) < 1 or rows * columns * slices != len(covariance):
                raise ValueError(f"a patch of {rows} x {columns} x {slices} voxels has not {len(covariance)}")
            if not textures or min(dy, dx, dz) < 0:
                raise ValueError("there is no texture, or a spacing is negative")
            basis = cls(
                shape=(rows, columns, slices),
                spacing=(dy, dx, dz),
                covariance=covariance,
                textures=textures,
                provenance=dict(attributes["provenance"]),
            )
            if not all(np.isfinite(values).all() for values in basis.arrays()):
                raise ValueError("an array holds NaN or Inf")
        return basis

    @property
    def sha256(self) -> str:
        """SHA-256 of the arrays in hexadecimal digits, the same wherever the basis is stored."""
        digest = hashlib.sha256(f"{self.shape} {self.spacing}".encode())
        for values in self.arrays():
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def arrays(self) -> list[NDArray[Any]]:
        """Return all arrays of the basis."""
        stored = [getattr(texture, name) for texture in self.textures for name in STORED]
        classes = [array for texture in self.textures for array in (texture.classes.centre, texture.classes.forms)]
        return [self.covariance, *stored, *classes]


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
