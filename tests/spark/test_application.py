"""The committed SparkApplication passes the operator's models unchanged, and has all that a local launch needs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kubeflow_spark_api import models
from kubernetes.utils import parse_quantity

from ctbasis.errors import CtbasisError
from ctbasis.installed import LAYOUT
from ctbasis.jobs.job import RUN_LABEL
from ctbasis.jobs.placement import Placement
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.kubeflow.lint.spark import PROTECTED
from ctbasis.spark import launch_local

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def manifest() -> Any:
    return yaml.safe_load(SparkApplication.template.read_text())


@pytest.fixture
def jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "ctbasis-mahout.jar").touch()
    monkeypatch.setattr(launch_local, "LAYOUT", replace(LAYOUT, jars=tmp_path))
    return tmp_path


def options(command: list[str]) -> dict[str, str]:
    """Return the --conf settings of a spark-submit command."""
    return dict(value.split("=", 1) for flag, value in itertools.pairwise(command) if flag == "--conf")


def test_the_template_survives_the_operators_models_field_by_field(manifest: Any) -> None:
    assert SparkApplication.read().to_manifest() == manifest


def test_a_rendered_manifest_equals_its_own_round_trip_through_the_models() -> None:
    rendered = SparkApplication.read().for_run(name="ctbasis-svd-x", arguments=["--rank", "5"]).to_manifest()
    assert models.SparkV1beta2SparkApplication.from_dict(rendered).to_dict() == rendered


def test_a_run_changes_name_label_and_arguments_and_nothing_else(manifest: Any) -> None:
    application = SparkApplication.read()
    rendered = application.for_run(name="ctbasis-svd-x", arguments=["--rank", "5"]).to_manifest()
    assert rendered["metadata"].pop("name") == "ctbasis-svd-x"
    assert rendered["metadata"]["labels"].pop(RUN_LABEL) == "ctbasis-svd-x"
    assert rendered["spec"].pop("arguments") == ["--rank", "5"]
    manifest["metadata"].pop("name")
    manifest["spec"].pop("arguments")
    assert rendered == manifest
    assert application.to_manifest()["spec"]["arguments"] == []


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("spec", "drivr"), {"cores": 1}, "spec.drivr"),
        (("spec", "executor", "memry"), "1g", "spec.executor.memry"),
        (("spec", "driver", "cores"), "one", "cores"),
        (("kind",), "ScheduledSparkApplication", "no SparkApplication"),
    ],
)
def test_misspelt_and_mistyped_fields_are_refused_by_name(
    manifest: Any, path: tuple[str, ...], value: Any, named: str
) -> None:
    at = manifest
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(CtbasisError, match=named):
        SparkApplication.from_manifest(manifest)


@pytest.mark.usefixtures("jars")
def test_the_local_command_has_the_file_arguments_settings_and_jars_of_the_manifest(manifest: Any, jars: Path) -> None:
    application = SparkApplication.read().for_run(name="ctbasis-svd-x", arguments=["--rank", "5"])
    command = launch_local.spark_submit(application.to_manifest())
    assert command[-3:] == [str(LAYOUT.package / "spark" / "driver.py"), "--rank", "5"]
    assert command[command.index("--jars") + 1] == str(jars / "ctbasis-mahout.jar")
    assert command[command.index("--name") + 1] == "ctbasis-svd-x"
    conf = options(command)
    left_out = ("spark.kubernetes.", "spark.blockManager.port")
    expected = {k: v for k, v in manifest["spec"]["sparkConf"].items() if not k.startswith(left_out)}
    assert {key: conf[key] for key in expected} == expected
    assert not [key for key in conf if key.startswith(left_out)]


@pytest.mark.usefixtures("jars")
def test_connections_are_protected_on_one_machine_and_a_masters_settings_are_its_own(manifest: Any) -> None:
    protected = {key: value for key, (value, _) in PROTECTED.items()}
    assert manifest["spec"]["sparkConf"].items() >= protected.items()
    assert options(launch_local.spark_submit(manifest)).items() >= protected.items()
    assert not options(launch_local.spark_submit(manifest, master="spark://host:7077")).keys() & protected.keys()


@pytest.mark.parametrize(
    ("text", "authenticates"),
    [
        (None, False),
        ("", False),
        ("spark.authenticate true\nspark.authenticate.secret s\n", True),
        ("  spark.authenticate=TRUE\n", True),
        ("spark.authenticate : true\n", True),
        ("# spark.authenticate true\n", False),
        ("spark.authenticate.secret true\n", False),
        ("spark.authenticate true\nspark.authenticate false\n", False),
    ],
)
def test_the_authentication_of_a_masters_connections_is_read_from_its_settings(
    text: str | None, authenticates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    if text is not None:
        (tmp_path / "spark-defaults.conf").write_text(text)
    assert launch_local.authenticates() is authenticates


@pytest.mark.usefixtures("jars")
def test_kubernetes_settings_are_left_out_of_the_local_command(manifest: Any) -> None:
    manifest["spec"]["sparkConf"]["spark.kubernetes.driver.ownPersistentVolumeClaim"] = "true"
    assert not [key for key in options(launch_local.spark_submit(manifest)) if "kubernetes" in key]


@pytest.mark.usefixtures("jars")
@pytest.mark.parametrize(("driver", "executor", "given"), [("512m", "3g", "3g"), ("4g", "3072m", "4g")])
def test_one_jvm_gets_the_larger_memory_of_driver_and_executor(
    manifest: Any, driver: str, executor: str, given: str
) -> None:
    manifest["spec"]["driver"]["memory"], manifest["spec"]["executor"]["memory"] = driver, executor
    command = launch_local.spark_submit(manifest)
    assert command[command.index("--driver-memory") + 1] == given


@pytest.mark.usefixtures("jars")
@pytest.mark.parametrize(("memory", "first"), [("768M", "-Xms768m"), ("6g", "-Xms1024m")])
def test_the_initial_heap_is_within_its_limit_and_the_manifests_option_wins(
    manifest: Any, memory: str, first: str
) -> None:
    manifest["spec"]["driver"]["memory"] = manifest["spec"]["executor"]["memory"] = memory
    assert options(launch_local.spark_submit(manifest))["spark.driver.extraJavaOptions"].split()[0] == first
    manifest["spec"]["driver"]["javaOptions"] += " -Xms300m"
    java_options = options(launch_local.spark_submit(manifest))["spark.driver.extraJavaOptions"].split()
    assert [option for option in java_options if option.startswith("-Xms")][-1] == "-Xms300m"


def test_a_missing_jar_is_named_with_the_remedy(manifest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_local, "LAYOUT", replace(LAYOUT, jars=tmp_path))
    with pytest.raises(CtbasisError, match=r"ctbasis-mahout\.jar is missing(?s:.)*make setup"):
        launch_local.spark_submit(manifest)


def test_missing_java_is_an_error_before_anything_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(CtbasisError, match=r"Spark needs Java, and none is installed(?s:.)*--engine numpy"):
        launch_local.launch(SparkApplication.read())


PLACEMENT = Placement(
    volumes=[{"name": "workspace", "persistentVolumeClaim": {"claimName": "run-workspace"}}],
    volume_mounts=[{"name": "workspace", "mountPath": "/kfp-workspace"}],
    env=[{"name": "AWS_REGION", "value": "eu-west-1"}],
    tolerations=[{"key": "batch", "operator": "Exists"}],
    node_selector={"pool": "spark"},
    affinity={"podAntiAffinity": {}},
    resources={"limits": {"cpu": "2", "memory": "7Gi"}},
)


def test_the_placement_is_added_to_driver_and_executors(manifest: Any) -> None:
    spec = SparkApplication.read().placed(PLACEMENT).to_manifest()["spec"]
    assert spec["volumes"] == [*manifest["spec"]["volumes"], *PLACEMENT.volumes]
    for role in ("driver", "executor"):
        pod, own = spec[role], manifest["spec"][role]
        assert pod["volumeMounts"] == [*own["volumeMounts"], *PLACEMENT.volume_mounts]
        assert pod["env"] == [*own["env"], *PLACEMENT.env]
        assert pod["tolerations"] == PLACEMENT.tolerations
        assert pod["nodeSelector"] == PLACEMENT.node_selector
        assert pod["affinity"] == PLACEMENT.affinity
        assert (pod["cores"], pod["coreLimit"]) == (2, "2")


def test_a_path_that_the_application_mounts_itself_is_not_replaced_by_the_placement() -> None:
    # The step's pod has an emptyDir at /tmp; a pod with two mounts at one path is invalid.
    placement = Placement(
        volumes=[{"name": "tmp", "emptyDir": {}}, *PLACEMENT.volumes],
        volume_mounts=[{"name": "tmp", "mountPath": "/tmp/"}, *PLACEMENT.volume_mounts],  # noqa: S108
    )
    spec = SparkApplication.read().placed(placement).to_manifest()["spec"]
    assert [volume["name"] for volume in spec["volumes"]] == ["ctbasis-tmp", "ctbasis-work", "workspace"]
    for pod in (spec["driver"], spec["executor"]):
        paths = [mount["mountPath"] for mount in pod["volumeMounts"]]
        assert paths == ["/tmp", "/opt/work", "/kfp-workspace"]  # noqa: S108


def test_a_shared_volume_is_added_once_and_different_volumes_of_one_name_are_refused() -> None:
    same = Placement(volumes=[{"name": "ctbasis-work", "emptyDir": {}}])
    assert SparkApplication.read().placed(same) == SparkApplication.read()
    other = Placement(volumes=[{"name": "ctbasis-work", "emptyDir": {"medium": "Memory"}}])
    with pytest.raises(CtbasisError, match="have different volumes called ctbasis-work"):
        SparkApplication.read().placed(other)


def test_a_variable_of_the_step_replaces_one_of_the_same_name() -> None:
    placement = Placement(env=[{"name": "OPENBLAS_NUM_THREADS", "value": "2"}])
    spec = SparkApplication.read().placed(placement).to_manifest()["spec"]
    assert spec["driver"]["env"] == spec["executor"]["env"] == placement.env


def test_heap_and_overhead_of_a_placed_pod_add_up_to_its_memory() -> None:
    driver = SparkApplication.read().placed(PLACEMENT).to_manifest()["spec"]["driver"]
    heap, overhead = (int(driver[key].removesuffix("m")) for key in ("memory", "memoryOverhead"))
    assert heap + overhead == 7 * 1024
    assert overhead == pytest.approx(0.4 * heap, abs=1)


@pytest.mark.parametrize("scheduler", ["", "volcano"])
def test_kueue_gets_memory_in_lower_case_and_a_batch_scheduler_in_upper_case(scheduler: str) -> None:
    manifest = SparkApplication.read().to_manifest()
    manifest["spec"]["driver"]["memory"] = "2Gb"
    if scheduler:
        manifest["spec"]["batchScheduler"] = scheduler
    application = SparkApplication.from_manifest(manifest)
    for rendered in (application.for_run(name="x"), application.placed(PLACEMENT), application.placed(Placement())):
        spec = rendered.to_manifest()["spec"]
        values = [pod[key] for pod in (spec["driver"], spec["executor"]) for key in ("memory", "memoryOverhead")]
        assert all(value.isupper() if scheduler else value.islower() for value in values), values


def test_a_gang_scheduler_reads_nearly_the_memory_that_spark_reads() -> None:
    manifest = SparkApplication.read().to_manifest()
    manifest["spec"]["batchScheduler"] = "volcano"
    spec = SparkApplication.from_manifest(manifest).placed(PLACEMENT).to_manifest()["spec"]
    for pod in (spec["driver"], spec["executor"]):
        to_kubernetes = sum(parse_quantity(pod[key]) for key in ("memory", "memoryOverhead"))
        assert 0.95 < to_kubernetes / (7 * 2**30) <= 1


def test_an_owner_is_a_reference_in_the_metadata() -> None:
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run-1", "uid": "5"}
    assert SparkApplication.read().owned_by(owner).to_manifest()["metadata"]["ownerReferences"] == [owner]


def test_an_empty_placement_changes_nothing(manifest: Any) -> None:
    assert SparkApplication.read().placed(Placement()).to_manifest() == manifest
