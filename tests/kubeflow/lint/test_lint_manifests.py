"""Every rule for a Kubernetes manifest finds its planted fault at its place."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ctbasis.kubeflow.lint import committed, lint, spark
from tests.kubeflow.lint.samples import APPLICATION, POD, assert_reported, drop, put, saved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_committed_packages_and_manifests_have_no_fault() -> None:
    files = committed()
    assert {"denoise.yaml", "sparkapplication.yaml"} <= {file.name for file in files}
    assert [str(fault) for fault in lint(files)] == []


SPARK_FAULTS: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "misspelt field": (put("spec executor instance", 2), "spec.executor.instance", "not a field of this kind"),
    "misspelt field of the pod": (
        put("spec driver env 0 valuefrom", {}),
        "spec.driver.env[0].valuefrom",
        "not a field of this kind",
    ),
    "no driver": (drop("spec driver"), "spec.driver", "is missing"),
    "no application file": (drop("spec mainApplicationFile"), "spec.mainApplicationFile", "is missing"),
    "number for string": (put("spec sparkVersion", 3.5), "spec.sparkVersion", "is of type number"),
    "string for number": (put("spec driver cores", "one"), "spec.driver.cores", "is of type string"),
    "boolean in sparkConf": (put("spec sparkConf spark.x", True), "spec.sparkConf[spark.x]", "is of type boolean"),
    "language": (put("spec type", "python"), "spec.type", "'python'"),
    "mode": (put("spec mode", "local"), "spec.mode", "'local'"),
    "Python": (put("spec pythonVersion", "3.11"), "spec.pythonVersion", "'3.11'"),
    "restart policy": (put("spec restartPolicy type", "Sometimes"), "spec.restartPolicy.type", "'Sometimes'"),
    "pull policy": (put("spec imagePullPolicy", "Sometimes"), "spec.imagePullPolicy", "'Sometimes'"),
    "memory in Kubernetes units": (
        put("spec driver memory", "2Gi"),
        "spec.driver.memory",
        "not a size that Spark reads",
    ),
    "misspelt label": (put("metadata label", {}), "metadata.label", "not a field of this kind"),
    "quantity of a gang": (
        put("spec batchSchedulerOptions", {"resources": {"memory": "12 GB"}}),
        "spec.batchSchedulerOptions.resources.memory",
        "pattern",
    ),
    "negative retries": (
        put("spec restartPolicy onFailureRetries", -1),
        "spec.restartPolicy.onFailureRetries",
        "is -1",
    ),
    "no cores": (put("spec executor cores", 0), "spec.executor.cores", "is 0"),
    "no main class": (put("spec type", "Scala"), "spec.mainClass", "is missing"),
    "image": (put("spec image", "ctbasis/spark"), "spec.image", "no tag"),
    "image of the driver": (put("spec driver image", "spark:latest"), "spec.driver.image", "not pinned"),
    "s3a secret": (
        put("spec sparkConf spark.hadoop.fs.s3a.secret.key", "abc"),
        "spec.sparkConf[spark.hadoop.fs.s3a.secret.key]",
        "a literal value",
    ),
    "s3a access key": (
        put("spec sparkConf spark.hadoop.fs.s3a.access.key", "abc"),
        "spec.sparkConf[spark.hadoop.fs.s3a.access.key]",
        "a literal value",
    ),
    "hadoop secret": (
        put("spec hadoopConf", {"fs.s3a.secret.key": "abc"}),
        "spec.hadoopConf[fs.s3a.secret.key]",
        "a literal value",
    ),
    "secret variable": (
        put("spec driver env", [{"name": "AWS_SECRET_ACCESS_KEY", "value": "abc"}]),
        "spec.driver.env[0].value",
        "a literal value",
    ),
    "old secret variable": (
        put("spec driver envVars", {"AWS_SECRET_ACCESS_KEY": "abc"}),
        "spec.driver.envVars.AWS_SECRET_ACCESS_KEY",
        "a literal value",
    ),
    "no name": (drop("metadata name"), "metadata.name", "is missing"),
}

POD_FAULTS: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "misspelt field": (
        put("spec containers 0 imagePullPolice", "Never"),
        "spec.containers[0].imagePullPolice",
        "not a field of this kind",
    ),
    "misspelt metadata": (put("metadata label", {}), "metadata.label", "not a field of this kind"),
    "missing field": (drop("spec containers"), "spec.containers", "is missing"),
    "wrong type": (
        put("spec containers 0 ports", [{"containerPort": "http"}]),
        "spec.containers[0].ports[0].containerPort",
        "type",
    ),
    "unquoted value": (put("spec containers 0 env 1 value", 1), "spec.containers[0].env[1].value", "type"),
    "image": (put("spec containers 0 image", "steps"), "spec.containers[0].image", "no tag"),
    "secret variable": (
        put("spec containers 0 env 1", {"name": "DB_PASSWORD", "value": "x"}),
        "spec.containers[0].env[1].value",
        "a literal value",
    ),
    "quantity": (
        put("spec containers 0 resources limits memory", "1GB"),
        "spec.containers[0].resources.limits.memory",
        "not a quantity",
    ),
    "request above limit": (
        put("spec containers 0 resources requests memory", "2Gi"),
        "spec.containers[0].resources.requests.memory",
        "above the limit",
    ),
}


@pytest.mark.parametrize(("kind", "good"), [("SparkApplication/svd", APPLICATION), ("Pod/step", POD)])
def test_a_valid_manifest_has_no_fault_and_the_lint_uses_no_network(
    kind: str, good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError(f"lint of {kind} used the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    file = tmp_path / "m.yaml"
    file.write_text(good)
    assert [str(fault) for fault in lint([file])] == []


@pytest.mark.parametrize("name", SPARK_FAULTS)
def test_a_fault_in_a_spark_application_is_reported_at_its_place(name: str, tmp_path: Path) -> None:
    mutate, where, message = SPARK_FAULTS[name]
    manifest = yaml.safe_load(APPLICATION)
    mutate(manifest)
    kind = "SparkApplication/svd" if name != "no name" else "SparkApplication"
    assert_reported(lint([saved(tmp_path / "m.yaml", manifest)]), f"{kind}.{where}", message)


@pytest.mark.parametrize("kind", ["SparkApplication", "ScheduledSparkApplication"])
@pytest.mark.parametrize("setting", spark.PROTECTED)
@pytest.mark.parametrize("value", ["missing", "AES/CTR/NoPadding", "1"])
def test_an_application_with_open_connections_or_clear_files_is_reported(
    value: str, setting: str, kind: str, tmp_path: Path
) -> None:
    manifest = yaml.safe_load(APPLICATION)
    manifest["spec"]["sparkConf"][setting] = value
    if value == "missing":
        del manifest["spec"]["sparkConf"][setting]
    above = "spec"
    if kind == "ScheduledSparkApplication":
        manifest |= {"kind": kind, "spec": {"schedule": "@daily", "template": manifest["spec"]}}
        above = "spec.template"
    faults = lint([saved(tmp_path / "m.yaml", manifest)])
    message = "is missing, which" if value == "missing" else f"is {value!r}, which"
    assert_reported(faults, f"{kind}/svd.{above}.sparkConf[{setting}]", message)
    assert len(faults) == 1


@pytest.mark.parametrize("name", POD_FAULTS)
def test_a_fault_in_a_core_manifest_is_reported_at_its_place(name: str, tmp_path: Path) -> None:
    mutate, where, message = POD_FAULTS[name]
    manifest = yaml.safe_load(POD)
    mutate(manifest)
    assert_reported(lint([saved(tmp_path / "m.yaml", manifest)]), f"Pod/step.{where}", message)


def test_the_value_of_a_secret_is_reported_and_never_repeated(tmp_path: Path) -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s3"},
        "stringData": {"key": "hunter2-the-value"},
        "data": {"other": "aHVudGVyMg=="},
    }
    faults = lint([saved(tmp_path / "m.yaml", manifest)])
    assert_reported(faults, "Secret/s3.stringData.key", "is the value of a secret")
    assert_reported(faults, "Secret/s3.data.other", "is the value of a secret")
    assert not any(value in str(fault) for fault in faults for value in ("hunter2", "aHVudGVyMg"))


def test_a_config_map_may_hold_a_key_image_but_no_secret(tmp_path: Path) -> None:
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"image": "steps"}}
    assert lint([saved(tmp_path / "m.yaml", manifest)]) == []
    put("data DB_PASSWORD", "x")(manifest)
    assert_reported(lint([saved(tmp_path / "m.yaml", manifest)]), "ConfigMap/c.data.DB_PASSWORD", "a literal value")


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("Queue", "scheduling.example/v1"),
        ("Pods", "v1"),
        ("Role", "rbac.authorization.k8s.io/v9"),
        ("SparkApplication", "sparkoperator.k8s.io/v1"),
    ],
)
def test_a_manifest_of_an_unknown_kind_is_reported(kind: str, version: str, tmp_path: Path) -> None:
    manifest = {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}}
    assert_reported(lint([saved(tmp_path / "m.yaml", manifest)]), f"{kind}/x", "cannot be validated")


def test_every_item_of_a_list_is_checked(tmp_path: Path) -> None:
    pod = yaml.safe_load(POD)
    pod["spec"]["container"] = []
    manifest = {"apiVersion": "v1", "kind": "List", "items": [yaml.safe_load(APPLICATION), pod]}
    faults = lint([saved(tmp_path / "m.yaml", manifest)])
    assert [fault.where for fault in faults] == ["Pod/step.spec.container"]
