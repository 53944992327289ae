"""A run that does not succeed: the client says why, in the words of the failed step, or who ended it."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow import follow
from ctbasis.kubeflow.failure import explain
from ctbasis.kubeflow.follow import finished_results, wait_for
from ctbasis.kubeflow.runs import Run, Task, get_run
from ctbasis.kubeflow.server import connect, request
from ctbasis.kubeflow.submit import start, submit
from tests.kubeflow.kfp_stand_in import ARGUMENTS, KfpStandIn

if TYPE_CHECKING:
    from kfp.client import Client

pytestmark = pytest.mark.usefixtures("alone")

LOG = """\
svd: 133 columns of 262144 rows
svd: pass 1 of 3
ctbasis: rank 200 is more than the 133 columns of the matrix
ctbasis:   expected: a rank from 1 to 133
ctbasis:   remedy: lower --rank
I1130 08:00:00.000000      17 launcher_v2.go:203] publish success.
F1130 08:00:00.100000      17 main.go:55] failed to execute component: exit status 2
"""

NOTE: dict[str, float | int | str] = {
    "step": "svd",
    "found": "rank 200 is more than the 133 columns of the matrix",
    "expected": "a rank from 1 to 133",
    "cause": "",
    "remedy": "lower --rank",
}


def failure(server: KfpStandIn) -> CtbasisError:
    """Submit a run that fails, and return its error."""
    with pytest.raises(CtbasisError) as error:
        submit(server.url, arguments=ARGUMENTS)
    assert server.refused == []
    (run_id,) = server.runs
    assert f"run {run_id} ended as FAILED: {server.failing} failed" in error.value.found
    assert error.value.remedy.endswith(f"{server.url}/#/runs/details/{run_id}")
    for node in ("executor", "driver", "exit-handler", "x7k2p"):
        assert node not in error.value.found
    return error.value


@pytest.mark.parametrize("lists_artifacts", [False, True])
@pytest.mark.parametrize("source", ["note", "artifact", "pod"])
def test_the_reason_of_the_failed_step_is_said_with_the_end_of_its_log(
    source: str, lists_artifacts: bool, server: KfpStandIn
) -> None:
    server.failing, server.lists_artifacts = "svd", lists_artifacts
    server.note = NOTE if source == "note" else None
    server.logs = {"svd": LOG, "fetch": "fetch: 133 files\n", "cleanup": "cleanup: removed source\n"}
    server.publishes_logs = source != "pod"
    server.keeps_pods = source == "pod"
    error = failure(server)
    assert error.found.endswith("svd failed: rank 200 is more than the 133 columns of the matrix")
    assert error.expected == "a rank from 1 to 133"
    assert error.remedy.startswith("lower --rank; the run is at ")
    assert error.details[-2:] == ("svd: 133 columns of 262144 rows", "svd: pass 1 of 3")


def test_without_a_reason_the_last_lines_of_the_log_are_shown(server: KfpStandIn) -> None:
    server.failing = "matrix"
    server.logs = {"matrix": "".join(f"line {number}\n" for number in range(100)) + "KeyError: 'x'\n"}
    error = failure(server)
    assert error.details == (*(f"line {number}" for number in range(89, 100)), "KeyError: 'x'")
    assert error.remedy.startswith("read the step's log at ")


def test_a_step_that_was_killed_is_explained_by_argo(server: KfpStandIn) -> None:
    server.failing = "svd"
    server.messages = {"svd": "OOMKilled (exit code 137)"}
    error = failure(server)
    assert error.found.endswith("svd failed: OOMKilled (exit code 137)")
    assert error.remedy.startswith("give the step more memory: `ctbasis compile --size large`")


def test_the_note_of_a_run_that_succeeded_before_is_no_reason(server: KfpStandIn) -> None:
    server.failing, server.note = "svd", {"step": "", "found": "", "expected": "", "cause": "", "remedy": ""}
    server.messages = {"svd": "Error (exit code 1)"}
    assert failure(server).found.endswith("svd failed: Error (exit code 1)")


def test_the_note_of_the_first_try_is_no_reason_for_the_failure_of_a_retry(server: KfpStandIn) -> None:
    server.failing, server.note = "svd", {**NOTE, "step": "fetch", "found": "no such bucket"}
    server.logs = {"svd": LOG}
    assert failure(server).found.endswith("svd failed: rank 200 is more than the 133 columns of the matrix")


def test_a_run_that_failed_before_its_first_step_is_explained_by_argo(server: KfpStandIn) -> None:
    client = connect(server.url)
    run = Run("0b1c", "run", "FAILED", "the workspace cannot be created", (), {}, (Task("root-driver", "FAILED"),))
    error = explain(client, run, url="http://kf/#/runs/1")
    assert error.found == "run 0b1c ended as FAILED: the workspace cannot be created"


def test_what_hinders_the_explanation_does_not_hide_the_failure(server: KfpStandIn) -> None:
    server.failing = "svd"
    client = connect(server.url)
    run_id = start(client, arguments=ARGUMENTS)
    server.has_ui = server.keeps_pods = False
    with pytest.raises(CtbasisError, match=f"run {run_id} ended as FAILED: svd failed"):
        wait_for(client, run_id, report=lambda _: None)


def test_the_error_names_the_driver_of_a_step_that_could_not_start(finished: tuple[KfpStandIn, Client, str]) -> None:
    _, client, run_id = finished
    tasks = (Task("root-driver", "SUCCEEDED"), Task("svd-driver", "FAILED", "no  such\nclaim"))
    run = Run(run_id, "run", "FAILED", "", (), {}, tasks, frozenset({"fetch", "svd"}))
    error = explain(client, run, url="http://kf/#/runs/1")
    assert error.found == f"run {run_id} ended as FAILED: svd-driver failed: no such claim"


def terminate(client: Client, run_id: str) -> None:
    request(client, f"/apis/v2beta1/runs/{run_id}:terminate", "POST")


@pytest.mark.parametrize("lists_artifacts", [False, True])
def test_a_terminated_run_is_said_to_be_terminated_and_when(lists_artifacts: bool, server: KfpStandIn) -> None:
    server.stuck, server.lists_artifacts = True, lists_artifacts
    client = connect(server.url)
    run_id = start(client, arguments=ARGUMENTS)
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        if line.endswith("svd: running"):
            terminate(client, run_id)

    with pytest.raises(CtbasisError) as error:
        wait_for(client, run_id, report=report)
    assert re.fullmatch(rf"run {run_id} was terminated at \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ", error.value.found)
    assert "retry it at" in error.value.remedy
    assert any(line.endswith("the run is being terminated") for line in lines)
    with pytest.raises(CtbasisError, match="was terminated at"):  # later too
        finished_results(client, run_id)


def test_a_run_that_failed_after_it_was_terminated_and_retried_is_not_said_to_be_terminated() -> None:
    history = tuple(
        (state, f"2026-11-30T08:0{minute}:00Z")
        for minute, state in enumerate(("PENDING", "RUNNING", "CANCELING", "FAILED", "RUNNING", "FAILED"))
    )
    assert Run("1", "run", "FAILED", "", history[:4], {}, ()).terminated == "2026-11-30T08:02:00Z"
    assert Run("1", "run", "FAILED", "", history, {}, ()).terminated == ""


def test_a_termination_that_the_history_lacks_is_remembered(server: KfpStandIn) -> None:
    server.stuck = True
    client = connect(server.url)
    run_id = start(client, arguments=ARGUMENTS)
    get_run(client, run_id)
    terminate(client, run_id)

    def forget(line: str) -> None:
        if line.endswith("being terminated"):
            # Between two reports, the run ends: the server replaces CANCELING in its table by FAILED.
            server.runs[run_id].history[:] = [{"state": "RUNNING", "update_time": "2026-11-30T08:00:00Z"}]
            server.stuck, server.failing, server.runs[run_id].polls = False, "fetch", 100
            server.runs[run_id].terminated = ""

    with pytest.raises(CtbasisError, match="was terminated at"):
        wait_for(client, run_id, report=forget)


def test_runs_that_are_followed_at_once_do_not_mix(server: KfpStandIn) -> None:
    server.failing, server.note = "svd", NOTE
    client = connect(server.url)
    runs = [start(client, arguments=ARGUMENTS) for _ in range(3)]
    errors: dict[str, str] = {}

    def wait(run_id: str) -> None:
        try:
            follow.finish(client, run_id)
        except CtbasisError as error:
            errors[run_id] = error.found

    threads = [threading.Thread(target=wait, args=(run_id,)) for run_id in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(errors) == set(runs)
    assert all(found.startswith(f"run {run_id} ended as FAILED: svd failed") for run_id, found in errors.items())
