"""A run is followed until it ends: its progress, the pods that do not start, and outages of the server."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow import follow
from ctbasis.kubeflow.follow import finished_results, wait_for
from ctbasis.kubeflow.package import PACKAGE
from ctbasis.kubeflow.pods import pods_of
from ctbasis.kubeflow.runs import Run, Task, get_run, run_id_of
from ctbasis.kubeflow.server import NoAnswerError, connect, get
from ctbasis.kubeflow.submit import start, submit, upload
from tests.kubeflow.kfp_stand_in import ARGUMENTS, KfpStandIn, PodTrouble, picture, steps

if TYPE_CHECKING:
    from pathlib import Path

    from kfp.client import Client

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the pods of a run as soon as nothing changes."""
    monkeypatch.setattr(follow, "PATIENCE_SECONDS", 0.0)


def run_of_a_version(client: Client) -> str:
    """Start a run as the UI does: of a stored version of the pipeline."""
    pipeline_id, version_id = upload(client, PACKAGE, name="stored")
    experiment = client.create_experiment("of versions")
    return str(
        client.run_pipeline(
            experiment.experiment_id, "from the UI", params=ARGUMENTS, pipeline_id=pipeline_id, version_id=version_id
        ).run_id
    )


def lines_of(client: Client, run_id: str) -> list[str]:
    """Follow a run, and return its lines without their times."""
    lines: list[str] = []
    wait_for(client, run_id, report=lambda line: lines.append(line.split(" ", 1)[1]))
    return lines


def waited(server: KfpStandIn, timeout: float = 0.3) -> list[str]:
    """Follow a run that does not end; return what the lines say of its pods."""
    client = connect(server.url)
    lines: list[str] = []
    with pytest.raises(CtbasisError, match="continues on the server") as error:
        wait_for(client, start(client, arguments=ARGUMENTS), timeout=timeout, report=lines.append)
    found = [line.split(" ", 1)[1] for line in lines if "its pod has not started" in line]
    assert list(error.value.details) == found
    return found


@pytest.mark.parametrize("lists_artifacts", [False, True])
def test_a_run_of_a_stored_version_shows_the_steps_and_no_node_of_the_workflow(
    lists_artifacts: bool, server: KfpStandIn
) -> None:
    server.lists_artifacts = lists_artifacts
    client = connect(server.url)
    run_id = run_of_a_version(client)
    assert lines_of(client, run_id) == [
        f"{step}: {state}" for step in steps(server.runs[run_id].package) for state in ("running", "succeeded")
    ]
    reads = [line for line in server.requests if line.startswith("GET") and "/versions/" in line]
    assert len(reads) == (0 if lists_artifacts else 1)  # the package is requested once
    assert server.refused == []


def test_the_steps_are_told_by_their_names_if_the_version_is_gone(server: KfpStandIn) -> None:
    client = connect(server.url)
    run_id = run_of_a_version(client)
    expected = steps(server.runs[run_id].package)
    server.pipelines.clear()
    assert {line.split(":")[0] for line in lines_of(client, run_id)} == set(expected)


def test_the_iterations_of_a_loop_share_one_state() -> None:
    tasks = tuple(Task("svd", state) for state in ("SUCCEEDED", "RUNNING", "PENDING"))
    run = Run("1", "run", "RUNNING", "", (), {}, tasks, frozenset({"svd"}))
    assert run.states() == {"svd": "RUNNING"}


def test_the_names_of_2_17_are_told_apart(finished: tuple[KfpStandIn, Client, str]) -> None:
    _, client, run_id = finished
    answer = get(client, f"/apis/v2beta1/runs/{run_id}")
    names = {task["display_name"] for task in answer["run_details"]["task_details"]}
    assert {"fetch(0)", "fetch-driver(0)", "root(0)", "exit-handler-1.onExit", "ctbasis-denoise-x7k2p(0)"} <= names


def test_the_pods_of_a_run_are_told_by_the_names_of_their_nodes(finished: tuple[KfpStandIn, Client, str]) -> None:
    _, client, run_id = finished
    found = pods_of(client, run_id)
    drivers = ["root-driver", "exit-handler-1-driver"]
    steps = [pod.step for pod in found if pod.step not in drivers]
    one_after_another = ["fetch", "matrix", "svd"]
    assert steps[:6] == [name for step in one_after_another for name in (f"{step}-driver", step)]
    # Neither of these waits for the other.
    assert sorted(steps[6:10]) == ["reconstruct", "reconstruct-driver", "report", "report-driver"]
    assert steps[10:] == ["cleanup-driver", "cleanup"]
    assert {pod.phase for pod in found} == {"Succeeded"}
    # The id of a node ends in the hash of its name; Argo makes the name of the pod of it and of the template.
    assert all(re.fullmatch(r"ctbasis-denoise-x7k2p-system-[a-z]+-[a-z]+-\d+", pod.name) for pod in found)


CPU = "0/1 nodes are available: 1 Insufficient cpu."
CLAIM = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("trouble", "reason", "remedy"),
    [
        (
            PodTrouble(unschedulable="0/1 nodes are available: 1 Insufficient cpu."),
            "1 Insufficient cpu",
            "--size small",
        ),
        (PodTrouble(unschedulable=CLAIM), "unbound immediate PersistentVolumeClaims", "--storage-class"),
        (PodTrouble(("ImagePullBackOff", 'Back-off pulling image "ctbasis/steps:0.1.0"')), "Back-off", "--steps-image"),
        (PodTrouble(("CreateContainerConfigError", 'secret "ctbasis-s3" not found')), "secret", "create the missing"),
        (
            PodTrouble(("ContainerCreating", ""), events=[("Warning", "FailedMount", "nfs: no route to host")]),
            "FailedMount: nfs: no route to host",
            "cannot be mounted",
        ),
        (
            PodTrouble(("ContainerCreating", ""), events=[("Normal", "Pulling", "Pulling image")]),
            "its container is being created",
            "created",
        ),
    ],
)
def test_a_pod_that_does_not_start_is_said_once_with_its_reason_and_what_would_help(
    trouble: PodTrouble, reason: str, remedy: str, server: KfpStandIn
) -> None:
    server.waiting = {"fetch": trouble}
    (line,) = waited(server)
    assert line.startswith("fetch: its pod has not started: ")
    assert reason in line
    assert remedy in line
    assert server.refused == []


@pytest.mark.usefixtures("impatient")
def test_a_run_whose_first_pod_does_not_start_says_so_too(server: KfpStandIn) -> None:
    server.waiting = {"root-driver": PodTrouble(unschedulable=CPU)}
    (line,) = waited(server)
    assert line.startswith("root-driver: its pod has not started: 0/1 nodes are available: 1 Insufficient cpu; ")


@pytest.mark.usefixtures("impatient")
def test_without_the_ui_argo_says_what_a_pod_waits_for(server: KfpStandIn) -> None:
    server.waiting = {"matrix": PodTrouble(unschedulable="0/2 nodes are available: 2 Insufficient memory.")}
    server.has_ui = False
    (line,) = waited(server)
    assert line.startswith("matrix: its pod has not started: Unschedulable: 0/2 nodes are available")


def test_the_pods_are_left_alone_while_the_patience_lasts(server: KfpStandIn) -> None:
    server.waiting = {"fetch": PodTrouble(unschedulable=CPU)}
    assert waited(server) == []
    assert not any("/k8s/" in line or "/v1beta1/" in line for line in server.requests)


def test_after_a_timeout_the_run_continues_and_the_error_says_so(server: KfpStandIn) -> None:
    server.stuck = True
    with pytest.raises(CtbasisError, match=r"has not ended after 0\.1 s; it continues on the server"):
        submit(server.url, arguments=ARGUMENTS, timeout=0.1)


def test_a_short_outage_does_not_end_the_wait(server: KfpStandIn) -> None:
    server.outages = 3
    assert submit(server.url, arguments=ARGUMENTS).state == "SUCCEEDED"
    assert server.refused == ["no healthy upstream"] * 3


def test_a_server_that_closes_connections_for_a_while_does_not_end_the_wait(server: KfpStandIn) -> None:
    server.drops = 9  # urllib3 tries each request up to four times.
    assert submit(server.url, arguments=ARGUMENTS).state == "SUCCEEDED"
    assert server.drops == 0


def test_a_long_outage_ends_the_wait(server: KfpStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "OUTAGE_SECONDS", 0.05)
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

    monkeypatch.setattr(follow, "FIRST_POLL_SECONDS", 2.0)
    monkeypatch.setattr(follow, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: clock[0]))
    with pytest.raises(CtbasisError, match="continues on the server"):
        wait_for(client, run_id, timeout=300, report=lambda _: None)
    assert pauses[:4] == [2.0, 3.0, 4.5, 6.75]
    assert pauses[-2] == 30.0
    assert sum(pauses) == 300


@pytest.mark.parametrize("lists_artifacts", [False, True])
def test_the_results_of_a_run_that_is_over_are_fetched(
    lists_artifacts: bool, server: KfpStandIn, tmp_path: Path
) -> None:
    server.lists_artifacts = lists_artifacts
    run_id = submit(server.url, arguments=ARGUMENTS, wait=False).run_id
    client = connect(server.url)
    with pytest.raises(CtbasisError, match=f"run {run_id} is not over: it is RUNNING"):
        finished_results(client, run_id)
    server.runs[run_id].polls = 100
    results = finished_results(client, run_id, out=tmp_path)
    assert (results.metrics, results.figure1) == (server.metrics, picture())
    assert (tmp_path / "figure1.png").read_bytes() == picture()


def test_a_run_is_named_by_its_id_or_by_the_address_of_its_page() -> None:
    for text in (
        "0b1c-2d3e",
        "http://kf:80/pipeline/#/runs/details/0b1c-2d3e",
        "https://kf/_/#/runs/details/0b1c-2d3e?x=1",
    ):
        assert run_id_of(text) == "0b1c-2d3e"
    for text in ("", "..", "a b", "http://kf/#/runs/details/", "a/../b%2fc"):
        with pytest.raises(CtbasisError, match="is not the id of a run"):
            run_id_of(text)


def test_an_unknown_run_is_said_to_be_unknown(server: KfpStandIn) -> None:
    with pytest.raises(CtbasisError, match="404"):
        get_run(connect(server.url), "no-such-run")
