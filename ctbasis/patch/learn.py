"""Learning of a patch basis in two passes over the volumes.

The first pass draws a sample of patches, on which the classes of each noise texture are fitted. The second pass draws
more patches, whitens and classifies them, and computes the basis of every class. Each pass is a sum over slabs: the
classes need a sample, and the bases need a mean and a Gram matrix per class.
"""

from __future__ import annotations

import importlib.metadata
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from threadpoolctl import threadpool_limits

from ctbasis.errors import CtbasisError
from ctbasis.patch.basis import PatchBasis, TextureBasis, nearest_covariances, whitening
from ctbasis.patch.classes import LEADING, MIN_PATCHES_PER_COEFFICIENT, Classes, fit_classes
from ctbasis.patch.plan import CLASSES
from ctbasis.patch.sampling import ClassRows, PatchSampler, sampled_fraction, sampling_slabs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ctbasis.patch.noise import Noise
    from ctbasis.patch.rows import Shape
    from ctbasis.patch.volume import Volume

CLASSIFIED_PATCHES = 160_000
"""Patches on which classes are fitted."""

LEARNING_PATCHES = 2_000_000
"""Patches on which bases are learned; more patches make no measurable difference."""

PATCHES_PER_VOXEL = 16
"""Average number of patches per voxel of a patch that a class gets for its basis. With few patches, the basis fits
their noise, which then remains in the image. For this reason a short series gets fewer classes."""


class OnlyAirError(CtbasisError):
    """Raised for volumes that hold nothing but air, from which no basis can be learned."""


@dataclass(frozen=True)
class ClassBases:
    """The bases of all classes, before they are divided among textures.

    Attributes:
        mean: Mean whitened patch of each class, (classes, voxels).
        vectors: Basis vectors in columns, those with the largest energy first, (classes, voxels, voxels).
        energy: Variance of the coefficient on each vector, (classes, voxels).
        counts: Patches that each class was learned from, (classes,).
        method: How the bases were computed, as text for the user.
    """

    mean: NDArray[np.float32]
    vectors: NDArray[np.float32]
    energy: NDArray[np.float32]
    counts: NDArray[np.intp]
    method: str

    @property
    def arrays(self) -> tuple[NDArray[np.float32], ...]:
        """Mean, vectors and energy, in the order of the fields of `TextureBasis`."""
        return self.mean, self.vectors, self.energy


Factor: TypeAlias = "Callable[[Sequence[Volume], Sequence[ClassRows]], ClassBases]"
"""A function that computes the bases of the classes from the rows of several volumes."""


def learn_basis(volume: Volume, noise: Noise, *, shape: Shape, classes: int = CLASSES, seed: int = 0) -> PatchBasis:
    """Learn a basis from the patches of one volume.

    Args:
        volume: The series, HU.
        noise: Noise of the volume.
        shape: Rows, columns and slices of a patch.
        classes: Classes per texture of the noise, at most. More classes fit finer anatomy and need more patches.
        seed: Seed of the draw of patches and of the initial classes.

    Raises:
        OnlyAirError: The volume holds only air.
    """
    return learn_shared_basis([volume], [noise], shape=shape, classes=classes, seed=seed)


def learn_shared_basis(
    volumes: Sequence[Volume],
    noises: Sequence[Noise],
    *,
    shape: Shape,
    classes: int = CLASSES,
    seed: int = 0,
    factor: Factor | None = None,
) -> PatchBasis:
    """Learn one basis from the patches of several volumes, whose noise has the same covariance relative to its sigma.

    Args:
        volumes: The series, HU. The basis records the spacing of the first one.
        noises: Noise of each volume.
        shape: Rows, columns and slices of a patch.
        classes: See `learn_basis`.
        seed: See `learn_basis`.
        factor: Function that computes the bases; None for the eigenvectors of the Gram matrices.

    Raises:
        OnlyAirError: The volumes hold only air.
    """
    # The products are small. Spread over several cores, they would mostly wait for one another.
    with threadpool_limits(1, user_api="blas"):
        covariances, used = _shared_textures(noises, shape)
        W = [whitening(covariance)[0].astype(np.float32) for covariance in covariances]
        first, second = (sampled_fraction(volumes, shape, target) for target in (CLASSIFIED_PATCHES, LEARNING_PATCHES))
        samplers = [
            PatchSampler(noise, shape, first, seed, tuple(map(int, textures)))
            for noise, textures in zip(noises, used, strict=True)
        ]
        parts = [
            part
            for sampler, volume in zip(samplers, volumes, strict=True)
            for part in volume.map_slabs(sampler, sampling_slabs(volume, shape), "patch basis: classes")
        ]
        sample, texture = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        if not len(sample):
            raise OnlyAirError(
                "the volume holds nothing but air",
                expected="a CT series that shows a body",
                cause="the wrong series was selected, or its values are not HU",
                remedy="select another series",
            )
        rng = np.random.default_rng(seed)
        leads, mixtures = [], []
        for number, whiten in enumerate(W):
            own = sample[texture == number]
            # Patches that the second, larger draw will give to this texture.
            patches = len(own) * second / first
            most = min(classes, max(1, int(patches / (PATCHES_PER_VOXEL * math.prod(shape)))))
            # A texture with very few patches is given the classes of all patches.
            enough = len(own) > MIN_PATCHES_PER_COEFFICIENT * LEADING
            lead, mixture = _fit_texture_classes(own if enough else sample, whiten, most, rng)
            leads.append(lead)
            mixtures.append(mixture)
        samplers = [replace(sampler, fraction=second, seed=seed + 1) for sampler in samplers]
        rows = [ClassRows(sampler, tuple(W), tuple(leads), tuple(mixtures)) for sampler in samplers]
        bases = (factor or factor_by_gram_matrices)(volumes, rows)
    provenance = {
        "ctbasis": importlib.metadata.version("ctbasis"),
        "patches": [int(n) for n in bases.counts],
        "series": len(volumes),
        "seed": seed,
        "factored_by": bases.method,
    }
    texture_of_class = rows[0].texture_of_class
    textures = tuple(
        TextureBasis(covariance, lead, mixture, *(array[texture_of_class == number] for array in bases.arrays))
        for number, (covariance, lead, mixture) in enumerate(zip(covariances, leads, mixtures, strict=True))
    )
    mean = np.mean([noise.patch_covariance(shape) for noise in noises], axis=0)
    return PatchBasis(shape, volumes[0].spacing, mean, textures, provenance)


def _shared_textures(noises: Sequence[Noise], shape: Shape) -> tuple[NDArray[np.float64], list[NDArray[np.intp]]]:
    """Match the textures of all noises to those of the first.

    Returns:
        Mean covariance of each shared texture, (textures, voxels, voxels), and for each noise the shared texture that
        each of its own textures is matched to.
    """
    covariances = [noise.patch_covariances(shape) for noise in noises]
    used = [nearest_covariances(covariances[0], own) for own in covariances]
    every, label = np.concatenate(covariances), np.concatenate(used)
    return np.stack([every[label == number].mean(axis=0) for number in range(len(covariances[0]))]), used


def _fit_texture_classes(
    rows: NDArray[np.float32], whiten: NDArray[np.float32], classes: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], Classes]:
    """Return the matrix from rows divided by sigma to leading coefficients, (voxels, LEADING), and the classes."""
    white = rows @ whiten
    # A preliminary basis of all classes together. It serves only to find the leading directions.
    leading = np.linalg.eigh((white.T @ white).astype(np.float64))[1][:, ::-1][:, :LEADING]
    lead = (whiten @ leading).astype(np.float32)
    return lead, fit_classes(rows @ lead, classes, rng)


def factor_by_gram_matrices(volumes: Sequence[Volume], rows: Sequence[ClassRows]) -> ClassBases:
    """Return the eigenvectors of the Gram matrix of every class about its mean."""
    moments = [
        volume.sum_slabs(own.moments, sampling_slabs(volume, own.sampler.shape), "patch basis")
        for volume, own in zip(volumes, rows, strict=True)
    ]
    sums, grams, counts = (np.sum(arrays, axis=0) for arrays in zip(*moments, strict=True))
    return bases_of_moments(sums, grams, counts, rows[0].texture_of_class)


def bases_of_moments(
    sums: NDArray[np.float64], grams: NDArray[np.float64], counts: NDArray[np.intp], texture_of_class: NDArray[np.intp]
) -> ClassBases:
    """Return the bases of classes from the moments of their patches.

    Args:
        sums: Sum of the patches of each class, (classes, voxels).
        grams: Gram matrix of each class, (classes, voxels, voxels).
        counts: Patches of each class, (classes,).
        texture_of_class: Texture of each class, (classes,).
    """
    size = sums.shape[1]
    mean, energy = np.empty(sums.shape, np.float32), np.empty(sums.shape, np.float32)
    vectors = np.empty(grams.shape, np.float32)
    for label, own in enumerate(texture_of_class):
        # A class that has hardly any patches in the second draw gets the basis of its texture, or else of all patches.
        everything = np.full(len(texture_of_class), fill_value=True)
        for pooled in (np.arange(len(texture_of_class)) == label, texture_of_class == own, everything):
            n = int(counts[pooled].sum())
            if n >= 2 * size:
                break
        centre = sums[pooled].sum(axis=0) / max(n, 1)
        values, basis = np.linalg.eigh(grams[pooled].sum(axis=0) / max(n, 1) - np.outer(centre, centre))
        mean[label], vectors[label], energy[label] = centre, basis[:, ::-1], np.maximum(values[::-1], 0)
    return ClassBases(mean, vectors, energy, counts, "eigenvectors of Gram matrices")
