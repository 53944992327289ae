"""Denoisers side by side on the same noisy data, the truth being known: error, similarity, nodules, edges, time.

A case is a series, binned or not, a reconstruction kernel and a noise level. Its truth is a run of slices around the
middle of the series, cropped to the patient, with nodules of 3 mm in the slices that are scored; its noise is inserted
in the projection domain (ctbasis/simulate/dose.py) with as many photons as give the level in the body. 2 x 2 binned
truth has hardly any noise of its own; native truth has its scanner's, which a denoiser is blamed for taking away.

A peer's setting is the one of its sweep (ctbasis/bench/denoisers.py) with the least RMSE over body and lung on the
same case of another series: tuned on A, measured on B, and the other way round.
"""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import label
from scipy.optimize import brentq

from ctbasis.bench.denoisers import METHODS, PATCH, PEERS, Denoiser, NoisyVolume, global_modes
from ctbasis.errors import CtbasisError
from ctbasis.matrix.ingest import ingest
from ctbasis.matrix.store import MatrixStore
from ctbasis.storage.voxels import AIR
from ctbasis.report.quality import TISSUE, compare, edge_ratio
from ctbasis.score.noise_power import NoisePower
from ctbasis.score.regions import Regions
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.nodules import Contrast, InsertedNodule, insert, place
from ctbasis.simulate.phantom import chest
from ctbasis.simulate.projection import ParallelBeam

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctbasis.simulate.nodules import Spacing
    from ctbasis.simulate.projection import Kernel

RESOLUTIONS = ("binned", "native")

LEVELS = (30.0, 40.0, 60.0)
"""HU of noise in the body: the three doses."""

DEPTH = 54
"""Slices of a case at most, which methods that learn from a series are given; scored are those in the middle."""

TUNED = 1
"""Slices on which a setting is chosen: tens of thousands of voxels, for sweeps whose steps are coarse."""

EACH = 6
"""Nodules of each contrast, at most."""

DIAMETER, CONTRASTS = 3.0, (600.0, 150.0)
"""Of the nodules: mm, HU."""

BORDER, MULTIPLE = 8, 32
"""Pixels kept around the patient at least, and what rows and columns are a multiple of, so that they can be binned."""

FEWEST = 8
"""Slices that a series needs: fewer are no volume to learn from."""

PHOTONS = 1e3, 1e9
"""Between which those for a level are sought."""

SETTLED = 0.005
"""Of them, at the end."""


@dataclass(frozen=True)
class Wanted:
    """What `ctbasis bench quality` runs.

    Attributes:
        slices: Scored in each case. BM3D and BM4D take seconds to minutes a slice.
        levels: HU of noise in the body.
        kernels: Of the reconstruction.
        resolutions: Of the truth: binned (2 x 2), native. Native takes four times the time.
        methods: Of METHODS.
        seed: Of noise and places.
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
        name: Of the series.
        hu: HU, at least AIR, (slices, rows, columns).
        spacing: mm between slices, rows and columns.
    """

    name: str
    hu: NDArray[np.float32]
    spacing: Spacing

    def binned(self) -> Truth:
        """Return means of 2 x 2 pixels."""
        slices, rows, columns = self.hu.shape
        squares = self.hu[:, : rows // 2 * 2, : columns // 2 * 2].reshape(slices, rows // 2, 2, columns // 2, 2)
        dz, dy, dx = self.spacing
        return Truth(self.name, np.asarray(squares.mean(axis=(2, 4)), np.float32), (dz, 2 * dy, 2 * dx))


@dataclass(frozen=True)
class Case:
    """A truth and its noise.

    Attributes:
        truth: With nodules.
        noisy: What denoisers are given.
        nodules: Those in the slices that are scored.
        row: What all rows of the case begin with.
    """

    truth: NDArray[np.float32]
    noisy: NoisyVolume
    nodules: Sequence[InsertedNodule]
    row: dict[str, Any]

    def scored(self, count: int) -> Case:
        """Return the same with only the middle `count` of the scored slices."""
        scored = _middle(self.noisy.scored, count)
        return replace(self, noisy=replace(self.noisy, scored=scored))

    @property
    def wanted(self) -> NDArray[np.float32]:
        """The truth of the slices that are scored."""
        return self.truth[self.noisy.scored.start : self.noisy.scored.stop]


@dataclass(frozen=True)
class Views:
    """One slice of a case, the middle one of those scored, as every method leaves it.

    Attributes:
        rows: Of the case, `noisy` first.
        truth: HU, (rows, columns).
        images: HU by method, `noisy` among them.
        aspect: Distance of rows over that of columns.
    """

    rows: Sequence[dict[str, Any]]
    truth: NDArray[np.float32]
    images: dict[str, NDArray[np.float32]]
    aspect: float


def bench_quality(
    series: Sequence[Path], wanted: Wanted | None = None, *, views: list[Views] | None = None
) -> list[dict[str, Any]]:
    """Run all methods on all cases.

    Args:
        series: Folders of one CT series each; without any, two phantoms. One alone is tuned on a phantom.
        wanted: What is run.
        views: Where pictures of every case are put, if anywhere.

    Returns:
        A row a case and method: case, series, resolution, kernel, noise_body, noise_lung, photons, slices, nodules,
        method, setting, tuned_on, rmse_body, rmse_lung, psnr, ssim, nodule_600, nodule_150 (3 mm, mean contrast
        recovery), edge_ratio, seconds, seconds_per_slice (of the slices it had to work through). A peer that is not
        installed has a row whose setting says so.

    Raises:
        CtbasisError: A folder does not hold one CT series of slices enough, or shows no lung or no body.
    """
    wanted = wanted or Wanted()
    truths = [read_truth(folder) for folder in series] or [phantom_truth(seed) for seed in (0, 1)]
    measured = len(truths)
    if measured == 1:
        truths.append(phantom_truth(0))
    for peer in PEERS:
        if peer.name in wanted.methods and peer.absent:
            _say(f"{peer.name} is not installed and is left out; it is in the extra `peers`: make bench-quality")
    rows: list[dict[str, Any]] = []
    for resolution, kernel, level in itertools.product(wanted.resolutions, wanted.kernels, wanted.levels):
        cases = [make_case(truth, resolution, kernel, level, wanted) for truth in truths]
        for index, case in enumerate(cases[:measured]):
            found = measure(case, cases[(index + 1) % len(cases)], wanted)
            rows += found.rows
            if views is not None:
                views.append(found)
    return rows


def read_truth(folder: Path) -> Truth:
    """Read the middle slices of the one series in `folder`, cropped to the patient.

    Raises:
        CtbasisError: There is not exactly one, or it has too few slices, or shows no patient.
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
        chosen = _middle(range(series.count), DEPTH)
        parts = [matrix.read_columns(group) for group in matrix.column_groups]
        A = np.concatenate(parts, axis=1)[:, chosen.start : chosen.stop]
        hu = np.ascontiguousarray(A.T, np.float32).reshape(len(chosen), *matrix.image)
    if len(chosen) < FEWEST:
        raise CtbasisError(f"{folder} holds {len(chosen)} slices", expected=f"at least {FEWEST}")
    dy, dx = series.pixel_spacing
    return crop_to_patient(Truth(folder.name, hu, (series.spacing or dy, dy, dx)))


def phantom_truth(seed: int, *, edge: int = 512, slices: int = DEPTH) -> Truth:
    """Return the middle of a chest phantom."""
    phantom = chest(slices, edge, edge, spacing=2.5, seed=seed)
    dy, dx = phantom.pixel_spacing
    return crop_to_patient(Truth(f"phantom {seed}", phantom.hu.astype(np.float32), (phantom.spacing, dy, dx)))


def crop_to_patient(truth: Truth) -> Truth:
    """Return `truth` around its largest body: most of what is around it is air.

    Raises:
        CtbasisError: There is no body.
    """
    body = truth.hu.max(axis=0) > TISSUE
    parts, count = label(body)
    if not count:
        raise CtbasisError(f"{truth.name} shows no tissue", expected="a CT series of a chest")
    largest = parts == int(np.argmax(np.bincount(parts.ravel())[1:])) + 1
    cut = []
    for axis in (0, 1):
        places, edge = np.flatnonzero(largest.any(axis=1 - axis)), largest.shape[axis]
        size = min(math.ceil((np.ptp(places) + 1 + 2 * BORDER) / MULTIPLE), edge // MULTIPLE) * MULTIPLE
        first = int(np.clip((places[0] + places[-1] + 1 - size) // 2, 0, edge - size))
        cut.append(slice(first, first + size))
    return replace(truth, hu=np.ascontiguousarray(np.maximum(truth.hu[:, cut[0], cut[1]], np.float32(AIR))))


def make_case(truth: Truth, resolution: str, kernel: Kernel, level: float, wanted: Wanted) -> Case:
    """Insert nodules and noise into `truth` at a resolution."""
    truth = truth.binned() if resolution == "binned" else truth
    scored = _middle(range(len(truth.hu)), wanted.slices)
    nodules = place(
        truth.hu,
        truth.spacing,
        seed=wanted.seed,
        each=EACH,
        diameters=(DIAMETER,),
        contrasts=CONTRASTS,
        within=scored,
    )
    clean = truth.hu.copy()
    insert(clean, nodules, truth.spacing)
    beam = ParallelBeam.around((clean.shape[1], clean.shape[2]), truth.spacing[1:])
    photons = photons_for(level, clean, beam, kernel)
    noise = image_noise(clean, beam, Dose(photons, seed=wanted.seed, kernel=kernel))
    # What the pipeline does to every series before it factors it.
    noisy = np.maximum(clean + noise, np.float32(AIR))
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
    """Return I0 that gives noise of `level` HU in the body, to three digits.

    Raises:
        CtbasisError: None of those tried does.
    """
    middle = hu[len(hu) // 2][None]
    body = middle > TISSUE

    def too_much(log_photons: float) -> float:
        noise = image_noise(middle, beam, Dose(float(np.exp(log_photons)), kernel=kernel))
        return float(np.log(noise[body].std() / level))

    try:
        found = brentq(too_much, *np.log(PHOTONS), xtol=SETTLED)
    except ValueError as error:  # too much at both ends, or at none
        raise CtbasisError(
            f"noise of {level:g} HU in the body was asked for",
            expected="a level that {:g} to {:g} photons give".format(*PHOTONS),
            remedy="another --noise",
        ) from error
    return float(f"{np.exp(found):.3g}")


def noise_power(
    noise: NDArray[np.float32], masks: Sequence[NDArray[np.bool_]], spacing: Spacing, sigma: float
) -> NDArray[np.float64]:
    """Return the power of noise over the frequencies of a whole slice, HU^2 a pixel, its mean `sigma` squared.

    Measured over squares in `masks`, whose autocovariance is that of the slice as far as they reach.
    """
    found = NoisePower(spacing[1:])
    for image, mask in zip(noise, masks, strict=True):
        found.add(image, mask)
    shape = noise.shape[1:]
    if not found.squares:
        return np.full(shape, sigma**2)
    covariance = np.fft.fftshift(np.fft.ifft2(found.spectrum).real)
    whole = np.zeros(shape)
    whole[: found.edge, : found.edge] = covariance
    power = np.fft.fft2(np.roll(whole, (-(found.edge // 2),) * 2, axis=(0, 1))).real
    # Where hardly any power is, what rounding and few squares leave may be negative.
    power = np.maximum(power, 1e-3 * power.mean())
    return np.asarray(power * (sigma**2 / power.mean()))


def measure(case: Case, other: Case, wanted: Wanted) -> Views:
    """Run every method on `case`, tuned on `other`."""
    noisy = case.noisy
    middle = len(case.wanted) // 2
    images = {"noisy": noisy.wanted[middle]}
    # The edge ratio of the noisy image is the noise's own: what the perfect denoiser would remove.
    rows = [{**case.row, "method": "noisy", **scores(case, noisy.wanted, noisy.wanted - case.wanted)}]
    methods = [peer for peer in PEERS if peer.name in wanted.methods]
    methods += global_modes(len(noisy.hu)) if "global" in wanted.methods else []
    methods += [mode for mode in PATCH if mode.name in wanted.methods]
    for method in methods:
        row = {**case.row, "method": method.name}
        if method.absent:
            rows.append({**row, "setting": f"{method.module} is not installed"})
            continue
        setting = tuned(method, other)
        start = time.perf_counter()
        image, worked = method.run(noisy, setting)
        seconds = time.perf_counter() - start
        said = {
            "setting": ", ".join(f"{name} {value}" for name, value in setting.items()),
            "tuned_on": other.row["series"] if len(method.settings) > 1 else "",
            **scores(case, image, noisy.wanted - image),
            "seconds": seconds,
            "seconds_per_slice": seconds / worked,
        }
        rows.append({**row, **said})
        images[method.name] = image[middle].copy()
        found = f"RMSE {said['rmse_body']:.4g} HU in the body, SSIM {said['ssim']:.4g}, {seconds:.3g} s"
        _say(f"{case.row['case']}: {method.name} {said['setting']}: {found}")
    return Views(rows, case.wanted[middle], images, noisy.spacing[1] / noisy.spacing[2])


def tuned(method: Denoiser, case: Case) -> dict[str, Any]:
    """Return the setting of `method` with the least RMSE over body and lung in the middle slices of `case`."""
    if len(method.settings) == 1:
        return dict(method.settings[0])
    few = case.scored(TUNED)
    inside = np.stack([Regions(np.asarray(image, np.float64)).patient for image in few.wanted])

    def error(index: int) -> float:
        image, _ = method.run(few.noisy, method.settings[index])
        return float(np.square(image - few.wanted)[inside].mean())

    return dict(method.settings[min(range(len(method.settings)), key=error)])


def scores(case: Case, image: NDArray[np.float32], removed: NDArray[np.float32]) -> dict[str, Any]:
    """Return what is measured on an image of the slices that are scored, and on what was removed from them."""
    truth, noisy = case.wanted, case.noisy
    quality = compare(truth, image)
    contrast = Contrast(case.nodules, (truth.shape[1], truth.shape[2]), noisy.spacing)
    for z, slices in zip(noisy.scored, zip(truth, image, strict=True), strict=True):
        contrast.add(z, *slices)
    ratio = edge_ratio(removed, truth).ratio
    recovered = {kind["contrast_hu"]: kind["recovered"] for kind in contrast.kinds()}
    return {
        "rmse_body": quality.rmse_body,
        "rmse_lung": quality.rmse_lung,
        "psnr": quality.psnr,
        "ssim": quality.ssim,
        **{f"nodule_{value:.0f}": recovered.get(value) for value in CONTRASTS},
        "edge_ratio": ratio if math.isfinite(ratio) else None,
    }


def _middle(whole: range, count: int) -> range:
    count = min(count, len(whole))
    first = whole.start + (len(whole) - count) // 2
    return range(first, first + count)


def _say(line: str) -> None:
    sys.stderr.write(f"bench: {line}\n")
    sys.stderr.flush()
