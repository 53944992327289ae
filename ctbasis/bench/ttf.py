"""`ctbasis bench ttf`: how sharp denoisers leave the edge of disc inserts, by the contrast of the insert.

Two volumes have inserts of four contrasts: the phantom of ctbasis/simulate/inserts.py, whose slices are all alike, and
a chest, with rods drawn at random places of its soft tissue; or a series is that chest. Every method denoises them at
two doses, and the task-based transfer function (TTF, ctbasis/score/task/transfer.py) is measured over all slices.
Inserted noise does not blur, so the inserts are blurred before by a Gaussian of BLUR, as by the kernel of a
reconstruction.

f50 and f10 have the standard errors of a jackknife over GROUPS groups of neighbouring slices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from ctbasis.bench.denoisers import runnable
from ctbasis.bench.quality_cases import photons_for
from ctbasis.bench.task import background_of, methods_of, setting_text
from ctbasis.bench.task_cases import TaskSettings, phantom_background, with_noise
from ctbasis.bench.task_images import INPUT, setting_of
from ctbasis.errors import CtbasisError
from ctbasis.progress import progress
from ctbasis.score.task.transfer import REACH, TaskTransfer, transfers_by_contrast
from ctbasis.simulate.dose import Dose
from ctbasis.simulate.inserts import CONTRASTS, Insert, draw_inserts, insert_phantom
from ctbasis.simulate.projection import ParallelBeam

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.bench.quality_cases import Truth
    from ctbasis.simulate.nodules import Spacing

DOSES = (1.0, 0.25)
"""Doses relative to the full one."""

TRUTH = "truth"
"""Name of the rows of the volume without noise: the TTF of the pixels alone."""

PHANTOM_SLICES, PHANTOM_SIZE = 24, 256
"""Slices of the phantom with inserts, and its rows and columns."""

BLUR = 0.6
"""Standard deviation in mm of the blur of the inserts: f50 is 0.31/mm, as of a kernel for soft tissue."""

DIAMETER, LENGTH, BETWEEN = 10.0, 8, 3
"""Diameter in mm of the rods in a chest, the slices that a rod crosses, and slices between layers of rods."""

SOFT = -300.0
"""HU above which a pixel is soft tissue or bone, in which rods are drawn."""

APART = 24.0
"""Smallest distance in mm between the centres of two rods of a layer: no edge reaches another rod."""

GROUPS = 8
"""Groups of neighbouring slices of the jackknife."""


@dataclass(frozen=True)
class InsertCase:
    """A volume with inserts.

    Attributes:
        name: Name in the tables.
        sharp: Volume with the inserts as they are, HU, (slices, rows, columns).
        hu: The same with blurred inserts and without noise.
        spacing: mm between slices, rows and columns.
        inserts: The inserts.
        beam: Projection in which noise is inserted.
        photons: Photons of the full dose.
        seed: Seed of the noise.
    """

    name: str
    sharp: NDArray[np.float32]
    hu: NDArray[np.float32]
    spacing: Spacing
    inserts: tuple[Insert, ...]
    beam: ParallelBeam
    photons: float
    seed: int

    @classmethod
    def of(
        cls,
        name: str,
        sharp: NDArray[np.float32],
        hu: NDArray[np.float32],
        spacing: Spacing,
        inserts: tuple[Insert, ...],
        settings: TaskSettings,
    ) -> Self:
        """Return a case with the photons that give the noise of the settings."""
        beam = ParallelBeam.around((hu.shape[1], hu.shape[2]), spacing[1:])
        photons = photons_for(settings.level, hu, beam, "hann")
        return cls(name, sharp, hu, spacing, inserts, beam, photons, settings.seed)


def bench_ttf(series: Path | None, settings: TaskSettings | None = None) -> list[dict[str, Any]]:
    """Measure the TTF by contrast for all methods.

    Args:
        series: Folder of a CT series in whose soft tissue rods are drawn; by default the phantom with inserts and a
            phantom of a chest are measured.
        settings: Noise in the body at the full dose, methods, slices of the chest, and seed.

    Returns:
        A row for each background, method, dose and contrast: background, method, setting, dose (None for the truth),
        contrast_hu, count (of inserts), recovered, f50, f50_error, f10, f10_error (1/mm; None where the TTF stays above
        the level up to the Nyquist frequency), nyquist and series (whether one was given). A peer that is not installed
        has a row whose setting says so.

    Raises:
        CtbasisError: The series is none, or has no room for a rod of each contrast.
    """
    settings = settings or TaskSettings()
    background = background_of(series, settings)
    cases = [] if background else [phantom_case(settings)]
    rows = measure_inserts([*cases, drawn_case(background or phantom_background(settings), settings)], settings)
    return [{**row, "series": series is not None} for row in rows]


def measure_inserts(cases: list[InsertCase], settings: TaskSettings) -> list[dict[str, Any]]:
    """Run all methods on volumes with inserts, and return the rows of `bench_ttf`."""
    _, rows = runnable("ttf", methods_of(settings, PHANTOM_SLICES), PHANTOM_SLICES)
    work = [(case, dose) for case in cases for dose in (None, *DOSES)]
    for case, dose in progress(work, "bench: ttf", unit="dose"):
        for method, image in _images(case, dose, settings):
            own: dict[str, Any] = {
                "bench": "ttf",
                "background": case.name,
                "method": method,
                "setting": "",
                "dose": dose,
            }
            rows += [{**own, "setting": setting_text(method), **values} for values in measured(case, image)]
    return rows


def phantom_case(settings: TaskSettings, slices: int = PHANTOM_SLICES, size: int = PHANTOM_SIZE) -> InsertCase:
    """Return the phantom with inserts."""
    phantom = insert_phantom(slices, size)
    hu = _blurred(phantom.hu, phantom.spacing)
    return InsertCase.of("phantom with inserts", phantom.hu, hu, phantom.spacing, phantom.inserts, settings)


def drawn_case(background: Truth, settings: TaskSettings) -> InsertCase:
    """Draw rods of all contrasts into the soft tissue of a volume, at random places, equally many of each.

    Raises:
        CtbasisError: There is no room for a rod of each contrast.
    """
    places = _places(background, settings.seed)
    count = len(places) // len(CONTRASTS) * len(CONTRASTS)
    if not count:
        raise CtbasisError(
            f"{background.name} has room for {len(places)} rods of {DIAMETER:g} mm",
            expected=f"at least {len(CONTRASTS)} places in soft tissue",
            cause="the slices show lung, or are too few",
        )
    inserts = tuple(
        Insert(row, column, DIAMETER, CONTRASTS[number % len(CONTRASTS)], slices)
        for number, (row, column, slices) in enumerate(places[:count])
    )
    signal = np.zeros_like(background.hu)
    draw_inserts(signal, inserts, background.spacing[1:])
    sharp, hu = background.hu + signal, background.hu + _blurred(signal, background.spacing)
    return InsertCase.of(f"inserts in {background.name}", sharp, hu, background.spacing, inserts, settings)


def _blurred(hu: NDArray[np.float32], spacing: Spacing) -> NDArray[np.float32]:
    return np.asarray(gaussian_filter(hu, (0, BLUR / spacing[1], BLUR / spacing[2])), np.float32)


def _places(background: Truth, seed: int) -> list[tuple[float, float, range]]:
    """Return centres, between pixels, and slices of rods in random order."""
    rng = np.random.default_rng([seed, 3])
    spacing = background.spacing[1:]
    found: list[tuple[float, float, range]] = []
    for z in range(0, len(background.hu) - LENGTH + 1, LENGTH + BETWEEN):
        soft = (background.hu[z : z + LENGTH] > SOFT).all(axis=0)
        # The edge of the image is no tissue.
        far = distance_transform_edt(np.pad(soft, 1), sampling=spacing)[1:-1, 1:-1]
        layer: list[NDArray[np.float64]] = []
        for place in rng.permutation(np.argwhere(far > DIAMETER / 2 + REACH + max(spacing))):
            if all(np.hypot(*((place - other) * spacing)) >= APART for other in layer):
                # Anywhere within the pixel: edges are sampled at all distances.
                layer.append(place + rng.uniform(-0.5, 0.5, 2))
        found += [(float(row), float(column), range(z, z + LENGTH)) for row, column in layer]
    return [found[index] for index in rng.permutation(len(found))]


def _images(case: InsertCase, dose: float | None, settings: TaskSettings) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the truth without a dose; with one, the unprocessed volume and what every method makes of it."""
    if dose is None:
        yield TRUTH, case.hu
        return
    seed = case.seed + round(1000 * dose)
    noisy = with_noise(case.hu, case.spacing, case.beam, Dose(case.photons * dose, seed=seed))
    yield INPUT, noisy.hu
    usable, _ = runnable("ttf", methods_of(settings, len(case.hu)), len(case.hu))
    for method in usable:
        yield method.name, method.run(noisy, setting_of(method))[0]


def measured(case: InsertCase, image: NDArray[np.float32]) -> list[dict[str, Any]]:
    """Return the columns of `bench_ttf` from contrast_hu on, for every contrast."""
    pixels = case.spacing[1:]
    groups = []
    for group in np.array_split(np.arange(len(case.hu)), GROUPS):
        transfers = transfers_by_contrast(case.inserts, pixels)
        for transfer, z in product(transfers, group.tolist()):
            transfer.add(z, case.sharp[z], image[z])
        groups.append(transfers)
    nyquist = 0.5 / min(pixels)
    return [
        {**TaskTransfer.of_parts(parts).to_dict(), **_errors(parts), "nyquist": nyquist}
        for parts in zip(*groups, strict=True)
    ]


def _errors(parts: Sequence[TaskTransfer]) -> dict[str, float | None]:
    """Return the jackknife's standard errors of f50 and f10; None if one of the samples has no value."""
    left_out = [TaskTransfer.of_parts([*parts[:out], *parts[out + 1 :]]).to_dict() for out in range(len(parts))]
    errors: dict[str, float | None] = {}
    for key in ("f50", "f10"):
        values = [sample[key] for sample in left_out]
        known = [value for value in values if value is not None]
        spread = math.sqrt((len(known) - 1) * float(np.var(known))) if known else None
        errors[f"{key}_error"] = spread if len(known) == len(values) else None
    return errors
