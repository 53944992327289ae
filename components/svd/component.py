"""KFP component of the svd step; the program is ctbasis/steps/svd.py.

It has one typed input for each parameter of `SvdPlan`: kfp.local does not resolve placeholders inside a dictionary, and
KFP's launcher inserts text into JSON without escaping it, so a pipeline cannot pass a plan as one value.
"""

from typing import NamedTuple

from kfp import dsl

from ctbasis.kubeflow.images import STEPS


@dsl.component(
    base_image=STEPS,
    install_kfp_package=False,
    # The Spark application's pods go where this pod goes and see what it sees.
    task_config_passthroughs=[
        dsl.TaskConfigPassthrough(field=field, apply_to_task=True)
        for field in (
            dsl.TaskConfigField.KUBERNETES_VOLUMES,
            dsl.TaskConfigField.ENV,
            dsl.TaskConfigField.KUBERNETES_AFFINITY,
            dsl.TaskConfigField.KUBERNETES_TOLERATIONS,
            dsl.TaskConfigField.KUBERNETES_NODE_SELECTOR,
        )
    ]
    # The task's resources are the driver's and the executors'; this pod only waits for them.
    + [dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.RESOURCES, apply_to_task=False)],
)
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
    """Factor the matrix, or denoise it in patch mode; Spark engines run in a SparkApplication.

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
        cluster: Address of the engine's own cluster, empty for the Spark operator or this pod.
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

    from ctbasis.errors import exit_on_error
    from ctbasis.parameters import SvdPlan
    from ctbasis.spark.placement import Placement
    from ctbasis.steps.svd import run_step

    placement = Placement(**{name: value for name, value in vars(task_config).items() if value})
    with exit_on_error():
        done = run_step(
            matrix,
            SvdPlan.from_arguments(arguments),
            Path(basis.path),
            workspace=workspace,
            store=store,
            run=run,
            placement=placement,
        )
    basis.metadata.update(done.metadata)
    return done.rank, done.denoised_matrix
