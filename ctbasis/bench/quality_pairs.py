"""`ctbasis bench quality --pair LOW FULL`: denoisers on real low-dose slices whose full-dose twin exists.

The full-dose slice is a truth with noise of its own, so errors are those of the twin (ctbasis/report/noisy_truth.py).
All methods get the low dose alone. Peers get the noise that `ctbasis` estimates from it, and have two rows: with their
usual setting, and with the setting of their sweep that has the least error in the body on these very slices, which
nobody knows without the full dose.

Slices that lie farther apart than they share anatomy are denoised one by one.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.bench.denoisers import PATCH, PEERS, Denoiser, NoisyVolume, global_modes
from ctbasis.bench.quality_cases import power_of_covariance
from ctbasis.errors import CtbasisError
from ctbasis.matrix.read import load
from ctbasis.patch.noise_fit import fit_slice_noise
from ctbasis.patch.parts import MAX_STEP
from ctbasis.printable import say
from ctbasis.report.noisy_truth import FlatWindows, TruthNoise, TwinErrors, smooth_regions
from ctbasis.report.smoothed_removal import SmoothedRemoval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.simulate.nodules import Spacing

USUAL: dict[str, Mapping[str, Any]] = {
    "gaussian": {"pixels": 0.7, "slices": 0.0},
    "tv": {"weight": 0.6},
    "nlm": {"h": 0.9, "patch": 5},
    "bm3d": {"level": 1.0},
    "bm4d": {"noise": "psd", "level": 1.1},
    "mp-pca": {"radius": 2},
}
"""Setting of every peer without a truth."""

EMPHYSEMA = -950.0
"""HU below which a voxel of the lung counts as emphysema (the index LAA-950)."""

ARRAY_SPACING = (10.0, 0.75, 0.75)
"""Default mm between slices, rows and columns of arrays: slices that are denoised one by one, of a chest of usual
size."""

WITHOUT_NOISE: dict[str, Any] = {"target_noise": 0.0}
"""Setting of patch mode that restores no noise."""

REACH = 8
"""Largest lag of the noise covariance whose spectrum the peers get, pixels."""


@dataclass(frozen=True)
class Pair:
    """Low-dose slices and the same slices at full dose, HU, (slices, rows, columns).

    Attributes:
        low: Low dose.
        full: Full dose.
        spacing: mm between slices, rows and columns.
    """

    low: NDArray[np.float32]
    full: NDArray[np.float32]
    spacing: Spacing

    @property
    def runs(self) -> list[range]:
        """Slices that are denoised together."""
        count = len(self.low)
        return [range(z, z + 1) for z in range(count)] if self.spacing[0] > MAX_STEP else [range(count)]


def read_pair(low: Path, full: Path, spacing: Spacing | None = None) -> Pair:
    """Read a pair: folders of one DICOM series each, or .npy files of HU, (slices, rows, columns).

    Args:
        low: Low dose.
        full: Full dose.
        spacing: mm between slices, rows and columns of .npy files; by default ARRAY_SPACING.

    Raises:
        CtbasisError: A file is no such array, a folder holds no series, or the geometries differ.
    """
    return Pair(*read_same_slices(low, full, spacing))


def read_same_slices(
    one: Path, other: Path, spacing: Spacing | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32], Spacing]:
    """Read two volumes of the same slices and return both, HU, and their spacing; see `read_pair`."""
    (first, distances), (second, others) = (_read(path, spacing or ARRAY_SPACING) for path in (one, other))
    if first.shape != second.shape or not np.allclose(distances, others, atol=1e-3):
        raise CtbasisError(
            f"{one} has {first.shape} voxels of {distances} mm, {other} {second.shape} of {others} mm",
            expected="the same slices",
            cause="they do not belong to one scan",
        )
    return first, second, distances


def _read(path: Path, spacing: Spacing) -> tuple[NDArray[np.float32], Spacing]:
    if path.suffix != ".npy":
        volume = load(path)
        return np.asarray(volume.hu, np.float32), volume.spacing
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CtbasisError(f"{path} cannot be read as an array", expected="a .npy file of HU") from error
    if array.ndim != 3 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():  # noqa: PLR2004 - a volume
        raise CtbasisError(f"{path} holds {array.dtype} of shape {array.shape}", expected="HU, (slices, rows, columns)")
    return np.asarray(array, np.float32), spacing


def bench_pair(low: Path, full: Path, methods: Sequence[str], spacing: Spacing | None = None) -> list[dict[str, Any]]:
    """Run all methods on a pair.

    Args:
        low: Low dose, see `read_pair`.
        full: Full dose.
        methods: Methods, some of METHODS.
        spacing: mm between slices, rows and columns of .npy files.

    Returns:
        A row for each method: method, setting, error_body, error_soft, error_lung, error_edges (true RMSE over that of
        the low dose), rmse_body, rmse_lung (HU), smoothed_removal, laa_950 (percent of the lung), seconds_per_slice. A
        peer that is not installed, or that needs more slices, has a row whose setting says so.

    Raises:
        CtbasisError: See `read_pair`; or the noise of the full dose cannot be measured.
    """
    pair = read_pair(low, full, spacing)
    noise = FlatWindows.of(pair.full, pair.low).measure()
    if noise is None:
        raise CtbasisError(
            "the noise of the full dose cannot be measured",
            expected="slices with soft tissue, and a low dose that differs from the full dose",
        )
    volumes = [_noisy_volume(pair, run) for run in pair.runs]
    rows = [_row("full dose", {}, pair, noise, pair.full, None), _row("low dose", {}, pair, noise, pair.low, None)]
    for method in [peer for peer in PEERS if peer.name in methods]:
        if missing := method.missing(len(pair.runs[0])):
            rows.append({"bench": "pair", "method": method.name, "setting": missing})
            continue
        settings = [USUAL[method.name], *method.settings]
        swept = [_measured(method, setting, volumes, pair, noise) for setting in settings]
        best = min(swept, key=lambda row: float(row["error_body"]))
        rows += [swept[0], {**best, "method": f"{method.name}, tuned"}]
    ours = [mode for mode in PATCH if mode.name in methods]
    if ours:
        # The LAA-950 that the denoised low dose should have.
        image = np.concatenate([ours[0].run(full, WITHOUT_NOISE)[0] for full in _at_full_dose(volumes, pair)])
        rows.insert(1, _row("full dose, patch", WITHOUT_NOISE, pair, noise, image, None))
    if "global" in methods and len(pair.runs) == 1:
        ours += global_modes(len(pair.low))
    for mode in ours:
        setting = {**mode.settings[0], **(WITHOUT_NOISE if mode in PATCH else {})}
        rows.append(_measured(mode, setting, volumes, pair, noise))
    return rows


def _noisy_volume(pair: Pair, run: range) -> NoisyVolume:
    """Return the input of the methods with the noise as it is estimated from it."""
    hu, (_, dy, dx) = pair.low[run.start : run.stop], pair.spacing
    middle = hu[len(hu) // 2]
    noise = fit_slice_noise(middle, (dy, dx), reach=REACH)
    power = power_of_covariance(noise.covariance[..., 0], middle.shape, noise.soft_tissue_sigma)
    return NoisyVolume(hu, pair.spacing, range(len(hu)), noise.soft_tissue_sigma, power)


def _at_full_dose(volumes: Sequence[NoisyVolume], pair: Pair) -> list[NoisyVolume]:
    """Return the inputs with the full dose in place of the low dose."""
    return [replace(volume, hu=pair.full[run.start : run.stop]) for volume, run in zip(volumes, pair.runs, strict=True)]


def _measured(
    method: Denoiser, setting: Mapping[str, Any], volumes: Sequence[NoisyVolume], pair: Pair, noise: TruthNoise
) -> dict[str, Any]:
    start = time.perf_counter()
    image = np.concatenate([method.run(volume, setting)[0] for volume in volumes])
    seconds = (time.perf_counter() - start) / len(image)
    row = _row(method.name, setting, pair, noise, image, seconds)
    say(f"bench: {row['method']} {row['setting']}: error {row['error_body']:.3f} in the body, {seconds:.3g} s a slice")
    return row


def _row(
    name: str,
    setting: Mapping[str, Any],
    pair: Pair,
    noise: TruthNoise,
    image: NDArray[np.float32],
    seconds: float | None,
) -> dict[str, Any]:
    errors, removal, low_voxels = TwinErrors(noise), SmoothedRemoval(), np.zeros(2)
    # The noise of the low dose is n + m; m has its spectrum.
    scale = math.sqrt((noise.ratio + 2 * noise.covariance + 1) / noise.ratio)
    for full, low, denoised in zip(pair.full, pair.low, image, strict=True):
        errors.add(full, low, denoised, low)
        removal.add(full, low - denoised, (low - full) * np.float32(scale))
        lung = smooth_regions(full)["lung"]
        low_voxels += int(np.count_nonzero(lung)), int(np.count_nonzero(denoised[lung] < EMPHYSEMA))
    own, before = errors.rmse("image"), errors.rmse("noisy")
    relative = {
        f"error_{key.removeprefix('rmse_')}": value / noisy if value is not None and noisy else None
        for (key, value), noisy in zip(own.items(), before.values(), strict=True)
    }
    count, emphysema = low_voxels
    of_low = not name.startswith("full dose")
    return {
        "bench": "pair",
        "method": name,
        "setting": ", ".join(f"{key} {value}" for key, value in setting.items()),
        **(relative if of_low else {}),
        **({"rmse_body": own["rmse_body"], "rmse_lung": own["rmse_lung"]} if of_low else {}),
        "smoothed_removal": removal.ratio if of_low and name != "low dose" else None,
        "laa_950": 100 * emphysema / count if count else None,
        "seconds_per_slice": seconds,
    }
