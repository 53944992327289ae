"""RayJobs and DaskJobs: their manifests, and how the step follows them.

The API server is a stand-in; tests/e2e uses a real one, with KubeRay and Dask's operator.
"""

from __future__ import annotations

import base64
import json
import shlex
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ctbasis.errors import CtbasisError
from ctbasis.jobs import launcher
from ctbasis.jobs.dask_job import HANDLED, WORKERS, DaskJob
from ctbasis.jobs.follow import Follower
from ctbasis.jobs.job import KUEUE_LABEL, QUEUE_ANNOTATION, RUN_LABEL, Phase
from ctbasis.jobs.outage import JobStaysError
from ctbasis.jobs.placement import Placement
from ctbasis.jobs.ray_job import RayJob
from ctbasis.jobs.resources import Jobs, template
from ctbasis.jobs.spark_application import SparkApplication
from tests.jobs.api_server_stand_in import APPLICATIONS, DASK_JOBS, PODS, RAY_JOBS, ApiServerStandIn

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.jobs.job import Job
    from ctbasis.jobs.timeouts import Timeouts

NAME = "ctbasis-svd-run-1"
ARGUMENTS = ["--plan", '{"rank": "5", "basis": "s3://b/$(HOME)/`id`/\'x\'"}']
REFUSED = ["ctbasis: no matrix at /m", "ctbasis:   expected: a store"]

PLACEMENT = Placement(
    volumes=[{"name": "workspace", "persistentVolumeClaim": {"claimName": "run"}}, {"name": "x", "emptyDir": {}}],
    volume_mounts=[{"name": "workspace", "mountPath": "/workspace"}, {"name": "x", "mountPath": "/opt/work/"}],
    env=[{"name": "OPENBLAS_NUM_THREADS", "value": "2"}, {"name": "AWS_REGION", "value": "eu"}],
    tolerations=[{"key": "ct", "operator": "Exists"}],
    node_selector={"pool": "big"},
    affinity={"nodeAffinity": {}},
    resources={"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "8Gi"}},
)


@dataclass
class Operator:
    """One kind of job, and what its operator and the kubelet write while the job goes one way."""

    kind: type[Job]
    collection: str
    states: dict[str, dict[str, Any]]
    labels: dict[str, dict[str, str]]
    refusal: str = ""
    final: tuple[str, ...] = field(default=("succeeded", "failed"))


def ray(deployment: str, job: str = "", **more: Any) -> dict[str, Any]:
    return {"jobDeploymentStatus": deployment, "jobStatus": job, **more}


RAY = Operator(
    RayJob,
    RAY_JOBS,
    {
        "waits": ray("Initializing"),
        "runs": ray("Running", "RUNNING", jobId="1"),
        "suspended": ray("Suspended"),
        "succeeded": ray("Complete", "SUCCEEDED", jobId="1"),
        "failed": ray("Failed", "FAILED", reason="AppFailed", message="Job entrypoint command failed with exit code 1"),
        "retried": ray("Retrying", "FAILED", reason="AppFailed", message="exit code 2"),
    },
    {
        "submitter": {"job-name": NAME},
        "head": {"ray.io/node-type": "head"},
        "worker": {"ray.io/node-type": "worker"},
    },
)
DASK = Operator(
    DaskJob,
    DASK_JOBS,
    {
        "waits": {"jobStatus": "ClusterCreated"},
        "runs": {"jobStatus": "Running"},
        "succeeded": {"jobStatus": "Successful"},
        "failed": {"jobStatus": "Failed"},
    },
    {
        "runner": {"dask.org/component": "job-runner"},
        "scheduler": {"dask.org/component": "scheduler"},
        "worker": {"dask.org/component": "worker"},
    },
)
OPERATORS = pytest.mark.parametrize("operator", [RAY, DASK], ids=["ray", "dask"])


class Following:
    """The creation and the following of a job in a thread, while the test acts as the operator and the kubelet."""

    def __init__(self, server: ApiServerStandIn, operator: Operator, timeouts: Timeouts) -> None:
        self.server, self.operator = server, operator
        self._timeouts = timeouts
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._launch, daemon=True)
        self._thread.start()
        server.until(lambda: NAME in server.names(operator.collection))

    def _launch(self) -> None:
        kind, server = self.operator.kind, self.server.api_server()
        manifest = kind.read().for_run(name=NAME, arguments=ARGUMENTS).to_manifest()
        try:
            Follower(server, kind, Jobs(server, kind, self._timeouts).create_or_adopt(manifest), self._timeouts).run()
        except CtbasisError as error:
            self._error = error

    def state(self, name: str) -> None:
        self.server.status(self.operator.collection, NAME, **self.operator.states[name])

    def pod(self, role: str, state: dict[str, Any], *, uid: str = "", **metadata: Any) -> str:
        name = f"{NAME}-{role}"
        labels = {RUN_LABEL: NAME, **self.operator.labels[role]}
        phase = "Running" if "running" in state else "Failed" if state.get("terminated", {}).get("exitCode") else ""
        self.server.put(
            PODS,
            {
                "kind": "Pod",
                "metadata": {"name": name, "uid": uid or f"uid-of-{name}", "labels": labels, **metadata},
                "spec": {"containers": [{"name": role, "resources": {"limits": {"memory": "4Gi"}}}]},
                "status": {"phase": phase or "Succeeded", "containerStatuses": [{"name": role, "state": state}]},
            },
        )
        return name

    def driver(self, state: dict[str, Any], *lines: str, ended: bool = False) -> None:
        role = self.operator.kind.driver_role()
        self.server.write(f"{NAME}-{role}", *lines, ended=ended)
        self.pod(role, state)

    def succeeds(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def fails(self) -> CtbasisError:
        with pytest.raises(CtbasisError) as caught:
            self.succeeds()
        return caught.value


RUNNING: dict[str, Any] = {"running": {}}


def terminated(code: int, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason if code else "Completed"}}


@pytest.fixture
def following(server: ApiServerStandIn, timeouts: Timeouts) -> Callable[..., Following]:
    return lambda operator, **more: Following(server, operator, replace(timeouts, **more))


# ---- manifests


@OPERATORS
def test_a_run_names_the_job_and_labels_all_its_pods_and_changes_nothing_else(operator: Operator) -> None:
    plain = yaml.safe_load(operator.kind.template.read_text())
    job = operator.kind.read()
    assert job.to_manifest() == plain
    named = job.for_run(name=NAME).to_manifest()
    assert named["metadata"]["name"] == named["metadata"]["labels"][RUN_LABEL] == NAME
    if operator is RAY:  # Dask's operator copies the labels of the job to the pods
        cluster = named["spec"]["rayClusterSpec"]
        templates = [named["spec"]["submitterPodTemplate"], cluster["headGroupSpec"]["template"]]
        for pod in [*templates, *(group["template"] for group in cluster["workerGroupSpecs"])]:
            assert pod.pop("metadata") == {"labels": {RUN_LABEL: NAME}}
    else:
        cluster = named["spec"]["cluster"]["spec"]
        assert cluster["scheduler"]["service"]["selector"].pop("dask.org/cluster-name") == NAME
        assert named["spec"]["job"]["spec"]["containers"][0]["env"].pop() == {"name": WORKERS, "value": "2"}
    assert named["spec"] == plain["spec"]
    assert job.to_manifest() == plain, "the template is unchanged"


def test_no_shell_changes_the_arguments_of_a_ray_job() -> None:
    entrypoint = RayJob.read().with_arguments(ARGUMENTS).to_manifest()["spec"]["entrypoint"]
    *command, encoded = shlex.split(entrypoint)
    assert command == ["python3", "-m", "ctbasis.spark.driver", "--encoded"]
    assert json.loads(base64.urlsafe_b64decode(encoded)) == ARGUMENTS
    assert not set("$`\"'\\;&|<> ") & set(encoded)


def test_kubernetes_replaces_no_variable_in_the_arguments_of_a_dask_job() -> None:
    runner = DaskJob.read().with_arguments(ARGUMENTS).to_manifest()["spec"]["job"]["spec"]["containers"][0]
    assert runner["args"] == [text.replace("$(HOME)", "$$(HOME)") for text in ARGUMENTS]


@OPERATORS
def test_the_task_configuration_is_in_the_pods_that_compute(operator: Operator) -> None:
    spec = operator.kind.read().placed(PLACEMENT).to_manifest()["spec"]
    if operator is RAY:
        cluster = spec["rayClusterSpec"]
        others = [spec["submitterPodTemplate"]]
        computing = [cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]]
    else:
        cluster = spec["cluster"]["spec"]
        others, computing = [cluster["scheduler"]], [spec["job"], cluster["worker"]]
    for pod in (one["spec"] for one in [*others, *computing]):
        assert pod["tolerations"] == PLACEMENT.tolerations
        assert pod["nodeSelector"] == PLACEMENT.node_selector
        assert pod["affinity"] == PLACEMENT.affinity
    for pod in (one["spec"] for one in computing):
        container = pod["containers"][0]
        names = [volume["name"] for volume in pod["volumes"]]
        assert "workspace" in names
        assert "x" not in names, "the job has a volume of its own there"
        assert {"name": "workspace", "mountPath": "/workspace"} in container["volumeMounts"]
        values = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert (values["OPENBLAS_NUM_THREADS"], values["AWS_REGION"]) == ("2", "eu")
        assert container["resources"]["limits"] == {"memory": "8Gi"}
        assert container["resources"]["requests"] == {"cpu": "2", "memory": "8Gi"}
    for pod in (one["spec"] for one in others):
        assert "workspace" not in [volume["name"] for volume in pod["volumes"]]


@OPERATORS
@pytest.mark.parametrize("change", ["kind", "version", "no pods", "no image"])
def test_a_manifest_that_the_step_cannot_use_is_refused(operator: Operator, change: str) -> None:
    manifest = operator.kind.read().to_manifest()
    if change == "kind":
        manifest["kind"] = "Job"
    if change == "version":
        manifest["apiVersion"] = f"{operator.kind.group}/v1alpha1"
    if change == "no pods":
        manifest["spec"] = {}
    if change == "no image":
        pod = manifest["spec"]["submitterPodTemplate" if operator is RAY else "job"]
        del pod["spec"]["containers"][0]["image"]
    with pytest.raises(CtbasisError, match=r"manifest (is no|lacks)"):
        operator.kind.from_manifest(manifest)


@OPERATORS
def test_the_template_of_the_namespace_is_used_and_its_queue_is_that_of_the_runs(
    server: ApiServerStandIn, timeouts: Timeouts, operator: Operator
) -> None:
    manifest = operator.kind.read().to_manifest()
    manifest["metadata"]["annotations"] = {QUEUE_ANNOTATION: "ct", HANDLED: "{}"}
    if operator is RAY:
        manifest["spec"]["suspend"] = True
    server.put(operator.collection, manifest)
    used = template(operator.kind, server.api_server(), timeouts).to_manifest()
    assert used["metadata"]["labels"][KUEUE_LABEL] == "ct"
    assert "annotations" not in used["metadata"]
    assert used["spec"] == operator.kind.read().to_manifest()["spec"], "a run is not suspended"


def test_the_queue_of_spark_is_that_of_its_template_too(server: ApiServerStandIn, timeouts: Timeouts) -> None:
    manifest = SparkApplication.read().to_manifest()
    manifest["spec"]["suspend"] = True
    manifest["metadata"]["annotations"] = {QUEUE_ANNOTATION: "ct"}
    server.put(APPLICATIONS, manifest)
    used = template(SparkApplication, server.api_server(), timeouts).to_manifest()
    assert used["metadata"]["labels"][KUEUE_LABEL] == "ct"


# ---- following


@OPERATORS
def test_a_success_is_followed_with_the_log_of_the_program(
    following: Callable[..., Following], operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    run = following(operator)
    run.state("waits")
    run.driver(RUNNING, "svd: plan")
    run.state("runs")
    run.driver(terminated(0), "svd: done", ended=True)
    run.state("succeeded")
    run.succeeds()
    said = capsys.readouterr().err
    assert said.count("svd: plan\n") == said.count("svd: done\n") == 1
    assert f"{operator.kind.title} {NAME}: NEW" in said
    assert run.server.names(operator.collection) == [NAME]


@OPERATORS
def test_the_api_server_is_asked_to_refuse_unknown_fields(
    following: Callable[..., Following], operator: Operator
) -> None:
    run = following(operator)
    assert ("POST", f"{operator.collection}?fieldValidation=Strict") in run.server.requests
    run.state("succeeded")
    run.succeeds()


@OPERATORS
def test_a_failure_names_the_end_of_the_program_and_of_a_worker(
    following: Callable[..., Following], operator: Operator
) -> None:
    run = following(operator)
    run.driver(RUNNING, "svd: plan")
    run.pod("worker", terminated(137, "OOMKilled"))
    run.driver(terminated(1), "Traceback", ended=True)
    run.state("failed")
    error = run.fails()
    assert f"the {operator.kind.kind} {NAME} failed: " in error.found
    assert f"{operator.kind.driver_role()}: Error (exit code 1)" in error.found
    assert "1 worker ended: OOMKilled (exit code 137, memory limit 4Gi)" in error.found
    assert "more memory" in error.remedy
    assert "Traceback" in error.details
    assert isinstance(error, JobStaysError)


@OPERATORS
def test_the_programs_own_error_is_the_error(following: Callable[..., Following], operator: Operator) -> None:
    run = following(operator)
    run.driver(terminated(2), *REFUSED, ended=True)
    run.state("failed")
    assert str(run.fails()) == "no matrix at /m\n  expected: a store"


def test_a_refused_input_ends_a_ray_job_without_further_retries(following: Callable[..., Following]) -> None:
    run = following(RAY)
    run.driver(terminated(2), *REFUSED, ended=True)
    run.state("retried")
    error = run.fails()
    assert error.found == "no matrix at /m"
    assert not isinstance(error, JobStaysError), "it is deleted, so that it does not run again"


def test_a_ray_job_whose_submitter_is_gone_has_the_error_in_its_status(following: Callable[..., Following]) -> None:
    run = following(RAY)
    text = "Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 chars):\n"
    run.server.status(RAY_JOBS, NAME, **ray("Failed", "FAILED", message=text + "\n".join(REFUSED)))
    assert run.fails().found == "no matrix at /m"


def test_a_ray_job_is_suspended_and_resumed_with_a_new_cluster(
    following: Callable[..., Following], capsys: pytest.CaptureFixture[str]
) -> None:
    run = following(RAY)
    run.state("suspended")
    run.state("waits")
    run.driver(RUNNING, "first")
    run.state("runs")
    run.server.until(lambda: "log" in str(run.server.requests))
    run.state("suspended")
    run.server.write(f"{NAME}-submitter", ended=True)
    run.server.remove(PODS, f"{NAME}-submitter")
    run.server.new_log(f"{NAME}-submitter")
    run.server.write(f"{NAME}-submitter", "second", ended=True)
    run.pod("submitter", terminated(0), uid="of the second admission")
    run.state("succeeded")
    run.succeeds()
    assert "second\n" in capsys.readouterr().err


def test_a_ray_job_that_never_gets_its_workers_waits_and_says_why(
    following: Callable[..., Following], capsys: pytest.CaptureFixture[str]
) -> None:
    run = following(RAY)
    run.state("waits")
    run.pod("head", RUNNING)
    name = f"{NAME}-worker"
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu."}
    run.server.put(
        PODS,
        {
            "kind": "Pod",
            "metadata": {"name": name, "uid": "w", "labels": {RUN_LABEL: NAME, "ray.io/node-type": "worker"}},
            "spec": {"containers": [{"name": "worker"}]},
            "status": {"phase": "Pending", "conditions": [condition]},
        },
    )
    said = ""

    def is_said() -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return "1 of 1 workers wait: Unschedulable: Insufficient cpu." in said

    run.server.until(is_said)
    assert run._thread.is_alive(), "a wait for room has no limit"
    run.state("succeeded")
    run.succeeds()


@pytest.mark.parametrize("status", [ray("Complete", "STOPPED"), ray("ValidationFailed", reason="ValidationFailed")])
def test_a_ray_job_that_is_stopped_or_not_valid_has_failed(status: dict[str, Any]) -> None:
    assert RayJob.phase({"status": status}) is Phase.FAILED


def test_a_runner_that_is_deleted_ends_the_step_although_its_operator_does_not_see_it(
    following: Callable[..., Following], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctbasis.jobs.follow.WATCH_LAG_SECONDS", 0.2)
    run = following(DASK)
    run.driver(RUNNING, "svd: plan")
    run.state("runs")
    run.server.until(lambda: "log" in str(run.server.requests))
    run.server.write(f"{NAME}-runner", ended=True)
    run.server.remove(PODS, f"{NAME}-runner")
    assert "is Running, but its runner pod was deleted" in run.fails().found


@OPERATORS
def test_an_absent_operator_is_named_with_the_command_that_installs_it(
    server: ApiServerStandIn, timeouts: Timeouts, operator: Operator
) -> None:
    server.answer("GET", operator.kind.plural, 404, "404 page not found", plain=True)
    with pytest.raises(CtbasisError) as caught:
        template(operator.kind, server.api_server(), timeouts)
    assert f"the {operator.kind.operator} is not installed" in caught.value.cause
    assert "helm install" in caught.value.remedy


@OPERATORS
def test_a_retry_adopts_the_job_of_the_first_attempt_and_replaces_a_failed_one(
    following: Callable[..., Following], server: ApiServerStandIn, operator: Operator, timeouts: Timeouts
) -> None:
    job = operator.kind.read().for_run(name=NAME, arguments=ARGUMENTS)
    server.put(operator.collection, job.to_manifest())
    first = (server.get(operator.collection, NAME) or {})["metadata"]["uid"]
    server.status(operator.collection, NAME, **operator.states["succeeded"])
    launcher.launch(job, server=server.api_server(), timeouts=timeouts)
    assert (server.get(operator.collection, NAME) or {})["metadata"]["uid"] == first
    server.status(operator.collection, NAME, **operator.states["failed"])
    run = following(operator)

    def is_replaced() -> bool:
        there = server.get(operator.collection, NAME)
        return there is not None and there["metadata"]["uid"] != first

    server.until(is_replaced)
    run.state("succeeded")
    run.succeeds()


@OPERATORS
def test_the_exit_handler_ends_a_job_that_runs_and_keeps_one_that_has_ended(
    server: ApiServerStandIn, timeouts: Timeouts, operator: Operator
) -> None:
    server.put(operator.collection, operator.kind.read().for_run(name=NAME).to_manifest())
    server.status(operator.collection, NAME, **operator.states["failed"])
    assert not launcher.end(operator.kind, NAME, server=server.api_server(), timeouts=timeouts)
    server.status(operator.collection, NAME, **operator.states["runs"])
    assert launcher.end(operator.kind, NAME, server=server.api_server(), timeouts=timeouts)
    assert server.names(operator.collection) == []
