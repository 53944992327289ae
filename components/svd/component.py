"""KFP shell of the svd step."""

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
    """Factor the matrix, or denoise it by its patches; on Spark engines through a SparkApplication.

    Args:
        matrix: URI of the matrix store.
        workspace: Root of the run's workspace, which the executors share where the stores are in it.
        store: s3://bucket/prefix for matrix and factors, empty for the workspace.
        mode: What is factored. global: the matrix, a column a slice; patch: the matrix of its patches.
        rank: k of the denoised series, or auto and a rule.
        ranks: Further ranks that pictures are made of.
        oversample: p.
        power_iters: q.
        engine: mahout, spark, dask, ray, numpy, or auto.
        seed: Of the random projection, -1 to draw one.
        method: exact, randomized, single-pass, or auto.
        memory: That the engine numpy may take, such as 3GiB, or auto.
        cluster: Address of the engine's own cluster, empty for the operator's or this pod.
        stored_basis: URI of a basis to apply, empty to make one of this matrix.
        tau: patch: standard deviations of noise below which a weight is dropped.
        wiener: patch: whether a second stage is done.
        stride: patch: voxels between patches within the slice.
        target_noise: patch: HU in soft tissue, of the scan that the series is made to look like.
        run: The run's id; the SparkApplication is named after it, and its folder below the store.
        task_config: What Kubeflow decided for this pod; filled in by Kubeflow.
        basis: Basis vectors, weights and singular values; or the patch bases.

    Returns:
        rank: Of the denoised series as run; 0 in patch mode.
        denoised_matrix: URI of the denoised matrix, empty in global mode.
    """
    from pathlib import Path

    from ctbasis.errors import exit_on_error
    from ctbasis.steps.patch import denoise
    from ctbasis.steps.svd import factorize, publish
    from ctbasis.svd.memory import parse_memory
    from ctbasis.spark.placement import Placement
    from ctbasis.svd.rank import parse_rank, parse_ranks
    from ctbasis.storage.stores import run_folder

    decided = {name: value for name, value in vars(task_config).items() if value}
    placement = Placement(**decided)
    if store:
        # The executors read and write S3 alone, and may run where the workspace cannot be mounted.
        placement = placement.without(workspace)
    factors = f"{run_folder(workspace, store, run)}/factors.zarr"
    if mode == "patch":
        with exit_on_error():
            denoised = denoise(
                matrix,
                f"{run_folder(workspace, store, run)}/denoised.zarr",
                factors,
                tau=tau,
                wiener=wiener,
                stride=stride,
                target_noise=target_noise,
                basis=stored_basis,
                engine=engine,
                seed=None if seed < 0 else seed,
                memory=parse_memory(memory),
                cluster=cluster,
                run=run,
                placement=placement,
            )
            publish(factors, Path(basis.path))
        basis.metadata.update({"mode": mode, "engine": denoised.plan.engine, "note": denoised.plan.summary})
        return 0, denoised.uri
    with exit_on_error():
        outcome = factorize(
            matrix,
            factors,
            mode=mode,
            basis=stored_basis,
            rank=parse_rank(rank),
            ranks=parse_ranks(ranks),
            oversample=oversample,
            power_iters=power_iters,
            engine=engine,
            seed=None if seed < 0 else seed,
            method=method,
            memory=parse_memory(memory),
            cluster=cluster,
            run=run,
            placement=placement,
        )
        for clamp in outcome.plan.clamps:
            print(f"svd: {clamp}")
        publish(factors, Path(basis.path))
    basis.metadata.update({"rank": outcome.plan.rank, "engine": outcome.plan.engine, "note": outcome.plan.note})
    return outcome.rank, ""
