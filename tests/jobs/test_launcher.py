"""How the step ends and what happens to its application. The API server is a stand-in; tests/e2e uses a real one."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.jobs import launcher
from ctbasis.jobs.pod import POD_NAME
from tests.jobs.api_server_stand_in import APPLICATIONS, PODS, ApiServerStandIn
from tests.jobs.conftest import NAME, application, server, timeouts
from tests.jobs.made_pods import ended, running, waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.jobs.spark_application import SparkApplication
    from ctbasis.jobs.timeouts import Timeouts

__all__ = ["application", "server", "timeouts"]

DRIVER = f"{NAME}-driver"
FULL = "Message: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1. Received status"


WORKFLOW = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run-1", "uid": "5"}


def in_a_run(server: ApiServerStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process a step of a run, whose pod a Workflow owns."""
    monkeypatch.setenv(POD_NAME, "step")
    put_pod_of_step(server)


def put_pod_of_step(server: ApiServerStandIn, **metadata: str) -> None:
    more: dict[str, Any] = {"controller": True, "blockOwnerDeletion": True}
    other = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "4"}
    server.put(PODS, {"metadata": {"name": "step", "ownerReferences": [other, WORKFLOW | more], **metadata}})


class Cluster:
    """The part of the operator, played by a thread while the step runs in the main thread."""

    def __init__(self, server: ApiServerStandIn, application: SparkApplication, timeouts: Timeouts) -> None:
        self.server, self._application, self._timeouts = server, application, timeouts
        self._error: BaseException | None = None

    def launch(self, play: Callable[[], None] = lambda: None) -> None:
        def played() -> None:
            try:
                play()
            except BaseException as error:  # noqa: BLE001 - raised again below
                self._error = error
                os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=played, daemon=True)
        thread.start()
        try:
            launcher.launch(self._application, server=self.server.api_server(), timeouts=self._timeouts)
        finally:
            thread.join(30)
            if self._error is not None:
                raise self._error

    def is_created(self) -> str:
        """Wait until the application exists, and return its uid."""
        self.server.until(lambda: NAME in self.server.names(APPLICATIONS))
        existing = self.server.get(APPLICATIONS, NAME)
        return str(existing["metadata"]["uid"]) if existing else ""

    def driver_ends(self, code: int, *lines: str) -> None:
        self.server.write(DRIVER, *lines, ended=True)
        self.server.put(PODS, ended(code))


@pytest.fixture
def cluster(server: ApiServerStandIn, application: SparkApplication, timeouts: Timeouts) -> Cluster:
    return Cluster(server, application, timeouts)


def test_a_success_leaves_the_application_to_its_ttl(cluster: Cluster) -> None:
    def play() -> None:
        cluster.is_created()
        cluster.driver_ends(0, "svd: done")
        cluster.server.state(NAME, "COMPLETED")

    cluster.launch(play)
    assert cluster.server.names(APPLICATIONS) == [NAME]


def test_a_failed_application_stays_for_inspection(cluster: Cluster) -> None:
    def play() -> None:
        cluster.is_created()
        cluster.driver_ends(1, "Traceback")
        cluster.server.state(NAME, "FAILED", "driver container failed")

    with pytest.raises(CtbasisError, match="failed: driver container failed"):
        cluster.launch(play)
    assert cluster.server.names(APPLICATIONS) == [NAME]


@pytest.mark.parametrize("reason", ["refusal", "cannot start", "forbidden", "defect"])
def test_an_application_that_cannot_succeed_is_deleted(
    cluster: Cluster, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "forbidden":
        cluster.server.answer("GET", "pods.*watch=true", 403, "cannot watch pods", times=99)
    if reason == "defect":
        monkeypatch.setattr("ctbasis.jobs.follow.Follower._check_deadlines", lambda _: 1 / 0)

    def play() -> None:
        cluster.is_created()
        if reason == "refusal":
            cluster.driver_ends(2, "ctbasis: no matrix at /m")
            cluster.server.state(NAME, "FAILING", "driver container failed")
        if reason == "cannot start":
            cluster.server.put(PODS, waiting("ErrImageNeverPull", "not present"))

    messages = {
        "refusal": "no matrix",
        "cannot start": "cannot start",
        "forbidden": "was refused: 403",
        "defect": "division",
    }
    with pytest.raises((CtbasisError, ZeroDivisionError), match=messages[reason]):
        cluster.launch(play if reason in {"refusal", "cannot start"} else lambda: None)
    assert cluster.server.names(APPLICATIONS) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_outside_of_a_run_a_signal_deletes_the_application(cluster: Cluster, signum: signal.Signals) -> None:
    def play() -> None:
        cluster.is_created()
        cluster.server.state(NAME, "RUNNING")
        cluster.server.put(PODS, running())
        cluster.server.until_watched(PODS)
        os.kill(os.getpid(), signum)

    before = signal.getsignal(signum)
    with pytest.raises(SystemExit) as ended:
        cluster.launch(play)
    assert ended.value.code == 128 + signum
    assert cluster.server.names(APPLICATIONS) == []
    assert signal.getsignal(signum) == before, "the process is as it was"


def test_a_step_whose_pod_is_deleted_leaves_its_application_and_its_next_attempt_adopts_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_a_run(cluster.server, monkeypatch)

    def play() -> None:
        cluster.is_created()
        cluster.server.state(NAME, "RUNNING")
        cluster.server.put(PODS, running())
        cluster.server.until_watched(PODS)
        put_pod_of_step(cluster.server, deletionTimestamp="2026-11-30T00:00:00Z")
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        cluster.launch(play)
    assert stopped.value.code == 128 + signal.SIGTERM
    first = cluster.is_created()
    assert "the exit handler of the run deletes it" in capsys.readouterr().err

    def play_again() -> None:
        cluster.driver_ends(0)
        cluster.server.state(NAME, "COMPLETED")

    cluster.launch(play_again)
    assert cluster.is_created() == first


def test_a_step_whose_run_is_terminated_deletes_its_application(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_run(cluster.server, monkeypatch)

    def play() -> None:
        cluster.is_created()
        cluster.server.state(NAME, "RUNNING")
        cluster.server.put(PODS, running())
        cluster.server.until_watched(PODS)
        os.kill(os.getpid(), signal.SIGTERM)  # Argo stops the container; the pod is not deleted

    with pytest.raises(SystemExit):
        cluster.launch(play)
    assert cluster.server.names(APPLICATIONS) == []


def test_a_signal_during_an_outage_deletes_the_application_after_the_outage(
    cluster: Cluster,
) -> None:
    def play() -> None:
        cluster.is_created()
        cluster.server.until_watched(PODS)
        cluster.server.stop()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # a second signal has no effect
        threading.Timer(1.5, cluster.server.start).start()

    with pytest.raises(SystemExit):
        cluster.launch(play)
    assert cluster.server.names(APPLICATIONS) == []


def test_a_long_outage_leaves_the_application_for_the_next_attempt(
    server: ApiServerStandIn, application: SparkApplication, timeouts: Timeouts
) -> None:
    cluster = Cluster(server, application, replace(timeouts, api_server=0.5))

    def play() -> None:
        cluster.is_created()
        server.until_watched(PODS)
        server.stop()

    with pytest.raises(CtbasisError, match="was unavailable"):
        cluster.launch(play)
    server.start()
    first = server.get(APPLICATIONS, NAME)

    def play_again() -> None:
        cluster.driver_ends(0)
        server.state(NAME, "COMPLETED")

    cluster.launch(play_again)
    second = server.get(APPLICATIONS, NAME)
    assert first is not None
    assert second is not None
    assert first["metadata"]["uid"] == second["metadata"]["uid"]


def test_an_application_waits_for_room_in_a_full_quota(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    def play() -> None:
        for _ in range(3):
            uid = cluster.is_created()
            cluster.server.state(NAME, "FAILED", FULL)
            cluster.server.until(lambda uid=uid: cluster.is_created() != uid)  # type: ignore[misc]
        cluster.driver_ends(0)
        cluster.server.state(NAME, "COMPLETED")

    cluster.launch(play)
    log = capsys.readouterr().err
    assert log.count("waiting for room in a full quota") == 1
    assert "exceeded quota: q, requested: pods=1" in log


def test_the_owner_of_the_steps_pod_owns_the_application(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_run(cluster.server, monkeypatch)

    def play() -> None:
        cluster.is_created()
        cluster.server.state(NAME, "COMPLETED")

    cluster.launch(play)
    created = cluster.server.get(APPLICATIONS, NAME)
    assert created is not None
    assert created["metadata"]["ownerReferences"] == [WORKFLOW]


@pytest.mark.parametrize("pod", ["", "gone", "mine"])
def test_outside_of_a_run_the_application_has_no_owner(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, pod: str
) -> None:
    monkeypatch.setenv(POD_NAME, pod)
    cluster.server.put(PODS, {"metadata": {"name": "mine"}})

    def play() -> None:
        cluster.is_created()
        cluster.server.state(NAME, "COMPLETED")

    cluster.launch(play)
    created = cluster.server.get(APPLICATIONS, NAME)
    assert created is not None
    assert "ownerReferences" not in created["metadata"]


def test_a_longer_wait_sends_no_more_requests(cluster: Cluster) -> None:
    counts: list[int] = []

    def play() -> None:
        cluster.is_created()
        cluster.server.state(NAME, "SUBMITTED")
        cluster.server.until_watched(PODS)
        cluster.server.until_watched(APPLICATIONS)
        for _ in range(3):
            threading.Event().wait(0.7)
            counts.append(len(cluster.server.requests))
        cluster.server.state(NAME, "COMPLETED")

    cluster.launch(play)
    assert counts[0] == counts[-1] == 4, "create; watch the application; list and watch its pods"
