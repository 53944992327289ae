"""`ctbasis bench task`: what observers detect in denoised images, and which dose that is worth.

Every method denoises the volumes of all noise realisations at three doses. In the regions of interest around the sites
two observers do their tasks (ctbasis/score/task/observers.py). d' of the unprocessed images, measured at five doses,
is the scale on which the detectability of a denoised image is read as a dose.

Bands are those of a bootstrap over the sites, with the same sites for the unprocessed and the denoised images, because
both have the same noise.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ctbasis.bench.denoisers import PATCH, PEERS, global_modes, runnable
from ctbasis.bench.quality_cases import read_truth
from ctbasis.bench.task_cases import TaskCase, TaskSettings, make_case
from ctbasis.bench.task_images import INPUT, KeptImages, images, setting_of
from ctbasis.progress import progress
from ctbasis.report.quality import TISSUE
from ctbasis.score.noise_power import NoisePower
from ctbasis.score.task.channels import outputs
from ctbasis.score.task.dose_equivalence import DosePower
from ctbasis.score.task.observers import Backgrounds, hotelling
from ctbasis.score.task.transfer import TaskTransfer, transfers_by_contrast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.bench.denoisers import Denoiser
    from ctbasis.bench.quality_cases import Truth

RANKS_SHOWN = (0.5, 0.75)
"""Ranks of global mode that are measured, as fractions of the number of slices."""

BOOTSTRAPS = 200
"""Bootstrap samples of the sites."""

BAND = (2.5, 97.5)
"""Percentiles of a band."""

SINGLE_PIXEL = 1.2
"""mm between pixels below which a series is binned 2 x 2, as in `ctbasis bench quality`."""


@dataclass
class Measured:
    """What one method shows at one dose.

    Attributes:
        power: Noise power of the error in the body.
        transfers: Edges of the signals, by contrast.
        regions: For every task, regions of interest by realisation and site, (realisations, sites, EDGE, EDGE).
        seconds: Sum over the realisations of the processor time for a million voxels.
    """

    power: NoisePower
    transfers: list[TaskTransfer]
    regions: list[list[NDArray[np.float64]]]
    seconds: float = 0.0

    @property
    def realisations(self) -> int:
        """Number of realisations added."""
        return len(self.regions[0])

    @classmethod
    def of(cls, case: TaskCase) -> Self:
        """Return an accumulator for the realisations of a case."""
        discs = [insert for realisation in (0, 1) for insert in case.inserts(realisation)]
        pixels = case.spacing[1:]
        return cls(NoisePower(pixels), transfers_by_contrast(discs, pixels), [[] for _ in case.tasks])

    def add(self, case: TaskCase, realisation: int, truth: NDArray[np.float32], image: NDArray[np.float32]) -> None:
        """Add a realisation: truth and image, HU; only the scored slices of the image are used."""
        shown = frozenset(case.inserts(realisation))
        for task, sites in enumerate(case.sites):
            self.regions[task].append(np.stack([site.region(image) for site in sites]).astype(np.float64))
        rows, columns = case.window
        for z in case.layers:
            error = image[z, rows, columns] - truth[z, rows, columns]
            self.power.add(error, truth[z, rows, columns] > TISSUE)
            for transfer in self.transfers:
                transfer.add(z, truth[z], image[z], shown=shown)


def bench_task(
    series: Path | None, settings: TaskSettings | None = None, keep: Path | None = None
) -> list[dict[str, Any]]:
    """Measure the tasks for all methods.

    Args:
        series: Folder of a CT series whose slices are the background; by default a phantom.
        settings: Noise, realisations and methods.
        keep: Folder for denoised images; a run that is killed goes on with them when it is started again.

    Returns:
        A row for each method, dose, task and observer: task, observer, method, setting, dose,
        internal_noise, noise_hu, d_prime,
        d_prime_low, d_prime_high, auc, images, f_av, f_peak (of the error in the body), f50 and recovered (of the edges
        of the signals of the task), seconds_per_megavoxel of processor time; for denoised images also equivalent_dose
        (relative to the dose of the image: 1.3 is worth 30 % more dose) with equivalent_low and equivalent_high, and in
        the row of the full dose reached_dose, at which the denoised image has the d' of the unprocessed one at full
        dose, with its band. A peer that is not installed has a row whose setting says so.

    Raises:
        CtbasisError: The series is none, has no room for the signals, or `keep` holds images of another case.
    """
    settings = settings or TaskSettings()
    return measure_case(make_case(settings, background_of(series, settings)), settings, keep)


def background_of(series: Path | None, settings: TaskSettings) -> Truth | None:
    """Return the first slices of a series, binned if its pixels are small; None without a series."""
    if series is None:
        return None
    truth = read_truth(series)
    truth = truth.binned() if min(truth.spacing[1:]) < SINGLE_PIXEL else truth
    return replace(truth, hu=truth.hu[: settings.slices])


def measure_case(case: TaskCase, settings: TaskSettings, keep: Path | None = None) -> list[dict[str, Any]]:
    """Run all methods on a case, and return the rows of `bench_task`."""
    measured, rows = _run(case, settings, KeptImages(keep, case))
    return [*rows, *_rows(case, settings, measured)]


def _run(
    case: TaskCase, settings: TaskSettings, kept: KeptImages
) -> tuple[dict[tuple[str, float], Measured], list[dict[str, Any]]]:
    """Return what every method shows at every dose, and rows of peers that cannot run."""
    methods = methods_of(settings, len(case.background.hu))
    usable, rows = runnable("task", methods, len(case.background.hu))
    measured: dict[tuple[str, float], Measured] = defaultdict(lambda: Measured.of(case))
    # The fast ones first: a run that is killed has them.
    stages: list[list[Denoiser | None]] = [[None, *(method for method in usable if not method.module)]]
    stages += [[method] for method in usable if method.module]
    work = []
    for stage in stages:
        for realisation in range(settings.realisations):
            own = [one for one in stage if one is None or realisation < settings.realisations_of(one.name)]
            work += [(own, realisation)] if own else []
    for own, realisation in progress(work, "bench: task", unit="realisation"):
        truth = case.truth(realisation)
        for image in images(case, own, realisation, kept):
            one = measured[image.method, image.dose]
            one.seconds += image.seconds
            shown = truth.copy()
            shown[case.layers, *case.window] = image.hu
            one.add(case, realisation, truth, shown)
    # Tables have the order of the methods and of the doses, whatever was kept.
    order = [INPUT, *(method.name for method in methods)]
    ranked = sorted(measured, key=lambda key: (order.index(key[0]), -key[1]))
    return {key: measured[key] for key in ranked}, rows


def methods_of(settings: TaskSettings, slices: int) -> list[Denoiser]:
    """Return the methods of the settings for a volume of `slices` slices."""
    methods = [peer for peer in PEERS if peer.name in settings.methods]
    if "global" in settings.methods:
        shown = {f"global k={round(share * slices)}/{slices}" for share in RANKS_SHOWN}
        methods += [mode for mode in global_modes(slices) if mode.name in shown]
    return methods + [mode for mode in PATCH if mode.name in settings.methods]


def _rows(
    case: TaskCase, settings: TaskSettings, measured: Mapping[tuple[str, float], Measured]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, task in enumerate(case.tasks):
        for observer, channels in task.observers(case.spacing[1:], settings.channels).items():
            seen = {
                key: _seen(case, number, [outputs(regions, channels) for regions in what.regions[number]])
                for key, what in measured.items()
            }
            worth = _worth(
                {key: Backgrounds.of(*args) for key, args in seen.items()}, case.seed, settings.internal_noise
            )
            for (method, dose), (shown, other, where) in seen.items():
                what = measured[method, dose]
                rows.append(
                    {
                        "bench": "task",
                        "task": task.name,
                        "observer": observer,
                        "method": method,
                        "setting": setting_text(method),
                        "dose": dose,
                        "internal_noise": settings.internal_noise,
                        "noise_hu": what.power.std,
                        **hotelling(shown, other, places=where, internal_noise=settings.internal_noise).to_dict(),
                        **worth.get((method, dose), {}),
                        **_texture(what, task.one.contrast_hu),
                        "seconds_per_megavoxel": what.seconds / what.realisations if method != INPUT else None,
                    }
                )
    return rows


def _seen(
    case: TaskCase, task: int, by_realisation: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return channel outputs with the one pattern and with the other, and the sites of both."""
    v = np.stack(by_realisation)
    one = np.stack([case.shows_one(task, realisation) for realisation in range(len(v))])
    places = np.broadcast_to(np.arange(one.shape[1]), one.shape)
    return v[one], v[~one], (places[one], places[~one])


def setting_text(method: str) -> str:
    """Return the setting of a method for tables; empty for a mode with its defaults."""
    known = {one.name: one for one in (*PEERS, *PATCH)}
    return ", ".join(f"{key} {value}" for key, value in setting_of(known[method]).items()) if method in known else ""


def _texture(what: Measured, contrast: float) -> dict[str, Any]:
    """Return noise texture, and sharpness and contrast of the discs of a contrast."""
    edges = next((one.to_dict() for one in what.transfers if one.contrast == contrast), {})
    return {
        "f_av": what.power.mean_frequency,
        "f_peak": what.power.peak_frequency,
        "f50": edges.get("f50"),
        "recovered": edges.get("recovered"),
    }


def _worth(
    seen: Mapping[tuple[str, float], Backgrounds], seed: int, internal_noise: float = 0.0
) -> dict[tuple[str, float], dict[str, float]]:
    """Return the equivalent doses of denoised images by method and dose, and the reached dose at the full dose."""
    count = len(next(iter(seen.values())).step)
    samples = np.random.default_rng([seed, 2]).integers(count, size=(BOOTSTRAPS, count))
    # The first sample has all sites once: the estimate.
    samples = np.concatenate([np.arange(count)[None], samples])
    attenuation = math.sqrt(1 + internal_noise**2)
    d = {key: backgrounds.d_prime(samples) / attenuation for key, backgrounds in seen.items()}
    found: dict[tuple[str, float, str], list[float]] = defaultdict(list)
    for sample in range(len(samples)):
        curves: dict[str, dict[float, float]] = defaultdict(dict)
        for (method, dose), values in d.items():
            curves[method][dose] = float(values[sample])
        scale = DosePower.fit(curves.pop(INPUT))
        for method, curve in curves.items():
            for dose, value in curve.items():
                found[method, dose, "equivalent"].append(scale.dose_of(value) / dose)
            found[method, max(curve), "reached"].append(DosePower.fit(curve).dose_of(scale.at(1.0)))
    worth: dict[tuple[str, float], dict[str, float]] = defaultdict(dict)
    for (method, dose, what), doses in found.items():
        low, high = np.percentile(doses[1:], BAND).tolist()
        worth[method, dose] |= {f"{what}_dose": doses[0], f"{what}_low": low, f"{what}_high": high}
    return dict(worth)
