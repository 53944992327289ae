"""The results of a run: ML Metadata or the server lists its artifacts, the UI or the object store has their bytes."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from ctbasis.demo.s3server import S3Server
from ctbasis.errors import CtbasisError
from ctbasis.kubeflow import metadata
from ctbasis.kubeflow.artifacts import Artifact, fetch_page, fetch_results, metric_text, require_results, run_artifacts
from ctbasis.kubeflow.runs import get_run
from ctbasis.kubeflow.server import AbsentError, connect
from ctbasis.kubeflow.submit import start, submit
from tests.kubeflow.kfp_stand_in import ARGUMENTS, KfpStandIn, picture
from tests.kubeflow.ml_metadata_wire import encoded, field_of

if TYPE_CHECKING:
    from pathlib import Path

    from kfp.client import Client

pytestmark = pytest.mark.usefixtures("alone")

# The response of the store of ml-metadata 1.17 to GetArtifactsByContext, for a figure and a Metrics artifact with a
# property of each type, stored as KFP's launcher stores them.
FROM_ML_METADATA = base64.b64decode(
    "Cv8BCAEQCxpHbWluaW86Ly9tbHBpcGVsaW5lL3YyL2FydGlmYWN0cy9jdGJhc2lzLWRlbm9pc2UvcnVuLTEvcmVwb3J0Lzc3L21ldHJpY3Mq"
    "DQoHY2xhbXBlZBICCAEqGQoMZGlzcGxheV9uYW1lEgkaB21ldHJpY3MqEgoGZW5naW5lEggaBm1haG91dCoRCgRwc25yEgkRAAAAAABAQ0Aq"
    "EQoEcmFuaxIJEQAAAAAAAElAKiwKEnN0b3JlX3Nlc3Npb25faW5mbxIWGhR7IlByb3ZpZGVyIjoibWluaW8ifTACQg5zeXN0ZW0uTWV0cmlj"
    "c0ic/ejUoDRQnP3o1KA0CokBCAIQDBpHbWluaW86Ly9tbHBpcGVsaW5lL3YyL2FydGlmYWN0cy9jdGJhc2lzLWRlbm9pc2UvcnVuLTEvcmVw"
    "b3J0Lzc3L2ZpZ3VyZTEqGQoMZGlzcGxheV9uYW1lEgkaB2ZpZ3VyZTEwAkIPc3lzdGVtLkFydGlmYWN0SJz96NSgNFCc/ejUoDQ="
)


ARTIFACTS = ["basis", "denoised", "metrics", "figure1", "page"]


@pytest.mark.parametrize("lists_artifacts", [False, True])
def test_results_of_an_earlier_run_can_be_fetched_from_both_kinds_of_server(
    lists_artifacts: bool, finished: tuple[KfpStandIn, Client, str]
) -> None:
    server, client, run_id = finished
    server.lists_artifacts = lists_artifacts
    server.logs = {"svd": "pass 1 of 3"}
    artifacts = run_artifacts(client, get_run(client, run_id))
    assert sorted({artifact.name for artifact in artifacts}) == sorted([*ARTIFACTS, "executor-logs"])
    assert {artifact.step for artifact in artifacts if artifact.name == "executor-logs"} == {"svd"}
    results = fetch_results(client, run_id)
    assert (results.metrics, results.figure1) == (server.metrics, picture())
    assert fetch_page(client, run_id) == server.page.decode()
    assert server.refused == []
    assert any("ml_metadata" in line for line in server.requests) is not lists_artifacts


@pytest.mark.parametrize("lists_artifacts", [False, True])
def test_a_bare_api_server_is_refused_before_a_run_is_started(lists_artifacts: bool) -> None:
    with KfpStandIn(has_ui=False, lists_artifacts=lists_artifacts) as server:
        with pytest.raises(CtbasisError, match="does not send artifacts, so the results") as error:
            submit(server.url, arguments=ARGUMENTS)
        assert "address of the API server" in error.value.cause
        assert "the address that a browser opens" in error.value.remedy
        assert server.runs == {}
        assert submit(server.url, arguments=ARGUMENTS, wait=False).run_id in server.runs


def test_a_server_that_lists_artifacts_needs_no_ui_if_the_object_store_can_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with KfpStandIn(has_ui=False, lists_artifacts=True) as server:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        require_results(connect(server.url))


def test_a_ui_that_does_not_reach_ml_metadata_is_refused_before_a_run_is_started(
    server: KfpStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.kubeflow.kfp_stand_in.METADATA", "/elsewhere/")
    with pytest.raises(CtbasisError, match="to list the run's artifacts: 404"):
        submit(server.url, arguments=ARGUMENTS)
    assert server.runs == {}


def test_a_run_without_a_record_in_ml_metadata_is_reported(server: KfpStandIn) -> None:
    client = connect(server.url)
    run = get_run(client, start(client, arguments=ARGUMENTS))
    server.runs = {}
    with pytest.raises(CtbasisError, match="has no record of run"):
        run_artifacts(client, run)
    with pytest.raises(AbsentError, match="404"):
        fetch_results(client, run.run_id)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (262144.0, "262144"),
        (-3.0, "-3"),
        (0.0, "0"),
        (262144.7, "262145"),
        (1234.56, "1235"),
        (38.52137, "38.52"),
        (0.98765, "0.9877"),
        (0.000123456, "0.0001235"),
        (1e20, "100000000000000000000"),
        (True, "True"),
        (7, "7"),
        ("mahout", "mahout"),
        (float("nan"), "nan"),
    ],
)
def test_metrics_are_shown_without_exponents_and_whole_numbers_in_full(value: float | str, text: str) -> None:
    assert metric_text(value) == text


def test_a_run_without_metrics_is_reported_as_one_of_another_pipeline(finished: tuple[KfpStandIn, Client, str]) -> None:
    server, client, run_id = finished
    server.metrics = {}
    with pytest.raises(CtbasisError, match=r"the artifacts of run \S+ are: basis, denoised, figure1, metrics, page"):
        fetch_results(client, run_id)


def test_a_figure_that_is_not_a_png_is_refused(finished: tuple[KfpStandIn, Client, str]) -> None:
    server, client, run_id = finished
    server.figure = b"<html>"
    with pytest.raises(CtbasisError, match="is not a PNG image"):
        fetch_results(client, run_id)


def test_an_error_of_ml_metadata_is_passed_on(server: KfpStandIn) -> None:
    client = connect(server.url)
    with pytest.raises(CtbasisError, match=r"gRPC status 12 \(not implemented\)"):
        metadata.call(client, "GetContextByTypeAndName", type_name="system.Nothing", context_name="x")


@pytest.mark.parametrize("scheme", ["s3", "minio"])
def test_the_figure_comes_from_its_object_store_if_the_ui_cannot_send_it(
    scheme: str, finished: tuple[KfpStandIn, Client, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client, run_id = finished
    server.serves_artifacts = False
    server.figure_uri = f"{scheme}://results/run 1/figure1"
    (tmp_path / "put").mkdir()
    (tmp_path / "put" / "figure1").write_bytes(picture())
    with S3Server() as store:
        store.put_folder(tmp_path / "put", "s3://results/run 1")
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        assert fetch_results(client, run_id).figure1 == picture()
        server.figure_uri = f"{scheme}://results/run 1/absent"
        with pytest.raises(CtbasisError, match="cannot be fetched from its object store"):
            fetch_results(client, run_id)


def test_the_address_of_minio_is_not_guessed(finished: tuple[KfpStandIn, Client, str]) -> None:
    server, client, run_id = finished
    server.serves_artifacts = False
    with pytest.raises(CtbasisError, match="the address of the object store is unknown") as error:
        fetch_results(client, run_id)
    assert "AWS_ENDPOINT_URL" in error.value.remedy


def test_a_figure_in_another_kind_of_store_cannot_be_fetched_without_the_ui(
    finished: tuple[KfpStandIn, Client, str],
) -> None:
    server, client, run_id = finished
    server.serves_artifacts = False
    server.figure_uri = "gs://results/figure1"
    with pytest.raises(CtbasisError, match="refuses to send artifact 'figure1'"):
        fetch_results(client, run_id)


def test_a_response_of_ml_metadata_itself_is_parsed() -> None:
    page = metadata.messages()["GetArtifactsByContextResponse"].FromString(FROM_ML_METADATA)
    metrics, figure = map(Artifact.from_message, page.artifacts)
    assert (metrics.name, metrics.type) == ("metrics", "system.Metrics")
    assert metrics.properties == {"psnr": 38.5, "rank": 50.0, "clamped": 1, "engine": "mahout"}
    assert metrics.session == '{"Provider":"minio"}'
    assert (figure.name, figure.properties) == ("figure1", {})
    assert figure.uri == "minio://mlpipeline/v2/artifacts/ctbasis-denoise/run-1/report/77/figure1"


def test_the_stand_in_encodes_artifacts_as_ml_metadata_does() -> None:
    response = metadata.messages()["GetArtifactsByContextResponse"]
    uri = "minio://mlpipeline/v2/artifacts/ctbasis-denoise/run-1/report/77/metrics"
    logged = {"psnr": 38.5, "rank": 50, "engine": "mahout"}
    ours = response.FromString(field_of(1, encoded(1, "metrics", "system.Metrics", uri, logged))).artifacts[0]
    theirs = response.FromString(FROM_ML_METADATA).artifacts[0]
    assert (ours.id, ours.uri, ours.type) == (theirs.id, theirs.uri, theirs.type)
    values = {entry.key: entry.value for entry in theirs.custom_properties}
    assert all(entry.value == values[entry.key] for entry in ours.custom_properties if entry.key in logged)
    assert {entry.key for entry in ours.custom_properties} == set(values) - {"clamped"}
