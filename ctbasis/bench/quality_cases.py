"""Cases of `ctbasis bench quality`: slices whose truth is known, with nodules and with noise of a given level.

A case is a series at a resolution, with a reconstruction kernel and a noise level. Its truth is a range of slices in
the middle of the series, cropped to the patient, with nodules of 3 mm in the slices that are scored. The noise is
inserted in the projection domain (ctbasis/simulate/dose.py), with the number of photons that gives the noise level in
the body.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import binary_fill_holes, label
from scipy.optimize import brentq

from ctbasis.bench.denoisers import METHODS, NoisyVolume
from ctbasis.errors import CtbasisError
from ctbasis.matrix.ingest import ingest
from ctbasis.matrix.store import MatrixStore
from ctbasis.report.noisy_truth import FlatWindows
from ctbasis.report.quality import TISSUE
from ctbasis.score.noise_power import NoisePower
from ctbasis.score.regions import Regions
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.nodules import InsertedNodule, insert, place
from ctbasis.simulate.phantom import chest
from ctbasis.simulate.projection import ParallelBeam
from ctbasis.storage.voxels import AIR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctbasis.report.noisy_truth import TruthNoise
    from ctbasis.simulate.nodules import Spacing
    from ctbasis.simulate.projection import Kernel

RESOLUTIONS = ("binned", "native")
"""Resolutions of the truth: means of 2 x 2 pixels, or the pixels of the series."""

LEVELS = (30.0, 40.0, 60.0)
"""Noise levels in the body, HU: three doses."""

DEPTH = 54
"""Largest number of slices of a case. Methods that learn from a series get all of them; the middle ones are scored."""

EACH = 6
"""Largest number of nodules of each contrast."""

DIAMETER, CONTRASTS = 3.0, (600.0, 150.0)
"""Diameter of the nodules in mm, and their contrasts in HU."""

BORDER, MULTIPLE = 8, 32
"""Smallest border around the patient in pixels, and the number that rows and columns are a multiple of, for binning."""

FEWEST = 8
"""Smallest number of slices of a series; fewer are too few to learn from."""

PHOTONS = 1e3, 1e9
"""Range in which the number of photons for a noise level is searched."""

TOLERANCE = 0.005
"""Tolerance of the search, in the logarithm of the number of photons."""


@dataclass(frozen=True)
class QualitySettings:
    """Settings of `ctbasis bench quality`.

    Attributes:
        slices: Number of slices scored in each case. BM3D and BM4D take seconds to minutes per slice.
        levels: Noise levels in the body, HU.
        kernels: Kernels of the reconstruction.
        resolutions: Resolutions of the truth: binned (2 x 2), native. Native takes four times as long.
        methods: Methods, some of METHODS.
        seed: Seed of the noise and of the positions of nodules.

    Raises:
        CtbasisError: A setting is out of bounds or unknown.
    """

    slices: int = 2
    levels: Sequence[float] = LEVELS
    kernels: Sequence[Kernel] = ("hann", "shepp-logan")
    resolutions: Sequence[str] = ("binned",)
    methods: Sequence[str] = METHODS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.slices < 1:
            raise CtbasisError(f"slices is {self.slices}", expected="a whole number, at least 1")
        if not self.levels or not all(0 < level < 1000 for level in self.levels):  # noqa: PLR2004 - HU
            raise CtbasisError(f"noise levels are {self.levels}", expected="HU of noise in the body, such as 40")
        if not self.resolutions or not set(self.resolutions) <= set(RESOLUTIONS):
            raise CtbasisError(f"resolutions are {self.resolutions}", expected=" or ".join(RESOLUTIONS))
        unknown = set(self.methods) - set(METHODS)
        if unknown:
            raise CtbasisError(f"unknown methods: {', '.join(sorted(unknown))}", expected=", ".join(METHODS))


@dataclass(frozen=True)
class Truth:
    """Slices without inserted noise.

    Attributes:
        name: Name of the series.
        hu: HU, at least AIR, (slices, rows, columns).
        spacing: mm between slices, rows and columns.
    """

    name: str
    hu: NDArray[np.float32]
    spacing: Spacing

    def binned(self) -> Truth:
        """Return the truth as means of 2 x 2 pixels."""
        slices, rows, columns = self.hu.shape
        squares = self.hu[:, : rows // 2 * 2, : columns // 2 * 2].reshape(slices, rows // 2, 2, columns // 2, 2)
        dz, dy, dx = self.spacing
        return Truth(self.name, np.asarray(squares.mean(axis=(2, 4)), np.float32), (dz, 2 * dy, 2 * dx))


@dataclass(frozen=True)
class Case:
    """A truth and a noisy volume.

    Attributes:
        truth: Truth with nodules, HU, (slices, rows, columns).
        noisy: The volume that denoisers get.
        nodules: The nodules in the scored slices.
        row: Values with which all rows of the case begin.
    """

    truth: NDArray[np.float32]
    noisy: NoisyVolume
    nodules: Sequence[InsertedNodule]
    row: dict[str, Any]

    def with_scored(self, count: int) -> Case:
        """Return the case with only the middle `count` of the scored slices."""
        scored = middle_of(self.noisy.scored, count)
        return replace(self, noisy=replace(self.noisy, scored=scored))

    @cached_property
    def truth_noise(self) -> TruthNoise | None:
        """Noise of the truth, measured on all slices: few slices hold too little flat tissue."""
        return FlatWindows.of(self.truth, self.noisy.hu).measure()

    @cached_property
    def patient(self) -> NDArray[np.bool_]:
        """The scored slices without the air around the patient, which patch mode returns as it was."""
        slices = (Regions(np.asarray(true, np.float64)).patient for true in self.scored_truth)
        return np.stack([binary_fill_holes(image) for image in slices])

    @property
    def scored_truth(self) -> NDArray[np.float32]:
        """Truth of the scored slices."""
        return self.truth[self.noisy.scored.start : self.noisy.scored.stop]


def read_truth(folder: Path) -> Truth:
    """Read the middle slices of the one series in `folder`, cropped to the patient.

    Raises:
        CtbasisError: The folder does not hold exactly one series, or the series has too few slices or shows no patient.
    """
    if not folder.is_dir():
        raise CtbasisError(f"{folder} is no folder", expected="the folder of one CT series")
    with tempfile.TemporaryDirectory(prefix="ctbasis-bench-") as scratch:
        uri = str(Path(scratch) / "matrix.zarr")
        ingest(folder, uri, Path(scratch) / "qc.json")
        matrix = MatrixStore.open(uri)
        if len(matrix.series) != 1:
            raise CtbasisError(
                f"{folder} holds {len(matrix.series)} series", expected="one", remedy="name the folder of one series"
            )
        series = matrix.series[0]
        kept = middle_of(range(series.count), DEPTH)
        parts = [matrix.read_columns(group) for group in matrix.column_groups]
        A = np.concatenate(parts, axis=1)[:, kept.start : kept.stop]
        hu = np.ascontiguousarray(A.T, np.float32).reshape(len(kept), *matrix.image)
    if len(kept) < FEWEST:
        raise CtbasisError(f"{folder} holds {len(kept)} slices", expected=f"at least {FEWEST}")
    dy, dx = series.pixel_spacing
    return crop_to_patient(Truth(folder.name, hu, (series.spacing or dy, dy, dx)))


def phantom_truth(seed: int, *, edge: int = 512, slices: int = DEPTH) -> Truth:
    """Return the middle slices of a chest phantom with structured soft tissue."""
    phantom = chest(slices, edge, edge, spacing=2.5, seed=seed, structured=True)
    dy, dx = phantom.pixel_spacing
    return crop_to_patient(Truth(f"phantom {seed}", phantom.hu.astype(np.float32), (phantom.spacing, dy, dx)))


def crop_to_patient(truth: Truth) -> Truth:
    """Crop `truth` to its largest body, because most of the surroundings are air.

    Raises:
        CtbasisError: There is no tissue.
    """
    body = truth.hu.max(axis=0) > TISSUE
    parts, count = label(body)
    if not count:
        raise CtbasisError(f"{truth.name} shows no tissue", expected="a CT series of a chest")
    largest = parts == int(np.argmax(np.bincount(parts.ravel())[1:])) + 1
    window = []
    for axis in (0, 1):
        occupied, edge = np.flatnonzero(largest.any(axis=1 - axis)), largest.shape[axis]
        size = min(math.ceil((np.ptp(occupied) + 1 + 2 * BORDER) / MULTIPLE), edge // MULTIPLE) * MULTIPLE
        first = int(np.clip((occupied[0] + occupied[-1] + 1 - size) // 2, 0, edge - size))
        window.append(slice(first, first + size))
    return replace(truth, hu=np.ascontiguousarray(np.maximum(truth.hu[:, window[0], window[1]], np.float32(AIR))))


def make_case(truth: Truth, resolution: str, kernel: Kernel, level: float, settings: QualitySettings) -> Case:
    """Insert nodules and noise into `truth`.

    Args:
        truth: Slices without inserted noise.
        resolution: One of RESOLUTIONS.
        kernel: Kernel of the reconstruction.
        level: Noise level in the body, HU.
        settings: Number of scored slices, and seed.
    """
    truth = truth.binned() if resolution == "binned" else truth
    scored = middle_of(range(len(truth.hu)), settings.slices)
    nodules = place(
        truth.hu,
        truth.spacing,
        seed=settings.seed,
        each=EACH,
        diameters=(DIAMETER,),
        contrasts=CONTRASTS,
        within=scored,
    )
    clean = truth.hu.copy()
    insert(clean, nodules, truth.spacing)
    beam = ParallelBeam.around((clean.shape[1], clean.shape[2]), truth.spacing[1:])
    photons = photons_for(level, clean, beam, kernel)
    noise = image_noise(clean, beam, Dose(photons, seed=settings.seed, kernel=kernel))
    noisy = clean + noise
    masks = [Regions(np.asarray(image, np.float64)) for image in clean[scored.start : scored.stop]]
    added = noise[scored.start : scored.stop]
    stds = {
        name: float(np.std([value for n, m in zip(added, masks, strict=True) for value in n[getattr(m, name)]]))
        for name in ("body", "lung", "patient")
    }
    power = noise_power(added, [mask.patient for mask in masks], truth.spacing, stds["patient"])
    row = {
        "bench": "quality",
        "case": f"{truth.name} {resolution} {kernel} {level:g} HU",
        "series": truth.name,
        "resolution": resolution,
        "kernel": kernel,
        "noise_body": stds["body"],
        "noise_lung": stds["lung"],
        "photons": photons,
        "slices": len(scored),
        "nodules": len(nodules),
    }
    return Case(clean, NoisyVolume(noisy, truth.spacing, scored, stds["patient"], power), nodules, row)


def photons_for(level: float, hu: NDArray[np.float32], beam: ParallelBeam, kernel: Kernel) -> float:
    """Return the I0 that gives noise of `level` HU in the body, to three digits.

    Raises:
        CtbasisError: No I0 in the range PHOTONS does.
    """
    middle = hu[len(hu) // 2][None]
    body = middle > TISSUE

    def excess(log_photons: float) -> float:
        noise = image_noise(middle, beam, Dose(float(np.exp(log_photons)), kernel=kernel))
        return float(np.log(noise[body].std() / level))

    try:
        log_photons = brentq(excess, *np.log(PHOTONS), xtol=TOLERANCE)
    except ValueError as error:  # the noise is too high or too low at both ends
        raise CtbasisError(
            f"noise of {level:g} HU in the body cannot be simulated",
            expected="a level that {:g} to {:g} photons give".format(*PHOTONS),
            remedy="choose another --noise",
        ) from error
    return float(f"{np.exp(log_photons):.3g}")


def noise_power(
    noise: NDArray[np.float32], masks: Sequence[NDArray[np.bool_]], spacing: Spacing, sigma: float
) -> NDArray[np.float64]:
    """Estimate the noise power over the frequencies of a whole slice, HU^2 per pixel; its mean is `sigma` squared.

    The power is measured over squares in `masks`. The autocovariance of the squares is that of the slice up to the size
    of a square.
    """
    squares = NoisePower(spacing[1:])
    for image, mask in zip(noise, masks, strict=True):
        squares.add(image, mask)
    shape = noise.shape[1:]
    if not squares.squares:
        return np.full(shape, sigma**2)
    return power_of_covariance(np.fft.fftshift(np.fft.ifft2(squares.spectrum).real), shape, sigma)


def power_of_covariance(covariance: NDArray[np.float64], shape: tuple[int, ...], sigma: float) -> NDArray[np.float64]:
    """Return the noise power over the frequencies of a whole slice, HU^2 per pixel; its mean is `sigma` squared.

    Args:
        covariance: Covariance by lag up to a factor, (edge, edge), lag 0 at `edge // 2`.
        shape: Rows and columns of the slice.
        sigma: Standard deviation of the noise, HU.
    """
    edge = len(covariance)
    whole = np.zeros(shape)
    whole[:edge, :edge] = covariance
    power = np.fft.fft2(np.roll(whole, (-(edge // 2),) * 2, axis=(0, 1))).real
    # Where the power is near zero, rounding and errors of the covariance may make the estimate negative.
    power = np.maximum(power, 1e-3 * power.mean())
    return np.asarray(power * (sigma**2 / power.mean()))


def middle_of(whole: range, count: int) -> range:
    """Return the `count` middle numbers of a range, or all of them if there are fewer."""
    count = min(count, len(whole))
    first = whole.start + (len(whole) - count) // 2
    return range(first, first + count)
