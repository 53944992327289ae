"""The committed package is the source's, and its parameters are the table's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from components.errors import CtbasisError
from pipeline import package
from pipeline.denoise import S3_SECRET
from pipeline.parameters import PARAMETERS, check

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def documents() -> list[Any]:
    return list(yaml.safe_load_all(package.PACKAGE.read_text()))


def test_the_committed_package_is_what_the_source_compiles_to() -> None:
    package.check()


def test_a_package_that_drifted_is_refused_with_the_difference(tmp_path: Path) -> None:
    drifted = tmp_path / "denoise.yaml"
    drifted.write_text(package.PACKAGE.read_text().replace("ctbasis/steps", "ctbasis/stale"))
    with pytest.raises(CtbasisError, match=r"-.*ctbasis/stale(?s:.)*run `ctbasis compile`"):
        package.check(drifted)


def test_a_missing_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="is not what"):
        package.check(tmp_path / "nothing.yaml")


def test_the_packages_parameters_and_defaults_are_those_of_the_table(documents: list[Any]) -> None:
    compiled = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert list(compiled) == sorted(parameter.name for parameter in PARAMETERS)
    for parameter in PARAMETERS:
        entry = compiled[parameter.name]
        assert entry["parameterType"] == {str: "STRING", int: "NUMBER_INTEGER"}[parameter.type]
        if parameter.name != "source":
            assert entry["defaultValue"] == parameter.default


def test_the_talks_defaults_are_kept(documents: list[Any]) -> None:
    compiled = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert compiled["oversample"]["defaultValue"] == 15
    assert compiled["power_iters"]["defaultValue"] == 2
    assert compiled["ranks"]["defaultValue"] == "50,244,300"


def test_no_step_is_cached_since_each_works_on_the_runs_own_workspace(documents: list[Any]) -> None:
    dags = [documents[0]["root"], *documents[0]["components"].values()]
    tasks = {name: task for dag in dags for name, task in dag.get("dag", {}).get("tasks", {}).items()}
    assert {"fetch", "matrix", "svd", "reconstruct", "report", "cleanup"} <= set(tasks)
    cached = [
        name for name, task in tasks.items() if "dag" not in name and task.get("cachingOptions", {}).get("enableCache")
    ]
    assert cached == []


def test_s3_keys_come_from_an_optional_secret_and_stand_nowhere_else(documents: list[Any]) -> None:
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    secrets = {name: entry["secretAsEnv"] for name, entry in executors.items() if "secretAsEnv" in entry}
    assert list(secrets) == ["exec-fetch"]
    assert [entry["secretName"] for entry in secrets["exec-fetch"]] == [S3_SECRET]
    assert all(entry["optional"] for entry in secrets["exec-fetch"])


def test_fetch_is_retried_and_nothing_else(documents: list[Any]) -> None:
    tasks = documents[0]["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert [name for name, task in tasks.items() if "retryPolicy" in task] == ["fetch"]


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
        ({"rnk": "5"}, "parameter 'rnk' is unknown"),
    ],
)
def test_arguments_out_of_bounds_are_refused_by_name(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(CtbasisError, match=named):
        check(arguments)
