"""The pipeline: S3 -> DICOM -> matrix -> SVD (Mahout DS-SVD on Spark) -> rank-k reconstruction -> DICOM and report.

In patch mode the svd step factors the matrix of all patches and writes the denoised matrix.
"""

from kfp import dsl, kubernetes

from components.cleanup.component import cleanup
from components.fetch.component import fetch
from components.matrix.component import matrix
from components.reconstruct.component import reconstruct
from components.report.component import report
from components.svd.component import svd
from ctbasis.dicom.deidentify.pseudonyms import SALT
from ctbasis.parameters import (
    DeidentificationPlan,
    GlobalMode,
    OutputPlan,
    PatchMode,
    SourcePlan,
    StorePlan,
    SvdPlan,
)

S3_SECRET = "ctbasis-s3"  # noqa: S105 - the name of a Secret, not its content
S3_KEYS = {
    name: name
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")
}

SALT_SECRET = "ctbasis-deidentify"  # noqa: S105 - a name too

WORKSPACE = dsl.WorkspaceConfig(
    size="20Gi",
    # Executors on several nodes use it at the same time.
    kubernetes=dsl.KubernetesWorkspaceConfig(pvcSpecPatch={"accessModes": ["ReadWriteMany"]}),
)

DAY = 24 * 60 * 60

USER = 185
"""Numeric user ID of both images."""


def hardened(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Run the container of a task as the user of the image, with an empty volume at /tmp.

    KFP's back end adds to every step: no privilege escalation, no capabilities, seccomp RuntimeDefault. A pipeline
    cannot request two further settings. A read-only root file system may be set by an admission policy; the steps allow
    it, because they write to the workspace, KFP's folders and /tmp only. `fsGroup` is needed where the storage class
    creates volumes that belong to root; an administrator sets it for all pipelines by
    COMPILED_PIPELINE_SPEC_PATCH={"securityContext":{"fsGroup":185}} on KFP's API server.
    """
    kubernetes.set_security_context(task, run_as_user=USER, run_as_non_root=True)
    return kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path="/tmp")  # noqa: S108 - a volume of the pod


def with_s3(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Give a task the keys and the endpoint of S3 from a Secret, if it exists."""
    return kubernetes.use_secret_as_env(task, S3_SECRET, S3_KEYS, optional=True)


def sized(task: dsl.PipelineTask, *, cpu: str = "1", memory: str = "1Gi") -> dsl.PipelineTask:
    """Give a task its resources and its security context, and disable caching.

    Each step reads and writes the workspace of its run. If KFP skipped one for a cached result, the next step would not
    find its files.
    """
    hardened(task).set_caching_options(enable_caching=False)
    task.set_cpu_request(cpu).set_cpu_limit(cpu).set_memory_request(memory).set_memory_limit(memory)
    return task


def retried(task: dsl.PipelineTask, *, times: int) -> dsl.PipelineTask:
    """Retry a task whose pod has failed, for example with its node; a retry continues what the attempt before it began.

    KFP passes `backoff_max_duration` to Argo as maxDuration, which counts from the start of the first attempt and ends
    all attempts. It must exceed a long download or a day in a queue.
    """
    limit = f"{7 * DAY}s"
    return task.set_retry(num_retries=times, backoff_duration="10s", backoff_factor=2.0, backoff_max_duration=limit)


@dsl.pipeline(
    name="ctbasis-denoise",
    description="Denoise low-dose chest CT by a distributed stochastic SVD (Apache Mahout DS-SVD on Spark).",
    pipeline_config=dsl.PipelineConfig(workspace=WORKSPACE, ttl_seconds_after_finished=7 * DAY),
)
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
) -> None:
    """Denoise a chest CT series."""
    # The parameters of the svd step are passed by name, see components/svd/component.py.
    arguments = dict(locals())
    workspace, run = dsl.WORKSPACE_PATH_PLACEHOLDER, dsl.PIPELINE_JOB_ID_PLACEHOLDER
    with dsl.ExitHandler(with_s3(sized(cleanup(workspace=workspace, store=store, run=run)))):
        files = with_s3(
            sized(fetch(source=source, truth=truth, deidentify=deidentify, workspace=workspace), cpu="2", memory="2Gi")
        )
        retried(files, times=2)

        A = sized(
            matrix(
                folder=files.outputs["folder"],
                truth_folder=files.outputs["truth_folder"],
                deidentify=deidentify,
                retain=retain,
                workspace=workspace,
                store=store,
                run=run,
            ),
            cpu="2",
            memory="4Gi",
        )
        with_s3(A)
        kubernetes.use_secret_as_env(A, SALT_SECRET, {"salt": SALT}, optional=True)
        factors = sized(
            svd(
                matrix=A.outputs["matrix"],
                workspace=workspace,
                store=store,
                stored_basis=basis,
                **{name: arguments[name] for name in SvdPlan.names() if name != "basis"},
                run=run,
            ),
            # Of the pods of the Spark application, not of the pod that starts them.
            memory="4Gi",
        )
        # Executors get S3 from this task. One retry, because the operator itself retries a failed application.
        retried(with_s3(factors), times=1)
        result = {
            "basis": factors.outputs["basis"],
            "denoised_matrix": factors.outputs["denoised_matrix"],
            "rank": factors.outputs["rank"],
        }
        # It reads the denoised matrix, which is on S3 if the stores of the run are.
        with_s3(sized(reconstruct(**result, compress=compress), cpu="2", memory="4Gi"))
        pictures = sized(
            report(
                matrix=A.outputs["matrix"],
                truth_matrix=A.outputs["truth_matrix"],
                **result,
                qc=A.outputs["qc"],
                ranks=ranks,
            ),
            cpu="2",
            memory="4Gi",
        )
        with_s3(pictures)
