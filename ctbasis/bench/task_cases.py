"""Cases of `ctbasis bench task`: backgrounds with signals at known sites, at several doses, in many noise realisations.

The background is a range of slices of a chest phantom with structured soft tissue, or of a series. Signals are discs
and ellipses, two slices thick, at sites in soft tissue. A site belongs to one task; in half of the realisations it
shows the one pattern of the task, in the other half the other. Sites are far enough apart that no region of interest
holds the signal of another one, so all regions of all realisations are independent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from scipy.ndimage import distance_transform_edt

from ctbasis.bench.denoisers import METHODS, NoisyVolume
from ctbasis.bench.quality_cases import Truth, crop_to_patient, noise_power, photons_for
from ctbasis.errors import CtbasisError
from ctbasis.report.quality import TISSUE
from ctbasis.score.task.channels import difference_of_gaussians, gabor, laguerre_gauss
from ctbasis.score.task.observers import npwe_template
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.inserts import Insert, draw_inserts
from ctbasis.simulate.phantom import chest
from ctbasis.simulate.projection import ParallelBeam

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctbasis.simulate.nodules import Spacing

DOSES = (1.0, 0.5, 0.25)
"""Doses at which all methods run, relative to the full dose."""

INPUT_DOSES = (2.0, *DOSES, 0.125)
"""Doses at which the unprocessed images are measured."""

LEVEL = 24.0
"""Noise in the body at the full dose, HU."""

SLICES, PHANTOM_SLICES, SPACING = 44, 100, 2.5
"""Slices of a case, slices of the whole chest, and mm between them: the case shows liver and heart."""

THICK = 2
"""Slices that a signal crosses; the first one is scored."""

LAYER = 4
"""Slices between layers of sites: two more than a signal is thick, so that patches of three slices see one layer."""

FIRST = 4
"""Slices before the first layer, and at least as many after the last."""

EDGE = 16
"""Rows and columns of a region of interest."""

APART = 18.0
"""Smallest distance in mm, along rows or along columns, between two sites of a layer: no region of interest of 24 mm
holds a signal of 10 mm at another site."""

SOFT, CLEAR = (-60.0, 140.0), 7.5
"""Range of HU of the background within CLEAR mm of a site."""

REGION = (66.0, 90.0)
"""Largest distance in mm of a site from the middle of the image, along rows and columns: BM3D and BM4D get a window."""

MARGIN = 12
"""Pixels of the window beyond the outermost sites."""

CHANNEL_WIDTH, CHANNELS = 12.0, 6
"""Width a in mm and number of the Laguerre-Gauss channels of symmetric tasks."""

ORIENTATIONS = 4
"""Directions of the Gabor channels."""

Channels: TypeAlias = Literal["auto", "laguerre-gauss", "dog", "gabor"]
"""Channels of the CHO; `auto` are Laguerre-Gauss channels, and Gabor channels for tasks about shape."""

DEFAULT: Channels = "auto"
"""Channels by default."""

CHANNEL_NAMES: dict[str, str] = {"laguerre-gauss": "Laguerre-Gauss", "dog": "DoG", "gabor": "Gabor"}
"""Names of channels in the tables."""

MOST_INTERNAL = 100.0
"""Largest internal noise, in standard deviations of the decision variable."""


@dataclass(frozen=True)
class Pattern:
    """A signal: diameter in mm, contrast in HU, and aspect, as of `Insert`."""

    diameter_mm: float
    contrast_hu: float
    aspect: float = 1.0

    def at(self, site: Site) -> Insert:
        """Return the signal at a site."""
        slices = range(site.slice, site.slice + THICK)
        return Insert(site.row + 0.5, site.column + 0.5, self.diameter_mm, self.contrast_hu, slices, self.aspect)


@dataclass(frozen=True)
class Task:
    """A task of an observer: which of two patterns is it?

    Attributes:
        name: Name in the tables.
        one: The one pattern.
        other: The other pattern; None for detection.
    """

    name: str
    one: Pattern
    other: Pattern | None = None

    @property
    def directed(self) -> bool:
        """Whether the patterns differ by direction, which only channels with a direction see."""
        return self.other is not None and self.other.aspect != self.one.aspect

    def difference(self, pixel_spacing: tuple[float, float]) -> NDArray[np.float64]:
        """Return the one pattern minus the other in a region of interest, HU, (EDGE, EDGE)."""
        image = np.zeros((1, EDGE, EDGE))
        middle = Site(0, EDGE // 2 - 1, EDGE // 2 - 1)
        draw_inserts(image, [self.one.at(middle)], pixel_spacing)
        if self.other is not None:
            without = np.zeros_like(image)
            draw_inserts(without, [self.other.at(middle)], pixel_spacing)
            image -= without
        return np.asarray(image[0])

    def observers(
        self, pixel_spacing: tuple[float, float], channels: Sequence[Channels] = (DEFAULT,)
    ) -> dict[str, NDArray[np.float64]]:
        """Return the channels of the observers by name, each (channels, EDGE, EDGE).

        Args:
            pixel_spacing: mm between rows and between columns.
            channels: Channels of the CHOs. Symmetric channels do not see a direction, so a directed task has none with
                them.
        """
        width = CHANNEL_WIDTH / min(pixel_spacing)
        made: dict[str, NDArray[np.float64]] = {}
        for kind in channels:
            name = "CHO" if kind == DEFAULT else f"CHO, {CHANNEL_NAMES[kind]}"
            if kind == "gabor" or (kind == DEFAULT and self.directed):
                made[name] = gabor(EDGE, ORIENTATIONS, (0.0,))
            elif not self.directed:
                made[name] = difference_of_gaussians(EDGE) if kind == "dog" else laguerre_gauss(EDGE, width, CHANNELS)
        return {**made, "NPWE": npwe_template(self.difference(pixel_spacing), pixel_spacing)}


TASKS = (
    Task("detect 4 mm, -50 HU", Pattern(4.0, -50.0)),
    Task("detect 10 mm, -20 HU", Pattern(10.0, -20.0)),
    Task("shape of 8 mm, -50 HU", Pattern(8.0, -50.0), Pattern(8.0, -50.0, aspect=2.0)),
)
"""Tasks by default: detection of a small and of a large faint signal, and disc against ellipse of equal area."""

KNOWN = {
    "detect-4mm": TASKS[0],
    "detect-10mm": TASKS[1],
    "shape-8mm": TASKS[2],
    "detect-3mm": Task("detect 3 mm, -50 HU", Pattern(3.0, -50.0)),
    "size-8mm": Task("size of 8 mm or 6 mm, -50 HU", Pattern(8.0, -50.0), Pattern(6.0, -50.0)),
}
"""Values of `--task`. A disc of 3 mm is two pixels of the phantom wide, which blur it; one of 4 mm is the default."""


@dataclass(frozen=True)
class TaskSettings:
    """Settings of `ctbasis bench task`.

    Attributes:
        level: Noise in the body at the full dose, HU.
        realisations: Noise realisations of the whole volume at every dose, an even number of at least 4.
        methods: Methods, some of `ctbasis.bench.denoisers.METHODS`.
        slices: Slices of the phantom.
        seed: Seed of phantom, sites and noise.
        fewer: Methods that get fewer realisations, because they are slow, and their realisations.
        tasks: Names in KNOWN; more tasks share the same sites.
        channels: Channels of the channelized Hotelling observers.
        internal_noise: Internal noise of all observers, see `hotelling`.

    Raises:
        CtbasisError: A setting is out of bounds or unknown.
    """

    level: float = LEVEL
    realisations: int = 4
    methods: Sequence[str] = tuple(name for name in METHODS if name not in {"gaussian", "mp-pca", "patch one stage"})
    slices: int = SLICES
    seed: int = 0
    fewer: Sequence[tuple[str, int]] = ()
    tasks: Sequence[str] = tuple(name for name, task in KNOWN.items() if task in TASKS)
    channels: Sequence[Channels] = (DEFAULT,)
    internal_noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1000:  # noqa: PLR2004 - HU
            raise CtbasisError(f"the noise level is {self.level}", expected="HU of noise in the body, such as 24")
        for count in (self.realisations, *(count for _, count in self.fewer)):
            if count < 4 or count % 2:  # noqa: PLR2004 - two of each pattern
                raise CtbasisError(f"realisations is {count}", expected="an even number, at least 4")
        if self.slices < 2 * FIRST + THICK:
            raise CtbasisError(f"slices is {self.slices}", expected=f"at least {2 * FIRST + THICK}")
        if not 0 <= self.internal_noise <= MOST_INTERNAL:
            raise CtbasisError(
                f"the internal noise is {self.internal_noise}", expected=f"a number from 0 to {MOST_INTERNAL:g}"
            )
        for name, chosen, known in (
            ("tasks", self.tasks, tuple(KNOWN)),
            ("channels", self.channels, (DEFAULT, *CHANNEL_NAMES)),
        ):
            if not chosen or len({*chosen}) < len(chosen) or {*chosen} - {*known}:
                raise CtbasisError(
                    f"{name} is {', '.join(chosen) or 'empty'}", expected=f"different ones of {', '.join(known)}"
                )
        unknown = {*self.methods, *(name for name, _ in self.fewer)} - set(METHODS)
        if unknown:
            raise CtbasisError(f"unknown methods: {', '.join(sorted(unknown))}", expected=", ".join(METHODS))

    @property
    def chosen(self) -> tuple[Task, ...]:
        """The tasks."""
        return tuple(KNOWN[name] for name in self.tasks)

    def realisations_of(self, method: str) -> int:
        """Return the number of realisations of a method."""
        return min(self.realisations, dict(self.fewer).get(method, self.realisations))


@dataclass(frozen=True)
class Site:
    """The pixel before the centre of a signal: a signal lies between two rows and two columns.

    Attributes:
        slice: Index of the scored slice.
        row: Index of the row.
        column: Index of the column.
    """

    slice: int
    row: int
    column: int

    def region(self, volume: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the region of interest of a volume, (EDGE, EDGE)."""
        rows, columns = (slice(place - EDGE // 2 + 1, place + EDGE // 2 + 1) for place in (self.row, self.column))
        return volume[self.slice, rows, columns]


@dataclass(frozen=True)
class TaskCase:
    """Background, sites and doses.

    Attributes:
        background: Truth without signals.
        sites: Sites of every task.
        photons: Photons of the full dose.
        seed: Seed of the noise.
        tasks: The tasks.
    """

    background: Truth
    sites: tuple[tuple[Site, ...], ...]
    photons: float
    seed: int = 0
    tasks: tuple[Task, ...] = TASKS
    beam: ParallelBeam = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.background.hu.shape[1], self.background.hu.shape[2])
        object.__setattr__(self, "beam", ParallelBeam.around(shape, self.background.spacing[1:]))

    @property
    def spacing(self) -> Spacing:
        """Distances in mm between slices, rows and columns."""
        return self.background.spacing

    @property
    def layers(self) -> list[int]:
        """Scored slices."""
        return sorted({site.slice for sites in self.sites for site in sites})

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns that hold the regions of all sites, with a margin."""
        places = np.array([(site.row, site.column) for sites in self.sites for site in sites])
        edges = self.background.hu.shape[1:]
        reach = EDGE // 2 + MARGIN
        low, high = np.maximum(places.min(axis=0) - reach, 0), np.minimum(places.max(axis=0) + reach + 1, edges)
        return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))

    def shows_one(self, task: int, realisation: int) -> NDArray[np.bool_]:
        """Return whether the sites of a task show its one pattern in a realisation, (sites,)."""
        return np.asarray((np.arange(len(self.sites[task])) + realisation) % 2 == 0)

    def inserts(self, realisation: int) -> list[Insert]:
        """Return the signals of a realisation."""
        shown = []
        for number, (task, sites) in enumerate(zip(self.tasks, self.sites, strict=True)):
            for site, one in zip(sites, self.shows_one(number, realisation), strict=True):
                pattern = task.one if one else task.other
                shown += [pattern.at(site)] if pattern is not None else []
        return shown

    def truth(self, realisation: int) -> NDArray[np.float32]:
        """Return the volume with the signals of a realisation and without noise, HU, (slices, rows, columns)."""
        hu = self.background.hu.copy()
        draw_inserts(hu, self.inserts(realisation), self.spacing[1:])
        return hu

    def noisy(self, realisation: int, dose: float) -> tuple[NDArray[np.float32], NoisyVolume]:
        """Return truth and noisy volume of a realisation at a dose relative to the full one."""
        truth = self.truth(realisation)
        seed = np.random.SeedSequence([self.seed, realisation, round(1000 * dose)]).generate_state(1)
        return truth, with_noise(truth, self.spacing, self.beam, Dose(self.photons * dose, seed=int(seed[0])))


def with_noise(truth: NDArray[np.float32], spacing: Spacing, beam: ParallelBeam, dose: Dose) -> NoisyVolume:
    """Return a volume with the noise of a dose, and what is known of that noise."""
    noise = image_noise(truth, beam, dose)
    # The same for all noise realisations of a dose, to 1 %: one slice in the middle says enough.
    middle = slice(len(truth) // 2, len(truth) // 2 + 1)
    masks = [image > TISSUE for image in truth[middle]]
    sigma = float(noise[middle][np.stack(masks)].std())
    power = noise_power(noise[middle], masks, spacing, sigma)
    return NoisyVolume(truth + noise, spacing, range(len(truth)), sigma, power)


def make_case(settings: TaskSettings, series: Truth | None = None) -> TaskCase:
    """Place sites in the background, and find the photons of the full dose.

    Args:
        settings: Settings.
        series: Background; by default a phantom.

    Raises:
        CtbasisError: There is no room for two sites of every task, or the noise cannot be simulated.
    """
    background = series or phantom_background(settings)
    sites, tasks = place_sites(background, settings.seed), settings.chosen
    if len(sites) < 2 * len(tasks):
        raise CtbasisError(
            f"{background.name} has room for {len(sites)} signals",
            expected=f"at least {2 * len(tasks)} places in soft tissue",
            cause="the slices show lung and bone, or are too few",
        )
    shape = (background.hu.shape[1], background.hu.shape[2])
    photons = photons_for(settings.level, background.hu, ParallelBeam.around(shape, background.spacing[1:]), "hann")
    shares = tuple(tuple(sites[number :: len(tasks)]) for number in range(len(tasks)))
    return TaskCase(background, shares, photons, settings.seed, tasks)


def phantom_background(settings: TaskSettings) -> Truth:
    """Return the slices of a chest phantom with structured soft tissue from the upper abdomen to the heart."""
    phantom = chest(PHANTOM_SLICES, 256, 256, spacing=SPACING, seed=settings.seed, structured=True)
    hu = phantom.hu[: settings.slices].astype(np.float32)
    return crop_to_patient(Truth(f"phantom {settings.seed}", hu, (SPACING, *phantom.pixel_spacing)))


def place_sites(background: Truth, seed: int) -> list[Site]:
    """Choose sites at random, in soft tissue and apart from each other, in random order."""
    slices, rows, columns = background.hu.shape
    dy, dx = background.spacing[1:]
    y, x = (np.arange(edge) - (edge - 2) / 2 for edge in (rows, columns))
    near = (np.abs(y * dy) <= REGION[0])[:, None] & (np.abs(x * dx) <= REGION[1])
    near[: EDGE // 2] = near[-EDGE // 2 - 1 :] = False
    near[:, : EDGE // 2] = near[:, -EDGE // 2 - 1 :] = False
    rng = np.random.default_rng([seed, 1])
    chosen: list[Site] = []
    for z in range(FIRST, slices - FIRST - THICK + 1, LAYER):
        slab = background.hu[z : z + THICK]
        soft = (slab.min(axis=0) > SOFT[0]) & (slab.max(axis=0) < SOFT[1])
        free = np.argwhere(near & (distance_transform_edt(soft, sampling=(dy, dx)) > CLEAR))
        layer: list[NDArray[np.intp]] = []
        for place in rng.permutation(free):
            if all(np.abs((place - other) * (dy, dx)).max() >= APART for other in layer):
                layer.append(place)
        chosen += [Site(z, int(row), int(column)) for row, column in layer]
    return [chosen[index] for index in rng.permutation(len(chosen))]
