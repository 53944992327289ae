"""The admission policies on an API server: what the accounts of driver and step may create, and what they may not."""

from __future__ import annotations

import copy
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.jobs.dask_job import DaskJob
from ctbasis.jobs.ray_job import RayJob
from ctbasis.jobs.spark_application import SparkApplication
from tests.e2e.cluster import (
    CHECKOUT,
    SPARK_IMAGE,
    hardened,
    has_definition,
    kubectl,
    new_namespace,
    pod,
    wait_until,
)
from tests.e2e.installed import rendered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.e2e

LAUNCHER = "launcher"
Change = tuple[str, Any]
"""A path in the specification of an object, its keys separated by blanks, and the value to set there."""


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return a namespace with the overlay `hardened` in which Pod Security refuses nothing, so that the policies do."""
    folder = tmp_path_factory.mktemp("admission")
    with new_namespace() as made:
        overlay = CHECKOUT / "manifests" / "overlays" / "hardened"
        kubectl("apply", "--filename=-", given=rendered(overlay, made, folder))
        kubectl("label", "--overwrite", "namespace", made, "pod-security.kubernetes.io/enforce=privileged")
        kubectl("--namespace", made, "create", "serviceaccount", LAUNCHER)
        binding = ["rolebinding", LAUNCHER, "--role=ctbasis-launch", f"--serviceaccount={made}:{LAUNCHER}"]
        kubectl("--namespace", made, "create", *binding)
        # The API server reads a new policy after a moment.
        wait_until(lambda: "denied" in refusal(made, "ctbasis-spark", executor(("hostNetwork", True))), "pods")
        wait_until(
            lambda: "denied" in refusal(made, LAUNCHER, application(("driver hostNetwork", True))), "applications"
        )
        yield made


def refusal(namespace: str, account: str, manifest: dict[str, Any]) -> str:
    """Apply an object as a service account without storing it; return the refusal, or an empty text."""
    user = f"--as=system:serviceaccount:{namespace}:{account}"
    command = ["kubectl", "--namespace", namespace, user, "create", "--dry-run=server", "--filename=-"]
    done = subprocess.run(command, input=json.dumps(manifest), capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def executor(*changes: Change) -> dict[str, Any]:
    """Return a pod as the driver creates it for an executor, with changes in its specification."""
    container = hardened(SPARK_IMAGE, name="main", command=["true"], env=[secret_variable("ctbasis-s3")])
    made = pod("executor", container, serviceAccountName="ctbasis-executor", volumes=[{"name": "a", "emptyDir": {}}])
    return changed(made, changes)


def application(*changes: Change) -> dict[str, Any]:
    """Return the SparkApplication of a run, with changes in its specification."""
    made = SparkApplication.read().for_run(name="ctbasis-svd-run", arguments=[]).to_manifest()
    for role in ("driver", "executor"):
        made["spec"][role]["env"].append(secret_variable("ctbasis-s3"))
    return changed(made, changes)


def changed(manifest: dict[str, Any], changes: tuple[Change, ...]) -> dict[str, Any]:
    made = copy.deepcopy(manifest)
    for path, value in changes:
        *above, key = path.split()
        holder: Any = made["spec"]
        for part in above:
            holder = holder[int(part) if isinstance(holder, list) else part]
        holder[key] = value
    return made


def secret_variable(secret: str) -> dict[str, Any]:
    return {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k", "optional": True}}}


TOKEN = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}
REFUSED_PODS: dict[str, tuple[Change, str]] = {
    "another account": (("serviceAccountName", "default"), "service account ctbasis-executor alone"),
    "the driver's own account": (("serviceAccountName", "ctbasis-spark"), "service account ctbasis-executor alone"),
    "a folder of the node": (("volumes", [{"name": "h", "hostPath": {"path": "/"}}]), "a volume is of a kind other"),
    "a Secret": (("volumes", [{"name": "s", "secret": {"secretName": "other"}}]), "volume holds a Secret"),
    "a Secret among others": (
        ("volumes", [{"name": "p", "projected": {"sources": [{"secret": {"name": "other"}}]}}]),
        "volume holds a Secret",
    ),
    "a token": (("volumes", [TOKEN]), "or a token"),
    "a Secret's key": (("containers 0 env", [secret_variable("other")]), "environment holds a Secret"),
    "a Secret's keys": (("containers 0 envFrom", [{"secretRef": {"name": "other"}}]), "environment holds a Secret"),
    "a Secret's key in an init container": (
        ("initContainers", [{"name": "i", "image": "i:1", "env": [secret_variable("other")]}]),
        "environment holds a Secret",
    ),
    "the node's network": (("hostNetwork", True), "shares the network"),
    "the node's processes": (("hostPID", True), "shares the network, the processes"),
    "the node's IPC": (("hostIPC", True), "the IPC of its node"),
    "a privileged container": (("containers 0 securityContext", {"privileged": True}), "is privileged"),
    "a capability": (
        ("containers 0 securityContext", {"capabilities": {"add": ["SYS_ADMIN"]}}),
        "adds capabilities",
    ),
}
REFUSED_APPLICATIONS: dict[str, tuple[Change, str]] = {
    "another account of the driver": (("driver serviceAccount", "default"), "another service account"),
    "another account of the executors": (("executor serviceAccount", "ctbasis-spark"), "another service account"),
    "a folder of the node": (("volumes", [{"name": "h", "hostPath": {"path": "/"}}]), "a volume is of a kind other"),
    "a Secret": (("volumes", [{"name": "s", "secret": {"secretName": "other"}}]), "volume holds a Secret"),
    "a Secret by the operator's field": (
        ("driver secrets", [{"name": "other", "path": "/x", "secretType": "Generic"}]),
        "volume holds a Secret",
    ),
    "a Secret's key": (("driver env", [secret_variable("other")]), "environment holds a Secret"),
    "a Secret's keys": (("executor envFrom", [{"secretRef": {"name": "other"}}]), "environment holds a Secret"),
    "a Secret's key by the operator's field": (
        ("driver envSecretKeyRefs", {"X": {"name": "other", "key": "k"}}),
        "environment holds a Secret",
    ),
    "the node's network": (("driver hostNetwork", True), "network of its node"),
    "a privileged container": (("executor securityContext", {"privileged": True}), "is privileged"),
    "a pod template": (("driver template", {"spec": {"hostNetwork": True}}), "has a pod template"),
    "a sidecar": (("driver sidecars", [{"name": "s", "image": "s:1"}]), "sidecars"),
    "an init container": (("executor initContainers", [{"name": "s", "image": "s:1"}]), "init containers"),
    "a Secret by sparkConf": (("sparkConf spark.kubernetes.driver.secrets.other", "/x"), "sparkConf has a setting"),
    "a Secret's key by sparkConf": (
        ("sparkConf spark.kubernetes.driver.secretKeyRef.X", "other:k"),
        "sparkConf has a setting",
    ),
    "a folder of the node by sparkConf": (
        ("sparkConf spark.kubernetes.executor.volumes.hostPath.h.mount.path", "/x"),
        "sparkConf has a setting",
    ),
    "an account by sparkConf": (
        ("sparkConf spark.kubernetes.authenticate.driver.serviceAccountName", "default"),
        "sparkConf has a setting",
    ),
    "a pod template by sparkConf": (
        ("sparkConf spark.kubernetes.driver.podTemplateFile", "/x"),
        "sparkConf has a setting",
    ),
}

OPERATOR_PODS = {
    "ray": (
        "submitterPodTemplate spec",
        "rayClusterSpec headGroupSpec template spec",
        "rayClusterSpec workerGroupSpecs 0 template spec",
    ),
    "dask": ("job spec", "cluster spec scheduler spec", "cluster spec worker spec"),
}
"""Paths of the pods' specifications in the jobs of the operators."""

REFUSED_JOBS: dict[str, tuple[Change, str]] = {
    "another account": (("serviceAccountName", "ctbasis-spark"), "another service account"),
    "a folder of the node": (("volumes", [{"name": "h", "hostPath": {"path": "/"}}]), "a volume is of a kind other"),
    "a Secret": (("volumes", [{"name": "s", "secret": {"secretName": "other"}}]), "volume holds a Secret"),
    "a token": (("volumes", [TOKEN]), "a volume is of a kind other"),
    "a Secret's key": (("containers 0 env", [secret_variable("other")]), "environment holds a Secret"),
    "a Secret's keys": (("containers 0 envFrom", [{"secretRef": {"name": "other"}}]), "environment holds a Secret"),
    "the node's network": (("hostNetwork", True), "shares the network"),
    "the node's processes": (("hostPID", True), "shares the network, the processes"),
    "a privileged container": (("containers 0 securityContext", {"privileged": True}), "is privileged"),
    "a privileged init container": (
        ("initContainers", [{"name": "i", "image": "i:1", "securityContext": {"privileged": True}}]),
        "is privileged",
    ),
}


def operator_job(engine: str, *changes: Change) -> dict[str, Any]:
    """Return the RayJob or DaskJob of a run, with changes in its specification."""
    kind = {"ray": RayJob, "dask": DaskJob}[engine]
    if not has_definition(f"{kind.plural}.{kind.group}"):
        pytest.skip(f"NOT RUN: the cluster has no {kind.title}s")
    return changed(kind.read().for_run(name="ctbasis-svd-run", arguments=[]).to_manifest(), changes)


@pytest.mark.parametrize("engine", OPERATOR_PODS)
def test_the_jobs_of_a_run_are_admitted(engine: str, name: str) -> None:
    listed = {"name": "s", "secret": {"secretName": "ctbasis-s3"}}
    made = operator_job(engine)
    for path in OPERATOR_PODS[engine]:
        made = changed(made, ((f"{path} containers 0 env", [secret_variable("ctbasis-s3")]),))
        spec = made["spec"]
        for part in path.split():
            spec = spec[int(part) if isinstance(spec, list) else part]
        if listed not in spec["volumes"]:  # the pods of one template share lists by anchors of YAML
            spec["volumes"] = [*spec["volumes"], listed]
    assert refusal(name, LAUNCHER, made) == ""


@pytest.mark.parametrize("engine", OPERATOR_PODS)
@pytest.mark.parametrize("case", REFUSED_JOBS)
def test_the_steps_account_creates_no_job_whose_pods_reach_more_than_those_of_a_run(
    case: str, engine: str, name: str
) -> None:
    (path, value), message = REFUSED_JOBS[case]
    for place in OPERATOR_PODS[engine]:
        said = refusal(name, LAUNCHER, operator_job(engine, (f"{place} {path}", value)))
        assert f"ValidatingAdmissionPolicy 'ctbasis-{engine}-jobs'" in said, place
        assert message in said, place


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("clusterSelector", {"ray.io/cluster": "other"}), "another cluster of the namespace"),
        (("rayClusterSpec enableInTreeAutoscaling", True), "the cluster has an autoscaler"),
    ],
    ids=["another cluster", "an autoscaler"],
)
def test_a_ray_job_runs_in_a_cluster_of_its_own_without_an_autoscaler(change: Change, message: str, name: str) -> None:
    assert message in refusal(name, LAUNCHER, operator_job("ray", change))


def test_the_pods_and_applications_of_a_run_are_admitted(name: str) -> None:
    listed = {"name": "s", "secret": {"secretName": "ctbasis-s3"}}
    claim = {"name": "c", "persistentVolumeClaim": {"claimName": "workspace"}}
    assert refusal(name, "ctbasis-spark", executor(("volumes", [listed, claim]))) == ""
    assert refusal(name, LAUNCHER, application(("volumes", [listed, claim, {"name": "e", "emptyDir": {}}]))) == ""


@pytest.mark.parametrize("case", REFUSED_PODS)
def test_the_drivers_account_creates_no_pod_that_reaches_more_than_an_executor(case: str, name: str) -> None:
    change, message = REFUSED_PODS[case]
    said = refusal(name, "ctbasis-spark", executor(change))
    assert "ValidatingAdmissionPolicy 'ctbasis-pods'" in said
    assert message in said


@pytest.mark.parametrize("case", REFUSED_APPLICATIONS)
def test_the_steps_account_creates_no_application_that_reaches_more_than_a_run(case: str, name: str) -> None:
    change, message = REFUSED_APPLICATIONS[case]
    said = refusal(name, LAUNCHER, application(change))
    assert "ValidatingAdmissionPolicy 'ctbasis-spark-applications'" in said
    assert message in said


@pytest.mark.parametrize(
    ("account", "made"),
    [("ctbasis-spark", executor), (LAUNCHER, application)],
    ids=["pods", "applications"],
)
def test_the_policies_hold_in_labelled_namespaces_alone(
    account: str, made: Callable[[], dict[str, Any]], name: str
) -> None:
    secret = made()
    secret["spec"]["volumes"] = [{"name": "s", "secret": {"secretName": "other"}}]
    assert "denied" in refusal(name, account, secret)
    kubectl("label", "namespace", name, "ctbasis/admission-")
    try:
        wait_until(lambda: refusal(name, account, secret) == "", "the namespace is free of the policies", 60)
    finally:
        kubectl("label", "namespace", name, "ctbasis/admission=enforced")
        wait_until(lambda: "denied" in refusal(name, account, secret), "the policies hold again", 60)
