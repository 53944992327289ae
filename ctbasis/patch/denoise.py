"""Denoising of a volume in patch mode: shrink the coefficients of each patch on its basis and average the patches.

Stage 1. A patch is divided by sigma and whitened with the covariance of the noise texture at its centre. Its
coefficients are c = V^T (w - mean), with mean and basis V of its class, so that w = mean + V c. The noise in every
coefficient has variance 1. The hard threshold sets coefficients below tau to zero; `shrink` instead multiplies each by
the linear gain that the energy of its class implies. The result is un-whitened, and every voxel becomes the average of
all patches that cover it. Each patch has the aggregation weight 1 / (1 + coefficients kept), because an estimate from
few coefficients holds little noise.

Stage 2 multiplies every coefficient c by the Wiener gain e / (e + 1). The expected energy e of the anatomy is a mean of
d^2, where d is the coefficient of the result of stage 1, called the pilot, and of the energy that the class has on
average. For the pilot, every other patch suffices. A small nodule consists of many small
coefficients, and Wiener shrinkage of each alone would cost a tenth to a half of its contrast. So in the lung, the
pilot's patch without its mean value is the template of a matched filter, and the component of the image along that
template is kept (ctbasis/patch/shrinkage.py). In soft tissue, templates are mostly noise, and the matched filter would
do harm.

Coarse structure. A patch does not see structure that is larger than itself, so the mean of its class replaces faint
differences of that kind. The ramp filter leaves hardly any noise at such scales: what was removed there is mostly
anatomy. So a low-pass part of the removed component is added back, at scales from which on this restores little noise.

Restored noise. The denoised scan should resemble a standard-dose scan, which has quantum noise too, with standard
deviation t (the target noise) against sigma here, in soft tissue. The two noises cannot be told apart. If denoising
removed only noise, restoring a fraction t^2 / sigma^2 of the removed component would minimize the error against the
standard-dose scan. Because denoising always removes a little anatomy too, the fraction is t^2 / (sigma^2 - t^2): the
variance of the standard-dose noise over that of the additional noise. At low dose the two fractions hardly differ. A
series whose additional variance is no larger than the variance of standard-dose noise is returned unchanged.

References:
    L. Zhang, W. Dong, D. Zhang, G. Shi, "Two-stage image denoising by principal component analysis with local pixel
        grouping", Pattern Recognition 43(4), 1531-1549, 2010.
    J. Veraart et al., "Denoising of diffusion MRI using random matrix theory", NeuroImage 142, 394-406, 2016.
    M. Gavish, D. L. Donoho, "Optimal shrinkage of singular values", IEEE Trans. Inf. Theory 63(4), 2137-2152, 2017.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from scipy.ndimage import correlate1d, maximum_filter, uniform_filter
from threadpoolctl import threadpool_limits

from ctbasis.errors import CtbasisError
from ctbasis.parameters import PatchMode
from ctbasis.patch.basis import whitening
from ctbasis.patch.classes import group_by_class
from ctbasis.patch.rows import PatchGrid, checkerboard, patch_positions
from ctbasis.patch.shrinkage import (
    CLASS_WEIGHT,
    FEWEST_CLASSES,
    anatomy_energies,
    hard_threshold,
    wiener_shrinkage,
)
from ctbasis.patch.volume import SLAB_HEIGHT, slabs
from ctbasis.progress import progress
from ctbasis.storage.voxels import AIR
from ctbasis.threads import available_cpus, in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ctbasis.patch.basis import PatchBasis, TextureBasis
    from ctbasis.patch.noise import Noise
    from ctbasis.patch.rows import Shape
    from ctbasis.patch.volume import Slab, Volume

Threshold = Literal["hard", "shrink"]

LUNG = -500.0
"""HU. A patch with a lower mean belongs to the lung, or to the air around the body, and gets the matched filter."""

MEAN_EDGE = 5
"""Edge in pixels of the square over whose mean the noise at coarse scales is predicted."""

MEAN_WIDTH = MEAN_EDGE / math.sqrt(12)
"""Standard deviation of that square along an axis, pixels."""

ACROSS_SLICES = np.array([0.25, 0.5, 0.25], np.float32)
"""Weights of the low-pass filter for a slice and its neighbours."""

MIN_HALF, MAX_HALF = 2, 8
"""Bounds of the half width of the low-pass filter, pixels."""

MAX_PASSED_NOISE = 0.075
"""Largest standard deviation of the noise that the low-pass filter passes, relative to sigma."""

DenoisedSlab: TypeAlias = "tuple[Slab, NDArray[np.float32]]"
"""A slab, and its denoised rows in HU."""


def denoise(
    volume: Volume,
    noise: Noise,
    basis: PatchBasis,
    *,
    tau: float = PatchMode.tau,
    threshold: Threshold = "hard",
    wiener: bool = PatchMode.wiener,
    stride: int = PatchMode.stride,
    target_noise: float = PatchMode.target_noise,
    height: int = SLAB_HEIGHT,
    workers: int | None = None,
) -> Iterator[DenoisedSlab]:
    """Denoise a volume and yield it slab by slab, in order.

    Args:
        volume: The series, HU.
        noise: Noise of this series, whatever series the basis was learned on.
        basis: Basis that was learned on this series or on others.
        tau: Hard threshold in standard deviations of noise. 0 returns the volume. Larger values remove more noise and,
            well above 3, also faint structures.
        threshold: `hard`, or `shrink` for the optimal linear shrinkage of the coefficients of each class.
        wiener: Whether to run the second stage. It improves lungs, similarity and faint structures, and doubles the
            time.
        stride: Voxels between patches within the slice. 2 takes less than half the time and is slightly worse.
        target_noise: Noise in soft tissue, HU, of the standard-dose scan that the result should resemble; 0 removes all
            noise that was found.
        height: Image rows of a slab. Memory is proportional to it.
        workers: Slabs that are processed at the same time, one core each; all cores by default.

    Yields:
        Slabs with their denoised rows, HU.

    Raises:
        CtbasisError: The basis does not fit the volume, or `tau`, `stride` or `target_noise` is out of range.
    """
    options = DenoiseOptions(tau=tau, threshold=threshold, wiener=wiener, stride=stride, target_noise=target_noise)
    work = SlabDenoiser(noise, basis, options)
    work.check(volume.shape)
    parts = list(slabs(volume.shape[0], height=height, halo=work.halo))
    workers = workers or available_cpus()
    # Each thread processes one slab on one core, so BLAS must not start threads of its own.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        done = in_order(pool, lambda slab: (slab, work(volume, slab)), parts, ahead=workers)
        yield from progress(done, "denoise", total=len(parts), unit="slab")


def restored_noise_fraction(sigma: float, noise_floor: float, target_noise: float) -> float:
    """Return the fraction of the removed component that is added back to reach the target noise; 1 restores all of it.

    The fraction is t^2 / ((1 - noise_floor) sigma^2 - t^2), at most 1, with the target noise t; see the module.

    Args:
        sigma: Standard deviation of the noise in soft tissue, HU.
        noise_floor: Fraction of the noise variance that denoising keeps in any case.
        target_noise: Standard deviation of the target noise in soft tissue, HU.
    """
    standard = target_noise**2
    additional = (1 - noise_floor) * sigma**2 - standard
    return 1.0 if standard >= additional else standard / additional


@dataclass(frozen=True)
class DenoiseOptions(PatchMode):
    """The parameters of patch mode, and the kind of threshold, which is not a parameter of the pipeline."""

    threshold: Threshold = "hard"

    @property
    def two_stages(self) -> bool:
        """Whether the second stage runs. It has no effect where the first stage keeps all coefficients."""
        return self.wiener and not (self.threshold == "hard" and self.tau == 0)


class ClassTransforms:
    """The transforms between patches and coefficients for the classes of one texture, as matrices.

    Attributes:
        basis: The basis of the texture.
        forward: Matrices from patches divided by sigma to coefficients, (classes, voxels, voxels).
        inverse: Matrices from coefficients to patches divided by sigma, (classes, voxels, voxels).
        offset: Coefficients of the mean patch of each class, (classes, voxels).
        mean: Mean patch of each class divided by sigma, (classes, voxels).
        ones: Coefficients of a patch of ones, (classes, voxels).
        energy: Mean energy of the anatomy in every coefficient, in noise variances, (classes, voxels).
        class_weight: Weight of `energy` in the second stage.
        gain: Optimal linear gain of every coefficient, (classes, voxels).
    """

    def __init__(self, basis: TextureBasis) -> None:
        W, unwhiten = whitening(basis.covariance)
        self.basis = basis
        self.forward = np.stack([(W @ V).astype(np.float32) for V in basis.vectors])
        self.inverse = np.stack([(V.T @ unwhiten).astype(np.float32) for V in basis.vectors])
        self.offset = np.stack([(m @ V).astype(np.float32) for m, V in zip(basis.mean, basis.vectors, strict=True)])
        self.mean = (basis.mean @ unwhiten).astype(np.float32)
        self.ones = self.forward.sum(axis=1)
        self.energy = anatomy_energies(basis.energy)
        self.class_weight = CLASS_WEIGHT if len(self.energy) >= FEWEST_CLASSES else 0.0
        self.gain = np.maximum(1 - 1 / np.maximum(basis.energy, 1e-12), 0).astype(np.float32)

    def coefficients(self, patches: NDArray[np.float32], label: int) -> NDArray[np.float32]:
        """Return the coefficients of patches divided by sigma about the mean of class `label`, (patches, voxels)."""
        c: NDArray[np.float32] = patches @ self.forward[label]
        c -= self.offset[label]
        return c


@dataclass(frozen=True)
class SlabDenoiser:
    """A picklable callable that denoises one slab of a volume.

    Attributes:
        noise: Noise of the volume.
        basis: Basis that was learned on this volume or on others.
        options: Parameters.
    """

    noise: Noise
    basis: PatchBasis
    options: DenoiseOptions

    def check(self, shape: tuple[int, int, int]) -> None:
        """Check that the basis fits the options and a volume of `shape`.

        Raises:
            CtbasisError: The stride is larger than a patch, or a patch is larger than the volume.
        """
        _check(self.basis, shape, self.options)

    @property
    def halo(self) -> int:
        """Number of image rows on either side of a slab that its result depends on."""
        # The patches of stage 2 extend equally far into the result of stage 1.
        return self._patch_reach * (2 if self.options.two_stages else 1) + self.low_pass.reach

    @property
    def _patch_reach(self) -> int:
        """Number of image rows on either side that the patches of one stage extend into."""
        return self.basis.shape[0] - 1 + self.options.stride

    @cached_property
    def low_pass(self) -> LowPass:
        """The filter that restores coarse structure."""
        return LowPass.of(self.noise)

    @cached_property
    def transforms(self) -> list[ClassTransforms]:
        """The transforms for each texture of the noise."""
        every = [ClassTransforms(texture) for texture in self.basis.textures]
        return [every[number] for number in self.basis.match_textures(self.noise)]

    def __call__(self, volume: Volume, slab: Slab) -> NDArray[np.float32]:
        """Return the denoised rows `slab.first` to `slab.stop`, HU."""
        rows, columns, _ = volume.shape
        options = self.options
        restored = restored_noise_fraction(self.noise.soft_tissue_sigma, self.noise.noise_floor, options.target_noise)
        if restored == 1:
            return volume.read(slab.first, slab.stop)
        x = volume.read(slab.low, slab.high)
        sigma = self.noise.sigma_rows(slab.low, slab.high, columns)
        texture = self.noise.texture_rows(slab.low, slab.high, columns)
        y = np.ascontiguousarray(x / sigma)
        patches = SlabPatches(self.basis.shape, options, sigma, texture, self.transforms, x != np.float32(AIR))
        # The low-pass filter extends beyond the slab.
        wide = slab.widened(self.low_pass.reach, rows)
        if options.two_stages:
            # Stage 1 covers the rows that the patches of stage 2 extend into.
            around = wide.widened(self._patch_reach, rows)
            done = patches.estimate(y, wide, rows, pilot=patches.pilot(y, around, rows))
        else:
            done = patches.estimate(y, wide, rows)
        clean = done * sigma
        clean += self.low_pass(np.where(patches.measured, x - clean, np.float32(0)))
        own = slice(slab.first - slab.low, slab.stop - slab.low)
        return np.asarray(clean[own] + np.float32(restored) * (x[own] - clean[own]), np.float32)


@dataclass(frozen=True)
class LowPass:
    """A low-pass filter: two moving averages along rows and columns each, and weights ACROSS_SLICES.

    The noise that it passes is predicted from that of the mean of a square. Noise power that rises in proportion to
    frequency, as the ramp filter leaves it, gives means over a width w a standard deviation in proportion to w^-1.5.

    Attributes:
        half: Half of the width of a moving average, 2 half + 1 pixels; 0 turns the filter off.
    """

    half: int

    @classmethod
    def of(cls, noise: Noise) -> LowPass:
        """Return the narrowest filter that passes at most MAX_PASSED_NOISE; none where the noise is too smooth."""
        if min(noise.reach[:2]) < MEAN_EDGE - 1:
            return cls(0)
        passed = math.sqrt(noise.patch_covariance((MEAN_EDGE, MEAN_EDGE, 1)).mean())
        if noise.reach[2] > 1:
            passed *= math.sqrt(ACROSS_SLICES @ noise.patch_covariance((1, 1, 3)) @ ACROSS_SLICES)
        for half in range(MIN_HALF, MAX_HALF + 1):
            width = math.sqrt(2 * half * (half + 1) / 3)
            if passed * (MEAN_WIDTH / width) ** 1.5 <= MAX_PASSED_NOISE:
                return cls(half)
        return cls(0)

    @property
    def reach(self) -> int:
        """Number of rows on either side that a filtered row depends on."""
        return 2 * self.half

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Filter a slab, (rows, columns, slices)."""
        if not self.half:
            return np.zeros_like(image)
        width = 2 * self.half + 1
        for _ in range(2):
            image = uniform_filter(image, (width, width, 1), mode="nearest")
        return np.asarray(correlate1d(image, ACROSS_SLICES, axis=2, mode="mirror"), np.float32)


def _check(basis: PatchBasis, shape: tuple[int, int, int], options: DenoiseOptions) -> None:
    largest = min(basis.shape[:2])
    if options.stride > largest:
        raise CtbasisError(
            f"stride is {options.stride}",
            expected=f"a whole number from 1 to {largest}, the edge of a patch of the basis",
            cause="with a larger stride, some voxels lie in no patch",
            remedy="choose a smaller stride",
        )
    if any(edge > size for edge, size in zip(basis.shape, shape, strict=True)):
        raise CtbasisError(
            f"a patch of the basis has {basis.shape} voxels, the volume {shape}",
            expected="a volume no smaller than a patch",
            cause="the basis was learned on series with more slices or larger images",
            remedy="learn a basis on this series",
        )


@dataclass(frozen=True)
class Pilot:
    """The result of stage 1 for a slab.

    Attributes:
        image: Denoised slab divided by sigma, (rows, columns, slices).
        lung: Mask of voxels around which a patch belongs to the lung, because its mean is below LUNG.
    """

    image: NDArray[np.float32]
    lung: NDArray[np.bool_]


@dataclass(frozen=True)
class SlabPatches:
    """The patches of a slab, and the estimation of the slab from them.

    Attributes:
        shape: Rows, columns and slices of a patch.
        options: Parameters.
        sigma: Standard deviation of the noise at every voxel of the slab, HU, (rows, columns, slices).
        texture: Texture of the noise at every voxel.
        transforms: Transforms by texture.
        measured: Mask of voxels that are not excluded. Patches on which no such voxel depends are left out.
    """

    shape: Shape
    options: DenoiseOptions
    sigma: NDArray[np.float32]
    texture: NDArray[np.uint8]
    transforms: Sequence[ClassTransforms]
    measured: NDArray[np.bool_]

    @cached_property
    def grid(self) -> PatchGrid:
        """The patches of the slab."""
        rows, columns, slices = self.sigma.shape
        return PatchGrid(self.shape, (rows, columns, slices))

    @cached_property
    def occupied(self) -> NDArray[np.bool_]:
        """Whether a voxel that is not excluded depends on each patch, at the first voxel of the patch."""
        # The patches of stage 2 that hold such a voxel extend further into the result of stage 1.
        reach = [2 * edge - 1 for edge in self.shape] if self.options.two_stages else [1, 1, 1]
        return self.grid.occupied(maximum_filter(self.measured.view(np.uint8), reach).view(np.bool_))

    def pilot(self, y: NDArray[np.float32], slab: Slab, rows: int) -> Pilot:
        """Return the result of stage 1; for the arguments see `estimate`."""
        # At stride 1, half of the patches on a checkerboard give nearly the same pilot as all of them.
        image = self.estimate(y, slab, rows, half=self.options.stride == 1)
        mean = uniform_filter(image * self.sigma, self.shape, mode="nearest")
        return Pilot(image, mean < LUNG)

    def estimate(
        self,
        y: NDArray[np.float32],
        slab: Slab,
        rows: int,
        *,
        pilot: Pilot | None = None,
        half: bool = False,
    ) -> NDArray[np.float32]:
        """Return the weighted average of the estimates of all patches, divided by sigma.

        Voxels that no patch covers keep their value.

        Args:
            y: The slab divided by sigma, (rows, columns, slices).
            slab: Position of the slab; only its rows `first` to `stop` are correct in the result.
            rows: Image rows of the whole volume.
            pilot: Result of stage 1; None in stage 1.
            half: Whether to use only every other patch, on a checkerboard.
        """
        stride = self.options.stride
        total, weights = (np.zeros(y.shape, np.float32) for _ in range(2))
        every = patch_positions(y.shape[1], self.shape[1], stride)
        last = rows - self.shape[0]
        reach = self.shape[0] - 1
        for first in range(max(0, slab.low, slab.first - reach), min(slab.high - reach, slab.stop)):
            # The stride counts from the first row of the volume, not of the slab.
            if first % stride and first != last:
                continue
            columns = checkerboard(every, first, last) if half else every
            line = self.grid.patches_in_row(first - slab.low, columns)
            line = line[self.occupied.reshape(-1)[line]]
            order, parts = group_by_class(self.grid.at_centres(self.texture, line), len(self.transforms))
            for number, part in parts:
                patches, estimates, weight = self.estimate_patches(self.transforms[number], y, line[order[part]], pilot)
                self.grid.aggregate(total, estimates, weight, patches)
                weights.reshape(-1)[patches] = weight
        weight_sum = self.grid.weight_sum(weights)
        return np.divide(total, weight_sum, out=y.copy(), where=weight_sum > 0)

    def estimate_patches(
        self, transforms: ClassTransforms, y: NDArray[np.float32], patches: NDArray[np.intp], pilot: Pilot | None
    ) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]:
        """Estimate the patches of one texture.

        Returns:
            The patches sorted by class; their estimates divided by sigma, (patches, voxels); and their aggregation
            weights, (patches,).
        """
        source = self.grid.extract(y if pilot is None else pilot.image, patches)
        labels = transforms.basis.classes.classify(source @ transforms.basis.lead)
        order, parts = group_by_class(labels, len(transforms.mean))
        patches, source = patches[order], source[order]
        own = source if pilot is None else self.grid.extract(y, patches)
        lung = None if pilot is None else self.grid.at_centres(pilot.lung, patches)
        estimates, weights = np.empty_like(own), np.empty(len(own), np.float32)
        for label, part in parts:
            c = transforms.coefficients(own[part], label)
            if lung is None:
                weights[part] = self._threshold(transforms, label, c)
            else:
                d = transforms.coefficients(source[part], label)
                of_class = transforms.energy[label], transforms.offset[label], transforms.ones[label]
                weights[part] = wiener_shrinkage(c, d, *of_class, lung[part], transforms.class_weight)
            np.matmul(c, transforms.inverse[label], out=estimates[part])
            estimates[part] += transforms.mean[label]
        return patches, estimates, weights

    def _threshold(
        self, transforms: ClassTransforms, label: int, c: NDArray[np.float32]
    ) -> NDArray[np.float32] | float:
        """Apply the threshold of stage 1 to the coefficients `c` of a class, in place; return aggregation weights."""
        if self.options.threshold == "hard":
            return hard_threshold(c, self.options.tau)
        gain = transforms.gain[label]
        c *= gain
        return float(1 / (1 + gain @ gain))
