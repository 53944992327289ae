"""Rows for learning: patches drawn at random from the slabs of a volume, normalized, whitened and sorted by class.

The random draw depends only on the seed and on the first row of the slab. The same seed therefore gives the same
patches, whichever worker processes a slab and in whatever order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.patch.classes import group_by_class
from ctbasis.patch.rows import PatchGrid
from ctbasis.patch.volume import SLAB_HEIGHT, slabs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ctbasis.patch.classes import Classes
    from ctbasis.patch.noise import Noise
    from ctbasis.patch.rows import Shape
    from ctbasis.patch.volume import Slab, Sums, Volume

EMPTY_AIR = -990.0
"""HU. A patch without a voxel above this value is clipped air. It holds no noise to speak of and is not used."""


def sampled_fraction(volumes: Sequence[Volume], shape: Shape, target: int) -> float:
    """Return the fraction of all patches of the volumes to draw, so that about `target` patches result."""
    positions = sum(
        math.prod(max(0, size - edge + 1) for size, edge in zip(volume.shape, shape, strict=True)) for volume in volumes
    )
    return min(1.0, target / max(1, positions))


def sampling_slabs(volume: Volume, shape: Shape) -> list[Slab]:
    """Cut a volume into the slabs from which patches are drawn."""
    return list(slabs(volume.shape[0], height=SLAB_HEIGHT, halo=shape[0] - 1))


@dataclass(frozen=True)
class PatchSampler:
    """Draws patches from a slab with uniform probability and divides them by sigma. Patches of air are skipped.

    Attributes:
        noise: Noise of the volume.
        shape: Rows, columns and slices of a patch.
        fraction: Fraction of the patches that is drawn.
        seed: Seed of the draw.
        textures: For every texture of the noise, the texture of the basis that it is assigned to.
    """

    noise: Noise
    shape: Shape
    fraction: float
    seed: int
    textures: tuple[int, ...] = (0,)

    def __call__(self, volume: Volume, slab: Slab) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Return patches divided by sigma, (patches, voxels), and the basis texture of each, (patches,)."""
        rows, columns, _ = volume.shape
        hu = volume.read(slab.low, slab.high)
        grid = PatchGrid(self.shape, (len(hu), *volume.shape[1:]))
        # Zero for the last slab of a volume if it is too low for a patch.
        lines = max(0, min(slab.stop, rows - self.shape[0] + 1) - slab.first)
        across, along = (size - edge + 1 for size, edge in zip(volume.shape[1:], self.shape[1:], strict=True))
        rng = np.random.default_rng((self.seed, slab.first))
        line, column, place = np.nonzero(rng.random((lines, across, along), np.float32) < self.fraction)
        patches = np.ravel_multi_index((line + slab.first - slab.low, column, place), grid.slab)
        patches = patches[(grid.extract(hu, patches) > EMPTY_AIR).any(axis=1)]
        texture = grid.at_centres(self.noise.texture_rows(slab.low, slab.high, columns), patches)
        hu /= self.noise.sigma_rows(slab.low, slab.high, columns)
        return grid.extract(hu, patches), np.asarray(self.textures)[texture]


@dataclass(frozen=True)
class ClassRows:
    """The whitened patches of a slab, sorted by class. Classes are numbered texture by texture.

    Attributes:
        sampler: Draws the patches.
        whiten: Matrix C^(-1/2) of every texture, each (voxels, voxels).
        lead: Matrix of every texture that gives the leading coefficients, see `TextureBasis`.
        mixtures: Classes of every texture.
    """

    sampler: PatchSampler
    whiten: tuple[NDArray[np.float32], ...]
    lead: tuple[NDArray[np.float32], ...]
    mixtures: tuple[Classes, ...]

    @property
    def size(self) -> int:
        """Voxels of a patch."""
        return len(self.whiten[0])

    @property
    def texture_of_class(self) -> NDArray[np.intp]:
        """Texture of every class, (classes,)."""
        return np.repeat(np.arange(len(self.mixtures)), [mixture.count for mixture in self.mixtures])

    def __call__(self, volume: Volume, slab: Slab) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield each class that occurs, with its whitened patches, (patches, voxels)."""
        rows, texture = self.sampler(volume, slab)
        before = 0
        for number, (whiten, lead, mixture) in enumerate(zip(self.whiten, self.lead, self.mixtures, strict=True)):
            own = rows[texture == number]
            order, parts = group_by_class(mixture.classify(own @ lead), mixture.count)
            white = own[order] @ whiten
            for label, part in parts:
                yield before + label, white[part]
            before += mixture.count

    def moments(self, volume: Volume, slab: Slab) -> Sums:
        """Return the sum, Gram matrix and number of the patches of every class of a slab; slabs are added up."""
        return self.moments_of(self(volume, slab))

    def moments_of(self, parts: Iterable[tuple[int, NDArray[np.float32]]]) -> Sums:
        """Return the sum, Gram matrix and number of patches that are given class by class.

        Returns:
            Sums, (classes, voxels); Gram matrices, (classes, voxels, voxels); numbers, (classes,).
        """
        size, classes = self.size, len(self.texture_of_class)
        sums, grams, counts = np.zeros((classes, size)), np.zeros((classes, size, size)), np.zeros(classes, np.intp)
        for label, part in parts:
            sums[label] = part.sum(axis=0, dtype=np.float64)
            grams[label] = part.T @ part
            counts[label] = len(part)
        return sums, grams, counts
