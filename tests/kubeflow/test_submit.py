"""Submissions to a stand-in for a Kubeflow server, which refuses the requests that the real server refuses."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import kfp_server_api
import pytest
import requests
import yaml

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow import submit as module
from ctbasis.kubeflow.package import PACKAGE, check_arguments, read_package
from ctbasis.kubeflow.server import NoAnswerError, connect
from ctbasis.kubeflow.submit import start, submit, upload, wait_for
from tests.kubeflow.kfp_stand_in import ARGUMENTS, KfpStandIn, picture, steps

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kfp.client import Client

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


def test_the_error_of_a_failed_run_names_the_step_and_not_its_enclosing_nodes(server: KfpStandIn) -> None:
    server.failing = "svd"
    with pytest.raises(CtbasisError, match=r"ended as FAILED: svd failed") as error:
        submit(server.url, arguments=ARGUMENTS)
    assert error.value.remedy.endswith(next(iter(server.runs)))
    assert "executor" not in str(error.value)


def test_the_error_names_the_driver_of_a_step_that_could_not_start(
    finished: tuple[KfpStandIn, Client, str],
) -> None:
    run = finished[1].get_run(finished[2])
    run.state = "FAILED"
    run.run_details.task_details = [
        kfp_server_api.V2beta1PipelineTaskDetail(display_name="root-driver", state="SUCCEEDED"),
        kfp_server_api.V2beta1PipelineTaskDetail(
            display_name="svd-driver", state="FAILED", error=kfp_server_api.GoogleRpcStatus(message="no  such\nclaim")
        ),
    ]
    with pytest.raises(CtbasisError, match=r"svd-driver failed \(no such claim\)"):
        module._succeeded(run, "url")


def test_internal_nodes_are_left_out_if_the_answer_does_not_contain_the_package(
    finished: tuple[KfpStandIn, Client, str],
) -> None:
    run = finished[1].get_run(finished[2])
    run.pipeline_spec = None
    assert set(module._states(run)) - {"ctbasis-denoise-x7k2p"} == set(steps(finished[0].runs[finished[2]].package))


def test_the_iterations_of_a_loop_share_one_state(finished: tuple[KfpStandIn, Client, str]) -> None:
    run = finished[1].get_run(finished[2])
    run.run_details.task_details = [
        kfp_server_api.V2beta1PipelineTaskDetail(display_name="svd", state=state)
        for state in ("SUCCEEDED", "RUNNING", "PENDING")
    ]
    assert module._states(run) == {"svd": "RUNNING"}


def test_after_a_timeout_the_run_continues_and_the_error_says_so(server: KfpStandIn) -> None:
    server.stuck = True
    with pytest.raises(CtbasisError, match=r"has not ended after 0\.1 s; it continues on the server"):
        submit(server.url, arguments=ARGUMENTS, timeout=0.1)


def test_a_short_outage_does_not_end_the_wait(server: KfpStandIn) -> None:
    server.outages = 3
    assert submit(server.url, arguments=ARGUMENTS).state == "SUCCEEDED"
    assert server.refused == ["no healthy upstream"] * 3


def test_a_long_outage_ends_the_wait(server: KfpStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OUTAGE_SECONDS", 0.05)
    server.outages = 10_000
    with pytest.raises(NoAnswerError, match="503"):
        submit(server.url, arguments=ARGUMENTS)


def test_the_polling_interval_grows_while_nothing_changes(server: KfpStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    server.stuck = True
    client = connect(server.url)
    run_id = start(client, arguments=ARGUMENTS)
    server.runs[run_id].polls = 100
    clock = [0.0]
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(module, "FIRST_POLL_SECONDS", 2.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: clock[0]))
    with pytest.raises(CtbasisError, match="continues on the server"):
        wait_for(client, run_id, timeout=300, report=lambda _: None)
    assert pauses[:4] == [2.0, 3.0, 4.5, 6.75]
    assert pauses[-2] == 30.0
    assert sum(pauses) == 300


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

    with HTTPServer(("127.0.0.1", 0), Login) as page:
        thread = threading.Thread(target=page.serve_forever, args=(0.02,))
        thread.start()
        try:
            with pytest.raises(CtbasisError, match="answers with a web page"):
                connect(f"http://127.0.0.1:{page.server_address[1]}")
        finally:
            page.shutdown()
            thread.join()


def test_a_multi_user_server_requires_a_namespace_and_every_request_has_it() -> None:
    with KfpStandIn(multi_user=True) as server:
        with pytest.raises(CtbasisError, match="multi-user server and no namespace"):
            submit(server.url, arguments=ARGUMENTS)
        assert submit(server.url, arguments=ARGUMENTS, namespace="radiology").state == "SUCCEEDED"
        assert submit(server.url, upload_only=True, namespace="radiology").pipeline_id
        assert server.refused == []
        assert {one["namespace"] for one in server.experiments.values()} == {"radiology"}
        assert {one["namespace"] for one in server.pipelines.values()} == {"radiology"}


def test_the_servers_error_message_is_passed_on(server: KfpStandIn) -> None:
    with pytest.raises(CtbasisError, match="in single-user mode, the namespace must be empty"):
        submit(server.url, arguments=ARGUMENTS, namespace="radiology")


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
    assert version["pipeline_spec"] == next(yaml.safe_load_all(PACKAGE.read_text()))
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
