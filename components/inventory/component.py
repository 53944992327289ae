"""KFP component of the inventory step of a cohort; the program is in ctbasis/cohort/pipeline_steps.py."""

from kfp import dsl

from ctbasis.kubeflow.images import STEPS


@dsl.component(base_image=STEPS, install_kfp_package=False)
def inventory(
    source: str,
    out: str,
    template: str,
    where: str,
    again: bool,
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
    basis: str,
    tau: float,
    wiener: bool,
    stride: int,
    target_noise: float,
    deidentify: bool,
    retain: str,
    compress: str,
    workspace: str,
    run: str,
) -> list:  # type: ignore[type-arg]
    """List the series of a source by their headers, and determine the jobs of the run, a series or a group each.

    Args:
        source: s3://bucket/prefix or another source of docs/reference/sources.md.
        out: s3://bucket/prefix for the results.
        template: Folder of each series below out; empty for the tree of the source.
        where: Expression that selects series; empty for all.
        again: Whether settings other than those of the earlier run into out are meant.
        mode: What is factored, global or patch.
        rank: Global mode: rank k of the denoised series, or auto and a rule.
        ranks: Global mode: further ranks that are shown in Figure 1.
        oversample: Global mode: oversampling p.
        power_iters: Global mode: power iterations q.
        engine: mahout, spark, dask, ray, numpy, or auto.
        seed: Seed of the random numbers, -1 to draw one.
        method: Global mode: exact, randomized, single-pass, or auto.
        memory: Memory that the engine numpy may take, such as 3GiB, or auto.
        cluster: Address of the engine's own cluster, empty for the engine's operator.
        basis: URI of a stored basis to apply, empty to compute one from each series.
        tau: Patch mode: hard threshold in standard deviations of noise.
        wiener: Patch mode: whether the second, Wiener stage runs.
        stride: Patch mode: voxels between neighbouring patches within a slice.
        target_noise: Patch mode: noise in HU, in soft tissue, of the scan that the denoised series shall look like.
        deidentify: Whether headers are de-identified before they are stored.
        retain: Options of the de-identification profile, comma-separated.
        compress: Lossless compression of the pixels, or none.
        workspace: Root of the run's workspace.
        run: Id of the run.

    Returns:
        For each job the source of its fetch step, its workspace and its id.
    """
    # Before any other name is bound: the plan takes its parameters from the arguments.
    arguments = dict(locals())

    from pathlib import Path

    from ctbasis.cohort.pipeline_steps import plan_of, take_inventory
    from ctbasis.steps.notes import step_of_run

    with step_of_run("inventory", workspace):
        return take_inventory(plan_of(arguments), Path(workspace), run, again=again)
