"""The committed package is compiled from the current source, and its parameters are those of parameters.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ctbasis.dicom.deidentify.pseudonyms import SALT
from ctbasis.errors import CtbasisError
from ctbasis.installed import LAYOUT
from ctbasis.kubeflow import package
from ctbasis.kubeflow.sizes import SIZES
from ctbasis.parameters import COHORT_PARAMETERS, NOT_OF_A_COHORT, PARAMETERS, check
from pipeline.cohort import LOOP, PARALLELISM
from pipeline.steps import (
    REGISTRY_SECRET,
    S3_KEYS,
    S3_SECRET,
    SALT_SECRET,
    SOURCES_KEYS,
    SOURCES_SECRET,
    STEPS_GROUP,
    USER,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def documents() -> list[Any]:
    return list(yaml.safe_load_all(package.PACKAGE.read_text()))


@pytest.fixture(scope="module")
def cohort() -> list[Any]:
    return list(yaml.safe_load_all(package.PACKAGES["cohort"].read_text()))


@pytest.mark.parametrize("pipeline", package.PACKAGES)
def test_the_committed_package_is_the_output_of_compiling_the_source(pipeline: str) -> None:
    package.check(package.PACKAGES[pipeline], pipeline=pipeline)


def test_an_outdated_package_is_refused_with_the_difference(tmp_path: Path) -> None:
    outdated = tmp_path / "denoise.yaml"
    outdated.write_text(package.PACKAGE.read_text().replace("ctbasis/steps", "ctbasis/stale"))
    with pytest.raises(CtbasisError, match=r"run `ctbasis compile`(?s:.)*-.*ctbasis/stale"):
        package.check(outdated)


def test_a_missing_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match=r"nothing\.yaml is missing"):
        package.check(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("compiler", ["kfp-2.14.3", "kfp-2.1", "kfp-2.18.0", "kfp-3.0.0", "another-2.17.0", ""])
def test_a_package_that_another_kfp_compiled_is_refused(compiler: str, documents: list[Any], tmp_path: Path) -> None:
    own = documents[0]["sdkVersion"]
    (tmp_path / "other.yaml").write_text(
        package.PACKAGE.read_text().replace(f"sdkVersion: {own}", f"sdkVersion: '{compiler}'")
    )
    with pytest.raises(CtbasisError, match=rf"sdkVersion: is '{compiler}'(?s:.)*run `ctbasis compile`"):
        package.read_package(tmp_path / "other.yaml")


def test_a_patch_release_of_the_same_kfp_is_accepted(documents: list[Any], tmp_path: Path) -> None:
    text = package.PACKAGE.read_text().replace(documents[0]["sdkVersion"], "kfp-2.17.3")
    (tmp_path / "other.yaml").write_text(text)
    assert package.read_package(tmp_path / "other.yaml")["sdkVersion"] == "kfp-2.17.3"


KINDS = {str: "STRING", int: "NUMBER_INTEGER", bool: "BOOLEAN", float: "NUMBER_DOUBLE"}


def test_the_package_has_the_parameters_and_defaults_of_parameters_py(documents: list[Any]) -> None:
    compiled = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert list(compiled) == sorted(parameter.name for parameter in PARAMETERS)
    for parameter in PARAMETERS:
        entry = compiled[parameter.name]
        assert entry["parameterType"] == KINDS[parameter.type]
        if parameter.name != "source":
            assert entry["defaultValue"] == parameter.default


def test_the_form_of_the_ui_explains_every_parameter_as_the_command_line_does(documents: list[Any]) -> None:
    compiled = documents[0]["root"]["inputDefinitions"]["parameters"]
    for parameter in PARAMETERS:
        shown = compiled[parameter.name]["description"]
        assert shown.startswith(parameter.help)
        assert all(choice in shown for choice in parameter.choices)
    description = documents[0]["pipelineInfo"]["description"]
    for page in ("docs/how-to/kubeflow.md", "docs/reference/parameters.md"):
        assert page in description
        assert (LAYOUT.data / page).is_file()


def test_the_box_around_the_steps_in_the_graph_is_named_for_what_it_is(documents: list[Any]) -> None:
    names = {task["taskInfo"]["name"] for task in documents[0]["root"]["dag"]["tasks"].values()}
    assert names == {STEPS_GROUP, "cleanup"}


def test_no_step_requests_more_than_a_node_of_two_cpus_has(documents: list[Any]) -> None:
    for executor in documents[0]["deploymentSpec"]["executors"].values():
        resources = executor["container"]["resources"]
        # Of 2 CPUs, a node keeps a part for itself and for its daemons.
        assert resources["cpuRequest"] <= 1
        assert resources["resourceMemoryRequest"] in {"256Mi", "1Gi", "2Gi", "4Gi"}


def test_the_talks_defaults_are_kept(documents: list[Any]) -> None:
    compiled = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert compiled["oversample"]["defaultValue"] == 15
    assert compiled["power_iters"]["defaultValue"] == 2
    assert compiled["ranks"]["defaultValue"] == "50,244,300"


def test_no_step_is_cached_because_each_uses_the_runs_own_workspace(documents: list[Any]) -> None:
    dags = [documents[0]["root"], *documents[0]["components"].values()]
    tasks = {name: task for dag in dags for name, task in dag.get("dag", {}).get("tasks", {}).items()}
    assert {"fetch", "matrix", "svd", "reconstruct", "report", "cleanup"} <= set(tasks)
    cached = [
        name for name, task in tasks.items() if "dag" not in name and task.get("cachingOptions", {}).get("enableCache")
    ]
    assert cached == []


def executors(documents: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return found


def test_s3_keys_come_only_from_an_optional_secret(documents: list[Any]) -> None:
    secrets = {name: entry["secretAsEnv"] for name, entry in executors(documents).items() if "secretAsEnv" in entry}
    # In patch mode reconstruct reads the denoised matrix, which is on S3 where the run's stores are.
    steps = ["cleanup", "fetch", "matrix", "reconstruct", "report", "svd"]
    # The deploy step reads nothing from S3; it names the basis.
    assert [one["secretName"] for one in secrets.pop("exec-deploy")] == [REGISTRY_SECRET]
    assert sorted(secrets) == [f"exec-{step}" for step in steps]
    for secret in (entry for entries in secrets.values() for entry in entries if entry["secretName"] == S3_SECRET):
        assert secret["optional"]
        assert {pair["envVar"]: pair["secretKey"] for pair in secret["keyToEnv"]} == S3_KEYS


def test_only_the_step_that_de_identifies_gets_the_salt_from_an_optional_secret(
    documents: list[Any],
) -> None:
    others = {
        name: [entry for entry in found.get("secretAsEnv", []) if entry["secretName"] == SALT_SECRET]
        for name, found in executors(documents).items()
    }
    assert [name for name, found in others.items() if found] == ["exec-matrix"]
    (salt,) = others["exec-matrix"]
    assert (salt["secretName"], salt["optional"]) == (SALT_SECRET, True)
    assert salt["keyToEnv"] == [{"envVar": SALT, "secretKey": "salt"}]


def test_only_the_step_that_fetches_gets_the_keys_of_other_sources_from_an_optional_secret(
    documents: list[Any],
) -> None:
    known = {S3_SECRET, SALT_SECRET, REGISTRY_SECRET}
    others = {
        name: [entry for entry in found.get("secretAsEnv", []) if entry["secretName"] not in known]
        for name, found in executors(documents).items()
    }
    assert [name for name, found in others.items() if found] == ["exec-fetch"]
    (sources,) = others["exec-fetch"]
    assert (sources["secretName"], sources["optional"]) == (SOURCES_SECRET, True)
    assert {pair["envVar"]: pair["secretKey"] for pair in sources["keyToEnv"]} == SOURCES_KEYS


def test_the_svd_step_passes_its_environment_and_volumes_to_the_executors(documents: list[Any]) -> None:
    passed = {entry["field"] for entry in documents[0]["components"]["comp-svd"]["taskConfigPassthroughs"]}
    assert {"ENV", "KUBERNETES_VOLUMES"} <= passed


def test_every_step_runs_as_the_user_of_the_images_and_has_its_own_tmp(documents: list[Any]) -> None:
    steps = documents[0]["deploymentSpec"]["executors"]
    assert set(executors(documents)) == set(steps)
    for entry in executors(documents).values():
        assert entry["securityContext"] == {"runAsUser": "185", "runAsNonRoot": True}
        assert [mount["mountPath"] for mount in entry["emptyDirMounts"]] == ["/tmp"]  # noqa: S108 - a volume of the pod


def test_the_pipelines_user_is_the_user_of_the_images() -> None:
    for image in ("spark", "steps"):
        dockerfile = LAYOUT.data / "images" / image / "Dockerfile"
        assert f"USER {USER}" in dockerfile.read_text().splitlines()


def test_the_default_workspace_is_shared_by_all_nodes(documents: list[Any]) -> None:
    workspace = documents[1]["platforms"]["kubernetes"]["pipelineConfig"]["workspace"]
    assert workspace == {"size": "20Gi", "kubernetes": {"pvcSpecPatch": {"accessModes": ["ReadWriteMany"]}}}


def test_the_objects_of_a_run_outlive_the_hour_of_a_stock_server(documents: list[Any]) -> None:
    config = documents[1]["platforms"]["kubernetes"]["pipelineConfig"]
    seconds = {name: config[name] for name in config if name != "workspace"}
    # Argo takes the time after success or failure before that after completion, and the server's own before none.
    assert seconds == {
        "resourceTtlOnCompletion": 7 * 86400,
        "resourceTtlOnSuccess": 7 * 86400,
        "resourceTtlOnFailure": 3 * 86400,
    }


def tasks_of(spec: dict[str, Any]) -> dict[str, Any]:
    """Return all tasks of a package by name."""
    dags = [spec["root"], *spec["components"].values()]
    return {name: task for dag in dags for name, task in dag.get("dag", {}).get("tasks", {}).items()}


def test_the_package_of_cohorts_has_the_steps_of_one_source_in_a_loop_with_a_limit(
    cohort: list[Any], documents: list[Any]
) -> None:
    spec, one = cohort[0], documents[0]
    (loop,) = (task for task in tasks_of(spec).values() if "parameterIterator" in task)
    assert loop["taskInfo"]["name"] == LOOP
    assert loop["iteratorPolicy"]["parallelismLimit"] == PARALLELISM
    inside = spec["components"][loop["componentRef"]["name"]]["dag"]["tasks"]
    # A cohort learns a basis for each of its jobs, and none is to be served.
    steps = {name for name in tasks_of(one) if f"exec-{name}" in one["deploymentSpec"]["executors"]} - {
        "cleanup",
        "deploy",
    }
    assert set(inside) == {*steps, "publish"}
    for step in steps:
        label = f"exec-{step}"
        assert spec["deploymentSpec"]["executors"][label] == one["deploymentSpec"]["executors"][label]
        assert executors(cohort)[label] == executors(documents)[label]
        assert inside[step].get("retryPolicy") == tasks_of(one)[step].get("retryPolicy")


def test_the_package_of_cohorts_has_the_parameters_of_parameters_py(cohort: list[Any]) -> None:
    compiled = cohort[0]["root"]["inputDefinitions"]["parameters"]
    expected = [*(one for one in PARAMETERS if one.name not in NOT_OF_A_COHORT), *COHORT_PARAMETERS]
    assert list(compiled) == sorted(parameter.name for parameter in expected)
    for parameter in expected:
        entry = compiled[parameter.name]
        assert entry["parameterType"] == KINDS[parameter.type]
        assert entry["description"].startswith(parameter.help)
        if parameter.name not in {"source", "out"}:
            assert entry["defaultValue"] == parameter.default
    assert (LAYOUT.data / "docs/how-to/cohort.md").is_file()
    assert "docs/how-to/cohort.md" in cohort[0]["pipelineInfo"]["description"]


def test_the_steps_of_a_cohort_get_the_secrets_that_they_need_and_nothing_is_cached(cohort: list[Any]) -> None:
    found = {
        label: {secret["secretName"] for secret in entry.get("secretAsEnv", [])}
        for label, entry in executors(cohort).items()
    }
    assert all(S3_SECRET in names for names in found.values()), "each reads or writes S3"
    assert {label for label, names in found.items() if SALT_SECRET in names} == {"exec-inventory", "exec-matrix"}
    assert {label for label, names in found.items() if SOURCES_SECRET in names} == {"exec-inventory", "exec-fetch"}
    for name, task in tasks_of(cohort[0]).items():
        if f"exec-{name}" in executors(cohort):
            assert not task.get("cachingOptions", {}).get("enableCache"), name
            assert executors(cohort)[f"exec-{name}"]["securityContext"]["runAsNonRoot"]


def test_every_size_has_the_steps_of_both_packages(cohort: list[Any], documents: list[Any]) -> None:
    labels = {*cohort[0]["deploymentSpec"]["executors"], *documents[0]["deploymentSpec"]["executors"]}
    assert {label.removeprefix("exec-") for label in labels} == set.union(*map(set, SIZES.values()))
    assert all(set(size) == set(SIZES["small"]) for size in SIZES.values())


def test_fetch_and_svd_are_retried_and_the_time_limit_allows_long_waits(documents: list[Any]) -> None:
    tasks = documents[0]["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    policies = {name: task["retryPolicy"] for name, task in tasks.items() if "retryPolicy" in task}
    assert {name: policy["maxRetryCount"] for name, policy in policies.items()} == {"fetch": 2, "svd": 1}
    # Argo counts maxDuration from the start of the first attempt.
    assert {int(policy["backoffMaxDuration"].removesuffix("s")) for policy in policies.values()} == {7 * 86400}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"rank": "0"}, "rank '0'"),
        ({"rank": "-5"}, "rank '-5'"),
        ({"ranks": "50,x"}, "rank 'x'"),
        ({"oversample": -1}, "oversample is -1"),
        ({"power_iters": -1}, "power_iters is -1"),
        ({"engine": "abacus"}, "engine is 'abacus'"),
        ({"mode": "patchy"}, "mode is 'patchy'"),
        ({"store": "/folder"}, "the store is not on S3"),
        ({"store": "s3://a/../b"}, "without empty parts"),
        ({"rnk": "5"}, "parameter 'rnk' is unknown"),
    ],
)
def test_arguments_out_of_bounds_are_refused_by_name(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(CtbasisError, match=named):
        check(arguments)
