"""KFP component of the svd step; the program is ctbasis/steps/svd.py.

It has one typed input for each parameter of `SvdPlan`: kfp.local does not resolve placeholders inside a dictionary, and
KFP's launcher inserts text into JSON without escaping it, so a pipeline cannot pass a plan as one value.
"""

from typing import NamedTuple

from kfp import dsl

from ctbasis.kubeflow.images import STEPS
from ctbasis.kubeflow.task_config import SPARK_PASSTHROUGHS


@dsl.component(base_image=STEPS, install_kfp_package=False, task_config_passthroughs=SPARK_PASSTHROUGHS)
def svd(
    matrix: str,
    workspace: str,
    store: str,
    mode: str,
    rank: str,
    ranks: str,
    oversample: int,
    power_iters: int,
    engine: str,
    seed: int,
    method: str,
    memory: str,
    cluster: str,
    stored_basis: str,
    tau: float,
    wiener: bool,
    stride: int,
    target_noise: float,
    run: str,
    task_config: dsl.TaskConfig,
    basis: dsl.Output[dsl.Model],
) -> NamedTuple("Factored", [("rank", int), ("denoised_matrix", str)]):
    """Factor the matrix, or denoise it in patch mode; all but numpy run in a job of their operator.

    Args:
        matrix: URI of the matrix store.
        workspace: Root of the run's workspace, which the executors share if the stores are in it.
        store: s3://bucket/prefix for matrix and factors, empty for the workspace.
        mode: What is factored. global: the matrix with one column a slice; patch: the matrix of its 3-D patches.
        rank: Global mode: rank k of the denoised series, or auto and a rule.
        ranks: Global mode: further ranks that are shown in Figure 1.
        oversample: Global mode: oversampling p.
        power_iters: Global mode: power iterations q.
        engine: mahout, spark, dask, ray, numpy, or auto.
        seed: Seed of the random numbers, -1 to draw one.
        method: Global mode: exact, randomized, single-pass, or auto.
        memory: Memory that the engine numpy may take, such as 3GiB, or auto.
        cluster: Address of the engine's own cluster, empty for the engine's operator.
        stored_basis: URI of a stored basis to apply, empty to compute one from this matrix.
        tau: Patch mode: hard threshold in standard deviations of noise.
        wiener: Patch mode: whether the second, Wiener stage runs.
        stride: Patch mode: voxels between neighbouring patches within a slice.
        target_noise: Patch mode: noise in HU, in soft tissue, of the scan that the denoised series shall look like.
        run: Id of the run, the name of the SparkApplication and of the run's folder below the store.
        task_config: Volumes, environment and placement of this pod; filled in by Kubeflow.
        basis: Basis vectors, weights and singular values; in patch mode the bases of the patches.

    Returns:
        rank: Rank of the denoised series as run; 0 in patch mode.
        denoised_matrix: URI of the denoised matrix, empty in global mode.
    """
    # Before any other name is bound: the plan takes its parameters from the arguments.
    arguments = {**locals(), "basis": stored_basis}

    from pathlib import Path

    from ctbasis.parameters import SvdPlan
    from ctbasis.jobs.placement import Placement
    from ctbasis.steps.job import run_program
    from ctbasis.steps.svd import StepResult, run_step

    placement = Placement(**{name: value for name, value in vars(task_config).items() if value})
    done = run_program(
        "svd",
        workspace,
        lambda: run_step(
            matrix,
            SvdPlan.from_arguments(arguments),
            Path(basis.path),
            workspace=workspace,
            store=store,
            run=run,
            placement=placement,
        ),
        otherwise=StepResult(0, ""),
        artifacts=[basis.path],
    )
    basis.metadata.update(done.metadata)
    return done.rank, done.denoised_matrix
