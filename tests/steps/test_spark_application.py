"""The manifest of the component `spark_application`: parameters, and what is refused before anything is created."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.spark_application.example_pipelines import PI
from ctbasis.errors import CtbasisError
from ctbasis.jobs.job import SPEC_ANNOTATION
from ctbasis.kubeflow.lint import spark
from ctbasis.steps.spark_application import metrics_of, read_manifest


def edited(**spec: Any) -> dict[str, Any]:
    manifest: dict[str, Any] = copy.deepcopy(PI)
    manifest["spec"] |= {"arguments": [], **spec}
    return manifest


def read(manifest: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    return read_manifest(manifest, "", parameters, namespace="runs").to_manifest()


def test_yaml_and_dictionary_give_the_same_application() -> None:
    text = yaml.safe_dump(PI)
    parameters = {"partitions": "16"}
    from_text = read_manifest({}, text, parameters, namespace="runs").to_manifest()
    assert from_text == read_manifest(PI, "", parameters, namespace="runs").to_manifest()
    assert from_text["spec"]["arguments"] == ["16"]


def test_a_placeholder_alone_keeps_the_type_of_its_value_and_one_in_a_text_becomes_text() -> None:
    manifest = edited(arguments=["--rows=${rows}", "${text}", "$${rows}", "${env:HOME}", "$(POD)"])
    manifest["spec"]["executor"]["instances"] = "${executors}"
    spec = read(manifest, rows=1000.0, text="a b", executors=4.0)["spec"]
    assert spec["executor"]["instances"] == 4, "Kubeflow passes every number of a dictionary as a float"
    assert spec["arguments"] == ["--rows=1000", "a b", "${rows}", "${env:HOME}", "$(POD)"]


def test_a_number_is_a_text_where_the_field_is_one() -> None:
    manifest = edited(arguments=["${n}"], sparkConf={"spark.sql.shuffle.partitions": "${n}", "spark.x": "${yes}"})
    manifest["spec"]["driver"]["env"] = [{"name": "N", "value": "${n}"}]
    spec = read(manifest, n=16.0, yes=True)["spec"]
    assert spec["arguments"] == ["16"]
    assert spec["sparkConf"] == {"spark.sql.shuffle.partitions": "16", "spark.x": "true"}
    assert spec["driver"]["env"] == [{"name": "N", "value": "16"}]


def test_whole_numbers_that_kubeflow_has_made_floats_are_integers_again() -> None:
    manifest = edited()
    manifest["spec"]["driver"]["cores"] = 1.0
    manifest["spec"]["timeToLiveSeconds"] = 3600.0
    spec = read(manifest)["spec"]
    assert (type(spec["driver"]["cores"]), type(spec["timeToLiveSeconds"])) == (int, int)


@given(st.text())
def test_a_value_is_never_read_as_yaml_or_as_a_placeholder(value: str) -> None:
    assert read(edited(arguments=["${value}"]), value=value)["spec"]["arguments"] == [value]
    assert read(edited(arguments=["x${value}"]), value=value)["spec"]["arguments"] == [f"x{value}"]


@pytest.mark.parametrize(
    ("manifest", "text", "parameters", "message"),
    [
        ({}, "", {}, "neither of manifest and manifest_yaml is given"),
        (PI, yaml.safe_dump(PI), {}, "both of manifest and manifest_yaml are given"),
        ({}, "a: [", {}, "manifest_yaml is not YAML in line"),
        ({}, "- a", {}, "manifest_yaml is a list"),
        (PI, "", {}, r"placeholder \$\{partitions\}, and parameters has no partitions"),
        (PI, "", {"partitions": "1", "partition": "2"}, "without a placeholder in the manifest: partition\n"),
        (edited(arguments=["x${list}"]), "", {"list": [1]}, "inside of a text is a list"),
        ({**edited(), "kind": "Job"}, "", {}, "the manifest is no SparkApplication"),
        (edited(drivr={}), "", {}, r"spec\.drivr"),
        (edited(driver="no mapping"), "", {}, "DriverSpec"),
        ({**edited(), "metadata": {"namespace": "another"}}, "", {}, "names the namespace 'another'"),
        ({**edited(), "metadata": "pi"}, "", {}, "metadata is a str"),
    ],
)
def test_an_invalid_manifest_is_refused_by_name(
    manifest: dict[str, Any], text: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(CtbasisError, match=message):
        read_manifest(manifest, text, parameters, namespace="runs")


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"name": "pi"}, "pi"),
        ({"generateName": "pi-"}, "pi"),
        ({}, "spark"),
        ({"name": "pi", "namespace": "runs"}, "pi"),
    ],
)
def test_the_name_comes_from_the_manifest_and_fields_of_the_cluster_are_left_out(
    metadata: dict[str, Any], name: str
) -> None:
    manifest = {
        **edited(),
        "metadata": {**metadata, "uid": "1", "resourceVersion": "2", "managedFields": [], "labels": {"team": "ct"}},
        "status": {"applicationState": {"state": "COMPLETED"}},
    }
    read_again = read(manifest)
    assert read_again["metadata"] == {"name": name, "labels": {"team": "ct"}}
    assert "status" not in read_again


def test_the_example_has_only_fields_of_the_operators_definition() -> None:
    """The definitions of 2.4.0 and 2.5.2 are the same but for their descriptions (ctbasis/kubeflow/lint/crds.py)."""
    assert list(spark.faults(read(edited()), "pi", partial=True)) == []


def test_another_specification_has_another_digest() -> None:
    application = read_manifest(edited(), "", {}, namespace="runs")
    other = read_manifest(edited(image="spark:4"), "", {}, namespace="runs")
    digests = {
        one.with_spec_digest().to_manifest()["metadata"]["annotations"][SPEC_ANNOTATION] for one in (application, other)
    }
    assert len(digests) == 2
    assert application.with_spec_digest() == application.with_spec_digest()


@pytest.mark.parametrize(
    "status", [{}, {"lastSubmissionAttemptTime": None, "terminationTime": "never", "submissionAttempts": "1"}]
)
def test_metrics_that_the_status_does_not_have_are_left_out(status: dict[str, Any]) -> None:
    assert metrics_of({"metadata": {}, "status": status}) == {"executors": 0.0}
