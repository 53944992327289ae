"""Submissions to a stand-in for a Kubeflow server, which refuses the requests that the real server refuses."""

from __future__ import annotations

import json
import re
import socket
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import pytest
import requests
import yaml

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.package import PACKAGE, check_arguments, read_package
from ctbasis.kubeflow.runs import get_run
from ctbasis.kubeflow.server import NoAnswerError, connect
from ctbasis.kubeflow.submit import start, submit, upload
from tests.kubeflow.kfp_stand_in import ARGUMENTS, KfpStandIn, picture, steps
from tests.loopback import Served

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("alone")


def edited(tmp_path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Return a copy of the committed package with its first document edited."""
    documents = list(yaml.safe_load_all(PACKAGE.read_text()))
    edit(documents[0])
    path = tmp_path / "edited.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


def test_a_submission_runs_the_package_and_fetches_metrics_and_figure_1(
    server: KfpStandIn, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = submit(server.url, arguments=ARGUMENTS, run_name="mine", experiment="trial", out=tmp_path / "out")

    assert server.refused == []
    (run,) = server.runs.values()
    assert (run.run_id, run.name, run.arguments) == (done.run_id, "mine", ARGUMENTS)
    assert [one["display_name"] for one in server.experiments.values()] == ["trial"]
    assert run.package["platform_spec"]["platforms"]["kubernetes"]["pipelineConfig"]["workspace"]

    assert done.state == "SUCCEEDED"
    assert done.url == f"{server.url}/#/runs/details/{run.run_id}"
    assert done.results is not None
    assert done.results.metrics == server.metrics
    assert done.results.figure1 == picture()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == server.metrics
    assert (tmp_path / "out" / "figure1.png").read_bytes() == picture()
    assert len(list((tmp_path / "out").iterdir())) == 2

    progress = [line.split(" ", 1)[1] for line in capfd.readouterr().err.splitlines()]
    assert progress == [f"{step}: {state}" for step in steps(run.package) for state in ("running", "succeeded")]


def test_a_second_submission_joins_the_experiment(server: KfpStandIn) -> None:
    for _ in range(2):
        done = submit(server.url, arguments=ARGUMENTS, wait=False)
        assert (done.state, done.results) == ("PENDING", None)
        assert server.runs[done.run_id].polls == 0
    assert len(server.experiments) == 1
    assert len(server.runs) == 2


def test_an_unreachable_host_is_reported_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(NoAnswerError, match="cannot be reached"):
        submit(url, arguments=ARGUMENTS)


@pytest.mark.parametrize("token", ["", "wrong-secret"])
def test_a_refused_token_is_reported_and_not_shown(token: str, capfd: pytest.CaptureFixture[str]) -> None:
    with KfpStandIn(token="right-secret") as server:  # noqa: S106 - token of the stand-in
        with pytest.raises(CtbasisError, match="401") as error:
            submit(server.url, arguments=ARGUMENTS, token=token)
        shown = repr(error.value) + str(error.value) + "".join(capfd.readouterr())
    assert "secret" not in shown
    assert "CTBASIS_KFP_TOKEN" in error.value.remedy


def test_every_request_carries_the_token_and_nothing_shows_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CTBASIS_KFP_TOKEN", "the-secret")
    with KfpStandIn(token="the-secret") as server:  # noqa: S106 - token of the stand-in
        done = submit(server.url, arguments=ARGUMENTS, out=tmp_path / "out")
        submit(server.url, upload_only=True)
    assert set(server.authorizations) == {"Bearer the-secret"}
    assert "the-secret" not in repr(done) + "".join(capfd.readouterr())


def test_in_a_pod_the_token_of_its_account_is_read_anew_for_each_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
    with KfpStandIn(token="first") as server:  # noqa: S106 - token of the stand-in
        client = connect(server.url)
        file.write_text("second")  # Kubernetes renews it, and the server no longer takes the first.
        server.token = "second"  # noqa: S105 - the same
        run_id = start(client, arguments=ARGUMENTS)
        assert get_run(client, run_id).run_id == run_id
        monkeypatch.setenv("CTBASIS_KFP_TOKEN", "second")
        file.write_text("third")
        connect(server.url)  # A token that the user gives comes first.
    file.unlink()
    monkeypatch.delenv("CTBASIS_KFP_TOKEN")
    with KfpStandIn() as server, pytest.raises(CtbasisError, match="cannot be read"):
        connect(server.url)


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("localhost:8080", "not an http or https address"),
        ("", "not an http or https address"),
        ("http://me:hidden@localhost", "contains a password"),
    ],
)
def test_an_invalid_host_is_refused(host: str, found: str) -> None:
    with pytest.raises(CtbasisError, match=found) as error:
        connect(host)
    assert "hidden" not in str(error.value)


def test_a_login_page_is_not_mistaken_for_kubeflow() -> None:
    class Login(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(b"<html>Log in to Kubeflow</html>")

        def log_message(self, *_: Any) -> None:
            """Keep the tests' output clean."""

    with Served(Login) as page, pytest.raises(CtbasisError, match="answers with a web page"):
        connect(page.url)


def test_a_multi_user_server_requires_a_namespace_and_every_request_has_it() -> None:
    with KfpStandIn(multi_user=True) as server:
        with pytest.raises(CtbasisError, match="multi-user server and no namespace"):
            submit(server.url, arguments=ARGUMENTS)
        assert submit(server.url, arguments=ARGUMENTS, namespace="radiology").state == "SUCCEEDED"
        assert submit(server.url, upload_only=True, namespace="radiology").pipeline_id
        assert server.refused == []
        assert {one["namespace"] for one in server.experiments.values()} == {"radiology"}
        assert {one["namespace"] for one in server.pipelines.values()} == {"radiology"}


def test_a_namespace_is_refused_by_a_server_for_a_single_user_which_would_ignore_it(server: KfpStandIn) -> None:
    with pytest.raises(CtbasisError, match="single-user server and has no namespace 'radiology'") as error:
        submit(server.url, arguments=ARGUMENTS, namespace="radiology")
    assert "leave out the namespace" in error.value.remedy
    assert server.runs == {}


def test_the_servers_error_message_is_passed_on(server: KfpStandIn) -> None:
    client = connect(server.url)
    with pytest.raises(CtbasisError, match="Run 5 not found"):
        get_run(client, "5")


def test_without_a_name_a_run_has_that_of_the_pipeline_and_the_time(server: KfpStandIn, tmp_path: Path) -> None:
    package = edited(tmp_path, lambda spec: spec["pipelineInfo"].update(name="of-the-clinic"))
    submit(server.url, arguments=ARGUMENTS, package=package, wait=False)
    (run,) = server.runs.values()
    assert re.fullmatch(r"of-the-clinic \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", run.name)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"source": "x", "colour": "red"}, "no parameter 'colour'"),
        ({"rank": "50"}, "source has no value"),
        ({"source": "x", "rank": 50}, "'rank' is a int"),
        ({"source": "x", "oversample": "15"}, "'oversample' is a str"),
        ({"source": "x", "oversample": True}, "'oversample' is a bool"),
        ({"source": "x", "oversample": 1.5}, "'oversample' is a float"),
        ({"source": "x", "oversample": -1}, "oversample is -1"),
        ({"source": "x", "engine": "abacus"}, "engine is 'abacus'"),
        ({"source": "x", "rank": "none"}, "rank"),
    ],
)
def test_arguments_that_do_not_fit_the_package_are_refused_before_any_request(
    arguments: dict[str, Any], found: str, server: KfpStandIn
) -> None:
    with pytest.raises(CtbasisError, match=found):
        submit(server.url, arguments=arguments)
    assert server.authorizations == []


def test_arguments_of_the_right_types_are_accepted() -> None:
    kinds = {"s": "STRING", "i": "NUMBER_INTEGER", "d": "NUMBER_DOUBLE", "b": "BOOLEAN", "l": "LIST", "m": "STRUCT"}
    spec = {"root": {"inputDefinitions": {"parameters": {n: {"parameterType": kind} for n, kind in kinds.items()}}}}
    check_arguments(spec, {"s": "", "i": 1, "d": 2, "b": False, "l": [], "m": {}})


def test_a_package_with_a_fault_is_refused_before_any_request(server: KfpStandIn, tmp_path: Path) -> None:
    def refer_to_no_executor(spec: dict[str, Any]) -> None:
        spec["components"]["comp-fetch"]["executorLabel"] = "exec-nowhere"

    with pytest.raises(CtbasisError, match="no executor 'exec-nowhere'"):
        submit(server.url, arguments=ARGUMENTS, package=edited(tmp_path, refer_to_no_executor))
    with pytest.raises(CtbasisError, match="cannot be read"):
        submit(server.url, arguments=ARGUMENTS, package=tmp_path / "absent.yaml")
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n")
    with pytest.raises(CtbasisError, match="is not a pipeline"):
        read_package(manifest)
    assert server.authorizations == []


def test_an_upload_creates_the_pipeline_and_stores_the_same_package_once(server: KfpStandIn) -> None:
    first = submit(server.url, upload_only=True)
    assert first == submit(server.url, upload_only=True)
    assert (first.run_id, first.results) == ("", None)
    (pipeline,) = server.pipelines.values()
    assert pipeline["name"] == "ctbasis-denoise"
    (version,) = pipeline["versions"]
    documents = list(yaml.safe_load_all(PACKAGE.read_text()))
    assert version["pipeline_spec"] == dict(zip(("pipeline_spec", "platform_spec"), documents, strict=True))
    assert first.url.endswith(f"/#/pipelines/details/{first.pipeline_id}/version/{first.version_id}")
    assert server.refused == []
    assert server.runs == {}


def test_another_package_is_a_new_version_of_the_pipeline(server: KfpStandIn, tmp_path: Path) -> None:
    first = submit(server.url, upload_only=True, pipeline_name="mine")
    changed = edited(tmp_path, lambda spec: spec["pipelineInfo"].update(description="other"))
    second = submit(server.url, upload_only=True, pipeline_name="mine", package=changed)
    assert first.pipeline_id == second.pipeline_id
    assert first.version_id != second.version_id


def test_a_version_named_by_the_user_is_never_replaced(server: KfpStandIn) -> None:
    client = connect(server.url)
    _, version_id = upload(client, PACKAGE, name="mine", version="1.0")
    with pytest.raises(CtbasisError, match=r"already has a version '1\.0'"):
        upload(client, PACKAGE, name="mine", version="1.0")
    (pipeline,) = server.pipelines.values()
    assert [one["pipeline_version_id"] for one in pipeline["versions"]] == [version_id]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("runs", b"{}", {"content-type": "application/json"}, 400),
        ("runs", b"{", {"content-type": "application/json"}, 400),
        ("runs", b'{"display_name": "x", "colour": 1}', {"content-type": "application/json"}, 400),
        ("runs", b"{}", {"content-type": "text/plain"}, 415),
        ("experiments", b"{}", {"content-type": "application/json"}, 400),
        ("pipelines", b"{}", {"content-type": "application/json"}, 400),
        ("pipelines/upload_version?pipelineid=x&name=y", b"", {"content-type": "text/plain"}, 404),
        ("nothing", b"{}", {"content-type": "application/json"}, 404),
    ],
)
def test_the_stand_in_refuses_malformed_requests(
    path: str, body: bytes, headers: dict[str, str], status: int, server: KfpStandIn
) -> None:
    answer = requests.post(f"{server.url}/apis/v2beta1/{path}", data=body, headers=headers, timeout=10)
    assert answer.status_code == status
    assert len(server.refused) == 1


def test_the_stand_in_refuses_an_upload_without_a_package(server: KfpStandIn) -> None:
    client = connect(server.url)
    pipeline_id, _ = upload(client, PACKAGE, name="mine")
    url = f"{server.url}/apis/v2beta1/pipelines/upload_version"
    for files in ({"uploadfile": ("p.yaml", b"")}, {"file": ("p.yaml", b"a: 1")}, {"uploadfile": ("p.yaml", b"a: 1")}):
        answer = requests.post(url, params={"pipelineid": pipeline_id, "name": "2"}, files=files, timeout=10)
        assert answer.status_code == 400, files
