"""Patch mode on a matrix store, on any engine: estimate the noise, learn or apply a basis, denoise every series.

A series is cut into parts at its gaps (ctbasis/patch/parts.py), and each part is processed as a volume of its own.

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
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import MatrixStore, MatrixWriter
from ctbasis.patch.bases import PatchBases, format_size, group_series
from ctbasis.patch.denoise import DenoiseOptions, SlabDenoiser, restored_noise_fraction
from ctbasis.patch.engine import EngineVolume, PartAddress, TaskMatrix, worker_bytes
from ctbasis.patch.learn import OnlyAirError, learn_shared_basis
from ctbasis.patch.noise_fit import MIN_SIGMA, fit_noise, noise_reach
from ctbasis.patch.parts import Part, named_notes, notes_on_parts, parts_of
from ctbasis.patch.result import PatchStore, noise_arrays, noise_attributes
from ctbasis.patch.rows import patch_shape
from ctbasis.patch.volume import SLAB_HEIGHT, Slab, StoredVolume
from ctbasis.printable import say
from ctbasis.svd.engines import engine_named
from ctbasis.svd.workers import StoredMatrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctbasis.matrix.slice_store import Series
    from ctbasis.patch.basis import PatchBasis
    from ctbasis.patch.learn import Factor
    from ctbasis.patch.noise import Noise
    from ctbasis.patch.plan import PatchPlan
    from ctbasis.patch.rows import Shape
    from ctbasis.svd.passes import Parts
    from ctbasis.svd.workers import WorkersFactory

Note: TypeAlias = "tuple[str, str]"
"""Name of a part, and a note about it."""

REPORTED_RESTORED_FRACTION = 0.5
"""Restored fraction of the removed noise from which a note reports it."""

REPORTED_NOISE_FLOOR = 0.25
"""Fraction of the noise variance in the noise floor from which a note reports it."""


def denoise_matrix(
    matrix_uri: str,
    out: str,
    bases_uri: str,
    plan: PatchPlan,
    *,
    cluster: str = "",
    memory: int = 0,
    estimated: Sequence[Noise | None] = (),
) -> PatchStore:
    """Denoise every series of a matrix in patch mode.

    Args:
        matrix_uri: URI of a complete `MatrixStore`.
        out: URI of the `PatchStore` to write; an existing one is replaced.
        bases_uri: URI to which the `PatchBases` that were used are written; existing ones are replaced.
        plan: Parameters of the run.
        cluster: Address of the engine's own cluster, see `factorize`.
        memory: Memory in bytes that the engine numpy may use; 0 for a share of the free memory.
        estimated: Noise of each part of the matrix where `fit_noise` has estimated it already, at the `target_noise` of
            the plan. An estimate with another reach than this run needs is made again, so the result is the same.

    Returns:
        The denoised matrix with the estimated noise.

    Raises:
        CtbasisError: The matrix is missing or corrupt, the basis does not fit it, or the engine failed.
    """
    matrix = MatrixStore.open(matrix_uri)
    given = PatchBases.open(plan.basis) if plan.basis else None
    with engine_named(plan.engine).open_workers(cluster, memory) as gather:
        run = _Run(matrix, plan, gather)
        noises, shapes = run.estimate_noises(given, estimated)
        if given:
            bases, used, basis_notes = run.select_bases(given, noises, shapes, f"{out}.rows")
        else:
            bases, used = run.learn_bases(noises, shapes, f"{out}.rows")
            basis_notes = []
        about_noise = [
            (part.name, note)
            for part, noise in zip(run.parts, noises, strict=True)
            for note in (*noise.notes, *retained_noise_notes(noise, plan))
        ]
        notes = named_notes([*notes_on_parts(run.parts), *about_noise, *basis_notes])
        for note in notes:
            _log(note)
        applied = [bases.bases[number - 1] if number else None for number in used]
        done = replace(
            plan,
            patches=[list(bases.bases[number - 1].shape) for number in sorted(set(used) - {0})],
            bases=used,
            factored_by=next(str(basis.provenance.get("factored_by", "")) for basis in applied if basis),
            notes=notes,
        )
        # The bases are written first, so that a complete result always comes with its bases.
        bases.save(bases_uri)
        run.write(out, noises, applied, done)
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
    def parts(self) -> list[Part]:
        """The parts of all series."""
        return parts_of(self.matrix.series)

    @cached_property
    def volumes(self) -> list[EngineVolume]:
        """The parts as volumes."""
        return [EngineVolume(PartAddress(self.stored, part.slices), self.gather) for part in self.parts]

    def estimate_noises(
        self, given: PatchBases | None, estimated: Sequence[Noise | None] = ()
    ) -> tuple[list[Noise], list[Shape]]:
        """Estimate the noise of every part and choose the shape of its patches.

        The covariance reaches as far as the patches of the stored bases in `given`. For `estimated` see
        `denoise_matrix`.
        """
        noises, shapes = [], []
        known = estimated or [None] * len(self.parts)
        for part, volume, before in zip(self.parts, self.volumes, known, strict=True):
            start = time.monotonic()
            shape = patch_shape(volume.shape, volume.spacing)
            reach = noise_reach(volume, [basis.shape for basis in given.bases] if given else [])
            noise = (
                before
                if before is not None and before.reach == reach
                else fit_noise(volume, reach=reach, target_noise=self.plan.target_noise)
            )
            _log(
                f"noise of {part.name}: median sigma {np.median(noise.sigma):.1f} HU over the image, from "
                f"{noise.quiet_cells} quiet cells, {time.monotonic() - start:.1f} s; "
                f"{noise.scanner or 'properties of the scan unknown'}; "
                f"patches of {format_size(shape)} voxels"
            )
            noises.append(noise)
            shapes.append(shape)
        return noises, shapes

    def select_bases(
        self, given: PatchBases, noises: Sequence[Noise], shapes: Sequence[Shape], scratch: str
    ) -> tuple[PatchBases, list[int], list[Note]]:
        """Select one of the stored bases for every part. Parts that none of them fits get bases of their own.

        Returns:
            The bases; the number of the basis of each part, see `PatchPlan`; notes for the user.

        Raises:
            CtbasisError: The stored bases fit no part.
        """
        used, notes = [0] * len(noises), []
        unfit: dict[int, CtbasisError] = {}
        for number, (volume, noise) in enumerate(zip(self.volumes, noises, strict=True)):
            try:
                chosen, basis_notes = given.select(volume, noise)
            except CtbasisError as error:
                unfit[number] = error
                continue
            used[number] = chosen + 1
            notes += [(self.parts[number].name, note) for note in basis_notes]
        if len(unfit) == len(used):
            raise unfit[0]
        if not unfit:
            return given, used, notes
        learned, own = self.learn_bases(noises, shapes, scratch, only=list(unfit))
        notes += [(self.parts[number].name, "no stored basis fits, so its basis was learned on it") for number in unfit]
        for number in unfit:
            used[number] = own[number] + len(given.bases) if own[number] else 0
        return PatchBases((*given.bases, *learned.bases)), used, notes

    def learn_bases(
        self, noises: Sequence[Noise], shapes: Sequence[Shape], scratch: str, *, only: Sequence[int] = ()
    ) -> tuple[PatchBases, list[int]]:
        """Learn one basis for each group of similar parts, those with the indices `only`, or all.

        Returns:
            The bases; the number of the basis of each part, see `PatchPlan`.

        Raises:
            OnlyAirError: All parts hold nothing but air, and `only` is not given.
        """
        chosen = list(only or range(len(noises)))
        groups = group_series(
            [self.volumes[number] for number in chosen],
            [noises[number] for number in chosen],
            [shapes[number] for number in chosen],
        )
        used, bases = [0] * len(noises), []
        for group in groups:
            start = time.monotonic()
            members = [chosen[index] for index in group]
            try:
                basis = learn_shared_basis(
                    [self.volumes[number] for number in members],
                    [noises[number] for number in members],
                    shape=shapes[members[0]],
                    classes=self.plan.classes,
                    seed=self.plan.seed,
                    factor=self.factor(scratch),
                )
            except OnlyAirError:
                if len(groups) == 1 and not only:
                    raise
                continue
            patches = sum(basis.provenance["patches"])
            bases.append(basis)
            _log(
                f"basis {len(bases)}: {basis.classes} classes, learned from {patches} patches of "
                f"{'; '.join(self.parts[number].name for number in members)}, "
                f"by {basis.provenance['factored_by']}, {time.monotonic() - start:.1f} s"
            )
            for number in members:
                used[number] = len(bases)
        return PatchBases(tuple(bases)), used

    def factor(self, scratch: str) -> Factor | None:
        """Return the function that computes bases: Mahout's for the engine mahout, else None for Gram matrices."""
        if self.plan.engine != "mahout":
            return None
        from ctbasis.patch.mahout import MahoutFactor

        return MahoutFactor(scratch)

    def write(self, out: str, noises: list[Noise], bases: Sequence[PatchBasis | None], plan: PatchPlan) -> None:
        """Denoise and write the matrix, row block by row block, then mark the result as complete.

        A part without a basis is written as it is.
        """
        options = DenoiseOptions(**plan.values())
        denoisers = tuple(
            None if basis is None else SlabDenoiser(noise, basis, options)
            for noise, basis in zip(noises, bases, strict=True)
        )
        used = [(denoiser, volume) for denoiser, volume in zip(denoisers, self.volumes, strict=True) if denoiser]
        for denoiser, volume in used:
            denoiser.check(volume.shape)
        runs = row_runs(self.matrix)
        work = DenoisePass(denoisers, tuple(part.slices for part in self.parts), self.stored, runs, out)
        writer = MatrixWriter.like(out, self.matrix, dtype=np.float32)
        memory = max(
            worker_bytes([work.slab(run, denoiser.halo) for run in runs], volume.shape) for denoiser, volume in used
        )
        # Three matrices per class: its basis, and the transforms to coefficients and back.
        memory += max(3 * 4 * basis.classes * math.prod(basis.shape) ** 2 for basis in bases if basis)
        longest = max(run.stop - run.start for run in runs)
        self.gather(TaskMatrix(self.matrix.uri, len(runs)), memory + 4 * longest * self.matrix.cols).run(work)
        attributes = {
            "patch": vars(plan),
            "parts": [part.to_attributes() for part in self.parts],
            "noise": noise_attributes(noises),
        }
        writer.finish_like(self.matrix, noise_arrays(noises), attributes)


@dataclass(frozen=True)
class DenoisePass:
    """The pass that denoises all parts and writes the result.

    Attributes:
        denoisers: Denoiser of each part; None for a part that is written as it is.
        parts: The parts, which cover all columns.
        matrix: The matrix to denoise.
        runs: Rows of A, in whole row blocks, that one task processes.
        out: URI of the result.
        name: Name of the pass, for progress and logs.
        reads: Whether the engine has to read the matrix for the pass; the pass reads its slabs itself.
    """

    denoisers: tuple[SlabDenoiser | None, ...]
    parts: tuple[Series, ...]
    matrix: StoredMatrix
    runs: tuple[slice, ...]
    out: str
    name: str = "denoise"
    reads: bool = False

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - the pass reads its slabs itself
        """Denoise one run of rows of every part and write it; return the number of values.

        Raises:
            CtbasisError: The result is not finite.
        """
        matrix = self.matrix.open()
        run = self.runs[rows.start]
        columns = matrix.image[1]
        out = np.empty((run.stop - run.start, matrix.cols), np.float32)
        for denoiser, part in zip(self.denoisers, self.parts, strict=True):
            if denoiser is None:
                out[:, part.columns] = matrix.read_rows(run, part.columns)
                continue
            slab = self.slab(run, denoiser.halo)
            hu = denoiser(StoredVolume(matrix, part), slab).reshape(-1, part.count)
            first = run.start - slab.first * columns
            out[:, part.columns] = hu[first : first + len(out)]
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
