"""`ctbasis bench quality --field SERIES FIELD`: denoisers on a real series along a field of its scanner's real noise.

The series may be a full-dose scan of any number of slices. The field is the noise that the same slices have in addition
at a lower dose (low dose minus full dose), where they exist at a lower dose; it is zero in all other slices. Errors are
Stein's estimates along the field (ctbasis/score/sure.py), relative to the noise of the series: no truth is needed.
Every method runs twice, on the series and on the series with a part of the field. Patch mode keeps its estimate of the
noise in the second run: the estimate chooses among a few models of a scanner, from all cells of the series, and where a
small change of the series makes it choose another, the estimate of the error means nothing. The basis is learned again.
Where slices overlap, their noise is correlated; the correlation is estimated from the slices around the field
(ctbasis/patch/covariance.py).

Peers get the noise that `ctbasis` estimates, and their usual setting. Patch mode runs with a target noise of 0, and
with its default, where it should change a scan of standard dose by less than the noise.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.bench.denoisers import PATCH, PEERS, Denoiser, NoisyVolume
from ctbasis.bench.quality_cases import power_of_covariance
from ctbasis.bench.quality_pairs import REACH, USUAL, WITHOUT_NOISE, read_same_slices
from ctbasis.dicom.volume import Volume
from ctbasis.errors import CtbasisError
from ctbasis.parameters import PatchMode
from ctbasis.patch.estimate import fit_parts
from ctbasis.patch.noise_fit import fit_noise, fit_slice_noise
from ctbasis.patch.parts import MAX_STEP
from ctbasis.patch.volume import ArrayVolume
from ctbasis.printable import say
from ctbasis.report.noisy_truth import CLIPPED, FEWEST_VOXELS, REGIONS, FlatWindows, smooth_regions
from ctbasis.report.smoothed_removal import SmoothedRemoval
from ctbasis.score.sure import anatomy_correlation, sure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.simulate.nodules import Spacing

AROUND = 12
"""Slices on both sides of the middle slice of the field from which the correlation between slices is estimated."""

LAGS = 4
"""Largest distance, in slices, at which noise may be correlated: patch mode looks as far in its two stages."""


def bench_field(
    series: Path, field: Path, methods: Sequence[str], spacing: Spacing | None = None
) -> list[dict[str, Any]]:
    """Run all methods on a series.

    Args:
        series: Folder of one DICOM series, or a .npy file of HU, (slices, rows, columns).
        field: The same for the noise field; zero in slices where it is not known.
        methods: Methods, some of METHODS.
        spacing: mm between slices, rows and columns of .npy files.

    Returns:
        A row for each method and setting: method, setting, correlation (of the noise of neighbouring slices),
        error_body, error_soft, error_lung, error_edges (true RMSE over the noise of the series), change_body,
        change_soft, change_lung, change_edges (RMS of what was removed over the noise), smoothed_removal, low_contrast
        (correlation of what was removed with anatomy, without that with the noise that the series shows beside it),
        low_contrast_noise (correlation of the field with what the series shows),
        seconds_per_slice. A peer that is not installed, or that needs more slices, has a row whose setting says so.

    Raises:
        CtbasisError: See `read_pair`; the field is zero everywhere, or the noise cannot be measured in a slice.
    """
    hu, m, distances = read_same_slices(series, field, spacing)
    slices = np.flatnonzero(np.abs(m).max(axis=(1, 2)) > 0)
    if not slices.size:
        raise CtbasisError("the noise field is zero in every slice", expected="low dose minus full dose")
    ratio = np.ones((len(hu), 1, 1))
    for z in slices.tolist():
        noise = FlatWindows.of([hu[z]], [hu[z] + m[z]]).measure()
        if noise is None:
            raise CtbasisError(
                f"the noise of slice {z + 1} cannot be measured",
                expected="slices with soft tissue",
                remedy="set the noise field to zero there",
            )
        ratio[z] = noise.ratio
    at = int(slices[len(slices) // 2])
    correlation = slice_correlation(hu[max(0, at - AROUND) : at + AROUND + 1], distances)
    middle = hu[at]
    estimate = fit_slice_noise(middle, distances[1:], reach=REACH)
    power = power_of_covariance(estimate.covariance[..., 0], middle.shape, estimate.soft_tissue_sigma)
    noisy = NoisyVolume(hu, distances, range(len(hu)), estimate.soft_tissue_sigma, power)
    rows: list[dict[str, Any]] = []
    for method in [*PEERS, *PATCH]:
        if method.name not in methods:
            continue
        if missing := method.missing(len(hu) if distances[0] <= MAX_STEP else 1):
            rows.append({"bench": "field", "method": method.name, "setting": missing})
            continue
        ours = method in PATCH
        settings = [WITHOUT_NOISE, {}] if ours else [USUAL[method.name]]
        for setting in settings:
            row = _measured(method, {**(method.settings[0] if ours else {}), **setting}, noisy, m, ratio, correlation)
            rows.append(row)
            say(f"bench: {row['method']} {row['setting']}: error {row['error_body']:.3f} in the body")
    return rows


def _measured(
    method: Denoiser,
    setting: Mapping[str, Any],
    noisy: NoisyVolume,
    field: NDArray[np.float32],
    ratio: NDArray[np.float64],
    correlation: Sequence[float],
) -> dict[str, Any]:
    start = time.perf_counter()
    if method in PATCH:
        target_noise = setting.get("target_noise", PatchMode.target_noise)
        parts = fit_parts(Volume(noisy.hu, noisy.spacing), target_noise=target_noise)
        noisy = replace(noisy, estimated=[noise for _, noise in parts])
    risk = sure(
        lambda hu: method.run(replace(noisy, hu=hu), setting)[0],
        noisy.hu,
        field,
        ratio=ratio,
        correlation=correlation,
    )
    squares, image = risk.squares, risk.denoised
    seconds = (time.perf_counter() - start) / (2 * len(image))
    errors, removal, correlations = {region: np.zeros(4) for region in REGIONS}, SmoothedRemoval(), []
    for z in np.flatnonzero(np.abs(field).max(axis=(1, 2)) > 0).tolist():
        full, m = noisy.hu[z], field[z]
        valid = np.minimum(full, full + m) > CLIPPED
        own = m / np.sqrt(ratio[z])
        removal.add(full, full - image[z], own)
        correlations.append(anatomy_correlation(full, image[z], m, risk.response[z], float(ratio[z, 0, 0])))
        for region, mask in smooth_regions(full).items():
            inside = mask & valid
            values = np.stack([np.ones_like(full), squares[z], (full - image[z]) ** 2, own**2])
            errors[region] += values[:, inside].sum(axis=1)
    row: dict[str, Any] = {
        "bench": "field",
        "method": method.name,
        "setting": ", ".join(f"{key} {value}" for key, value in setting.items()),
        "correlation": correlation[0] if len(correlation) else 0.0,
    }
    for name, index in (("error", 0), ("change", 1)):
        for region, (count, *sums, noise) in errors.items():
            known = count >= FEWEST_VOXELS and noise > 0
            row[f"{name}_{region}"] = float(np.sqrt(max(sums[index], 0.0) / noise)) if known else None
    known_correlations = [abs(value) for value in correlations if value is not None]
    return {
        **row,
        "smoothed_removal": removal.ratio,
        "low_contrast": float(np.mean(known_correlations)) if known_correlations else None,
        "low_contrast_noise": removal.to_dict()["low_contrast"]["noise"],
        "seconds_per_slice": seconds,
    }


def slice_correlation(hu: NDArray[np.float32], spacing: Spacing) -> list[float]:
    """Return the correlation of the noise of a slice with that of the next, the second next ... slice.

    Args:
        hu: Neighbouring slices, HU, (slices, rows, columns).
        spacing: mm between slices, rows and columns.

    Returns:
        Up to LAGS correlations; none for slices that lie so far apart that no method uses them together.
    """
    lags = min(LAGS, len(hu) - 1)
    if spacing[0] > MAX_STEP or not lags:
        return []
    volume = ArrayVolume(np.moveaxis(hu, 0, -1), (spacing[1], spacing[2], spacing[0]))
    along = fit_noise(volume, reach=(REACH, REACH, lags), target_noise=0.0).covariance[REACH, REACH]
    return [float(value) for value in along[lags + 1 :]]
