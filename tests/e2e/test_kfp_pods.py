"""What stands for Kubeflow's driver and Argo in the tests on a cluster; this much of it needs none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.kfp_namespace import small_package
from tests.e2e.kfp_pods import WORKSPACE_PATH, Dag, Execution, Package, Task, UnknownToThisDriverError
from tests.e2e.kfp_run import Retry

OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "run", "uid": "0"}


def svd_pod(package: Package) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the svd's pod and the executor input that its launcher is given."""
    tasks = package.component("comp-exit-handler-1")["dag"]["tasks"]
    task = Task(package, "svd", tasks["svd"], run_name="run-1", run_id="1")
    declared = package.component("root")["inputDefinitions"]["parameters"]
    inputs = {f"pipelinechannel--{name}": spec.get("defaultValue") for name, spec in declared.items()}
    done = {"matrix": Execution("COMPLETE", {"matrix": f"{WORKSPACE_PATH}/matrix.zarr"})}
    pod = task.pod(Dag(inputs, done), name="svd-0", attempt=0, owner=OWNER)
    command = pod["spec"]["containers"][0]["command"]
    return pod, json.loads(command[command.index("--executor_input") + 1])


def test_the_svds_resources_go_to_its_application_and_not_to_its_own_pod() -> None:
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


def test_what_the_driver_does_not_know_is_refused_and_not_left_out() -> None:
    package = Package.read()
    package.platform["deploymentSpec"]["executors"]["exec-svd"]["podMetadata"] = {"labels": {"a": "b"}}
    with pytest.raises(UnknownToThisDriverError, match="podMetadata"):
        svd_pod(package)


def test_a_package_ends_at_a_task_with_all_that_it_needs() -> None:
    package = small_package(until="svd")
    assert set(package.component("comp-exit-handler-1")["dag"]["tasks"]) == {"fetch", "matrix", "svd"}
    assert set(package.component("root")["dag"]["tasks"]) == {"cleanup", "exit-handler-1"}


def test_a_task_is_tried_again_within_argos_max_duration_from_its_first_start() -> None:
    policy = {"maxRetryCount": 2, "backoffDuration": "10s", "backoffFactor": 2.0, "backoffMaxDuration": "60s"}
    retry = Retry.of({"retryPolicy": policy})
    assert retry.wait(1, since_first=5) == 10
    assert retry.wait(2, since_first=5) == 20
    assert retry.wait(3, since_first=5) is None, "no more tries"
    assert retry.wait(1, since_first=51) is None, "its wait would end too late"
    assert Retry.of({}).wait(1, since_first=0) is None
