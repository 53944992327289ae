"""A CT series with the noise of a lower dose, read from and written to a folder of DICOM files.

The noise is that of ctbasis/simulate/dose.py. Synthetic nodules can be inserted before it, and are then in the truth
too.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from ctbasis.dicom.derived_series import (
    INSERTED_NODULES,
    PRODUCT,
    SIMULATED_DOSE,
    Derivation,
    SeriesKind,
    derive,
    read_header,
)
from ctbasis.dicom.hounsfield import to_hounsfield
from ctbasis.dicom.instance import read_slices, read_values
from ctbasis.dicom.series import arrange, set_copies_aside
from ctbasis.dicom.set_aside import SetAside
from ctbasis.dicom.source_series import SourceSeries
from ctbasis.dicom.stored_values import StoredImage, avoid_padding, to_stored_values
from ctbasis.errors import CtbasisError
from ctbasis.progress import progress
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.nodules import NODULES, check_places, insert, place, read_nodules, write_nodules
from ctbasis.simulate.projection import ParallelBeam
from ctbasis.storage.outputs import Nothing, refuse_foreign, replaced
from ctbasis.storage.paths import refuse_overlap
from ctbasis.storage.voxels import AIR, absent
from ctbasis.svd.rank_k import restore_set_aside

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ctbasis.dicom.instance import Slice
    from ctbasis.dicom.series import CTSeries
    from ctbasis.simulate.nodules import InsertedNodule, Spacing
    from ctbasis.simulate.projection import Kernel

OUTSIDE = -1500.0
"""HU below which a voxel is no measurement, whether or not PixelPaddingValue declares it."""

TISSUE = -300.0
"""HU above which a voxel counts as body in the statistics of the noise."""

LUNG = (-950.0, -600.0)
"""Range of HU in which a voxel counts as lung in the statistics of the noise."""

SERIES_NUMBER, NODULE_SERIES_NUMBER = 9001, 9002
"""`SeriesKind.number` of the series with noise and of the one with nodules; unlikely to be a rank."""

FEWEST_SLICES = 3
"""Smallest number of slices into which a sphere is inserted."""

BATCH = 16
"""Slices that are projected together: enough to fill vector registers, few enough for the cache."""

MOST = 100_000
"""Largest number of views, threads or nodules; the views of a slice of 512 x 512 then take 0.3 GB."""


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
    """Write a copy of a series with the noise of a lower dose.

    Study, frame of reference and geometry are those of the source. UIDs of the series and its instances are new; they
    are derived from the UIDs of the source and the settings, so the same call gives the same series. Padding is kept,
    and values are clipped to the range of BitsStored.

    Args:
        folder: Folder with one DICOM CT series, in it or in folders below it.
        out: New folder for the noisy series; after an error it does not exist.
        photons: I0, see `Dose`.
        electronic: sigma_e, see `Dose`.
        views: Number of projection angles over half a turn; by default pi/2 times the number of columns. The noise is
            inversely proportional to its square root, as with photons.
        seed: Seed of the noise and of the positions of nodules.
        modulation: Tube-current modulation, see `Dose`.
        bow_tie: Radius in mm, see `Dose`.
        kernel: Kernel of the reconstruction, see `Dose`.
        nodules: Spheres to insert before the noise: a JSON file as `nodules.read_nodules` reads it, or the number of
            spheres of every diameter and contrast (`nodules.DIAMETERS`, `CONTRASTS`) to place in the lungs.
        truth: New folder for the series with nodules and without noise, and for nodules.json.
        workers: Number of threads; by default one per core. The files do not depend on it.

    Returns:
        The settings, the numbers of slices and of files that are no slice, and the standard deviation of the added
        noise in HU over body (above TISSUE) and lung (within LUNG), or None if there is no such voxel.

    Raises:
        CtbasisError: A setting is out of bounds, `folder` does not hold exactly one CT series, a slice cannot be read,
            a nodule is outside the body, or a folder to write exists and is not empty.
    """
    dose = Dose(photons, electronic, seed, modulation=modulation, bow_tie=bow_tie, kernel=kernel)
    _check(views=views, workers=workers)
    folders = _folders(folder, out, nodules, truth)
    # An invalid list of nodules is refused before thousands of slices are read.
    listed = read_nodules(nodules) if isinstance(nodules, Path) else None
    series, headers, aside = _read_series(folder)
    scan = _Scan(folder, series.slices, _spacing(series, nodules), dose)
    beam = ParallelBeam.around(series.image, scan.spacing[1:], views)
    if nodules is not None:
        scan.nodules = _placed(scan, listed, nodules, seed)
    added_noise = {"body": _StandardDeviation(), "lung": _StandardDeviation()}
    with replaced(folders, ours=Nothing()) as parts:
        for part in parts:
            part.mkdir()
        _write(scan, beam, headers, parts, added_noise, workers)
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
        "noise_hu": {name: entry.std for name, entry in added_noise.items()},
    }


def _check(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and not 1 <= value <= MOST:
            raise CtbasisError(f"{name} is {value}", expected=f"a whole number from 1 to {MOST}")


def _folders(folder: Path, out: Path, nodules: Path | int | None, truth: Path | None) -> list[Path]:
    """Return the folders to write: for the noisy series and, with nodules, for the truth."""
    if (nodules is None) != (truth is None):
        raise CtbasisError(
            "nodules are given without truth, or truth without nodules",
            expected="both: a score compares with a series that holds the nodules",
            remedy="give --nodules and --truth-out together",
        )
    _check(nodules=nodules if isinstance(nodules, int) else None)
    folders = [out] if truth is None else [out, truth]
    for entry in folders:
        refuse_overlap(entry, [folder])
        refuse_foreign(entry, Nothing())
    return folders


def _write(
    scan: _Scan,
    beam: ParallelBeam,
    headers: Mapping[tuple[str, int], bytes],
    parts: Sequence[Path],
    added_noise: dict[str, _StandardDeviation],
    workers: int | None,
) -> None:
    """Write the noisy series into the first of `parts`, and the series with nodules only into the second."""
    derivations = derivations_of(scan.dose, beam, scan.nodules)
    first = scan.slices[0]
    series = SourceSeries.of(first.SeriesInstanceUID, headers[first.place])
    # Everything that computes here runs in numba's threads.
    with _threads(workers):
        images = _noisy_slices(scan, beam, added_noise)
        for index, stored in enumerate(progress(images, "low dose", total=len(scan.slices), unit="slice")):
            header = headers[scan.slices[index].place]
            for part, values, derivation in zip(parts, stored, derivations, strict=False):
                dataset = derive(read_header(header), values, derivation, series=series, number=index + 1)
                dataset.save_as(part / f"{index + 1:05d}.dcm", enforce_file_format=True)
    if len(parts) > 1:
        write_nodules(scan.nodules, parts[1] / NODULES)


@dataclass
class _Scan:
    """The source series, the simulated dose and the inserted nodules.

    Attributes:
        folder: Folder of the files.
        slices: The slices in order.
        spacing: mm between slices, rows and columns.
        dose: The simulated dose.
        nodules: The inserted spheres.
    """

    folder: Path
    slices: tuple[Slice, ...]
    spacing: Spacing
    dose: Dose
    nodules: Sequence[InsertedNodule] = ()

    def images(self) -> Iterator[NDArray[np.float32]]:
        """Yield the slices in HU, (rows, columns), with air where there is no measurement."""
        for entry in self.slices:
            hu, outside = _read_hu(self.folder, entry)
            yield np.where(outside, np.float32(AIR), hu)


def _spacing(series: CTSeries, nodules: Path | int | None) -> Spacing:
    if nodules is not None and (len(series.slices) < FEWEST_SLICES or series.gaps):
        raise CtbasisError(
            f"nodules are to be inserted into {len(series.slices)} slices with {len(series.gaps)} gaps",
            expected=f"at least {FEWEST_SLICES} slices and no gap, because a sphere extends over several slices",
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


@contextmanager
def _threads(workers: int | None) -> Iterator[None]:
    before = numba.get_num_threads()
    numba.set_num_threads(min(workers or before, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)


class _StandardDeviation:
    """Standard deviation of values that arrive in batches."""

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
    """Return the one series in `folder`, its headers by place, and the number of files that are no slice of it."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    read = [entry for file in progress(files, "headers", unit="file") for entry in read_slices(folder, file)]
    broken = [entry for entry in read if isinstance(entry, SetAside) and entry.broken]
    if broken:
        raise CtbasisError(
            f"{broken[0].file} cannot be read: {broken[0].reason} ({len(broken)} such files)",
            expected="a complete series, because the noise of an incomplete one is not comparable",
            cause="the file is damaged",
            remedy="fetch the series again, or remove the damaged files from the folder",
        )
    whole = {entry[0].place: entry for entry in read if not isinstance(entry, SetAside)}
    slices, _ = set_copies_aside(entry for entry, _ in whole.values())
    series = arrange(slices)
    if len(series) != 1:
        raise CtbasisError(
            f"{folder} holds {len(series)} CT series",
            expected="exactly one",
            cause="the folder holds a whole study" if series else "its files are no CT images",
            remedy="name the folder of one series",
        )
    ordered = series[0].slices
    return series[0], {entry.place: whole[entry.place][1] for entry in ordered}, len(files) - len(ordered)


def _noisy_slices(
    scan: _Scan, beam: ParallelBeam, added_noise: dict[str, _StandardDeviation]
) -> Iterator[tuple[StoredImage, ...]]:
    """Yield the stored values of every slice with noise, with nodules also those without; add up the noise."""
    for first in range(0, len(scan.slices), BATCH):
        batch = scan.slices[first : first + BATCH]
        read = [_read_hu(scan.folder, entry) for entry in batch]
        clean = np.stack([hu for hu, _ in read])
        insert(clean, scan.nodules, scan.spacing, first=first)
        measured = np.where(np.stack([outside for _, outside in read]), np.float32(AIR), clean)
        noise = image_noise(measured, beam, scan.dose, first=first)
        for entry, hu, (source, outside), added in zip(batch, clean, read, noise, strict=True):
            added_noise["body"].add(added[(hu > TISSUE) & ~outside])
            added_noise["lung"].add(added[(hu > LUNG[0]) & (hu < LUNG[1]) & ~outside])
            padding = np.where(outside, source, np.float32(absent(np.float32)))
            images = (hu + added, hu) if scan.nodules else (hu + added,)
            yield tuple(_stored(image, padding, outside, entry) for image in images)


def _stored(
    hu: NDArray[np.float32], padding: NDArray[np.float32], outside: NDArray[np.bool_], entry: Slice
) -> StoredImage:
    image = hu.astype(np.float32)
    restore_set_aside(image, padding)
    return avoid_padding(to_stored_values(image.reshape(-1), entry.pixels), ~outside.reshape(-1))


def _read_hu(folder: Path, entry: Slice) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return HU and a mask of the voxels without a measurement, each (rows, columns)."""
    try:
        values = read_values(folder, entry)
    except ValueError as error:
        raise CtbasisError(f"{entry.file}: {error}", remedy="fetch the series again") from error
    hu = np.empty(values.shape, np.float32)
    padded = np.empty(values.shape, np.bool_)
    to_hounsfield(values, entry.pixels, hu, padded)
    return hu, padded | (hu < OUTSIDE)


def derivations_of(dose: Dose, beam: ParallelBeam, nodules: Sequence[InsertedNodule]) -> tuple[Derivation, Derivation]:
    """Return the derivations of the series with noise and of the series with nodules only."""
    version = importlib.metadata.version(PRODUCT)
    settings = f"{dose.photons!r} {dose.electronic!r} {dose.seed} {beam.views}"
    spheres = f" {[astuple(nodule) for nodule in nodules]}" if nodules else ""
    beyond = ""
    # Settings that are off are not listed, so that UIDs stay the same when a version adds a setting.
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
        kind=SeriesKind(
            f"simulated dose, {dose.photons:g} photons", SERIES_NUMBER, "Simulation of a lower dose", SIMULATED_DOSE
        ),
    )
    clean = Derivation(
        rank=0,
        version=version,
        description=f"{len(nodules)} synthetic spheres inserted; {PRODUCT} {version}. Not for diagnosis.",
        fingerprint=hashlib.sha256(f"nodules {version}{spheres}".encode()).hexdigest(),
        kind=SeriesKind("synthetic nodules", NODULE_SERIES_NUMBER, "Insertion of synthetic spheres", INSERTED_NODULES),
    )
    return noisy, clean
