"""Patch mode on a matrix store, on any engine: estimate the noise, learn or apply a basis, denoise every series.

Each pass goes over slabs of image rows with a halo. A worker reads its slab from the store and extracts the patches
there. Only small results travel back: the measurements of cells, a sample of patches, sums and Gram matrices. In the
last pass, each worker writes its own row blocks of the denoised matrix. So neither the matrix of all patches, which has
one row per voxel, nor a whole volume is ever held in one place.
"""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import MatrixStore, MatrixWriter
from ctbasis.patch.bases import PatchBases, group_series
from ctbasis.patch.denoise import DenoiseOptions, SlabDenoiser, restored_noise_fraction
from ctbasis.patch.engine import EngineVolume, SeriesAddress, TaskMatrix, worker_bytes
from ctbasis.patch.learn import learn_shared_basis
from ctbasis.patch.noise_fit import MIN_SIGMA, fit_noise
from ctbasis.patch.result import PatchStore, noise_arrays, noise_attributes
from ctbasis.patch.rows import patch_shape, shape_without_breaks
from ctbasis.patch.volume import SLAB_HEIGHT, Slab, StoredVolume
from ctbasis.printable import say
from ctbasis.storage.voxels import AIR
from ctbasis.svd.engines import engine_named
from ctbasis.svd.workers import StoredMatrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctbasis.patch.basis import PatchBasis
    from ctbasis.patch.learn import Factor
    from ctbasis.patch.noise import Noise
    from ctbasis.patch.plan import PatchPlan
    from ctbasis.svd.passes import Parts
    from ctbasis.svd.workers import WorkersFactory

REPORTED_RESTORED_FRACTION = 0.5
"""Restored fraction of the removed noise from which a note reports it."""

REPORTED_NOISE_FLOOR = 0.25
"""Fraction of the noise variance in the noise floor from which a note reports it."""


def denoise_matrix(
    matrix_uri: str, out: str, bases_uri: str, plan: PatchPlan, *, cluster: str = "", memory: int = 0
) -> PatchStore:
    """Denoise every series of a matrix in patch mode.

    Args:
        matrix_uri: URI of a complete `MatrixStore`.
        out: URI of the `PatchStore` to write; an existing one is replaced.
        bases_uri: URI to which the `PatchBases` that were used are written; existing ones are replaced.
        plan: Parameters of the run.
        cluster: Address of the engine's own cluster, see `factorize`.
        memory: Memory in bytes that the engine numpy may use; 0 for a share of the free memory.

    Returns:
        The denoised matrix with the estimated noise.

    Raises:
        CtbasisError: The matrix is missing or corrupt, the basis does not fit it, or the engine failed.
    """
    matrix = MatrixStore.open(matrix_uri)
    given = PatchBases.open(plan.basis) if plan.basis else None
    with engine_named(plan.engine).open_workers(cluster, memory) as gather:
        run = _Run(matrix, plan, gather)
        noises, shapes = run.estimate_noises(given)
        if given:
            bases, used, basis_notes = run.select_bases(given, noises)
        else:
            bases, used, basis_notes = run.learn_bases(noises, shapes, f"{out}.rows")
        notes = [
            *(
                f"series {number}: {note}"
                for number, noise in enumerate(noises, start=1)
                for note in (*noise.notes, *retained_noise_notes(noise, plan))
            ),
            *basis_notes,
        ]
        for note in notes:
            _log(note)
        done = replace(
            plan,
            patches=[list(bases.bases[number].shape) for number in sorted(set(used))],
            bases=[number + 1 for number in used],
            factored_by=str(bases.bases[used[0]].provenance.get("factored_by", "")),
            notes=notes,
        )
        # The bases are written first, so that a complete result always comes with its bases.
        bases.save(bases_uri)
        run.write(out, noises, [bases.bases[number] for number in used], done)
    return PatchStore.open(out)


def retained_noise_notes(noise: Noise, plan: PatchPlan) -> tuple[str, ...]:
    """Return notes for the user about noise that denoising keeps or restores on purpose; none where it is little.

    Args:
        noise: Noise of the series.
        plan: Parameters of the run.
    """
    notes = []
    if noise.noise_floor >= REPORTED_NOISE_FLOOR:
        notes.append(
            f"noise: {noise.noise_floor:.0%} of the variance of the noise is flat in frequency. Reconstruction does "
            "not produce such noise (it comes from pixels that are too wide, or from rounding), so it is kept"
        )
    restored = restored_noise_fraction(noise.soft_tissue_sigma, noise.noise_floor, plan.target_noise)
    # At MIN_SIGMA, the noise was not measured or there is none; another note says so.
    if restored >= REPORTED_RESTORED_FRACTION and noise.soft_tissue_sigma > MIN_SIGMA:
        effect = "nothing is removed" if restored == 1 else f"{restored:.0%} of the removed noise is restored"
        notes.append(
            f"noise: {noise.soft_tissue_sigma:.1f} HU in soft tissue is close to the target_noise of "
            f"{plan.target_noise:g} HU, so {effect}"
        )
    return tuple(notes)


@dataclass(frozen=True)
class _Run:
    """The steps of a run.

    Attributes:
        matrix: The matrix to denoise.
        plan: Parameters of the run.
        gather: Function that provides the workers of the engine.
    """

    matrix: MatrixStore
    plan: PatchPlan
    gather: WorkersFactory

    @cached_property
    def stored(self) -> StoredMatrix:
        """The matrix as workers in other processes open it."""
        return StoredMatrix(self.matrix.uri, uuid.uuid4().hex)

    @cached_property
    def volumes(self) -> list[EngineVolume]:
        """The series as volumes."""
        series = range(len(self.matrix.series))
        return [EngineVolume(SeriesAddress(self.stored, number), self.gather) for number in series]

    def estimate_noises(self, given: PatchBases | None) -> tuple[list[Noise], list[tuple[int, int, int]]]:
        """Estimate the noise of every series and choose the shape of its patches.

        The covariance reaches as far as the patches of the stored bases in `given`.
        """
        noises, shapes = [], []
        for number, volume in enumerate(self.volumes, start=1):
            start = time.monotonic()
            shape = patch_shape(shape_without_breaks(volume.shape, volume.breaks), volume.spacing)
            edges = np.max([shape, *(basis.shape for basis in given.bases)] if given else [shape], axis=0)
            rows, columns, slices = (int(edge) - 1 for edge in edges)
            noise = fit_noise(volume, reach=(rows, columns, slices), target_noise=self.plan.target_noise)
            _log(
                f"noise of series {number}: median sigma {np.median(noise.sigma):.1f} HU over the image, from "
                f"{noise.quiet_cells} quiet cells, {time.monotonic() - start:.1f} s; "
                f"{noise.scanner or 'properties of the scan unknown'}"
            )
            if volume.breaks:
                _log(f"series {number} has {len(volume.breaks)} gaps: patches span {shape[2]} slices and cross no gap")
            noises.append(noise)
            shapes.append(shape)
        return noises, shapes

    def select_bases(self, given: PatchBases, noises: Sequence[Noise]) -> tuple[PatchBases, list[int], list[str]]:
        """Select one of the stored bases for every series.

        Returns:
            The bases; the index of the basis of each series; notes for the user.
        """
        used, notes = [], []
        for number, (volume, noise) in enumerate(zip(self.volumes, noises, strict=True), start=1):
            chosen, basis_notes = given.select(volume, noise)
            used.append(chosen)
            notes += [f"series {number}: {note}" for note in basis_notes]
        return given, used, notes

    def learn_bases(
        self, noises: Sequence[Noise], shapes: Sequence[tuple[int, int, int]], scratch: str
    ) -> tuple[PatchBases, list[int], list[str]]:
        """Learn one basis for each group of similar series.

        Returns:
            The bases; the index of the basis of each series; notes for the user, none.
        """
        groups = group_series(self.volumes, noises, shapes)
        used, bases = [0] * len(noises), []
        for index, group in enumerate(groups):
            start = time.monotonic()
            basis = learn_shared_basis(
                [self.volumes[number] for number in group],
                [noises[number] for number in group],
                shape=shapes[group[0]],
                classes=self.plan.classes,
                seed=self.plan.seed,
                factor=self.factor(scratch),
            )
            patches = sum(basis.provenance["patches"])
            _log(
                f"basis {index + 1}: {basis.classes} classes, learned from {patches} patches of {len(group)} series, "
                f"by {basis.provenance['factored_by']}, {time.monotonic() - start:.1f} s"
            )
            bases.append(basis)
            for number in group:
                used[number] = index
        return PatchBases(tuple(bases)), used, []

    def factor(self, scratch: str) -> Factor | None:
        """Return the function that computes bases: Mahout's for the engine mahout, else None for Gram matrices."""
        if self.plan.engine != "mahout":
            return None
        from ctbasis.patch.mahout import MahoutFactor

        return MahoutFactor(scratch)

    def write(self, out: str, noises: list[Noise], bases: Sequence[PatchBasis], plan: PatchPlan) -> None:
        """Denoise and write the matrix, row block by row block, then mark the result as complete."""
        options = DenoiseOptions(**plan.values())
        denoisers = tuple(SlabDenoiser(noise, basis, options) for noise, basis in zip(noises, bases, strict=True))
        for denoiser, volume in zip(denoisers, self.volumes, strict=True):
            denoiser.check(shape_without_breaks(volume.shape, volume.breaks))
        runs = row_runs(self.matrix)
        work = DenoisePass(denoisers, self.stored, runs, out)
        writer = MatrixWriter.like(out, self.matrix, dtype=np.float32)
        memory = max(
            worker_bytes([work.slab(run, denoiser.halo) for run in runs], volume.shape)
            for denoiser, volume in zip(denoisers, self.volumes, strict=True)
        )
        # Three matrices per class: its basis, and the transforms to coefficients and back.
        memory += max(3 * 4 * basis.classes * math.prod(basis.shape) ** 2 for basis in bases)
        longest = max(run.stop - run.start for run in runs)
        self.gather(TaskMatrix(self.matrix.uri, len(runs)), memory + 4 * longest * self.matrix.cols).run(work)
        writer.finish_like(self.matrix, noise_arrays(noises), {"patch": vars(plan), "noise": noise_attributes(noises)})


@dataclass(frozen=True)
class DenoisePass:
    """The pass that denoises all series and writes the result.

    Attributes:
        denoisers: Denoiser of each series.
        matrix: The matrix to denoise.
        runs: Rows of A, in whole row blocks, that one task processes.
        out: URI of the result.
        name: Name of the pass, for progress and logs.
        reads: Whether the engine has to read the matrix for the pass; the pass reads its slabs itself.
    """

    denoisers: tuple[SlabDenoiser, ...]
    matrix: StoredMatrix
    runs: tuple[slice, ...]
    out: str
    name: str = "denoise"
    reads: bool = False

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - the pass reads its slabs itself
        """Denoise one run of rows of every series and write it; return the number of values.

        Raises:
            CtbasisError: The result is not finite.
        """
        matrix = self.matrix.open()
        run = self.runs[rows.start]
        columns = matrix.image[1]
        out = np.empty((run.stop - run.start, matrix.cols), np.float32)
        for denoiser, series in zip(self.denoisers, matrix.series, strict=True):
            slab = self.slab(run, denoiser.halo)
            hu = denoiser(StoredVolume(matrix, series), slab).reshape(-1, series.count)
            first = run.start - slab.first * columns
            np.maximum(hu[first : first + len(out)], np.float32(AIR), out=out[:, series.columns])
        if not np.isfinite(out).all():
            raise CtbasisError(
                f"denoising rows {run.start} to {run.stop} of the matrix gave NaN or Inf",
                expected="finite HU",
                cause="the matrix or the stored basis holds values that are not finite",
                remedy="run the matrix step again, and learn the basis again",
            )
        step = matrix.block_rows
        for start in range(0, len(out), step):
            block = out[start : start + step]
            self._writer.write_block(slice(run.start + start, run.start + start + len(block)), block)
        return (np.array(out.size),)

    def merge(self, one: Parts, other: Parts) -> Parts:
        """Return the number of values of both."""
        return (one[0] + other[0],)

    def slab(self, run: slice, halo: int) -> Slab:
        """Return the slab of image rows that contains a run of rows of A, with its halo."""
        rows, columns = self.matrix.open().image
        first, stop = run.start // columns, -(-run.stop // columns)
        return Slab(first, stop, max(0, first - halo), min(rows, stop + halo))

    @cached_property
    def _writer(self) -> MatrixWriter:
        return MatrixWriter(self.out)


def row_runs(matrix: MatrixStore) -> tuple[slice, ...]:
    """Return runs of row blocks of A, each of at least SLAB_HEIGHT image rows, so that halos add little work."""
    count = max(1, -(-SLAB_HEIGHT * matrix.image[1] // matrix.block_rows))
    firsts = range(0, matrix.block_count, count)
    return tuple(
        slice(matrix.block(first).start, matrix.block(min(first + count, matrix.block_count) - 1).stop)
        for first in firsts
    )


def _log(line: str) -> None:
    say(f"patch: {line}")
