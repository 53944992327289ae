"""The pipeline: S3 -> DICOM -> matrix -> Spark/Mahout DS-SVD -> rank-k reconstruction -> DICOM and pictures."""

from kfp import dsl, kubernetes

from components.cleanup.component import cleanup
from components.fetch.component import fetch
from components.matrix.component import matrix
from components.reconstruct.component import reconstruct
from components.report.component import report
from components.svd.component import svd
from pipeline import parameters as p

S3_SECRET = "ctbasis-s3"  # noqa: S105 - the name of a Secret, not its content
S3_KEYS = {
    name: name
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")
}

WORKSPACE = dsl.WorkspaceConfig(
    size="20Gi",
    # Executors on other nodes read and write it at the same time.
    kubernetes=dsl.KubernetesWorkspaceConfig(pvcSpecPatch={"accessModes": ["ReadWriteMany"]}),
)

DAY = 24 * 60 * 60


def sized(task: dsl.PipelineTask, *, cpu: str = "1", memory: str = "1Gi") -> dsl.PipelineTask:
    """Give a task its resources, and no caching.

    Each step reads or writes the run's own workspace: one skipped for a cached result would leave the next
    without its files.
    """
    task.set_caching_options(enable_caching=False)
    task.set_cpu_request(cpu).set_cpu_limit(cpu).set_memory_request(memory).set_memory_limit(memory)
    return task


@dsl.pipeline(
    name="ctbasis-denoise",
    description="Denoise low-dose chest CT by a distributed stochastic SVD (Apache Mahout DS-SVD on Spark).",
    pipeline_config=dsl.PipelineConfig(workspace=WORKSPACE, ttl_seconds_after_finished=7 * DAY),
)
def denoise(
    source: str,
    truth: str = p.TRUTH.default,
    rank: str = p.RANK.default,
    ranks: str = p.RANKS.default,
    oversample: int = p.OVERSAMPLE.default,
    power_iters: int = p.POWER_ITERS.default,
    engine: str = p.ENGINE.default,
    mode: str = p.MODE.default,
    seed: int = p.SEED.default,
) -> None:
    """Denoise a chest CT series."""
    workspace = dsl.WORKSPACE_PATH_PLACEHOLDER
    with dsl.ExitHandler(sized(cleanup(workspace=workspace))):
        files = sized(fetch(source=source, truth=truth, workspace=workspace), cpu="2", memory="2Gi")
        kubernetes.use_secret_as_env(files, S3_SECRET, S3_KEYS, optional=True)
        files.set_retry(num_retries=2, backoff_duration="10s", backoff_factor=2.0, backoff_max_duration="60s")

        A = sized(
            matrix(folder=files.outputs["folder"], truth_folder=files.outputs["truth_folder"], workspace=workspace),
            cpu="2",
            memory="4Gi",
        )
        factors = sized(
            svd(
                matrix=A.outputs["matrix"],
                workspace=workspace,
                mode=mode,
                rank=rank,
                ranks=ranks,
                oversample=oversample,
                power_iters=power_iters,
                engine=engine,
                seed=seed,
                run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            ),
            # Of the Spark application's pods, not of the one that starts them.
            memory="4Gi",
        )
        kept = factors.outputs["Output"]
        basis = factors.outputs["basis"]
        sized(reconstruct(basis=basis, rank=kept), cpu="2", memory="4Gi")
        sized(
            report(
                matrix=A.outputs["matrix"],
                truth_matrix=A.outputs["truth_matrix"],
                basis=basis,
                qc=A.outputs["qc"],
                rank=kept,
                ranks=ranks,
            ),
            cpu="2",
            memory="4Gi",
        )
