"""A lower dose than a CT series was taken with: noise inserted where it arises, in the projections.

    p        = line integrals of the series' mu
    N        = I0 m(view) b(bin)                 photons sent: tube-current modulation m, bow-tie b
    p_noisy  = -log(max(Poisson(N exp(-p)) + N(0, sigma_e), 1) / N)
    noisy    = series + FBP(p_noisy - p)

Only the noise passes through the reconstruction, so the anatomy stays as sharp as it was, and the noise has the
texture, the streaks along dense rays and the correlation between voxels that it has in a scan. The series keeps the
noise that it came with: a lower dose is simulated, not one that is known absolutely. The beam is parallel and of one
energy; what a detector integrates is counted in photons.

References:
    L. Yu, M. Shiung, D. Jondal, C. H. McCollough, "Development and validation of a practical lower-dose-simulation tool
        for optimizing computed tomography scan protocols", J. Comput. Assist. Tomogr. 36(4), 477-487, 2012.
    S. Zabic, Q. Wang, T. Morton, K. M. Brown, "A low dose simulation tool for CT systems with energy integrating
        detectors", Med. Phys. 40(3), 031102, 2013.
    D. Zeng et al., "A simple low-dose x-ray CT simulation from high-dose scan", IEEE Trans. Nucl. Sci. 62(5),
        2226-2233, 2015.
    J. Leuschner, M. Schmidt, D. O. Baguer, P. Maass, "LoDoPaB-CT, a benchmark dataset for low-dose computed tomography
        reconstruction", Scientific Data 8, 109, 2021.
    M. Gies, W. A. Kalender, H. Wolf, C. Suess, M. T. Madsen, "Dose reduction in CT by anatomically adapted tube current
        modulation. I. Simulation studies", Med. Phys. 26(11), 2235-2247, 1999.
    N. Mail, D. J. Moseley, J. H. Siewerdsen, D. A. Jaffray, "The influence of bowtie filtration on cone-beam CT image
        quality", Med. Phys. 36(1), 22-32, 2009.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from ctbasis.dicom.derived_series import PRODUCT, Derivation, derive, read_header
from ctbasis.dicom.hounsfield import to_hounsfield
from ctbasis.dicom.instance import read_slices, read_values
from ctbasis.dicom.series import arrange, set_copies_aside
from ctbasis.dicom.set_aside import SetAside
from ctbasis.dicom.stored import Stored, avoid_padding, store
from ctbasis.errors import CtbasisError
from ctbasis.progress import progress
from ctbasis.simulate.nodules import NODULES, check_places, insert, place, read_nodules, write_nodules
from ctbasis.simulate.projection import KERNELS, ParallelBeam, project, reconstruct
from ctbasis.storage.voxels import AIR, absent
from ctbasis.svd.rank_k import restore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from ctbasis.dicom.instance import Slice
    from ctbasis.dicom.series import CTSeries
    from ctbasis.simulate.nodules import InsertedNodule, Spacing
    from ctbasis.simulate.projection import Kernel

MU_WATER = 0.02
"""Attenuation of water at CT's effective energy of about 65 keV, 1/mm."""

OUTSIDE = -1500.0
"""HU below which a voxel is no measurement, whether or not PixelPaddingValue says so."""

TISSUE = -300.0
"""HU above which a voxel counts as body when the noise is summed up; LUNG is the range that counts as lung."""

LUNG = (-950.0, -600.0)

SERIES_NUMBER, NODULE_SERIES_NUMBER = 9001, 9002
"""Added to what `derive` makes of the source's SeriesNumber, so that no rank's series has the same."""

FEWEST_SLICES = 3
"""Slices without which no sphere is inserted."""

MOST_PHOTONS = 1e15
"""What a Poisson draw still counts exactly; its noise is far below what a voxel stores."""

REFERENCE_PATH = 6.0
"""Line integral of the longest ray at which modulation leaves the tube current alone: 300 mm of water."""

CURRENT_LIMITS = (0.2, 5.0)
"""What modulation can do to the tube current, as a factor."""

BOW_TIE_LEAST = 0.05
"""Share of the photons that the thickest part of a bow-tie lets through."""

BATCH = 16
"""Slices that are projected together: enough to fill vector registers, few enough for the cache."""


@dataclass(frozen=True)
class Dose:
    """The dose that is simulated.

    Attributes:
        photons: I0, those that each detector bin counts in each view without a patient. Noise in HU falls with its
            root. A number for every bin and view alike.
        electronic: sigma_e, standard deviation of the read-out noise in photons. It tells where few photons arrive.
        seed: Of the noise. Slice i draws from (seed, i) alone, so the noise does not depend on how slices are batched.
        modulation: Strength of tube-current modulation, 0 (constant current) to 1. The current of a view follows its
            longest ray, I0 exp(modulation (max p - REFERENCE_PATH)) within CURRENT_LIMITS, along the patient as around
            it. 1 gives every view the same noise, 0.5 the least noise for its dose (Gies et al.).
        bow_tie: Radius in mm of the water cylinder whose path a bow-tie filter evens out, centred on the image; 0 has
            none. Fewer photons, and so more noise, away from the centre: down to BOW_TIE_LEAST.
        kernel: Window of the reconstruction's ramp; a sharper one gives more and finer noise.

    Raises:
        CtbasisError: `photons` is not positive, `electronic`, `bow_tie` or `seed` is negative, `modulation` is outside
            0 to 1, one is not finite, or there is no such kernel.
    """

    photons: float
    electronic: float = 10.0
    seed: int = 0
    modulation: float = 0.0
    bow_tie: float = 0.0
    kernel: Kernel = "hann"

    def __post_init__(self) -> None:
        if not 0 < self.photons <= MOST_PHOTONS:
            raise CtbasisError(f"photons is {self.photons}", expected=f"above 0, at most {MOST_PHOTONS:g}, such as 6e4")
        if not (math.isfinite(self.electronic) and self.electronic >= 0):
            raise CtbasisError(f"electronic is {self.electronic}", expected="a number, at least 0")
        if self.seed < 0:
            raise CtbasisError(f"seed is {self.seed}", expected="a whole number, at least 0")
        if not 0 <= self.modulation <= 1:
            raise CtbasisError(f"modulation is {self.modulation}", expected="from 0 (constant current) to 1")
        if not (math.isfinite(self.bow_tie) and self.bow_tie >= 0):
            raise CtbasisError(f"bow_tie is {self.bow_tie}", expected="a radius in mm, at least 0, such as 160")
        if self.kernel not in KERNELS:
            raise CtbasisError(f"kernel is {self.kernel}", expected=f"one of {', '.join(KERNELS)}")


def photons_sent(p: NDArray[np.floating[Any]], beam: ParallelBeam, dose: Dose) -> NDArray[np.float64]:
    """Return N, the photons that each bin of a slice would count in each view without a patient.

    Args:
        p: Line integrals of one slice, (views, bins); modulation follows them.
        beam: Geometry.
        dose: I0, modulation and bow-tie.

    Returns:
        (views, bins), or what broadcasts to it.
    """
    sent = np.full((1, 1), float(dose.photons))
    if dose.modulation:
        longest = np.asarray(p, np.float64).max(axis=1, keepdims=True)
        sent = sent * np.clip(np.exp(dose.modulation * (longest - REFERENCE_PATH)), *CURRENT_LIMITS)
    if dose.bow_tie:
        # What the patient's water is short of the cylinder's diameter, the filter adds.
        chord = 2 * np.sqrt(np.maximum(dose.bow_tie**2 - beam.positions**2, 0.0))
        sent = sent * np.maximum(np.exp(-MU_WATER * (2 * dose.bow_tie - chord)), BOW_TIE_LEAST)
    return sent


def projection_noise(
    p: NDArray[np.floating[Any]],
    dose: Dose,
    rng: np.random.Generator,
    sent: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Draw p_noisy - p, of the shape of `p`.

    Its variance is exp(p) / N + (sigma_e exp(p) / N)^2 to first order in the noise.

    Args:
        p: Line integrals.
        dose: I0 and sigma_e.
        rng: What draws.
        sent: N, what broadcasts to the shape of `p`; I0 everywhere without it.
    """
    expected = np.asarray(p, np.float64)
    N = dose.photons if sent is None else sent
    counts = rng.poisson(N * np.exp(-expected)) + rng.normal(0.0, dose.electronic, expected.shape)
    # A detector that reads nothing or less still has to be given a logarithm: one photon, as in LoDoPaB-CT.
    return np.asarray(-np.log(np.maximum(counts, 1.0) / N) - expected)


def image_noise(
    hu: NDArray[np.floating[Any]], beam: ParallelBeam, dose: Dose, *, first: int = 0
) -> NDArray[np.float32]:
    """Draw the noise that `dose` adds to slices, HU, (slices, rows, columns).

    Args:
        hu: The slices, (slices, rows, columns); below -1000 counts as air.
        beam: Geometry.
        dose: The dose.
        first: Number of the first slice in its series, from which its noise is seeded.
    """
    attenuation = np.maximum(1.0 + np.moveaxis(hu, 0, -1) / np.float32(1000.0), 0.0) * np.float32(MU_WATER)
    p = project(attenuation.astype(np.float32), beam)

    def draw(index: int) -> None:
        rng = np.random.default_rng(np.random.SeedSequence([dose.seed, first + index]))
        p[..., index] = projection_noise(p[..., index], dose, rng, photons_sent(p[..., index], beam, dose))

    # NumPy's generators let go of the interpreter's lock.
    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        list(pool.map(draw, range(len(hu))))
    noise = reconstruct(p, beam, kernel=dose.kernel)
    return np.ascontiguousarray(np.moveaxis(noise, -1, 0)) * np.float32(1000.0 / MU_WATER)


def simulate_low_dose(
    folder: Path,
    out: Path,
    *,
    photons: float = 6e4,
    electronic: float = 10,
    views: int | None = None,
    seed: int = 0,
    modulation: float = 0.0,
    bow_tie: float = 0.0,
    kernel: Kernel = "hann",
    nodules: Path | int | None = None,
    truth: Path | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Write a series as it would have come out at a lower dose.

    Study, frame of reference and geometry stay; UIDs of series and instances are new and follow from the source's and
    the settings, so the same call gives the same series. Padding stays; noise is clipped to what BitsStored holds.

    Args:
        folder: A DICOM CT series, in any depth.
        out: Folder to make, whole or not at all.
        photons: I0, see `Dose`.
        electronic: sigma_e, see `Dose`.
        views: Angles over the half turn; by default pi/2 a column. Noise falls with its root, as with photons.
        seed: Of the noise, and of the nodules' places.
        modulation: Of the tube current, see `Dose`.
        bow_tie: Radius, mm, see `Dose`.
        kernel: Of the reconstruction, see `Dose`.
        nodules: Spheres to insert before the noise: a JSON file as of `nodules.read_nodules`, or how many of every
            diameter and contrast (`nodules.DIAMETERS`, `CONTRASTS`) to place in the lungs.
        truth: Folder to make for the series with the nodules and without the noise, and nodules.json.
        workers: Threads; all cores by default. The files do not depend on it.

    Returns:
        The settings, the number of slices and files set aside, and the noise that was added as standard deviations in
        HU over body (above TISSUE) and lung (within LUNG); None where there is no such voxel.

    Raises:
        CtbasisError: The settings are impossible, `folder` does not hold exactly one CT series, a slice of it cannot be
            read, a nodule is outside the body, or a folder to make exists and is not empty.
    """
    dose = Dose(photons, electronic, seed, modulation=modulation, bow_tie=bow_tie, kernel=kernel)
    _check(views=views, workers=workers)
    folders = _folders(out, nodules, truth)
    # A file that is no list of nodules is refused before thousands of slices are read.
    listed = read_nodules(nodules) if isinstance(nodules, Path) else None
    series, headers, aside = _read_series(folder)
    scan = _Scan(folder, series.slices, _spacing(series, nodules), dose)
    beam = ParallelBeam.around(series.image, scan.spacing[1:], views)
    if nodules is not None:
        scan.nodules = _placed(scan, listed, nodules, seed)
    spread = {"body": _Spread(), "lung": _Spread()}
    parts = [_part_of(entry) for entry in folders]
    try:
        _write(scan, beam, headers, parts, spread, workers)
        for part, entry in zip(parts, folders, strict=True):
            part.replace(entry)
    except BaseException:
        for part in parts:
            shutil.rmtree(part, ignore_errors=True)
        raise
    return {
        "slices": len(series.slices),
        "set_aside": aside,
        "photons": photons,
        "electronic": electronic,
        "views": beam.views,
        "seed": seed,
        "modulation": modulation,
        "bow_tie": bow_tie,
        "kernel": kernel,
        "nodules": len(scan.nodules),
        "noise_hu": {name: entry.std for name, entry in spread.items()},
    }


def _check(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and value < 1:
            raise CtbasisError(f"{name} is {value}", expected="a whole number, at least 1")


def _folders(out: Path, nodules: Path | int | None, truth: Path | None) -> list[Path]:
    """Return the folders to make: of the noisy series, and of the truth where it is not the source itself."""
    if (nodules is None) != (truth is None):
        raise CtbasisError(
            "nodules without a folder for their truth, or a folder without nodules",
            expected="both: the series that a score compares with has to hold the nodules",
        )
    _check(nodules=nodules if isinstance(nodules, int) else None)
    folders = [out] if truth is None else [out, truth]
    for entry in folders:
        if entry.exists() and any(entry.iterdir()):
            raise CtbasisError(f"{entry} is not empty", expected="a new folder", remedy="name another one or remove it")
    return folders


def _write(
    scan: _Scan,
    beam: ParallelBeam,
    headers: Mapping[tuple[str, int], bytes],
    parts: Sequence[Path],
    spread: dict[str, _Spread],
    workers: int | None,
) -> None:
    """Write the noisy series into the first of `parts`, and the one with the nodules alone into a second."""
    kinds = dose_derivations(scan.dose, beam, scan.nodules)
    # numba's threads are those of everything that computes here.
    with _threads(workers):
        images = _noisy_slices(scan, beam, spread)
        for index, stored in enumerate(progress(images, "low dose", total=len(scan.slices), unit="slice")):
            header = headers[scan.slices[index].place]
            for part, values, made in zip(parts, stored, kinds, strict=False):
                _write_derived(read_header(header), values, made, part / f"{index + 1:05d}.dcm")
    if len(parts) > 1:
        write_nodules(scan.nodules, parts[1] / NODULES)


@dataclass
class _Scan:
    """The series that is read.

    Attributes:
        folder: Where its files are.
        slices: In order.
        spacing: mm between slices, rows and columns.
        dose: What is simulated.
        nodules: What is inserted.
    """

    folder: Path
    slices: tuple[Slice, ...]
    spacing: Spacing
    dose: Dose
    nodules: Sequence[InsertedNodule] = ()

    def images(self) -> Iterator[NDArray[np.float32]]:
        """Yield the slices, HU, what is no measurement as air."""
        for entry in self.slices:
            hu, outside = _read_hu(self.folder, entry)
            yield np.where(outside, np.float32(AIR), hu)


def _spacing(series: CTSeries, nodules: Path | int | None) -> Spacing:
    if nodules is not None and (len(series.slices) < FEWEST_SLICES or series.gaps):
        raise CtbasisError(
            f"nodules into {len(series.slices)} slices with {len(series.gaps)} gaps",
            expected=f"at least {FEWEST_SLICES} slices and no gap: a sphere reaches over several",
        )
    dy, dx = series.slices[0].PixelSpacing
    return series.spacing or dy, dy, dx


def _placed(
    scan: _Scan, listed: Sequence[InsertedNodule] | None, nodules: Path | int, seed: int
) -> Sequence[InsertedNodule]:
    images = progress(scan.images(), "nodules", total=len(scan.slices), unit="slice")
    if listed is None:
        return place(images, scan.spacing, seed=seed, each=int(str(nodules)))
    check_places(listed, images, air=LUNG[0])
    return listed


def _part_of(out: Path) -> Path:
    """Make the folder that becomes `out` once it is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    part.chmod(0o755)
    return part


@contextmanager
def _threads(workers: int | None) -> Iterator[None]:
    before = numba.get_num_threads()
    numba.set_num_threads(min(workers or before, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)


class _Spread:
    """Standard deviation of values that come a few at a time."""

    def __init__(self) -> None:
        self.count = 0
        self.sums = np.zeros(2)

    def add(self, values: NDArray[np.floating[Any]]) -> None:
        self.count += values.size
        self.sums += values.sum(dtype=np.float64), np.square(values, dtype=np.float64).sum()

    @property
    def std(self) -> float | None:
        if not self.count:
            return None
        mean, square = self.sums / self.count
        return float(np.sqrt(max(square - mean**2, 0.0)))


def _read_series(folder: Path) -> tuple[CTSeries, dict[tuple[str, int], bytes], int]:
    """Return the one series in `folder`, its headers by place, and how many files are no slice of it."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    read = [entry for file in progress(files, "headers", unit="file") for entry in read_slices(folder, file)]
    broken = [entry for entry in read if isinstance(entry, SetAside) and entry.broken]
    if broken:
        raise CtbasisError(
            f"{broken[0].file} cannot be read: {broken[0].reason} ({len(broken)} such files)",
            expected="a whole series: noise for a part of it would not be comparable",
            remedy="fetch the series again, or take the damaged files out of the folder",
        )
    whole = {entry[0].place: entry for entry in read if not isinstance(entry, SetAside)}
    slices, _ = set_copies_aside(entry for entry, _ in whole.values())
    series = arrange(slices)
    if len(series) != 1:
        raise CtbasisError(
            f"{folder} holds {len(series)} CT series",
            expected="exactly one",
            cause="the folder is of a whole study" if series else "its files are no CT images",
            remedy="name the folder of one series",
        )
    ordered = series[0].slices
    return series[0], {entry.place: whole[entry.place][1] for entry in ordered}, len(files) - len(ordered)


def _noisy_slices(scan: _Scan, beam: ParallelBeam, spread: dict[str, _Spread]) -> Iterator[tuple[Stored, ...]]:
    """Yield the stored values of every slice with noise, and without where there are nodules; sum the noise up."""
    for first in range(0, len(scan.slices), BATCH):
        batch = scan.slices[first : first + BATCH]
        read = [_read_hu(scan.folder, entry) for entry in batch]
        clean = np.stack([hu for hu, _ in read])
        insert(clean, scan.nodules, scan.spacing, first=first)
        seen = np.where(np.stack([outside for _, outside in read]), np.float32(AIR), clean)
        noise = image_noise(seen, beam, scan.dose, first=first)
        for entry, hu, (source, outside), added in zip(batch, clean, read, noise, strict=True):
            spread["body"].add(added[(hu > TISSUE) & ~outside])
            spread["lung"].add(added[(hu > LUNG[0]) & (hu < LUNG[1]) & ~outside])
            kept = np.where(outside, source, np.float32(absent(np.float32)))
            images = (hu + added, hu) if scan.nodules else (hu + added,)
            yield tuple(_stored(image, kept, outside, entry) for image in images)


def _stored(hu: NDArray[np.float32], kept: NDArray[np.float32], outside: NDArray[np.bool_], entry: Slice) -> Stored:
    image = hu.astype(np.float32)
    restore(image, kept)
    return avoid_padding(store(image.reshape(-1), entry.pixels), ~outside.reshape(-1))


def _read_hu(folder: Path, entry: Slice) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return HU and where there is no measurement, each (rows, columns)."""
    try:
        values = read_values(folder, entry)
    except ValueError as error:
        raise CtbasisError(f"{entry.file}: {error}", remedy="fetch the series again") from error
    hu = np.empty(values.shape, np.float32)
    padded = np.empty(values.shape, np.bool_)
    to_hounsfield(values, entry.pixels, hu, padded)
    return hu, padded | (hu < OUTSIDE)


@dataclass(frozen=True)
class _Made:
    """What a series that is written is called.

    Attributes:
        derivation: What was done to it.
        suffix: Of its SeriesDescription.
        contribution: What this program did, in words.
        number: What its SeriesNumber is shifted by.
    """

    derivation: Derivation
    suffix: str
    contribution: str
    number: int


def _write_derived(source: Dataset, stored: Stored, made: _Made, path: Path) -> None:
    described = str(source.get("SeriesDescription") or "CT").strip()
    dataset = derive(source, stored, made.derivation)
    # `derive` names what it makes after a rank; this has none.
    dataset.SeriesDescription = described[: 64 - len(made.suffix)] + made.suffix
    dataset.SeriesNumber += made.number
    dataset.ContributingEquipmentSequence[-1].ContributionDescription = made.contribution
    dataset.save_as(path, enforce_file_format=True)


def dose_derivations(dose: Dose, beam: ParallelBeam, nodules: Sequence[InsertedNodule]) -> tuple[_Made, _Made]:
    """Return what the series with noise is called, and the one with the nodules alone."""
    version = importlib.metadata.version(PRODUCT)
    settings = f"{dose.photons!r} {dose.electronic!r} {dose.seed} {beam.views}"
    spheres = f" {[astuple(nodule) for nodule in nodules]}" if nodules else ""
    beyond = ""
    # What is switched off is not said, so that a series keeps its UIDs from version to version of this program.
    if dose.modulation:
        beyond += f", modulation {dose.modulation:g}"
    if dose.bow_tie:
        beyond += f", bow-tie {dose.bow_tie:g} mm"
    if dose.kernel != "hann":
        beyond += f", kernel {dose.kernel}"
    inserted = f" {len(nodules)} synthetic spheres inserted before." if nodules else ""
    noisy = Derivation(
        rank=0,
        version=version,
        description=(
            f"Simulated dose: noise of {dose.photons:g} photons a bin and view (electronic noise {dose.electronic:g}, "
            f"{beam.views} parallel views, seed {dose.seed}{beyond}) inserted in the projection domain; "
            f"{PRODUCT} {version}.{inserted} Not for diagnosis."
        ),
        fingerprint=hashlib.sha256(f"dose {version} {settings}{beyond}{spheres}".encode()).hexdigest(),
    )
    clean = Derivation(
        rank=0,
        version=version,
        description=f"{len(nodules)} synthetic spheres inserted; {PRODUCT} {version}. Not for diagnosis.",
        fingerprint=hashlib.sha256(f"nodules {version}{spheres}".encode()).hexdigest(),
    )
    return (
        _Made(noisy, f" - simulated dose, {dose.photons:g} photons", "Simulation of a lower dose", SERIES_NUMBER),
        _Made(clean, " - synthetic nodules", "Insertion of synthetic spheres", NODULE_SERIES_NUMBER),
    )
