"""Denoisers compared on the same noisy data with known truth: error, similarity, nodules, edges and time.

The cases are those of ctbasis/bench/quality_cases.py. A truth binned 2 x 2 has hardly any noise; a native truth has the
noise of its scanner, and a denoiser that removes this noise is penalized by all but the noise-corrected errors.

The setting of a peer is the one of its sweep (ctbasis/bench/denoisers.py) with the least RMSE over body and lung on the
same case of another series: tuned on A and measured on B, and vice versa.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.bench.denoisers import PATCH, PEERS, Denoiser, global_modes
from ctbasis.bench.quality_cases import CONTRASTS, Case, QualitySettings, make_case, phantom_truth, read_truth
from ctbasis.printable import say
from ctbasis.report.noisy_truth import twin_scores
from ctbasis.report.quality import compare, edge_ratio
from ctbasis.report.smoothed_removal import SmoothedRemoval
from ctbasis.score.regions import Regions
from ctbasis.simulate.nodules import Contrast

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

TUNED = 1
"""Number of slices on which a setting is chosen: tens of thousands of voxels, enough for the coarse sweeps."""


@dataclass(frozen=True)
class CaseResult:
    """Result of a case: its rows, and the middle one of the scored slices after every method.

    Attributes:
        rows: Rows of the case, `noisy` first.
        truth: Truth of the slice, HU, (rows, columns).
        images: The slice after every method, HU, by the name of the method, `noisy` included.
        aspect: Distance between rows divided by distance between columns.
    """

    rows: Sequence[dict[str, Any]]
    truth: NDArray[np.float32]
    images: dict[str, NDArray[np.float32]]
    aspect: float


def bench_quality(
    series: Sequence[Path], settings: QualitySettings | None = None, *, results: list[CaseResult] | None = None
) -> list[dict[str, Any]]:
    """Run all methods on all cases.

    Args:
        series: Folders of one CT series each; by default two phantoms. A single series is tuned on a phantom.
        settings: Cases and methods.
        results: List to which the result of every case is appended.

    Returns:
        A row for each case and method: case, series, resolution, kernel, noise_body, noise_lung, photons, slices,
        nodules, method, setting, tuned_on, rmse_body, rmse_lung, psnr and ssim (of slices with the truth around the
        patient), nodule_600, nodule_150 (3 mm, mean contrast recovery), edge_ratio, smoothed_removal
        (ctbasis/report/smoothed_removal.py; in the row `noisy` that of the true noise, 1), rmse_body_corrected and
        rmse_lung_corrected (against the anatomy without the truth's own noise; None if it has hardly any), seconds,
        seconds_per_slice (of the slices that the method processed). A peer that is not installed has a row whose
        setting says so.

    Raises:
        CtbasisError: A folder does not hold exactly one CT series, or the series has too few slices or shows no lung or
            no body.
    """
    settings = settings or QualitySettings()
    truths = [read_truth(folder) for folder in series] or [phantom_truth(seed) for seed in (0, 1)]
    measured = len(truths)
    if measured == 1:
        truths.append(phantom_truth(0))
    for peer in PEERS:
        if peer.name in settings.methods and peer.absent:
            _log(f"{peer.name} is not installed and is not measured; the extra `peers` installs it: make bench-quality")
    rows: list[dict[str, Any]] = []
    for resolution, kernel, level in itertools.product(settings.resolutions, settings.kernels, settings.levels):
        cases = [make_case(truth, resolution, kernel, level, settings) for truth in truths]
        for index, case in enumerate(cases[:measured]):
            result = measure(case, cases[(index + 1) % len(cases)], settings)
            rows += result.rows
            if results is not None:
                results.append(result)
    return rows


def measure(case: Case, other: Case, settings: QualitySettings) -> CaseResult:
    """Run every method on `case`, with the setting that is best on `other`."""
    noisy = case.noisy
    middle = len(case.scored_truth) // 2
    images = {"noisy": noisy.scored_slices[middle]}
    # For the noisy image, the edge ratio is that of the true noise, which a perfect denoiser would remove.
    rows = [
        {**case.row, "method": "noisy", **scores(case, noisy.scored_slices, noisy.scored_slices - case.scored_truth)}
    ]
    methods = [peer for peer in PEERS if peer.name in settings.methods]
    methods += global_modes(len(noisy.hu)) if "global" in settings.methods else []
    methods += [mode for mode in PATCH if mode.name in settings.methods]
    for method in methods:
        row = {**case.row, "method": method.name}
        if missing := method.missing(len(noisy.hu)):
            rows.append({**row, "setting": missing})
            continue
        setting = tuned(method, other)
        start = time.perf_counter()
        image, processed = method.run(noisy, setting)
        seconds = time.perf_counter() - start
        measured = {
            "setting": ", ".join(f"{name} {value}" for name, value in setting.items()),
            "tuned_on": other.row["series"] if len(method.settings) > 1 else "",
            **scores(case, image, noisy.scored_slices - image),
            "seconds": seconds,
            "seconds_per_slice": seconds / processed,
        }
        rows.append({**row, **measured})
        images[method.name] = image[middle].copy()
        summary = f"RMSE {measured['rmse_body']:.4g} HU in the body, SSIM {measured['ssim']:.4g}, {seconds:.3g} s"
        _log(f"{case.row['case']}: {method.name} {measured['setting']}: {summary}")
    return CaseResult(rows, case.scored_truth[middle], images, noisy.spacing[1] / noisy.spacing[2])


def tuned(method: Denoiser, case: Case) -> dict[str, Any]:
    """Return the setting of `method` with the least RMSE over body and lung in the middle slices of `case`."""
    if len(method.settings) == 1:
        return dict(method.settings[0])
    few = case.with_scored(TUNED)
    inside = np.stack([Regions(np.asarray(image, np.float64)).patient for image in few.scored_truth])

    def error(index: int) -> float:
        image, _ = method.run(few.noisy, method.settings[index])
        return float(np.square(image - few.scored_truth)[inside].mean())

    return dict(method.settings[min(range(len(method.settings)), key=error)])


def scores(case: Case, image: NDArray[np.float32], removed: NDArray[np.float32]) -> dict[str, Any]:
    """Return the scores of an image and of the component that was removed.

    Args:
        case: The case.
        image: Denoised slices, HU, (scored slices, rows, columns).
        removed: Noisy slices minus `image`.
    """
    truth, noisy = case.scored_truth, case.noisy
    quality = compare(truth, np.where(case.patient, image, truth))
    contrast = Contrast(case.nodules, (truth.shape[1], truth.shape[2]), noisy.spacing)
    for z, slices in zip(noisy.scored, zip(truth, image, strict=True), strict=True):
        contrast.add(z, *slices)
    ratio = edge_ratio(removed, truth).ratio
    removal = SmoothedRemoval()
    for true, component, input_slice in zip(truth, removed, noisy.scored_slices, strict=True):
        removal.add(true, component, input_slice - true)
    # A truth that is a scan has noise of its own.
    scored = zip(truth, noisy.scored_slices, image, strict=True)
    corrected = twin_scores(case.truth_noise, scored)["noise_corrected"] or {}
    recovered = {kind["contrast_hu"]: kind["recovered"] for kind in contrast.kinds()}
    return {
        "rmse_body": quality.rmse_body,
        "rmse_lung": quality.rmse_lung,
        "psnr": quality.psnr,
        "ssim": quality.ssim,
        **{f"nodule_{value:.0f}": recovered.get(value) for value in CONTRASTS},
        "edge_ratio": ratio if math.isfinite(ratio) else None,
        "smoothed_removal": removal.ratio,
        **{f"{name}_corrected": corrected.get(name) for name in ("rmse_body", "rmse_lung")},
    }


def _log(line: str) -> None:
    say(f"bench: {line}")
