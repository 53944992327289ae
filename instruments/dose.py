"""A lower dose than a CT series was taken with: noise inserted where it arises, in the projections.

    p        = line integrals of the series' mu
    p_noisy  = -log(max(Poisson(I0 exp(-p)) + N(0, sigma_e), 1) / I0)
    noisy    = series + FBP(p_noisy - p)

Only the noise passes through the reconstruction, so the anatomy stays as sharp as it was, and the noise has the
texture, the streaks along dense rays and the correlation between voxels that it has in a scan. The series keeps the
noise that it came with: a lower dose is simulated, not one that is known absolutely. The beam is parallel and of one
energy, the tube current constant.

References:
    L. Yu, M. Shiung, D. Jondal, C. H. McCollough, "Development and validation of a practical lower-dose-simulation tool
        for optimizing computed tomography scan protocols", J. Comput. Assist. Tomogr. 36(4), 477-487, 2012.
    D. Zeng et al., "A simple low-dose x-ray CT simulation from high-dose scan", IEEE Trans. Nucl. Sci. 62(5),
        2226-2233, 2015.
    J. Leuschner, M. Schmidt, D. O. Baguer, P. Maass, "LoDoPaB-CT, a benchmark dataset for low-dose computed tomography
        reconstruction", Scientific Data 8, 109, 2021.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.errors import CtbasisError
from components.matrix.hounsfield import to_hounsfield
from components.matrix.instance import read_slices, read_values
from components.matrix.series import arrange, set_copies_aside
from components.matrix.store import AIR, absent
from components.matrix.unfit import SetAside
from components.progress import progress
from components.reconstruct.derived_series import PRODUCT, Derivation, derive, read_header
from components.reconstruct.rank_k import restore
from components.reconstruct.stored import Stored, store
from instruments.projection import ParallelBeam, project, reconstruct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from components.matrix.instance import Slice

MU_WATER = 0.02
"""Attenuation of water at CT's effective energy of about 65 keV, 1/mm."""

OUTSIDE = -1500.0
"""HU below which a voxel is no measurement, whether or not PixelPaddingValue says so."""

TISSUE = -300.0
"""HU above which a voxel counts as body when the noise is summed up; LUNG is the range that counts as lung."""

LUNG = (-950.0, -600.0)

SERIES_NUMBER = 9001
"""Added to what `derive` makes of the source's SeriesNumber, so that no rank's series has the same."""

MOST_PHOTONS = 1e15
"""What a Poisson draw still counts exactly; its noise is far below what a voxel stores."""

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

    Raises:
        CtbasisError: `photons` is not positive, `electronic` or `seed` is negative, or one is not finite.
    """

    photons: float
    electronic: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.photons <= MOST_PHOTONS:
            raise CtbasisError(f"photons is {self.photons}", expected=f"above 0, at most {MOST_PHOTONS:g}, such as 6e4")
        if not (math.isfinite(self.electronic) and self.electronic >= 0):
            raise CtbasisError(f"electronic is {self.electronic}", expected="a number, at least 0")
        if self.seed < 0:
            raise CtbasisError(f"seed is {self.seed}", expected="a whole number, at least 0")


def projection_noise(p: NDArray[np.floating[Any]], dose: Dose, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw p_noisy - p, of the shape of `p`.

    Its variance is exp(p) / I0 + (sigma_e exp(p) / I0)^2 to first order in the noise.

    Args:
        p: Line integrals.
        dose: I0 and sigma_e.
        rng: What draws.
    """
    expected = np.asarray(p, np.float64)
    counts = rng.poisson(dose.photons * np.exp(-expected)) + rng.normal(0.0, dose.electronic, expected.shape)
    # A detector that reads nothing or less still has to be given a logarithm: one photon, as in LoDoPaB-CT.
    return np.asarray(-np.log(np.maximum(counts, 1.0) / dose.photons) - expected)


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
        p[..., index] = projection_noise(p[..., index], dose, rng)

    # NumPy's generators let go of the interpreter's lock.
    with ThreadPoolExecutor() as pool:
        list(pool.map(draw, range(len(hu))))
    return np.ascontiguousarray(np.moveaxis(reconstruct(p, beam), -1, 0)) * np.float32(1000.0 / MU_WATER)


def simulate_low_dose(
    folder: Path, out: Path, *, photons: float = 6e4, electronic: float = 10, views: int | None = None, seed: int = 0
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
        seed: Of the noise.

    Returns:
        The settings, the number of slices and files set aside, and the noise that was added as standard deviations in
        HU over body (above TISSUE) and lung (within LUNG); None where there is no such voxel.

    Raises:
        CtbasisError: The settings are impossible, `folder` does not hold exactly one CT series, a slice of it cannot be
            read, or `out` exists and is not empty.
    """
    dose = Dose(photons=photons, electronic=electronic, seed=seed)
    if views is not None and views < 1:
        raise CtbasisError(f"views is {views}", expected="a whole number, at least 1")
    if out.exists() and any(out.iterdir()):
        raise CtbasisError(f"{out} is not empty", expected="a new folder", remedy="name another one or remove it")
    slices, headers, aside = _read_series(folder)
    spacing = slices[0].PixelSpacing
    beam = ParallelBeam.around((slices[0].Rows, slices[0].Columns), (spacing[0], spacing[1]), views)
    derivation = _derivation(dose, beam)
    spread = {"body": _Spread(), "lung": _Spread()}
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    part.chmod(0o755)
    try:
        noisy = _noisy_slices(folder, slices, beam, dose, spread)
        for index, stored in enumerate(progress(noisy, "low dose", total=len(slices), unit="slice")):
            source = read_header(headers[slices[index].place])
            _write_derived(source, stored, derivation, dose, part / f"{index + 1:05d}.dcm")
        part.replace(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return {
        "slices": len(slices),
        "set_aside": aside,
        "photons": photons,
        "electronic": electronic,
        "views": beam.views,
        "seed": seed,
        "noise_hu": {name: entry.std for name, entry in spread.items()},
    }


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


def _read_series(folder: Path) -> tuple[tuple[Slice, ...], dict[tuple[str, int], bytes], int]:
    """Return the slices of the one series in `folder` in order, their headers by place, and how many files are none."""
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
    return ordered, {entry.place: whole[entry.place][1] for entry in ordered}, len(files) - len(ordered)


def _noisy_slices(
    folder: Path, slices: tuple[Slice, ...], beam: ParallelBeam, dose: Dose, spread: dict[str, _Spread]
) -> Iterator[Stored]:
    """Yield the stored values of every slice with noise, and sum the noise up in `spread`."""
    for first in range(0, len(slices), BATCH):
        batch = slices[first : first + BATCH]
        read = [_read_hu(folder, entry) for entry in batch]
        seen = np.stack([np.where(outside, np.float32(AIR), hu) for hu, outside in read])
        noise = image_noise(seen, beam, dose, first=first)
        for entry, (hu, outside), added in zip(batch, read, noise, strict=True):
            spread["body"].add(added[(hu > TISSUE) & ~outside])
            spread["lung"].add(added[(hu > LUNG[0]) & (hu < LUNG[1]) & ~outside])
            noisy = (hu + added).astype(np.float32)
            restore(noisy, np.where(outside, hu, np.float32(absent(np.float32))))
            yield _off_padding(store(noisy.reshape(-1), entry.pixels), outside.reshape(-1))


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


def _off_padding(stored: Stored, outside: NDArray[np.bool_]) -> Stored:
    """Move what noise made equal to the padding value next to it: it is a measurement still."""
    if stored.padding is not None:
        first, last = stored.padding
        values = stored.values
        beside = last + 1 if last < np.iinfo(values.dtype).max else first - 1
        values[~outside & (values >= first) & (values <= last)] = beside
    return stored


def _write_derived(source: Dataset, stored: Stored, derivation: Derivation, dose: Dose, path: Path) -> None:
    described = str(source.get("SeriesDescription") or "CT").strip()
    dataset = derive(source, stored, derivation)
    # `derive` names what it makes after a rank; this has none.
    suffix = f" - simulated dose, {dose.photons:g} photons"
    dataset.SeriesDescription = described[: 64 - len(suffix)] + suffix
    dataset.SeriesNumber += SERIES_NUMBER
    dataset.ContributingEquipmentSequence[-1].ContributionDescription = "Simulation of a lower dose"
    dataset.save_as(path, enforce_file_format=True)


def _derivation(dose: Dose, beam: ParallelBeam) -> Derivation:
    version = importlib.metadata.version(PRODUCT)
    settings = f"{dose.photons!r} {dose.electronic!r} {dose.seed} {beam.views}"
    return Derivation(
        rank=0,
        version=version,
        description=(
            f"Simulated dose: noise of {dose.photons:g} photons a bin and view (electronic noise {dose.electronic:g}, "
            f"{beam.views} parallel views, seed {dose.seed}) inserted in the projection domain; {PRODUCT} {version}. "
            "Not for diagnosis."
        ),
        fingerprint=hashlib.sha256(f"dose {version} {settings}".encode()).hexdigest(),
    )
