"""The emulation of Kubeflow's driver and of Argo, as far as it can be tested without a cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.kfp_namespace import small_package
from tests.e2e.kfp_pods import WORKSPACE_PATH, Dag, Execution, Package, Task, UnknownToThisDriverError
from tests.e2e.kfp_run import Retry

OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "run", "uid": "0"}


def svd_pod(package: Package) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the pod of the svd step and the executor input of its launcher."""
    tasks = package.component("comp-exit-handler-1")["dag"]["tasks"]
    task = Task(package, "svd", tasks["svd"], run_name="run-1", run_id="1")
    declared = package.component("root")["inputDefinitions"]["parameters"]
    inputs = {f"pipelinechannel--{name}": spec.get("defaultValue") for name, spec in declared.items()}
    done = {"matrix": Execution("COMPLETE", {"matrix": f"{WORKSPACE_PATH}/matrix.zarr"})}
    pod = task.pod(Dag(inputs, done), name="svd-0", attempt=0, owner=OWNER)
    command = pod["spec"]["containers"][0]["command"]
    return pod, json.loads(command[command.index("--executor_input") + 1])


def test_the_resources_of_the_svd_task_apply_to_its_application_and_not_to_its_pod() -> None:
    pod, given = svd_pod(Package.read())
    (main,) = pod["spec"]["containers"]
    task_config = given["inputs"]["parameterValues"]["task_config"]
    assert main["resources"] == {}
    assert task_config["resources"]["limits"] == {"cpu": "1", "memory": "4Gi"}
    secrets = [entry["valueFrom"]["secretKeyRef"]["name"] for entry in task_config["env"]]
    assert set(secrets) == {"ctbasis-s3"}
    (volume,) = task_config["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == "run-1-kfp-workspace"
    assert {"name": volume["name"], "mountPath": WORKSPACE_PATH} in main["volumeMounts"], "and to both"
    assert main["env"][-1]["name"] == task_config["env"][-1]["name"]


def test_a_feature_of_kfp_that_the_emulation_lacks_is_refused() -> None:
    package = Package.read()
    package.platform["deploymentSpec"]["executors"]["exec-svd"]["podMetadata"] = {"labels": {"a": "b"}}
    with pytest.raises(UnknownToThisDriverError, match="podMetadata"):
        svd_pod(package)


def test_a_shortened_package_keeps_the_tasks_that_its_last_task_depends_on() -> None:
    package = small_package(until="svd")
    assert set(package.component("comp-exit-handler-1")["dag"]["tasks"]) == {"fetch", "matrix", "svd"}
    assert set(package.component("root")["dag"]["tasks"]) == {"cleanup", "exit-handler-1"}


def test_a_task_is_retried_within_argos_max_duration_from_its_first_start() -> None:
    policy = {"maxRetryCount": 2, "backoffDuration": "10s", "backoffFactor": 2.0, "backoffMaxDuration": "60s"}
    retry = Retry.of({"retryPolicy": policy})
    assert retry.wait(1, since_first=5) == 10
    assert retry.wait(2, since_first=5) == 20
    assert retry.wait(3, since_first=5) is None, "no more tries"
    assert retry.wait(1, since_first=51) is None, "the pause would end after the maximum duration"
    assert Retry.of({}).wait(1, since_first=0) is None
