"""Denoise a volume in memory: the svd step for a notebook.

The volume is written as a matrix store to a temporary folder, and the functions of the svd step run on it. So the
numbers are those of `ctbasis run`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.dicom.derived_series import Derivation
from ctbasis.errors import CtbasisError
from ctbasis.matrix.read import load
from ctbasis.matrix.volumes import write_volume
from ctbasis.parameters import GlobalMode, PatchMode, SvdPlan
from ctbasis.patch.estimate import noise_estimate
from ctbasis.patch.parts import without_series
from ctbasis.steps.factor import unique_run
from ctbasis.steps.svd import denoise as denoise_patches
from ctbasis.steps.svd import factorize
from ctbasis.storage.working_folder import scratch_folder
from ctbasis.svd.factors import FactorStore
from ctbasis.svd.rank_k import low_rank_columns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from numpy.typing import NDArray

    from ctbasis.dicom.volume import Volume
    from ctbasis.matrix.read import ImageLike
    from ctbasis.patch.estimate import NoiseEstimate
    from ctbasis.patch.noise import Noise


@dataclass(frozen=True, eq=False)
class Denoised:
    """A denoised volume, and how it was made.

    Attributes:
        volume: The denoised HU, float32, with the geometry and the headers of the input; voxels that were set aside are
            unchanged. `ctbasis.write_series` writes it.
        mode: `patch` or `global`.
        rank: Rank k of the approximation in global mode; 0 in patch mode.
        noise: The noise of the input as patch mode estimated it; None in global mode.
        notes: Remarks for the user, such as that a stored basis does not fit the noise.

    Examples:
        >>> import numpy as np, ctbasis
        >>> volume = ctbasis.Volume(np.zeros((2, 16, 16)), spacing=(1.0, 0.7, 0.7))
        >>> ctbasis.Denoised(volume, "global", rank=1)
        Denoised(2 x 16 x 16, global mode at rank 1, 0 notes)
    """

    volume: Volume
    mode: str
    rank: int = 0
    noise: NoiseEstimate | None = None
    notes: tuple[str, ...] = ()

    @property
    def hu(self) -> NDArray[Any]:
        """The denoised HU, (slices, rows, columns) float32."""
        return self.volume.hu

    @property
    def sigma(self) -> NDArray[np.float32] | None:
        """Standard deviation of the noise of the input, HU, (slices, rows, columns); None in global mode."""
        return None if self.noise is None else self.noise.sigma

    def __repr__(self) -> str:
        at = f" at rank {self.rank}" if self.mode == "global" else ""
        return f"Denoised({' x '.join(map(str, self.volume.shape))}, {self.mode} mode{at}, {len(self.notes)} notes)"


def denoise(
    image: ImageLike,
    *,
    spacing: tuple[float, float, float] | None = None,
    mode: Literal["patch", "global"] = "patch",
    basis: str | os.PathLike[str] = "",
    keep_basis: str | os.PathLike[str] = "",
    rank: int | str | None = None,
    oversample: int = 15,
    power_iters: int = 2,
    method: str = "auto",
    tau: float = 3.0,
    wiener: bool = True,
    stride: int = 1,
    target_noise: float = 8.0,
    seed: int | None = None,
    engine: str = "numpy",
    memory: str = "auto",
) -> Denoised:
    """Denoise a CT volume, with the numbers of `ctbasis run`.

    Patch mode suits a single series at ordinary dose. Global mode is the published method, a rank-k approximation of
    the matrix with one column a slice; it helps at heavy noise and with many slices, and loses anatomy where k is too
    small. docs/how-to/choose-a-mode.md compares them. Results are not for diagnosis.

    Args:
        image: A volume, an array of HU (slices, rows, columns), a DataArray, or the folder or URI of a series.
        spacing: Distance in mm between slices, rows and columns; an array needs it.
        mode: `patch` or `global`.
        basis: Path or URI of a stored basis to apply, such as the `basis/` of a run; empty makes one of this volume.
        keep_basis: Path or URI at which the basis that was used stays; empty keeps none.
        rank: Global mode: basis images that are kept, or a rule that chooses (see `ctbasis run --help`).
        oversample: Global mode: oversampling p of the randomized methods.
        power_iters: Global mode: power iterations q of the randomized methods.
        method: Global mode: see `ctbasis.factor`.
        tau: Patch mode: hard threshold in standard deviations of noise. More removes more noise and, from about 3,
            faint structures.
        wiener: Patch mode: whether the second stage runs. Without it, half the time and less detail in the lungs.
        stride: Patch mode: voxels between neighbouring patches within a slice. 2 takes less than half the time.
        target_noise: Patch mode: noise in HU, in soft tissue, of the scan that the result shall look like; 0 removes
            all noise that is found.
        seed: Of the sample of patches (patch mode; None is 0) or of the random projection (global mode; None draws it).
        engine: `numpy` on this machine, or see `ctbasis.factor`.
        memory: Memory that the engine numpy may take, such as `3GiB`; `auto` is half of what is free.

    Returns:
        The denoised volume with the estimated noise and remarks. In patch mode, 133 slices of 512 x 512 take about a
        minute on two cores.

    Raises:
        CtbasisError: `image` is no volume or cannot be read, a parameter is out of its range, rank and mode do not go
            together, the basis does not fit, or the engine failed.

    Examples:
        >>> import ctbasis
        >>> phantom = ctbasis.chest_phantom(slices=6, rows=96, columns=96)
        >>> noisy = ctbasis.simulate_dose(phantom, photons=4e3)
        >>> denoised = ctbasis.denoise(noisy)
        >>> before, after = (ctbasis.score_image(phantom, volume) for volume in (noisy, denoised.volume))
        >>> after["rmse_body"] < before["rmse_body"]
        True
        >>> denoised.sigma.shape
        (6, 96, 96)

        Global mode at rank 2:

        >>> ctbasis.denoise(noisy, mode="global", rank=2).rank
        2
    """
    if (rank is None) == (mode == "global"):
        raise CtbasisError(
            f"mode {mode!r} {'without a' if rank is None else 'with a'} rank",
            expected="a rank in global mode, and none in patch mode",
            remedy="denoise(image, mode='global', rank=50), or denoise(image) for patch mode",
        )
    ranks = str(rank) if str(rank).isdigit() else "1"
    plan = SvdPlan(
        mode=mode,
        basis=os.fspath(basis),
        engine=engine,
        seed=-1 if seed is None else seed,
        memory=memory,
        global_mode=GlobalMode(
            rank=str(rank or 1), ranks=ranks, oversample=oversample, power_iters=power_iters, method=method
        ),
        patch_mode=PatchMode(tau=tau, wiener=wiener, stride=stride, target_noise=target_noise),
    )
    volume = load(image, spacing)
    with scratch_folder("ctbasis-denoise") as scratch:
        basis_uri = os.fspath(keep_basis) or str(scratch / "basis.zarr")
        matrix_uri = write_volume(volume, str(scratch / "matrix.zarr")).uri
        if mode == "global":
            return _denoise_globally(volume, matrix_uri, basis_uri, plan)
        return _denoise_by_patches(volume, matrix_uri, basis_uri, str(scratch / "denoised.zarr"), plan)


def denoise_on_basis(
    volume: Volume, basis: str = "", *, estimated: Sequence[Noise | None] = (), patch_mode: PatchMode | None = None
) -> Denoised:
    """Denoise a volume in patch mode, as `denoise` does.

    Args:
        volume: The volume.
        basis: URI of a stored basis; empty makes one of this volume.
        estimated: Noise of each part of the volume where it is known already, as from the choice of the basis; the
            result is the same without, and takes longer.
        patch_mode: Parameters of patch mode, by default their defaults.

    Raises:
        CtbasisError: The basis does not fit.
    """
    plan = SvdPlan(mode="patch", basis=basis, engine="numpy", patch_mode=patch_mode or PatchMode())
    with scratch_folder("ctbasis-denoise") as scratch:
        matrix_uri = write_volume(volume, str(scratch / "matrix.zarr")).uri
        basis_uri, out = str(scratch / "basis.zarr"), str(scratch / "denoised.zarr")
        return _denoise_by_patches(volume, matrix_uri, basis_uri, out, plan, estimated)


def _denoise_globally(volume: Volume, matrix_uri: str, basis_uri: str, plan: SvdPlan) -> Denoised:
    rank = factorize(matrix_uri, basis_uri, plan, run=unique_run()).rank
    factors = FactorStore.open(basis_uri)
    images = [low_rank_columns(factors, group, rank).T.reshape(-1, *factors.image) for group in factors.column_groups]
    derivation = Derivation.of(factors, rank).after(volume.derivation)
    notes = list(factors.plan.clamps)
    if factors.projection:
        notes.append(factors.plan.note)
    if factors.choice:
        notes.append(f"rank {rank}: {factors.choice['why']}; it {factors.choice['assumptions']}")
    return Denoised(volume.with_hu(np.concatenate(images), derivation=derivation), "global", rank, None, tuple(notes))


def _denoise_by_patches(
    volume: Volume, matrix_uri: str, basis_uri: str, out: str, plan: SvdPlan, estimated: Sequence[Noise | None] = ()
) -> Denoised:
    store = denoise_patches(matrix_uri, out, basis_uri, plan, run=unique_run(), estimated=estimated)
    images = [store.read_columns(group).T.reshape(-1, *store.image) for group in store.column_groups]
    derivation = Derivation.of_patch_mode(store)[0].after(volume.derivation)
    return Denoised(
        volume.with_hu(np.concatenate(images), derivation=derivation),
        "patch",
        0,
        noise_estimate(store.parts, [store.noise(number) for number in range(len(store.parts))], volume.shape),
        tuple(without_series(note) for note in store.plan.notes),
    )
