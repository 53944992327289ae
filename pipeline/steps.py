"""What the pipelines share: the tasks that denoise one source or one job of a cohort, and how every task is set up."""

from typing import Any, NamedTuple

from kfp import dsl, kubernetes

from components.fetch.component import fetch
from components.matrix.component import matrix
from components.reconstruct.component import reconstruct
from components.report.component import report
from components.svd.component import svd
from ctbasis.dicom.deidentify.pseudonyms import SALT
from ctbasis.kubeflow.sizes import DEFAULT_SIZE, SIZES
from ctbasis.parameters import SvdPlan
from ctbasis.steps.model_registry import TOKEN

S3_SECRET = "ctbasis-s3"  # noqa: S105 - the name of a Secret, not its content
S3_KEYS = {
    name: name
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")
}

SOURCES_SECRET = "ctbasis-sources"  # noqa: S105 - a name too
SOURCES_KEYS = {
    name: name
    for name in (
        "AWS_REQUEST_PAYER",
        "AZURE_STORAGE_ACCOUNT",
        "AZURE_STORAGE_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_CONNECTION_STRING",
        "DICOMWEB_TOKEN",
        "DICOMWEB_USERNAME",
        "DICOMWEB_PASSWORD",
    )
}

REGISTRY_SECRET = "ctbasis-registry"  # noqa: S105 - a name too

SALT_SECRET = "ctbasis-deidentify"  # noqa: S105 - a name too

WORKSPACE = dsl.WorkspaceConfig(
    size="20Gi",
    # Executors on several nodes use it at the same time.
    kubernetes=dsl.KubernetesWorkspaceConfig(pvcSpecPatch={"accessModes": ["ReadWriteMany"]}),
)

STEPS_GROUP = "denoise"
"""Name, in the graph of the UI, of the box around all steps but cleanup, which runs after them in any case."""

DEPLOY_GROUP = "serve"
"""Name, in the graph of the UI, of the box around the step that a run has only where a served model is named."""

DAY = 24 * 60 * 60

LIFETIME = dsl.PipelineConfig(
    workspace=WORKSPACE,
    # All three, because the settings of a stock server have all three, an hour each, and Argo takes the more special.
    ttl_seconds_after_finished=7 * DAY,
    ttl_seconds_after_success=7 * DAY,
    # A failed run keeps the claim of its workspace, and can be retried, until then.
    ttl_seconds_after_failure=3 * DAY,
)
"""How long Kubernetes keeps the objects of a run; the server's records of it stay."""

USER = 185
"""Numeric user ID of both images."""


def hardened(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Run the container of a task as the user of the image, with an empty volume at /tmp.

    KFP's back end adds to every step: no privilege escalation, no capabilities, seccomp RuntimeDefault. A pipeline
    cannot request two further settings. A read-only root file system may be set by an admission policy; the steps allow
    it, because they write to the workspace, KFP's folders and /tmp only. `fsGroup` is needed where the storage class
    creates volumes that belong to root; an administrator sets it for all pipelines, by a podSpecPatch in
    COMPILED_PIPELINE_SPEC_PATCH of KFP's API server (docs/how-to/kubeflow.md). Without podSpecPatch it reaches no pod,
    because KFP gives every pod template a security context of its own.
    """
    kubernetes.set_security_context(task, run_as_user=USER, run_as_non_root=True)
    return kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path="/tmp")  # noqa: S108 - a volume of the pod


def with_s3(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Give a task the keys and the endpoint of S3 from a Secret, if it exists."""
    return kubernetes.use_secret_as_env(task, S3_SECRET, S3_KEYS, optional=True)


def with_sources(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Give a task the keys and tokens of the sources that are not S3 from a Secret, if it exists.

    Google's credentials are those of the pod's service account (Workload Identity), which needs no Secret.
    """
    return kubernetes.use_secret_as_env(with_s3(task), SOURCES_SECRET, SOURCES_KEYS, optional=True)


def sized(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Give a task the resources of its step and its security context, and disable caching.

    Each step reads and writes the workspace of its run. If KFP skipped one for a cached result, the next step would not
    find its files.
    """
    hardened(task).set_caching_options(enable_caching=False)
    own = SIZES[DEFAULT_SIZE][task.name]
    task.set_cpu_request(own.cpu).set_cpu_limit(own.cpu_limit)
    return task.set_memory_request(own.memory).set_memory_limit(own.memory_limit)


def retried(task: dsl.PipelineTask, *, times: int) -> dsl.PipelineTask:
    """Retry a task whose pod was deleted, drained or lost with its node; it continues what the attempt before began.

    On a server with its stock settings Argo retries nothing else: KFP writes no retry policy, and Argo's default there
    is OnError, which does not mean a container that exits with an error or is killed for memory. An outage of S3 or of
    the API server is therefore waited for inside the step, see ctbasis/steps/fetch.py and
    ctbasis/jobs/timeouts.py.

    KFP passes `backoff_max_duration` to Argo as maxDuration, which counts from the start of the first attempt and ends
    all attempts. It must exceed a long download or a day in a queue.
    """
    limit = f"{7 * DAY}s"
    return task.set_retry(num_retries=times, backoff_duration="10s", backoff_factor=2.0, backoff_max_duration=limit)


def with_salt(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Give a task the secret of de-identification, if it exists."""
    return kubernetes.use_secret_as_env(task, SALT_SECRET, {"salt": SALT}, optional=True)


def with_registry(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Give a task the token of the Model Registry, if there is one."""
    return kubernetes.use_secret_as_env(task, REGISTRY_SECRET, {"token": TOKEN}, optional=True)


class SeriesTasks(NamedTuple):
    """The tasks of one source whose outputs others take."""

    matrix: dsl.PipelineTask
    svd: dsl.PipelineTask
    reconstruct: dsl.PipelineTask
    report: dsl.PipelineTask


def denoise_source(
    arguments: dict[str, Any], *, source: Any, truth: Any, workspace: Any, store: Any, run: Any
) -> SeriesTasks:
    """Add the tasks that denoise one source.

    Args:
        arguments: The arguments of the pipeline by name.
        source: Source of the fetch step.
        truth: Source of a clean copy; an empty text for none.
        workspace: Root of the workspace, of the run or of a job of it.
        store: `s3://bucket/prefix` of the run's stores; an empty text for the workspace.
        run: Id of the run, or of a job of it.
    """
    given, place = arguments, {"workspace": workspace, "store": store, "run": run}
    files = fetch(source=source, truth=truth, deidentify=given["deidentify"], workspace=workspace)
    retried(with_sources(sized(files)), times=2)

    A = matrix(
        folder=files.outputs["folder"],
        truth_folder=files.outputs["truth_folder"],
        deidentify=given["deidentify"],
        retain=given["retain"],
        **place,
    )
    with_salt(with_s3(sized(A)))
    # The parameters of the svd step are passed by name, see components/svd/component.py.
    factors = svd(
        matrix=A.outputs["matrix"],
        stored_basis=given["basis"],
        **{name: given[name] for name in SvdPlan.names() if name != "basis"},
        **place,
    )
    # Executors get S3 from this task. One retry, for a lost pod; the operator itself retries a failed application.
    retried(with_s3(sized(factors)), times=1)
    result = {
        "basis": factors.outputs["basis"],
        "denoised_matrix": factors.outputs["denoised_matrix"],
        "rank": factors.outputs["rank"],
    }
    # It reads the denoised matrix, which is on S3 if the stores of the run are.
    series = with_s3(sized(reconstruct(**result, **place, compress=given["compress"])))
    pictures = report(
        matrix=A.outputs["matrix"],
        truth_matrix=A.outputs["truth_matrix"],
        **result,
        **place,
        qc=A.outputs["qc"],
        ranks=given["ranks"],
    )
    return SeriesTasks(A, factors, series, with_s3(sized(pictures)))
