"""The pipeline: S3 -> DICOM -> matrix -> SVD (Mahout DS-SVD on Spark) -> rank-k reconstruction -> DICOM and report.

In patch mode the svd step factors the matrix of all patches and writes the denoised matrix.
"""

from kfp import dsl

from components.cleanup.component import cleanup
from components.deploy.component import deploy as deploy_basis
from ctbasis.installed import VERSION
from ctbasis.kubeflow.descriptions import described
from ctbasis.kubeflow.images import PIPELINE
from ctbasis.parameters import (
    PARAMETERS,
    DeidentificationPlan,
    DeployPlan,
    GlobalMode,
    OutputPlan,
    PatchMode,
    SourcePlan,
    StorePlan,
    SvdPlan,
)
from pipeline.steps import DEPLOY_GROUP, LIFETIME, STEPS_GROUP, denoise_source, retried, sized, with_registry, with_s3

DESCRIPTION = (
    "Denoise low-dose chest CT by a distributed stochastic SVD (Apache Mahout DS-SVD on Spark): a DICOM series on S3 "
    "in, a denoised DICOM series and a report out. docs/how-to/kubeflow.md and docs/reference/parameters.md of ctbasis "
    f"{VERSION} describe runs and parameters."
)


@dsl.pipeline(
    name=PIPELINE,
    description=DESCRIPTION,
    pipeline_config=LIFETIME,
)
@described(PARAMETERS)
def denoise(
    source: str,
    truth: str = SourcePlan.truth,
    rank: str = GlobalMode.rank,
    ranks: str = GlobalMode.ranks,
    oversample: int = GlobalMode.oversample,
    power_iters: int = GlobalMode.power_iters,
    engine: str = SvdPlan.engine,
    mode: str = SvdPlan.mode,
    basis: str = SvdPlan.basis,
    tau: float = PatchMode.tau,
    wiener: bool = PatchMode.wiener,
    stride: int = PatchMode.stride,
    target_noise: float = PatchMode.target_noise,
    seed: int = SvdPlan.seed,
    method: str = GlobalMode.method,
    memory: str = SvdPlan.memory,
    cluster: str = SvdPlan.cluster,
    store: str = StorePlan.store,
    deidentify: bool = DeidentificationPlan.deidentify,
    retain: str = DeidentificationPlan.retain,
    compress: str = OutputPlan.compress,
    deploy: str = DeployPlan.deploy,
    registry: str = DeployPlan.registry,
) -> None:
    """Denoise a chest CT series."""  # The descriptions of the parameters are added by `described`.
    arguments = dict(locals())
    workspace, run = dsl.WORKSPACE_PATH_PLACEHOLDER, dsl.PIPELINE_JOB_ID_PLACEHOLDER
    end = cleanup(workspace=workspace, store=store, run=run, served_model=deploy)
    with dsl.ExitHandler(with_s3(sized(end)), name=STEPS_GROUP):
        tasks = denoise_source(arguments, source=source, truth=truth, workspace=workspace, store=store, run=run)
        with dsl.If(deploy != "", name=DEPLOY_GROUP):
            last = deploy_basis(
                served_model=deploy,
                registry=registry,
                workspace=workspace,
                run=run,
                basis=tasks.svd.outputs["basis"],
            )
            # What is served has been reported: nobody serves the basis of a run that failed.
            retried(with_registry(sized(last.after(tasks.reconstruct, tasks.report))), times=2)
