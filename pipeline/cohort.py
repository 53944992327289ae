"""The pipeline of a cohort: inventory -> each series, or group of series, through the steps of denoise.py -> summary.

The loop takes as many jobs at the same time as `PARALLELISM` says. A step that fails costs the series of its job, see
`ctbasis.steps.job`; the summary names them and decides how the run ends.
"""

from kfp import dsl

from components.cleanup.component import cleanup
from components.inventory.component import inventory
from components.publish.component import publish
from components.summary.component import summary
from ctbasis.installed import VERSION
from ctbasis.kubeflow.descriptions import described
from ctbasis.kubeflow.images import COHORT_PIPELINE
from ctbasis.parameters import (
    COHORT_PARAMETERS,
    NOT_OF_A_COHORT,
    PARAMETERS,
    CohortOptions,
    DeidentificationPlan,
    GlobalMode,
    OutputPlan,
    PatchMode,
    SvdPlan,
)
from pipeline.steps import LIFETIME, STEPS_GROUP, denoise_source, retried, sized, with_s3, with_salt, with_sources

DESCRIPTION = (
    "Denoise every CT series of a source, whatever sizes, kernels and scanners it holds, and summarize: a folder for "
    "each series and a summary page on S3. A series that cannot be denoised costs itself. docs/how-to/cohort.md, "
    f"docs/how-to/kubeflow.md and docs/reference/parameters.md of ctbasis {VERSION} describe runs and parameters."
)

LOOP = "series"
"""Name, in the graph of the UI, of the box around the steps of one job."""

PARALLELISM = 3
"""Jobs at the same time. `ctbasis compile --parallelism` makes a package with another number."""


@dsl.pipeline(
    name=COHORT_PIPELINE,
    description=DESCRIPTION,
    pipeline_config=LIFETIME,
)
@described([*(one for one in PARAMETERS if one.name not in NOT_OF_A_COHORT), *COHORT_PARAMETERS])
def cohort(
    source: str,
    out: str,
    template: str = CohortOptions.template,
    where: str = CohortOptions.where,
    again: bool = CohortOptions.again,
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
    deidentify: bool = DeidentificationPlan.deidentify,
    retain: str = DeidentificationPlan.retain,
    compress: str = OutputPlan.compress,
) -> None:
    """Denoise the series of a cohort."""  # The descriptions of the parameters are added by `described`.
    arguments = dict(locals())
    workspace, run = dsl.WORKSPACE_PATH_PLACEHOLDER, dsl.PIPELINE_JOB_ID_PLACEHOLDER
    end = cleanup(workspace=workspace, store="", run=run, served_model="")
    with dsl.ExitHandler(with_s3(sized(end)), name=STEPS_GROUP):
        found = with_sources(sized(inventory(**arguments, workspace=workspace, run=run)))
        retried(with_salt(found), times=2)
        with dsl.ParallelFor(found.output, name=LOOP, parallelism=PARALLELISM) as job:
            place = {"workspace": job.workspace, "run": job.run}
            tasks = denoise_source(arguments, source=job.source, truth="", store="", **place)
            results = publish(
                out=out,
                matrix=tasks.matrix.outputs["matrix"],
                **{name: tasks.reconstruct.outputs[name] for name in ("denoised", "basis_images", "noise")},
                basis=tasks.svd.outputs["basis"],
                **{name: tasks.report.outputs[name] for name in ("figure1", "page", "metrics")},
                qc=tasks.matrix.outputs["qc"],
                mode=mode,
                workspace=job.workspace,
            )
            retried(with_s3(sized(results)), times=2)
        with_s3(sized(summary(jobs=dsl.Collected(results.output), workspace=workspace, run=run)))
