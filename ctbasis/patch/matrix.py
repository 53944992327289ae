"""Patch mode on a matrix store, on any engine: noise, basis, and every series denoised.

Each pass goes over slabs of image rows with a halo. A worker reads its own slab from the store, makes its patches
there, and what comes back is small: what cells measure, a sample of patches, sums and Gram matrices. In the last pass
it writes its own row blocks of the denoised matrix. So neither the patches (one row a voxel) nor a volume are ever in
one place.
"""

from __future__ import annotations

import math
import sys
import time
import uuid
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import MatrixStore, MatrixWriter
from ctbasis.patch.bases import PatchBases, grouped
from ctbasis.patch.basis import HEIGHT, learn_together
from ctbasis.patch.denoise import Options, SlabDenoiser, put_back
from ctbasis.patch.engine import Address, EngineVolume, Pieces, worker_bytes
from ctbasis.patch.noise import LEAST, Noise, estimate
from ctbasis.patch.plan import PatchPlan, check_stride
from ctbasis.patch.result import PatchStore, noise_arrays, noise_words
from ctbasis.patch.rows import patch_shape
from ctbasis.patch.volume import Slab, StoredVolume
from ctbasis.storage.voxels import AIR
from ctbasis.svd.engines import engine_named
from ctbasis.svd.workers import StoredMatrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctbasis.patch.basis import Factor
    from ctbasis.svd.passes import Parts
    from ctbasis.svd.workers import Gather


def denoise_matrix(
    matrix_uri: str, out: str, bases_uri: str, plan: PatchPlan, *, cluster: str = "", memory: int = 0
) -> PatchStore:
    """Denoise every series of a matrix by patches.

    Args:
        matrix_uri: A complete `MatrixStore`.
        out: Where the `PatchStore` goes; replaced if it is there.
        bases_uri: Where the `PatchBases` go that were used; replaced if they are there.
        plan: As asked.
        cluster: Address of the engine's own cluster, see `factorize`.
        memory: Bytes that the engine numpy may take; 0 for a share of what is free.

    Returns:
        The result.

    Raises:
        CtbasisError: The matrix is missing or corrupt, the basis does not fit it, or the engine failed.
    """
    check_stride(plan.stride)
    matrix = MatrixStore.open(matrix_uri)
    given = PatchBases.open(plan.basis) if plan.basis else None
    with engine_named(plan.engine).gathered(cluster, memory) as gather:
        run = _Run(matrix, plan, gather)
        noises, shapes = run.noises(given)
        bases, used, notes = run.applied(given, noises) if given else run.learned(noises, shapes, f"{out}.rows")
        said = ((n, note) for n, noise in enumerate(noises, 1) for note in (*noise.notes, *kept(noise, plan)))
        notes = [*(f"series {n}: {note}" for n, note in said), *notes]
        for note in notes:
            _say(note)
        done = replace(
            plan,
            patches=[list(bases.bases[number].shape) for number in sorted(set(used))],
            bases=[number + 1 for number in used],
            factored_by=str(bases.bases[used[0]].provenance.get("factored_by", "")),
            notes=notes,
        )
        # The basis first: where the result is, what it was made with is there.
        bases.save(bases_uri)
        run.write(out, noises, [bases.bases[number] for number in used], done)
    return PatchStore.open(out)


def kept(noise: Noise, plan: PatchPlan) -> tuple[str, ...]:
    """Return what is to be said of noise that is left in a series on purpose: nothing where it is little."""
    said = []
    if noise.left >= TOLD:
        of = "of the variance of noise is flat in frequency, as no reconstruction makes it (pixels too wide, rounding)"
        said.append(f"noise: {noise.left:.0%} {of}; it stays")
    share = put_back(noise.soft, noise.left, plan.target_noise)
    # Where sigma is the least there is, it was not measured, or there is none: that is said already.
    if share >= MUCH and noise.soft > LEAST:
        left = "nothing is removed" if share == 1 else f"{share:.0%} of what would be removed stays"
        said.append(f"noise: {noise.soft:.1f} HU in soft tissue, for a target_noise of {plan.target_noise:g} HU {left}")
    return tuple(said)


MUCH = 0.5
"""Share of what would be removed that is put back from which it is said so."""

TOLD = 0.25
"""Share of the variance that is left from which it is said so."""


@dataclass(frozen=True)
class _Run:
    """One matrix, one plan, one engine's workers."""

    matrix: MatrixStore
    plan: PatchPlan
    gather: Gather

    @cached_property
    def handle(self) -> StoredMatrix:
        """Where workers find the matrix."""
        return StoredMatrix(self.matrix.uri, uuid.uuid4().hex)

    @cached_property
    def volumes(self) -> list[EngineVolume]:
        """The series."""
        return [EngineVolume(Address(self.handle, number), self.gather) for number in range(len(self.matrix.series))]

    def noises(self, given: PatchBases | None) -> tuple[list[Noise], list[tuple[int, int, int]]]:
        """Estimate the noise of every series, and choose its patch."""
        found, shapes = [], []
        for number, volume in enumerate(self.volumes, start=1):
            start = time.monotonic()
            shape = patch_shape(volume.shape, volume.spacing)
            edges = np.max([shape, *(basis.shape for basis in given.bases)] if given else [shape], axis=0)
            rows, columns, slices = (int(edge) - 1 for edge in edges)
            noise = estimate(volume, reach=(rows, columns, slices), target_noise=self.plan.target_noise)
            _say(
                f"noise of series {number}: sigma {np.median(noise.sigma):.1f} HU in the median of the image, from "
                f"{noise.cells} quiet cells, {time.monotonic() - start:.1f} s; {noise.scanner or 'of no known kind'}"
            )
            found.append(noise)
            shapes.append(shape)
        return found, shapes

    def applied(self, given: PatchBases, noises: Sequence[Noise]) -> tuple[PatchBases, list[int], list[str]]:
        """Choose among the bases that were given."""
        used, notes = [], []
        for number, (volume, noise) in enumerate(zip(self.volumes, noises, strict=True), start=1):
            chosen, said = given.fitting(volume, noise)
            used.append(chosen)
            notes += [f"series {number}: {note}" for note in said]
        return given, used, notes

    def learned(
        self, noises: Sequence[Noise], shapes: Sequence[tuple[int, int, int]], scratch: str
    ) -> tuple[PatchBases, list[int], list[str]]:
        """Learn a basis on each group of series that are alike."""
        groups = grouped(self.volumes, noises, shapes)
        used, bases = [0] * len(noises), []
        for index, group in enumerate(groups):
            start = time.monotonic()
            basis = learn_together(
                [self.volumes[number] for number in group],
                [noises[number] for number in group],
                shape=shapes[group[0]],
                classes=self.plan.classes,
                seed=self.plan.seed,
                factor=self.factor(scratch),
            )
            patches = sum(basis.provenance["patches"])
            _say(
                f"basis {index + 1}: {basis.classes} classes of {patches} patches of {len(group)} series, by "
                f"{basis.provenance['factored_by']}, {time.monotonic() - start:.1f} s"
            )
            bases.append(basis)
            for number in group:
                used[number] = index
        return PatchBases(tuple(bases)), used, []

    def factor(self, scratch: str) -> Factor | None:
        """Return what makes bases of rows: Mahout where it is the engine, else Gram matrices."""
        if self.plan.engine != "mahout":
            return None
        from ctbasis.patch.mahout import MahoutFactor

        return MahoutFactor(scratch)

    def write(self, out: str, noises: list[Noise], bases: Sequence[Any], plan: PatchPlan) -> None:
        """Denoise, row block by row block of the matrix, and declare the result complete."""
        options = Options(tau=plan.tau, wiener=plan.wiener, stride=plan.stride, target_noise=plan.target_noise)
        denoisers = tuple(SlabDenoiser(noise, basis, options) for noise, basis in zip(noises, bases, strict=True))
        for denoiser, volume in zip(denoisers, self.volumes, strict=True):
            denoiser.check(volume.shape)
        runs = row_runs(self.matrix)
        work = WriteRuns(denoisers, self.handle, runs, out)
        writer = MatrixWriter.like(out, self.matrix, dtype=np.float32)
        need = max(
            worker_bytes([work.slab(run, denoiser.halo) for run in runs], volume.shape)
            for denoiser, volume in zip(denoisers, self.volumes, strict=True)
        )
        # Of each class, its basis, and what takes weights there and back.
        need += max(3 * 4 * basis.classes * math.prod(basis.shape) ** 2 for basis in bases)
        longest = max(run.stop - run.start for run in runs)
        self.gather(Pieces(self.matrix.uri, len(runs)), need + 4 * longest * self.matrix.cols).run(work)
        writer.finish_like(self.matrix, noise_arrays(noises), {"patch": vars(plan), "noise": noise_words(noises)})


@dataclass(frozen=True)
class WriteRuns:
    """The pass that denoises and writes.

    Attributes:
        denoisers: By series.
        matrix: What is denoised.
        runs: Rows of A, whole row blocks, that are done together.
        out: URI of the result.
    """

    denoisers: tuple[SlabDenoiser, ...]
    matrix: StoredMatrix
    runs: tuple[slice, ...]
    out: str
    what: str = "denoise"
    reads: bool = False

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - it reads for itself
        """Denoise a run of every series and write it; return the number of values."""
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
            raise CtbasisError(f"denoising rows {run.start} to {run.stop} gave NaN or Inf", expected="finite HU")
        step = matrix.block_rows
        for start in range(0, len(out), step):
            block = out[start : start + step]
            self._writer.write_block(slice(run.start + start, run.start + start + len(block)), block)
        return (np.array(out.size),)

    def merge(self, one: Parts, other: Parts) -> Parts:
        """Return the number of both."""
        return (one[0] + other[0],)

    def slab(self, run: slice, halo: int) -> Slab:
        """Return the image rows that a run of A's rows touches, and what is to be read around them."""
        rows, columns = self.matrix.open().image
        first, stop = run.start // columns, -(-run.stop // columns)
        return Slab(first, stop, max(0, first - halo), min(rows, stop + halo))

    @cached_property
    def _writer(self) -> MatrixWriter:
        return MatrixWriter(self.out)


def row_runs(matrix: MatrixStore) -> tuple[slice, ...]:
    """Return row blocks of A in runs of at least HEIGHT image rows, so that a halo is little beside them."""
    count = max(1, -(-HEIGHT * matrix.image[1] // matrix.block_rows))
    firsts = range(0, matrix.block_count, count)
    return tuple(
        slice(matrix.block(first).start, matrix.block(min(first + count, matrix.block_count) - 1).stop)
        for first in firsts
    )


def _say(line: str) -> None:
    sys.stderr.write(f"patch: {line}\n")
    sys.stderr.flush()
