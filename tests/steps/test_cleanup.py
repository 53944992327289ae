"""What the exit handler keeps, removes and says, for every way in which a run ends."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.errors import CtbasisError
from ctbasis.jobs import launcher
from ctbasis.jobs.pod import POD_NAME
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.spark.launch import application_name
from ctbasis.steps import cleanup
from ctbasis.steps.job import MEMBERS, create_job
from ctbasis.steps.notes import EXIT_HANDLER, INVENTORY, PUBLISH, STEPS, SUMMARY, Note, State
from ctbasis.storage import stores
from tests.jobs.api_server_stand_in import APPLICATIONS, PODS, ApiServerStandIn
from tests.jobs.conftest import server as api_server
from tests.jobs.conftest import timeouts
from tests.svd.conftest import write_matrix

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.jobs.timeouts import Timeouts

__all__ = ["api_server", "timeouts"]

RUN = "run-1"
A = np.ones((40, 3), dtype=np.int16)


def ran(workspace: Path, **states: State) -> None:
    """Leave notes of steps in the states that are given by their names, and the files that they write."""
    for step, state in states.items():
        note = Note(step, pod=f"{RUN}-{step}", began="2026-01-01T00:00:00+00:00")
        note = note.ended_as(state, CtbasisError(f"{step} failed", remedy="mend it")) if state is State.FAILED else note
        Note(**{**vars(note), "state": state}).write(workspace)
    for name in ("source", "truth"):
        (workspace / name).mkdir(exist_ok=True)
        (workspace / name / "0.dcm").write_bytes(b"a patient")


def left(workspace: Path) -> set[str]:
    return {path.name for path in workspace.iterdir()} - {".ctbasis"}


@pytest.fixture
def on_kubeflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POD_NAME, "run-1-cleanup")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def write_all(folder: str) -> None:
    for name in cleanup.INTERMEDIATE[2:]:
        write_matrix(f"{folder}/{name}", A)


KEPT_AFTER = {
    "": {"source", "truth", *cleanup.INTERMEDIATE},
    "fetch": {"source", "truth"},
    "matrix": {"source", "truth"},
    "svd": {"matrix.zarr", "truth.zarr", "factors.zarr", "denoised.zarr"},
    "reconstruct": {"matrix.zarr", "truth.zarr", "denoised.zarr"},
    "report": {"matrix.zarr", "truth.zarr", "denoised.zarr"},
}


@pytest.mark.usefixtures("on_kubeflow")
@pytest.mark.parametrize("state", [State.FAILED, State.RUNNING, State.STOPPED, State.SUCCEEDED])
@pytest.mark.parametrize("last", KEPT_AFTER)
def test_a_run_that_failed_on_kubeflow_keeps_what_its_retry_needs_and_nothing_else(
    tmp_path: Path, last: str, state: State
) -> None:
    """A last step that succeeded by its note may have failed for Kubeflow, when its outputs could not be stored."""
    before = STEPS[: STEPS.index(last)] if last else ()
    ran(tmp_path, **dict.fromkeys(before, State.SUCCEEDED), **({last: state} if last else {}))
    write_all(str(tmp_path))
    cleanup.run_step(tmp_path, run=RUN, succeeded=False)
    assert left(tmp_path) == KEPT_AFTER[last]


@pytest.mark.parametrize("last", STEPS)
def test_a_run_that_failed_on_this_machine_leaves_nothing_of_the_patient(
    tmp_path: Path, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(POD_NAME, raising=False)
    ran(tmp_path, **{last: State.FAILED})
    write_all(str(tmp_path))
    cleanup.run_step(tmp_path, run=RUN, succeeded=False)
    assert left(tmp_path) == set()


@pytest.mark.usefixtures("on_kubeflow")
def test_a_run_that_succeeded_leaves_nothing(tmp_path: Path, prefix: str) -> None:
    ran(tmp_path, **dict.fromkeys(STEPS, State.SUCCEEDED))
    write_all(stores.run_folder("", prefix, RUN))
    assert cleanup.run_step(tmp_path, prefix, RUN, page=tmp_path / "page.md") == {}
    assert left(tmp_path) == {"page.md"}
    assert (tmp_path / "page.md").read_text().startswith("# The run succeeded")
    assert list(stores.keys(prefix)) == []


@pytest.mark.usefixtures("on_kubeflow")
def test_the_stores_of_a_failed_run_stay_on_s3_and_the_last_step_of_its_retry_removes_them(
    tmp_path: Path, prefix: str
) -> None:
    folder = stores.run_folder("", prefix, RUN)
    write_all(folder)
    ran(tmp_path, fetch=State.SUCCEEDED, matrix=State.SUCCEEDED, svd=State.SUCCEEDED, report=State.SUCCEEDED)
    ran(tmp_path, reconstruct=State.FAILED)
    cleanup.run_step(tmp_path, prefix, RUN, succeeded=False)
    Note(EXIT_HANDLER, state=State.SUCCEEDED).write(tmp_path)
    assert {key.split("/")[0] for key in stores.keys(folder)} == KEPT_AFTER["report"]
    ran(tmp_path, reconstruct=State.SUCCEEDED)
    cleanup.remove_after_retry(tmp_path, prefix, RUN)
    assert list(stores.keys(folder)) == []
    assert left(tmp_path) == set()


@pytest.mark.parametrize("missing", [EXIT_HANDLER, "reconstruct", "report"])
def test_a_step_removes_nothing_unless_it_is_the_last_of_a_retried_run(tmp_path: Path, missing: str) -> None:
    states = dict.fromkeys((*STEPS, EXIT_HANDLER), State.SUCCEEDED)
    states[missing] = State.RUNNING
    ran(tmp_path, **states)
    cleanup.remove_after_retry(tmp_path, "", RUN)
    assert left(tmp_path) == {"source", "truth"}


@pytest.mark.usefixtures("on_kubeflow")
def test_a_cohort_run_that_failed_keeps_its_jobs_and_names_the_step_that_ended_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    monkeypatch.setattr("ctbasis.steps.engine_job.end", ended.append)
    Note(INVENTORY, state=State.SUCCEEDED).write(tmp_path)
    done, bad, killed = (create_job(tmp_path, number, {MEMBERS: ["a series"]}) for number in (1, 2, 3))
    for step in (*STEPS, PUBLISH):
        Note(step, state=State.SUCCEEDED).write(done)
    Note("matrix").ended_as(State.FAILED, CtbasisError("a damaged header")).write(bad)
    Note("svd", state=State.RUNNING).write(killed)
    (killed / "matrix.zarr").mkdir()
    reason = cleanup.run_step(tmp_path, run=RUN, succeeded=False)
    assert reason["step"] == "svd", "the step that failed and left a note has not ended the run"
    assert ended == [f"{RUN}-0003"]
    assert (killed / "matrix.zarr").is_dir()
    Note(SUMMARY, state=State.SUCCEEDED).write(tmp_path)
    Note(EXIT_HANDLER, state=State.SUCCEEDED).write(tmp_path)
    cleanup.remove_after_retry(tmp_path, "", RUN)
    assert left(tmp_path) == set()


@pytest.mark.usefixtures("aws")
def test_a_retried_run_does_not_fail_because_its_stores_cannot_be_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(tmp_path, **dict.fromkeys((*STEPS, EXIT_HANDLER), State.SUCCEEDED))
    cleanup.remove_after_retry(tmp_path, "s3://no-such-bucket/x", RUN)
    assert "is not removed: there is no bucket" in capsys.readouterr().err


@pytest.fixture
def in_cluster(api_server: ApiServerStandIn, timeouts: Timeouts, monkeypatch: pytest.MonkeyPatch) -> ApiServerStandIn:
    """Make this process the exit handler of a run in a cluster, whose API server is a stand-in."""
    monkeypatch.setenv(POD_NAME, "run-1-cleanup")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setattr("ctbasis.jobs.api_server.ApiServer.connect", api_server.api_server)
    monkeypatch.setattr(launcher.end, "__kwdefaults__", {"server": None, "timeouts": timeouts})
    name = application_name(RUN)
    application = SparkApplication.read().for_run(name=name, arguments=["--rank", "5"])
    api_server.put(APPLICATIONS, application.to_manifest())
    return api_server


def test_the_application_of_a_killed_step_ends_before_the_matrix_under_it_is_removed(
    in_cluster: ApiServerStandIn, tmp_path: Path
) -> None:
    name = application_name(RUN)
    in_cluster.state(name, "RUNNING")
    in_cluster.holds_deletions = True  # as the foreground deletion does, until the pods are gone
    ran(tmp_path, fetch=State.SUCCEEDED, matrix=State.SUCCEEDED, svd=State.RUNNING)
    seen: list[set[str]] = []

    def pods_end() -> None:
        in_cluster.until(lambda: ("DELETE", f"{APPLICATIONS}/{name}") in in_cluster.requests)
        seen.append(left(tmp_path))
        in_cluster.remove(APPLICATIONS, name)

    threading.Thread(target=pods_end, daemon=True).start()
    cleanup.run_step(tmp_path, run=RUN, succeeded=False)
    assert seen == [{"source", "truth"}], "nothing was removed before"
    assert left(tmp_path) == set()
    assert in_cluster.names(APPLICATIONS) == []


def test_nothing_is_removed_under_an_application_that_cannot_be_ended(
    in_cluster: ApiServerStandIn, tmp_path: Path
) -> None:
    in_cluster.answer("DELETE", "sparkapplications", 403, "cannot delete", times=9)
    ran(tmp_path, svd=State.RUNNING)
    with pytest.raises(CtbasisError, match=r"deleting the SparkApplication .* was refused"):
        cleanup.run_step(tmp_path, run=RUN, succeeded=False, page=tmp_path / "page.md")
    assert left(tmp_path) == {"source", "truth", "page.md"}


def test_the_page_says_why_the_pod_of_a_killed_step_ended(in_cluster: ApiServerStandIn, tmp_path: Path) -> None:
    end = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T00:00:00Z"}
    in_cluster.put(
        PODS,
        {
            "kind": "Pod",
            "metadata": {"name": f"{RUN}-svd"},
            "spec": {"containers": [{"name": "wait"}, {"name": "main", "resources": {"limits": {"memory": "4Gi"}}}]},
            "status": {
                "phase": "Failed",
                "containerStatuses": [
                    {"name": "a-sidecar", "state": {"running": {}}},
                    {"name": "main", "state": {"terminated": end}},
                ],
            },
        },
    )
    ran(tmp_path, fetch=State.SUCCEEDED, matrix=State.SUCCEEDED, svd=State.RUNNING)
    reason = cleanup.run_step(tmp_path, run=RUN, succeeded=False, page=tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "OOMKilled (exit code 137, memory limit 4Gi)" in page
    assert reason["step"] == "svd"
    assert "more memory" in reason["remedy"]
    assert "OOMKilled" in reason["found"]


def test_the_pod_of_a_step_that_was_deleted_is_said_to_be_so(in_cluster: ApiServerStandIn, tmp_path: Path) -> None:
    in_cluster.remove(APPLICATIONS, application_name(RUN))
    ran(tmp_path, fetch=State.RUNNING)
    reason = cleanup.run_step(tmp_path, run=RUN, succeeded=False)
    assert "the pod was deleted, or its node was lost" in reason["found"]


def test_a_run_whose_last_task_was_left_out_has_succeeded_by_its_notes(tmp_path: Path) -> None:
    ran(tmp_path, **dict.fromkeys(STEPS, State.SUCCEEDED))
    assert cleanup.every_step_succeeded(tmp_path, deploys=False)
    assert not cleanup.every_step_succeeded(tmp_path, deploys=True), "its last step did not begin"
    ran(tmp_path, deploy=State.SUCCEEDED)
    assert cleanup.every_step_succeeded(tmp_path, deploys=True)
    ran(tmp_path, report=State.RUNNING)
    assert not cleanup.every_step_succeeded(tmp_path, deploys=False)
