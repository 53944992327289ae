"""Patches on their basis, small weights dropped, patches put back: the denoised volume, slab by slab.

Each patch, over sigma and whitened as the texture of the noise at its middle says, is w = mean + V c with
c = V^T (w - mean) of its class. The noise of every weight has variance one, so weights below tau are noise as likely as
not, and go (hard), or all shrink as their class's energy says (shrink). What is left is un-whitened and averaged over
all patches that hold a voxel, each weighted by 1 / (1 + weights kept): what rests on few weights holds little noise.

A second stage, Wiener's, shrinks every weight c by d^2 / (d^2 + 1) with d the weight of the first stage's result, its
pilot, for which every other patch does. Shrunk one by one, the many small weights of a small nodule lose a tenth of it
to a half. So in the lung the pilot's patch less its mean is the template of a matched filter, and what the image has
along it stays (ctbasis/patch/shrinkage.py). In soft tissue templates are mostly noise: there it would harm.

What a low-dose scan is denoised for is to look like one of standard dose, which has noise of photons too, t of the
sigma that it has here in soft tissue, and the two cannot be told apart. If nothing but noise were removed, the error
against that scan would be least with t^2 / sigma^2 of it put back; as a little anatomy always is, it is
t^2 / (sigma^2 - t^2), the variance that a standard dose has over that beyond it. The two hardly differ at low dose, and
a series whose noise beyond that of a standard dose is no more than that comes back as it is.

References:
    L. Zhang, W. Dong, D. Zhang, G. Shi, "Two-stage image denoising by principal component analysis with local pixel
        grouping", Pattern Recognition 43(4), 1531-1549, 2010.
    J. Veraart et al., "Denoising of diffusion MRI using random matrix theory", NeuroImage 142, 394-406, 2016.
    M. Gavish, D. L. Donoho, "Optimal shrinkage of singular values", IEEE Trans. Inf. Theory 63(4), 2137-2152, 2017.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from scipy.ndimage import uniform_filter
from threadpoolctl import threadpool_limits

from ctbasis.errors import CtbasisError
from ctbasis.patch.basis import HEIGHT, by_class, whitening
from ctbasis.patch.plan import TARGET_NOISE, TAU
from ctbasis.patch.rows import Grid, chequered, places
from ctbasis.patch.shrinkage import keep_above, wiener
from ctbasis.patch.volume import slabs
from ctbasis.progress import progress
from ctbasis.threads import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ctbasis.patch.basis import PatchBasis, TextureBasis
    from ctbasis.patch.noise import Noise
    from ctbasis.patch.rows import Shape
    from ctbasis.patch.volume import Slab, Volume

Threshold = Literal["hard", "shrink"]

LUNG = -500.0
"""HU: mean of a patch below which it is of lung, or of the air around the body: what it shows beside its mean is
matched."""

Denoised: TypeAlias = "tuple[Slab, NDArray[np.float32]]"
"""A slab, and its own rows without noise, HU."""


class Weights:
    """The matrices of one texture's classes as they are multiplied: sigma-normalised patch to weights, and back."""

    def __init__(self, basis: TextureBasis) -> None:
        W, back = whitening(basis.covariance)
        self.basis = basis
        self.forward = np.stack([(W @ V).astype(np.float32) for V in basis.vectors])
        self.back = np.stack([(V.T @ back).astype(np.float32) for V in basis.vectors])
        self.offset = np.stack([(m @ V).astype(np.float32) for m, V in zip(basis.mean, basis.vectors, strict=True)])
        self.mean = (basis.mean @ back).astype(np.float32)
        self.flat = self.forward.sum(axis=1)
        self.gain = np.maximum(1 - 1 / np.maximum(basis.energy, 1e-12), 0).astype(np.float32)

    def of(self, patches: NDArray[np.float32], chosen: int) -> NDArray[np.float32]:
        """Return the weights of patches over sigma on the basis of a class, its mean taken off, (rows, voxels)."""
        c: NDArray[np.float32] = patches @ self.forward[chosen]
        c -= self.offset[chosen]
        return c


def denoise(
    volume: Volume,
    noise: Noise,
    basis: PatchBasis,
    *,
    tau: float = TAU,
    threshold: Threshold = "hard",
    wiener: bool = True,
    stride: int = 1,
    target_noise: float = TARGET_NOISE,
    height: int = HEIGHT,
    workers: int | None = None,
) -> Iterator[Denoised]:
    """Yield slabs of image rows of the denoised volume, in order, HU.

    Args:
        volume: HU.
        noise: Its own noise, whatever the basis was learned on.
        basis: Learned on it or on others.
        tau: Hard threshold, standard deviations of noise. 0 gives back the volume. More removes more noise and, from
            well above 3, faint structures.
        threshold: hard, or shrink, the optimal linear shrinkage of the weights of each class.
        wiener: Whether the second stage is done. Lungs, similarity and faint structures gain, for twice the time.
        stride: Voxels between patches within the slice. 2 takes less than half the time and is a little worse.
        target_noise: HU in soft tissue, of the scan that it is made to look like; 0 leaves no noise that is found.
        height: Image rows of a slab. Memory is proportional to it.
        workers: Slabs done at once; each takes one core. All cores by default.

    Raises:
        CtbasisError: The basis does not fit the volume, or `tau` or `target_noise` is negative or not finite.
    """
    options = Options(tau=tau, threshold=threshold, wiener=wiener, stride=stride, target_noise=target_noise)
    work = SlabDenoiser(noise, basis, options)
    work.check(volume.shape)
    parts = list(slabs(volume.shape[0], height=height, halo=work.halo))
    workers = workers or os.cpu_count() or 1
    # A slab is one core's work: BLAS must not spread each small product over all of them as well.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        done = in_order(pool, lambda slab: (slab, work(volume, slab)), parts, ahead=workers)
        yield from progress(done, "denoise", total=len(parts), unit="slab")


@dataclass(frozen=True)
class Options:
    """How it is denoised, see `denoise`."""

    tau: float = TAU
    threshold: Threshold = "hard"
    wiener: bool = True
    stride: int = 1
    target_noise: float = TARGET_NOISE

    @property
    def twice(self) -> bool:
        """Whether there is a second stage: what keeps everything needs no second look."""
        return self.wiener and not (self.threshold == "hard" and self.tau == 0)


@dataclass(frozen=True)
class SlabDenoiser:
    """What denoises a slab.

    Attributes:
        noise: Of the volume.
        basis: Learned on it or on others.
        options: How.
    """

    noise: Noise
    basis: PatchBasis
    options: Options

    def check(self, shape: tuple[int, int, int]) -> None:
        """Refuse options that make no sense, and a basis that does not fit a volume of `shape`.

        Raises:
            CtbasisError: They do not.
        """
        _check(self.basis, shape, self.options)

    @property
    def halo(self) -> int:
        """Image rows around a slab that its own rows depend on."""
        # The second stage's patches reach as far again into the first stage's result.
        return (self.basis.shape[0] - 1 + self.options.stride) * (2 if self.options.twice else 1)

    @cached_property
    def weights(self) -> list[Weights]:
        """The basis as it is multiplied, by texture of the noise."""
        every = [Weights(texture) for texture in self.basis.textures]
        return [every[number] for number in self.basis.nearest(self.noise)]

    def __call__(self, volume: Volume, slab: Slab) -> NDArray[np.float32]:
        """Return the slab's own rows without noise, HU."""
        rows, columns, _ = volume.shape
        how = self.options
        share = put_back(self.noise.soft, self.noise.left, how.target_noise)
        if share == 1:
            return volume.read(slab.first, slab.stop)
        x = volume.read(slab.low, slab.high)
        sigma = self.noise.sigma_rows(slab.low, slab.high, columns)
        texture = self.noise.texture_rows(slab.low, slab.high, columns)
        y = np.ascontiguousarray(x / sigma)
        patches = Patches(self.basis.shape, how, sigma, texture, self.weights)
        if how.twice:
            # Of the first stage, the rows that the second's patches reach.
            near = (self.basis.shape[0] - 1) + how.stride
            around = replace(slab, first=max(0, slab.first - near), stop=min(rows, slab.stop + near))
            done = patches.denoised(y, slab, rows, pilot=patches.pilot(y, around, rows))
        else:
            done = patches.denoised(y, slab, rows)
        own = slice(slab.first - slab.low, slab.stop - slab.low)
        clean = done[own] * sigma[own]
        return np.asarray(clean + np.float32(share) * (x[own] - clean), np.float32)


def put_back(sigma: float, left: float, target_noise: float) -> float:
    """Return the share of what is removed that is put back, see above; 1 is all of it.

    Args:
        sigma: HU, in soft tissue.
        left: Share of the variance that is not removed to begin with.
        target_noise: HU, in soft tissue.
    """
    standard = target_noise**2
    beyond = (1 - left) * sigma**2 - standard
    return 1.0 if standard >= beyond else standard / beyond


def _check(basis: PatchBasis, shape: tuple[int, int, int], options: Options) -> None:
    tau, stride, target = options.tau, options.stride, options.target_noise
    if not np.isfinite(tau) or tau < 0:
        raise CtbasisError(f"tau is {tau}", expected="a number, at least 0, such as 2.3")
    if not np.isfinite(target) or target < 0:
        raise CtbasisError(f"target_noise is {target}", expected=f"HU, at least 0, such as {TARGET_NOISE:g}")
    if stride < 1 or stride > min(basis.shape[:2]):
        raise CtbasisError(f"stride is {stride}", expected=f"from 1 to {min(basis.shape[:2])}: every voxel in a patch")
    if any(edge > size for edge, size in zip(basis.shape, shape, strict=True)):
        raise CtbasisError(
            f"a patch of the basis is {basis.shape}, the volume {shape}",
            expected="a volume no smaller than a patch",
            remedy="learn a basis on this series",
        )


@dataclass(frozen=True)
class Patches:
    """The patches of a slab.

    Attributes:
        shape: Of a patch.
        options: How they are denoised.
        sigma: At every voxel of the slab, HU, (rows, columns, slices).
        texture: Of the noise there.
        weights: By texture.
    """

    shape: Shape
    options: Options
    sigma: NDArray[np.float32]
    texture: NDArray[np.uint8]
    weights: Sequence[Weights]

    @cached_property
    def grid(self) -> Grid:
        """Of the slab."""
        rows, columns, slices = self.sigma.shape
        return Grid(self.shape, (rows, columns, slices))

    def pilot(self, y: NDArray[np.float32], slab: Slab, rows: int) -> Guide:
        """Return what the first stage makes of a slab; see `denoised`."""
        # It hardly gains from the other half of the places, where they are as near to each other as can be.
        image = self.denoised(y, slab, rows, half=self.options.stride == 1)
        return Guide(image, uniform_filter(image * self.sigma, self.shape, mode="nearest") < LUNG)

    def denoised(
        self,
        y: NDArray[np.float32],
        slab: Slab,
        rows: int,
        *,
        pilot: Guide | None = None,
        half: bool = False,
    ) -> NDArray[np.float32]:
        """Return the average of all patches' estimates, over sigma; voxels that no patch holds stay.

        Args:
            y: The slab over sigma.
            slab: Where it is; right are the rows that it does.
            rows: Of the whole volume.
            pilot: What the first stage made of it.
            half: Whether every other place does.
        """
        stride = self.options.stride
        total, certainty = (np.zeros(y.shape, np.float32) for _ in range(2))
        every = places(y.shape[1], self.shape[1], stride)
        last = rows - self.shape[0]
        reach = self.shape[0] - 1
        for first in range(max(0, slab.low, slab.first - reach), min(slab.high - reach, slab.stop)):
            # Places of the whole volume's grid, not of the slab's.
            if first % stride and first != last:
                continue
            line = self.grid.line(first - slab.low, chequered(every, first, last) if half else every)
            order, parts = by_class(self.grid.middles(self.texture, line), len(self.weights))
            for number, part in parts:
                patches, rows_of, sure = self.estimates(self.weights[number], y, line[order[part]], pilot)
                self.grid.add_back(total, rows_of, sure, patches)
                certainty.reshape(-1)[patches] = sure
        weight = self.grid.held(certainty)
        return np.divide(total, weight, out=y.copy(), where=weight > 0)

    def estimates(
        self, weights: Weights, y: NDArray[np.float32], patches: NDArray[np.intp], pilot: Guide | None
    ) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]:
        """Return patches of a texture class by class, their estimates over sigma, and how certain each is."""
        source = self.grid.rows(y if pilot is None else pilot.image, patches)
        labels = weights.basis.classes.of(source @ weights.basis.lead)
        order, parts = by_class(labels, len(weights.mean))
        patches, source = patches[order], source[order]
        own = source if pilot is None else self.grid.rows(y, patches)
        lung = None if pilot is None else self.grid.middles(pilot.lung, patches)
        estimates, certainty = np.empty_like(own), np.empty(len(own), np.float32)
        for chosen, part in parts:
            c = weights.of(own[part], chosen)
            if lung is None:
                certainty[part] = self._keep(weights, chosen, c)
            else:
                d = weights.of(source[part], chosen)
                certainty[part] = wiener(c, d, weights.offset[chosen], weights.flat[chosen], lung[part])
            np.matmul(c, weights.back[chosen], out=estimates[part])
            estimates[part] += weights.mean[chosen]
        return patches, estimates, certainty

    def _keep(self, weights: Weights, chosen: int, c: NDArray[np.float32]) -> NDArray[np.float32] | float:
        """Take off the weights `c` of a class what the first stage holds for noise; return how certain the rest is."""
        if self.options.threshold == "hard":
            return keep_above(c, self.options.tau)
        gain = weights.gain[chosen]
        c *= gain
        return float(1 / (1 + gain @ gain))


@dataclass(frozen=True)
class Guide:
    """What the first stage made of a slab.

    Attributes:
        image: Over sigma, (rows, columns, slices).
        lung: Around which voxels a patch is of lung: mostly air, as its mean says.
    """

    image: NDArray[np.float32]
    lung: NDArray[np.bool_]
