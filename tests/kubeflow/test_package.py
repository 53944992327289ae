"""The committed package is compiled from the current source, and its parameters are those of parameters.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ctbasis.dicom.deidentify.pseudonyms import SALT
from ctbasis.errors import CtbasisError
from ctbasis.installed import LAYOUT
from ctbasis.kubeflow import package
from ctbasis.parameters import PARAMETERS, check
from pipeline.denoise import S3_KEYS, S3_SECRET, SALT_SECRET, USER

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def documents() -> list[Any]:
    return list(yaml.safe_load_all(package.PACKAGE.read_text()))


def test_the_committed_package_is_the_output_of_compiling_the_source() -> None:
    package.check()


def test_an_outdated_package_is_refused_with_the_difference(tmp_path: Path) -> None:
    outdated = tmp_path / "denoise.yaml"
    outdated.write_text(package.PACKAGE.read_text().replace("ctbasis/steps", "ctbasis/stale"))
    with pytest.raises(CtbasisError, match=r"run `ctbasis compile`(?s:.)*-.*ctbasis/stale"):
        package.check(outdated)


def test_a_missing_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match=r"nothing\.yaml is missing"):
        package.check(tmp_path / "nothing.yaml")


KINDS = {str: "STRING", int: "NUMBER_INTEGER", bool: "BOOLEAN", float: "NUMBER_DOUBLE"}


def test_the_package_has_the_parameters_and_defaults_of_parameters_py(documents: list[Any]) -> None:
    compiled = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert list(compiled) == sorted(parameter.name for parameter in PARAMETERS)
    for parameter in PARAMETERS:
        entry = compiled[parameter.name]
        assert entry["parameterType"] == KINDS[parameter.type]
        if parameter.name != "source":
            assert entry["defaultValue"] == parameter.default


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
    assert sorted(secrets) == [f"exec-{step}" for step in steps]
    for secret in (entry for entries in secrets.values() for entry in entries if entry["secretName"] == S3_SECRET):
        assert secret["optional"]
        assert {pair["envVar"]: pair["secretKey"] for pair in secret["keyToEnv"]} == S3_KEYS


def test_only_the_step_that_de_identifies_gets_the_salt_from_an_optional_secret(
    documents: list[Any],
) -> None:
    others = {
        name: [entry for entry in found.get("secretAsEnv", []) if entry["secretName"] != S3_SECRET]
        for name, found in executors(documents).items()
    }
    assert [name for name, found in others.items() if found] == ["exec-matrix"]
    (salt,) = others["exec-matrix"]
    assert (salt["secretName"], salt["optional"]) == (SALT_SECRET, True)
    assert salt["keyToEnv"] == [{"envVar": SALT, "secretKey": "salt"}]


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


def test_a_package_for_another_workspace_differs_only_in_the_workspace(documents: list[Any], tmp_path: Path) -> None:
    package.write(tmp_path / "mine.yaml", package.Claim("ReadWriteOnce", "fast", "5Gi"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
    made = list(yaml.safe_load_all((tmp_path / "mine.yaml").read_text()))
    config = made[1]["platforms"]["kubernetes"]["pipelineConfig"]
    assert config["workspace"] == {
        "size": "5Gi",
        "kubernetes": {"pvcSpecPatch": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast"}},
    }
    config["workspace"] = documents[1]["platforms"]["kubernetes"]["pipelineConfig"]["workspace"]
    assert made == documents


def test_an_invalid_workspace_size_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="'5GB' is not a quantity"):
        package.write(tmp_path / "mine.yaml", package.Claim(size="5GB"))
    with pytest.raises(CtbasisError, match="cannot be written"):
        package.write(tmp_path / "nowhere" / "mine.yaml")
    assert list(tmp_path.iterdir()) == []


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
