"""The svd step: factor the matrix, or denoise it in patch mode, on the engine that the plan names.

global mode: matrix store -> factor store with U, s and V
patch mode:  matrix store -> matrix store with the denoised values, and the bases of the patches
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.choices import AUTO
from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import MatrixStore
from ctbasis.parsing import Rule
from ctbasis.patch.bases import PatchBases
from ctbasis.patch.noise_fit import fit_noise
from ctbasis.patch.parts import parts_of
from ctbasis.patch.result import PatchStore
from ctbasis.patch.volume import StoredVolume
from ctbasis.printable import say
from ctbasis.spark import driver
from ctbasis.spark.driver import Job
from ctbasis.steps import engine_job
from ctbasis.steps.basis_metadata import basis_metadata
from ctbasis.steps.engine_choice import choose_engine
from ctbasis.storage import stores
from ctbasis.storage.copies import copy
from ctbasis.storage.objects import is_s3
from ctbasis.storage.paths import refuse_overlap
from ctbasis.svd.engines import engine_named
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.plan import fit_plan
from ctbasis.svd.project import project_matrix
from ctbasis.svd.rank import choose_rank, factored_rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctbasis.jobs.placement import Placement
    from ctbasis.parameters import DeidentificationPlan, SvdPlan
    from ctbasis.patch.noise import Noise
    from ctbasis.svd.plan import Plan


@dataclass(frozen=True)
class StepResult:
    """What the steps after the svd step need.

    Attributes:
        rank: k of the denoised series; 0 in patch mode.
        denoised_matrix: URI of the denoised matrix; empty in global mode.
        metadata: Description of the basis for Kubeflow's metadata store.
    """

    rank: int
    denoised_matrix: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Factorization:
    """The result of a factorization.

    Attributes:
        plan: The plan as run.
        rank: k of the denoised series: as given, chosen by a rule, or clamped to the number of slices.
    """

    plan: Plan
    rank: int


def run_step(
    matrix_uri: str,
    plan: SvdPlan,
    basis: Path,
    *,
    workspace: str,
    store: str,
    run: str,
    placement: Placement,
) -> StepResult:
    """Run the step and copy the factors, or the bases of the patches, to the folder `basis`.

    Args:
        matrix_uri: A complete `MatrixStore`.
        plan: Parameters of the step.
        basis: Folder of the step's artifact.
        workspace: Root of the run's workspace.
        store: `s3://bucket/prefix` of the run's stores; empty for the workspace.
        run: Id of the run.
        placement: Kubeflow's decisions for the step's pod, which the pods of its job share.

    Raises:
        CtbasisError: The matrix is missing or incomplete, the parameters do not fit it, the engine failed, or the disk
            is full.
        SystemExit: The step received a signal to stop; see ctbasis/jobs/launcher.py.
    """
    factored = plan.mode == "patch" or not plan.basis
    if factored:
        plan = _with_engine(plan)
    if store:
        # The executors read and write S3 only, and may run where the workspace cannot be mounted.
        placement = placement.without(workspace)
    elif factored and (engine_named(plan.engine).on_spark or engine_job.is_launched(plan.engine, plan.cluster)):
        from ctbasis.jobs.node import beside_this_pod

        placement = beside_this_pod(placement)
    folder = stores.run_folder(workspace, store, run)
    factors = f"{folder}/factors.zarr"
    if plan.mode == "patch":
        denoised = denoise(matrix_uri, f"{folder}/denoised.zarr", factors, plan, run=run, placement=placement)
        metadata: dict[str, Any] = {"mode": plan.mode, "engine": denoised.plan.engine, "note": denoised.plan.summary}
        metadata |= basis_metadata(matrix_uri, factors)
        result = StepResult(0, denoised.uri, metadata)
    else:
        done = factorize(matrix_uri, factors, plan, run=run, placement=placement)
        for clamp in done.plan.clamps:
            _log(f"svd: {clamp}")
        metadata = {"rank": done.plan.rank, "engine": done.plan.engine, "note": done.plan.note}
        result = StepResult(done.rank, "", metadata)
    publish(factors, basis)
    return result


def factorize(
    matrix_uri: str, factors_uri: str, plan: SvdPlan, *, run: str = "local", placement: Placement | None = None
) -> Factorization:
    """Factor the matrix at `matrix_uri` into the store at `factors_uri`; with `plan.basis`, project it on that basis.

    The rank of the factors is the largest of the denoised series' rank and the ranks of Figure 1 that is smaller than
    the number of slices. A rule for the rank needs a factorization at full rank.

    Args:
        matrix_uri: A complete `MatrixStore`.
        factors_uri: URI of the `FactorStore` to write; replaced if it exists.
        plan: Parameters of the step, in global mode.
        run: Id of the run. The Spark application is named after it, so that a retried step finds its own.
        placement: Kubeflow's decisions for the step's pod; the pods of the Spark application share it.

    Raises:
        CtbasisError: The matrix is missing or incomplete, the parameters do not fit it, or the engine failed.
    """
    if plan.mode != "global":
        raise CtbasisError(f"mode is {plan.mode}", expected="global; `denoise` runs patch mode")
    matrix = MatrixStore.open(matrix_uri)
    if plan.basis:
        return _project(matrix, factors_uri, plan)
    full = min(matrix.rows, matrix.cols)
    mode = plan.global_mode
    k = factored_rank(mode.rank_or_rule, mode.figure_ranks, full)
    resolved = _with_engine(plan).replaced(rank=str(k))
    # Refuses what does not fit the matrix before a cluster is asked for anything.
    fit_plan(resolved, rows=matrix.rows, cols=matrix.cols)
    _execute(Job(resolved, factors_uri, matrix=matrix_uri), run=run, placement=placement)
    factors = FactorStore.open(factors_uri)
    return Factorization(plan=factors.plan, rank=_resolve_rank(mode.rank_or_rule, factors, full))


def denoise(
    matrix_uri: str,
    denoised_uri: str,
    bases_uri: str,
    plan: SvdPlan,
    *,
    run: str = "local",
    placement: Placement | None = None,
    estimated: Sequence[Noise | None] = (),
) -> PatchStore:
    """Denoise the matrix at `matrix_uri` in patch mode; with `plan.basis`, on those stored bases.

    Args:
        matrix_uri: A complete `MatrixStore`.
        denoised_uri: URI of the `PatchStore` to write; replaced if it exists.
        bases_uri: URI of the `PatchBases` to write; replaced if they exist.
        plan: Parameters of the step, in patch mode.
        run: See `factorize`.
        placement: See `factorize`.
        estimated: Noise of each part of the matrix where it is known already, see `denoise_matrix`. A job in other
            processes estimates it again.

    Raises:
        CtbasisError: The matrix is missing or incomplete, the stored bases do not fit it, or the engine failed.
    """
    # Both are opened here so that a wrong URI is refused before a cluster is asked for anything.
    MatrixStore.open(matrix_uri)
    if plan.basis:
        PatchBases.open(plan.basis)
    job = Job(_with_engine(plan), bases_uri, matrix=matrix_uri, denoised=denoised_uri)
    _execute(job, run=run, placement=placement, estimated=estimated)
    return PatchStore.open(denoised_uri)


def factorize_source(
    source: str,
    factors_uri: str,
    plan: SvdPlan,
    *,
    deidentification: DeidentificationPlan,
    qc: str = "",
    run: str = "fused",
) -> None:
    """Factor DICOM files on Spark executors that decode them, without a matrix store in between.

    Args:
        source: `s3://bucket/prefix`, or a folder that the executors see.
        factors_uri: URI of the `FactorStore` to write; replaced if it exists.
        plan: Parameters of the step, in global mode; the engine is spark.
        deidentification: How headers are de-identified before they are stored.
        qc: File for the JSON of what was read, set aside and tolerated; empty for none.
        run: Id of the run.

    Raises:
        CtbasisError: The source cannot be read or holds no CT, or archives; `factors_uri` holds other files or lies in
            the source; the parameters do not fit it; Spark failed.
    """
    from ctbasis.spark.fused import require_files

    # Refuses what the driver program would refuse, but before Spark is started.
    stores.refuse_foreign(factors_uri)
    if not is_s3(factors_uri):
        refuse_overlap(Path(factors_uri), [source])
    require_files(source)
    job = Job(plan.replaced(engine="spark"), factors_uri, source=source, deidentification=deidentification, qc=qc)
    _execute(job, run=run, placement=None)


def publish(factors_uri: str, folder: Path) -> None:
    """Copy the store at `factors_uri` to `folder`; between folders by hard links where the file system has them.

    Raises:
        CtbasisError: The disk is full, or S3 cannot be reached.
    """
    try:
        copy(factors_uri, str(folder))
    except OSError as error:
        raise CtbasisError(
            f"the basis cannot be copied to {folder} ({error})", cause="the disk is full", remedy="free some space"
        ) from error


def noise_norm(matrix: MatrixStore) -> float:
    """Estimate ||N||_F of the noise N in a matrix, HU, from the series themselves.

    A basis of other slices does not represent this noise, and is not meant to. The report compares it with what the
    basis leaves out.
    """
    squares = 0.0
    for part in parts_of(matrix.series):
        sigma = fit_noise(StoredVolume(matrix, part.slices)).sigma
        squares += float(np.mean(np.square(sigma, dtype=np.float64))) * matrix.rows * part.slices.count
    return float(np.sqrt(squares))


def _project(matrix: MatrixStore, factors_uri: str, plan: SvdPlan) -> Factorization:
    """Project the matrix on a stored basis, at the largest rank that both allow."""
    stored = FactorStore.open(plan.basis)
    full = min(stored.rank, matrix.cols)
    mode = plan.global_mode
    k = factored_rank(mode.rank_or_rule, mode.figure_ranks, full)
    factors = project_matrix(matrix, stored, factors_uri, rank=k, noise_norm=noise_norm)
    return Factorization(plan=factors.plan, rank=_resolve_rank(mode.rank_or_rule, factors, full))


def _with_engine(plan: SvdPlan) -> SvdPlan:
    """Return the plan with an engine by name in place of `auto`."""
    return plan.replaced(engine=choose_engine(plan.mode, plan.cluster)) if plan.engine == AUTO else plan


def _execute(job: Job, *, run: str, placement: Placement | None, estimated: Sequence[Noise | None] = ()) -> None:
    """Run the driver program: inside a Spark application or a job of another operator where the engine needs one.

    Only the svd step of a run has a placement. Elsewhere, as in a notebook, the engines besides Spark run here.
    """
    if engine_named(job.plan.engine).on_spark:
        from ctbasis.spark.launch import launch

        launch(job.arguments(), run=run, placement=placement, master=job.plan.cluster)
    elif placement is not None and engine_job.is_launched(job.plan.engine, job.plan.cluster):
        engine_job.launch(job.plan.engine, job.arguments(), run=run, placement=placement)
    else:
        driver.run(job, estimated=estimated)


def _resolve_rank(rank: int | Rule, factors: FactorStore, full: int) -> int:
    """Return k of the denoised series, chosen by the singular values if `rank` is a rule."""
    if not isinstance(rank, Rule):
        return min(rank, full)
    choice = choose_rank(rank, factors.s, (factors.rows, factors.cols))
    FactorWriter(factors.uri).record_choice(choice)
    _log(f"rank: auto chose {choice.rank}, as {choice.why}; {choice.assumptions}")
    return choice.rank


def _log(line: str) -> None:
    say(line)
