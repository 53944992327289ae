"""The overlays on a real cluster: the API server accepts them, and they have the promised effects."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.kubeflow.lint import crds
from tests.e2e.cluster import kubectl, new_namespace, require_cluster, wait_until
from tests.e2e.installed import CHECKOUT, OVERLAYS, TEMPLATE, installed, rendered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.installed import Installed

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    with installed("hardened", tmp_path_factory.mktemp("hardened")) as made:
        yield made


SERVING = sorted(path.parent for path in (CHECKOUT / "manifests" / "serving").rglob("kustomization.yaml"))

OPTIONAL = {"ray.io", "kubernetes.dask.org", "kueue.x-k8s.io", "serving.kserve.io"}
"""API groups of operators that only some overlays need."""


def require_operators(manifests: str) -> None:
    """Skip the test if the cluster lacks an optional operator whose objects the manifests contain."""
    groups = {str(one["apiVersion"]).partition("/")[0] for one in yaml.safe_load_all(manifests) if one}
    served = {line.partition("/")[0] for line in kubectl("api-versions").split()}
    if absent := sorted(groups & OPTIONAL - served):
        pytest.skip(f"the cluster does not serve {', '.join(absent)}, of which the overlay has objects")


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda overlay: overlay.name)
def test_the_api_server_accepts_every_field_of_every_overlay(overlay: Path, tmp_path: Path) -> None:
    with new_namespace() as name:
        manifests = rendered(overlay, name, tmp_path)
        require_operators(manifests)
        output = kubectl("apply", "--dry-run=server", "--validate=strict", "--filename=-", given=manifests)
        assert f"sparkapplication.sparkoperator.k8s.io/{TEMPLATE} created (server dry run)" in output
        stored = json.loads(kubectl("apply", "--dry-run=server", "--output=json", "--filename=-", given=manifests))[
            "items"
        ]
        (template,) = (item for item in stored if item["kind"] == "SparkApplication")
        plain = {key: template[key] for key in ("apiVersion", "kind", "spec")}
        # The models of the step must know every field that the webhook adds.
        assert SparkApplication.from_manifest({**plain, "metadata": {"name": TEMPLATE}}).name == TEMPLATE


@pytest.mark.parametrize("folder", SERVING, ids=lambda folder: folder.name)
def test_the_api_server_accepts_every_field_of_what_serves(folder: Path, tmp_path: Path) -> None:
    with new_namespace() as name:
        manifests = rendered(folder, name, tmp_path)
        require_operators(manifests)
        output = kubectl("apply", "--dry-run=server", "--validate=strict", "--filename=-", given=manifests)
        assert output.count("(server dry run)") == len([one for one in yaml.safe_load_all(manifests) if one])


def test_the_lint_checks_against_the_operators_definitions_of_this_cluster() -> None:
    require_cluster()
    for kind in ("sparkapplications", "scheduledsparkapplications", "sparkconnects"):
        definition = json.loads(kubectl("get", "crd", f"{kind}.sparkoperator.k8s.io", "--output=json"))
        for name, text in crds.published(definition).items():
            vendored = (crds.FOLDER / name).read_text()
            assert vendored == text, f"{name} has another version; run ctbasis/kubeflow/lint/crds.py to update it"


def test_the_suspended_template_starts_no_pod(hardened: Installed) -> None:
    wait_until(lambda: hardened.state(TEMPLATE) == "SUSPENDED", "the template is suspended")
    kept = hardened.template()["spec"]["timeToLiveSeconds"]
    for seconds in (1, kept):
        change = json.dumps({"spec": {"timeToLiveSeconds": seconds}})
        hardened.kubectl("patch", "sparkapplication", TEMPLATE, "--type=merge", f"--patch={change}")
        wait_until(lambda: hardened.state(TEMPLATE) == "SUSPENDED", "a changed template is suspended")
    assert hardened.template()["status"]["terminationTime"] is None
    assert hardened.pods(TEMPLATE, "driver") == []


def test_a_hardened_job_completes_where_only_restricted_pods_are_admitted(hardened: Installed) -> None:
    labels = hardened.get("namespace", hardened.name)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    run = hardened.start("svd-hardened")
    hardened.wait_until_completed(run)
    # The image contains the library that netlib loads; without it the products run several times slower in Java.
    assert "libopenblas.so.0" in hardened.log(run)
    driver, executors = hardened.pods(run, "driver"), hardened.pods(run, "executor")
    assert len(driver) == 1
    assert len(executors) == 2
    for found in [*driver, *executors]:
        (container,) = found["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert found["spec"]["securityContext"]["runAsUser"] == 185
    assert driver[0]["spec"]["priorityClassName"] == "ctbasis-driver"
    for executor in executors:
        assert executor["spec"]["priorityClassName"] == "ctbasis-executor"
        assert executor["spec"]["serviceAccountName"] == "ctbasis-executor"
        assert all("token" not in str(mount["mountPath"]) for mount in _mounts(executor))
        assert all("serviceaccount" not in mount["mountPath"] for mount in _mounts(executor))


def test_a_pod_that_is_not_hardened_is_refused(hardened: Installed) -> None:
    command = ["kubectl", "--namespace", hardened.name, "run", "root", "--image=localhost/none:1", "--restart=Never"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert 'violates PodSecurity "restricted' in done.stderr


def test_a_running_driver_is_not_evicted_and_an_executor_is(hardened: Installed) -> None:
    # A driver that waits for an executor with a request that no node can satisfy.
    run = hardened.start("svd-budget", executor={"coreRequest": "9999", "instances": 1})
    driver = f"{run}-driver"
    wait_until(lambda: _phase(hardened, driver) == "Running", "the driver runs")
    budget = ("poddisruptionbudget", "ctbasis-driver")
    wait_until(lambda: hardened.get(*budget)["status"].get("currentHealthy", 0) >= 1, "the budget counts the driver")
    assert "disruption budget" in _evict(hardened, driver)
    executor = wait_until(lambda: hardened.pods(run, "executor"), "an executor")[0]["metadata"]["name"]
    assert _evict(hardened, executor) == ""
    hardened.kubectl("delete", "sparkapplication", run)


def _phase(made: Installed, pod: str) -> str:
    found = made.find("pod", pod)
    return str(found["status"]["phase"]) if found else ""


def _mounts(found: dict[str, Any]) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = found["spec"]["containers"][0]["volumeMounts"]
    return mounts


def _evict(made: Installed, pod: str) -> str:
    """Evict a pod as `kubectl drain` does; return the message of a refusal, or an empty text."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": made.name}}
    path = f"/api/v1/namespaces/{made.name}/pods/{pod}/eviction"
    command = ["kubectl", "create", "--raw", path, "--filename=-"]
    done = subprocess.run(command, input=json.dumps(eviction), capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""
