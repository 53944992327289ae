"""Denoisers that `ctbasis bench quality` compares, each with the settings among which it is tuned.

Peers get values that a blind method has to estimate: the true standard deviation of the noise in body and lung, and for
BM3D and BM4D the true power spectrum. The modes of ctbasis get no such value and run with their defaults.

References:
    K. Dabov, A. Foi, V. Katkovnik, K. Egiazarian, "Image denoising by sparse 3-D transform-domain collaborative
        filtering", IEEE Trans. Image Process. 16(8), 2080-2095, 2007.
    Y. Makinen, L. Azzari, A. Foi, "Collaborative filtering of correlated noise: exact transform-domain variance for
        improved shrinkage and patch matching", IEEE Trans. Image Process. 29, 8339-8354, 2020 (BM3D with a PSD).
    M. Maggioni, V. Katkovnik, K. Egiazarian, A. Foi, "Nonlocal transform-domain filter for volumetric data denoising
        and reconstruction", IEEE Trans. Image Process. 22(1), 119-133, 2013 (BM4D).
    J. Veraart, D. S. Novikov, D. Christiaens, B. Ades-aron, J. Sijbers, E. Fieremans, "Denoising of diffusion MRI using
        random matrix theory", NeuroImage 142, 394-406, 2016 (MP-PCA).
    A. Buades, B. Coll, J. M. Morel, "A non-local algorithm for image denoising", CVPR 2, 60-65, 2005.
    A. Chambolle, "An algorithm for total variation minimization and applications", J. Math. Imaging Vis. 20, 89-97,
        2004.
"""

from __future__ import annotations

import importlib.util
import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from ctbasis.dicom.volume import Volume
from ctbasis.parameters import PatchMode
from ctbasis.steps.denoise import denoise_on_basis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ctbasis.patch.noise import Noise
    from ctbasis.simulate.nodules import Spacing

AROUND = 4
"""Number of slices on both sides of the scored ones that three-dimensional peers get too."""

MP_PCA_SLICES = 2 * AROUND + 2
"""Number of neighbouring slices that MP-PCA gets at once, at most: two scored slices with those around them. It needs
more pixels in a window than slices."""


@dataclass(frozen=True)
class NoisyVolume:
    """Input of a denoiser.

    Attributes:
        hu: All slices, HU, (slices, rows, columns).
        spacing: mm between slices, rows and columns.
        scored: Range of the slices that are scored.
        sigma: True standard deviation of the noise in body and lung, HU.
        power: True noise power within a slice, HU^2 per pixel, (rows, columns), in the order of numpy.fft; its
            mean is `sigma` squared.
        estimated: Noise of every part, for patch mode; empty if patch mode estimates it from `hu`.
    """

    hu: NDArray[np.float32]
    spacing: Spacing
    scored: range
    sigma: float
    power: NDArray[np.float64]
    estimated: Sequence[Noise] = ()

    @property
    def scored_slices(self) -> NDArray[np.float32]:
        """The scored slices."""
        return self.hu[self.scored.start : self.scored.stop]

    @property
    def with_neighbours(self) -> tuple[NDArray[np.float32], slice]:
        """The scored slices with AROUND more on both sides, and the range of the scored ones among them."""
        first = max(0, self.scored.start - AROUND)
        own = slice(self.scored.start - first, self.scored.stop - first)
        return self.hu[first : self.scored.stop + AROUND], own


@dataclass(frozen=True)
class Denoiser:
    """A denoising method.

    Attributes:
        name: Name in the rows.
        run: Function of a volume and a setting that returns the scored slices, and the number of slices processed.
        settings: Settings among which the method is tuned; with a single one it is not tuned.
        module: Module of the extra `peers` that the method needs; empty if none.
        fewest_slices: Number of slices that the method needs to denoise any of them.
    """

    name: str
    run: Callable[[NoisyVolume, Mapping[str, Any]], tuple[NDArray[np.float32], int]]
    settings: Sequence[Mapping[str, Any]] = field(default=({},))
    module: str = ""
    fewest_slices: int = 1

    @property
    def absent(self) -> bool:
        """Whether a module that the method needs is not installed."""
        return bool(self.module) and importlib.util.find_spec(self.module) is None

    def missing(self, slices: int) -> str:
        """Return what the method lacks to denoise `slices` slices that lie together, as text; empty if nothing."""
        if self.absent:
            return f"{self.module} is not installed"
        return "" if slices >= self.fewest_slices else f"needs {self.fewest_slices} slices that lie together"


def runnable(bench: str, methods: Sequence[Denoiser], slices: int) -> tuple[list[Denoiser], list[dict[str, Any]]]:
    """Return the methods that can denoise `slices` slices that lie together, and a row of `bench` for each other."""
    missing = [(method, method.missing(slices)) for method in methods]
    rows = [{"bench": bench, "method": method.name, "setting": lack} for method, lack in missing if lack]
    return [method for method, lack in missing if not lack], rows


def _gaussian(noisy: NoisyVolume, setting: Mapping[str, Any]) -> tuple[NDArray[np.float32], int]:
    volume, own = noisy.with_neighbours
    pixels = setting["pixels"]
    return gaussian_filter(volume, (setting["slices"], pixels, pixels))[own], len(volume)


def _total_variation(noisy: NoisyVolume, setting: Mapping[str, Any]) -> tuple[NDArray[np.float32], int]:
    volume, own = noisy.with_neighbours
    # The weight applies to an image that is scaled to noise of standard deviation 1.
    scaled = denoise_tv_chambolle(volume / noisy.sigma, weight=setting["weight"], max_num_iter=100)
    return np.asarray(scaled * noisy.sigma, np.float32)[own], len(volume)


def _non_local_means(noisy: NoisyVolume, setting: Mapping[str, Any]) -> tuple[NDArray[np.float32], int]:
    images = [
        denoise_nl_means(
            image,
            patch_size=setting["patch"],
            patch_distance=7,
            h=setting["h"] * noisy.sigma,
            sigma=noisy.sigma,
            fast_mode=True,
        )
        for image in noisy.scored_slices
    ]
    return np.asarray(images, np.float32), len(images)


@contextmanager
def restored_trapz() -> Iterator[None]:
    """Restore `np.trapz`, which bm4d 4.2.5 (and BM3D through it) calls for a PSD; NumPy 2.4 has only `np.trapezoid`.

    Threads that denoise at the same time need it around all of them.
    """
    if hasattr(np, "trapz"):
        yield
        return
    np.trapz = np.trapezoid  # type: ignore[attr-defined]  # noqa: NPY201 - the old name is needed
    try:
        yield
    finally:
        del np.trapz  # type: ignore[attr-defined]  # noqa: NPY201 - as above


def _bm3d(noisy: NoisyVolume, setting: Mapping[str, Any]) -> tuple[NDArray[np.float32], int]:
    from bm3d import bm3d

    level = setting["level"]
    # BM3D expects the PSD of an unnormalised transform: its sum over the squared number of pixels is the variance.
    psd = noisy.power * noisy.power.size * level**2
    with restored_trapz():
        images = [bm3d(image.astype(np.float64), psd) for image in noisy.scored_slices]
    return np.asarray(images, np.float32), len(images)


def _bm4d(noisy: NoisyVolume, setting: Mapping[str, Any]) -> tuple[NDArray[np.float32], int]:
    from bm4d import bm4d

    volume, own = noisy.with_neighbours
    level = setting["level"]
    if setting["noise"] == "white":
        denoised = bm4d(volume, level * noisy.sigma)
    else:
        # Inserted noise is white along the slices.
        power = np.broadcast_to(noisy.power, volume.shape)
        with restored_trapz():
            denoised = bm4d(volume, np.ascontiguousarray(power * power.size * level**2))
    return np.asarray(denoised, np.float32)[own], len(volume)


def _mp_pca(noisy: NoisyVolume, setting: Mapping[str, Any]) -> tuple[NDArray[np.float32], int]:
    """Denoise blocks of slices that lie together, the slices in the place of the directions of diffusion MRI."""
    from dipy.denoise.localpca import mppca

    volume, own = noisy.with_neighbours
    # MP-PCA returns no value below 0.
    lowest = float(volume.min())
    blocks = np.array_split(np.moveaxis(volume - lowest, 0, -1), math.ceil(len(volume) / MP_PCA_SLICES), axis=-1)
    denoised = [mppca(block[:, :, None], patch_radius=setting["radius"])[:, :, 0] for block in blocks]
    return np.moveaxis(np.concatenate(denoised, axis=-1), -1, 0)[own] + np.float32(lowest), len(volume)


def _global(noisy: NoisyVolume, setting: Mapping[str, Any]) -> tuple[NDArray[np.float32], int]:
    """Project onto the leading k right singular vectors, which the engines of global mode approximate."""
    A = noisy.hu.reshape(len(noisy.hu), -1)
    G = (A @ A.T).astype(np.float64)
    V = np.linalg.eigh(G)[1][:, ::-1][:, : setting["k"]]
    own = V[noisy.scored.start : noisy.scored.stop]
    projected = (own @ V.T).astype(np.float32) @ A
    return projected.reshape(noisy.scored_slices.shape), len(noisy.hu)


def _patch(noisy: NoisyVolume, setting: Mapping[str, Any]) -> tuple[NDArray[np.float32], int]:
    """Run patch mode with its defaults but for `setting`, as the function that a notebook calls does."""
    volume = Volume(noisy.hu, noisy.spacing)
    denoised = denoise_on_basis(volume, estimated=noisy.estimated, patch_mode=PatchMode(**setting))
    return denoised.hu[noisy.scored.start : noisy.scored.stop], len(noisy.hu)


PEERS = (
    Denoiser(
        "gaussian",
        _gaussian,
        [
            {"pixels": pixels, "slices": slices}
            for pixels in (0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
            for slices in (0.0, 0.4, 0.6)
        ],
    ),
    Denoiser("tv", _total_variation, [{"weight": weight} for weight in (0.15, 0.25, 0.4, 0.6, 0.9, 1.3)]),
    Denoiser("nlm", _non_local_means, [{"h": h, "patch": patch} for h in (0.5, 0.7, 0.9, 1.2) for patch in (3, 5)]),
    Denoiser("bm3d", _bm3d, [{"level": level} for level in (0.8, 1.0, 1.25, 1.6, 2.0)], module="bm3d"),
    Denoiser(
        "bm4d",
        _bm4d,
        [
            {"noise": "white", "level": 1.5},
            {"noise": "psd", "level": 1.1},
            {"noise": "psd", "level": 1.35},
            {"noise": "psd", "level": 1.6},
            {"noise": "psd", "level": 1.9},
        ],
        module="bm4d",
    ),
    Denoiser("mp-pca", _mp_pca, [{"radius": 2}, {"radius": 3}], module="dipy", fewest_slices=2),
)
"""Peers; each is tuned on another series than the one that it is measured on."""

PATCH = (Denoiser("patch", _patch), Denoiser("patch one stage", _patch, [{"wiener": False}]))
"""Patch mode with and without its second stage."""

SHARES = (0.125, 0.25, 0.5, 0.75, 0.9)
"""Ranks of global mode, as fractions of the number of slices."""


def global_modes(slices: int) -> list[Denoiser]:
    """Return global mode at several ranks k for a series of `slices` slices."""
    ranks = sorted({max(1, round(fraction * slices)) for fraction in SHARES})
    return [Denoiser(f"global k={k}/{slices}", _global, [{"k": k}]) for k in ranks]


METHODS = (*(peer.name for peer in PEERS), "global", *(mode.name for mode in PATCH))
"""Values of `--method`."""
