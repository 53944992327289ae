"""Following an application to its end."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.jobs.follow import Follower
from ctbasis.jobs.outage import JobStaysError
from ctbasis.jobs.quota import QuotaFullError
from ctbasis.jobs.spark_application import SparkApplication
from tests.jobs.api_server_stand_in import APPLICATIONS, PODS, ApiServerStandIn
from tests.jobs.conftest import NAME
from tests.jobs.made_pods import deleted, ended, running, unschedulable, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctbasis.jobs.timeouts import Timeouts

DRIVER = f"{NAME}-driver"


class Following:
    """A follower in a thread, the lines that it has logged, and how it ended."""

    def __init__(
        self,
        server: ApiServerStandIn,
        application: dict[str, Any],
        timeouts: Timeouts,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self._server, self._capsys, self._said = server, capsys, ""
        self.error: Exception | None = None
        self._follower = Follower(server.api_server(), SparkApplication, application, timeouts)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._follower.run()
        except (CtbasisError, QuotaFullError) as error:
            self.error = error

    @property
    def logged(self) -> str:
        self._said += self._capsys.readouterr().err
        return self._said

    def says(self, text: str) -> None:
        self._server.until(
            lambda: text in self.logged or not self.thread.is_alive(), f"{text!r} was not said: {self.logged}"
        )
        assert text in self.logged, self.error

    def has_the_whole_log(self) -> None:
        copy = self._follower._log._copy
        assert copy is not None
        copy._thread.join(30)

    def succeeds(self) -> None:
        self.thread.join(30)
        assert not self.thread.is_alive(), f"it goes on: {self.logged}"
        if self.error is not None:
            raise self.error

    def fails(self) -> str:
        with pytest.raises(CtbasisError) as caught:
            self.succeeds()
        return str(caught.value)


@pytest.fixture
def application_there(server: ApiServerStandIn, manifest: dict[str, Any]) -> dict[str, Any]:
    return server.put(APPLICATIONS, manifest)


@pytest.fixture
def following(
    server: ApiServerStandIn,
    application_there: dict[str, Any],
    timeouts: Timeouts,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Following]:
    before = threading.active_count()
    created = Following(server, application_there, timeouts, capsys)
    yield created
    if created.thread.is_alive():  # the test has ended
        server.remove(APPLICATIONS, NAME)
        created.thread.join(30)
    server.end_streams()
    server.until(lambda: threading.active_count() <= before + 4, "threads are left behind")


def driver_runs(server: ApiServerStandIn, *lines: str, uid: str = "1") -> None:
    server.new_log(DRIVER)
    server.write(DRIVER, *lines)
    server.put(PODS, running(uid=uid))
    server.state(NAME, "RUNNING", driverInfo={"podName": DRIVER}, submissionID=uid)


def driver_ends(server: ApiServerStandIn, code: int, *lines: str, reason: str = "Error", uid: str = "1") -> None:
    server.write(DRIVER, *lines, ended=True)
    server.put(PODS, ended(code, reason, uid=uid))


def test_each_state_of_a_success_is_logged_with_the_drivers_log(server: ApiServerStandIn, following: Following) -> None:
    server.state(NAME, "SUBMITTED")
    driver_runs(server, "spark: job 0 (dssvd)")
    following.says("spark: job 0 (dssvd)\n")
    driver_ends(server, 0, "svd: done")
    server.state(NAME, "SUCCEEDING")
    server.state(NAME, "COMPLETED")
    following.succeeds()
    lines = [line for line in following.logged.splitlines() if NAME in line]
    assert lines == [
        f"spark application {NAME}: {state}" for state in ("NEW", "SUBMITTED", "RUNNING", "SUCCEEDING", "COMPLETED")
    ]
    assert following.logged.count("svd: done\n") == 1


def test_the_log_of_a_driver_that_ended_very_soon_is_copied_too(server: ApiServerStandIn, following: Following) -> None:
    driver_ends(server, 0, "svd: done")
    server.state(NAME, "COMPLETED", driverInfo={"podName": DRIVER})
    following.succeeds()
    assert "svd: done\n" in following.logged


def test_an_application_that_had_completed_before_it_was_adopted_is_a_success(
    server: ApiServerStandIn, manifest: dict[str, Any], timeouts: Timeouts, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put(APPLICATIONS, manifest)
    driver_ends(server, 0, "svd: done")
    server.state(NAME, "COMPLETED", driverInfo={"podName": DRIVER})
    existing = server.get(APPLICATIONS, NAME)
    assert existing is not None
    following = Following(server, existing, timeouts, capsys)
    following.succeeds()
    assert "svd: done" in following.logged


@pytest.mark.parametrize(
    "states",
    [
        ["SUBMITTED"],
        ["PENDING_RERUN"],
        ["SUSPENDED"],
        ["SUBMISSION_FAILED"],
        ["UNKNOWN"],
        ["FAILING", "INVALIDATING", "PENDING_RERUN"],
    ],
)
def test_states_that_are_not_final_are_waited_for(
    server: ApiServerStandIn, following: Following, states: list[str]
) -> None:
    for state in states:
        server.state(NAME, state)
        following.says(f"{NAME}: {state}\n")
    driver_ends(server, 0)
    server.state(NAME, "COMPLETED", driverInfo={"podName": DRIVER})
    following.succeeds()


def test_the_reason_why_the_driver_does_not_start_is_logged(server: ApiServerStandIn, following: Following) -> None:
    server.state(NAME, "SUBMITTED")
    server.put(PODS, unschedulable("0/3 nodes are available: 3 Insufficient memory."))
    following.says(f"driver {DRIVER} waits: Unschedulable: 0/3 nodes are available: 3 Insufficient memory.\n")
    assert following.thread.is_alive()


def test_the_operators_message_on_a_failed_submission_is_logged_when_it_changes(
    server: ApiServerStandIn, following: Following
) -> None:
    server.state(NAME, "SUBMISSION_FAILED", "Message: first reason. Received status")
    following.says("SUBMISSION_FAILED: first reason\n")
    server.state(NAME, "SUBMISSION_FAILED", "Message: second reason. Received status")
    following.says("SUBMISSION_FAILED: second reason\n")


@pytest.mark.parametrize("suspended", [False, True])
def test_an_application_that_no_operator_processes_is_logged_and_waited_for(
    server: ApiServerStandIn,
    manifest: dict[str, Any],
    timeouts: Timeouts,
    capsys: pytest.CaptureFixture[str],
    *,
    suspended: bool,
) -> None:
    manifest["spec"]["suspend"] = suspended
    following = Following(server, server.put(APPLICATIONS, manifest), replace(timeouts, unseen=0.2), capsys)
    following.says("a queue such as Kueue starts it" if suspended else "does the Spark operator run")
    assert following.thread.is_alive()
    server.state(NAME, "COMPLETED")
    following.succeeds()


def test_the_log_says_what_a_suspended_application_waits_for(
    server: ApiServerStandIn, manifest: dict[str, Any], timeouts: Timeouts, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest["spec"]["suspend"] = True
    following = Following(server, server.put(APPLICATIONS, manifest), timeouts, capsys)
    server.state(NAME, "SUSPENDED")
    following.says(f"{NAME}: SUSPENDED: it is suspended; a queue such as Kueue starts it when its turn comes\n")
    server.state(NAME, "COMPLETED")
    following.succeeds()


def test_a_longer_wait_sends_no_more_requests(server: ApiServerStandIn, following: Following) -> None:
    server.state(NAME, "SUBMITTED")
    server.put(PODS, unschedulable("no room"))
    following.says("no room")
    server.until_watched(APPLICATIONS)
    counts = []
    for _ in range(3):
        time.sleep(0.5)
        counts.append(len(server.requests))
    assert counts[0] == counts[-1] == 3, "one watch of the application; one list and one watch of its pods"


@pytest.mark.parametrize("forgetful", [False, True])
def test_a_restart_of_the_api_server_loses_no_change(
    server: ApiServerStandIn, following: Following, *, forgetful: bool
) -> None:
    driver_runs(server, "one")
    following.says("one\n")
    server.stop()
    server.write(DRIVER, "two")
    server.state(NAME, "SUCCEEDING")
    driver_ends(server, 0, "three")
    server.state(NAME, "COMPLETED", driverInfo={"podName": DRIVER})
    if forgetful:
        server.forget()
    server.start()
    following.succeeds()
    assert [following.logged.count(f"{line}\n") for line in ("one", "two", "three")] == [1, 1, 1]


def test_a_long_outage_leaves_the_application(
    server: ApiServerStandIn, manifest: dict[str, Any], timeouts: Timeouts, capsys: pytest.CaptureFixture[str]
) -> None:
    following = Following(server, server.put(APPLICATIONS, manifest), replace(timeouts, api_server=0.5), capsys)
    server.until_watched(APPLICATIONS)
    server.stop()
    with pytest.raises(JobStaysError, match="was unavailable for"):
        following.succeeds()


def test_a_restarted_driver_is_followed_and_both_logs_are_copied(
    server: ApiServerStandIn, following: Following
) -> None:
    driver_runs(server, "first try", uid="1")
    following.says("first try\n")
    driver_ends(server, 137, reason="OOMKilled", uid="1")
    server.state(NAME, "FAILING", "driver container failed", driverInfo={"podName": DRIVER}, submissionID="1")
    following.says("FAILING: driver container failed\n")
    following.has_the_whole_log()  # the operator waits some seconds before it deletes the pod
    server.state(NAME, "PENDING_RERUN")
    server.remove(PODS, DRIVER)
    driver_runs(server, "second try", uid="2")
    driver_ends(server, 0, "svd: done", uid="2")
    server.state(NAME, "COMPLETED")
    following.succeeds()
    assert [following.logged.count(f"{line}\n") for line in ("first try", "second try", "svd: done")] == [1, 1, 1]


def test_a_failure_has_the_operators_message_and_the_end_of_the_driver_with_its_last_lines(
    server: ApiServerStandIn, following: Following
) -> None:
    driver_runs(server, "spark: job 0")
    server.put(PODS, ended(137, "OOMKilled", "executor", name="exec-1"))
    driver_ends(server, 137, "the last line", reason="OOMKilled")
    server.state(NAME, "FAILED", "driver container failed with ExitCode: 137", driverInfo={"podName": DRIVER})
    text = following.fails()
    assert "driver container failed with ExitCode: 137" in text
    assert "driver: OOMKilled (exit code 137, memory limit 1433Mi)" in text
    assert "1 executor ended: OOMKilled" in text
    assert "the last line" in text
    assert isinstance(following.error, JobStaysError), "it stays, to be looked at"


def test_a_refusal_of_the_job_ends_the_step_without_the_retries_of_the_restart_policy(
    server: ApiServerStandIn, following: Following
) -> None:
    driver_runs(server)
    driver_ends(server, 2, "ctbasis: no matrix at /m", "ctbasis:   expected: a store")
    server.state(NAME, "FAILING", "driver container failed", driverInfo={"podName": DRIVER})
    assert following.fails() == "no matrix at /m\n  expected: a store"
    assert not isinstance(following.error, JobStaysError), "it is deleted, so that it does not run again"


def test_completed_with_a_failed_driver_is_a_failure(server: ApiServerStandIn, following: Following) -> None:
    driver_runs(server, "one")
    driver_ends(server, 143, "two")
    server.state(NAME, "COMPLETED")
    assert "is COMPLETED, but driver ctbasis-svd-run-1-driver ended: Error (exit code 143" in following.fails()


def test_completed_with_a_deleted_driver_is_a_failure(server: ApiServerStandIn, following: Following) -> None:
    driver_runs(server, "one")
    following.says("one")
    server.put(PODS, deleted(running(uid="1"), at="2026-01-01T00:01:00Z"))
    server.write(DRIVER, ended=True)
    gone = deleted(ended(0, uid="1", at="2026-01-01T00:00:50Z"), at="2026-01-01T00:01:00Z")
    server.put(PODS, gone)
    server.remove(PODS, DRIVER)
    server.state(NAME, "COMPLETED")
    assert "was deleted while it ran" in following.fails()


def test_a_pod_that_cannot_start_fails_the_step_after_a_timeout(
    server: ApiServerStandIn, manifest: dict[str, Any], timeouts: Timeouts, capsys: pytest.CaptureFixture[str]
) -> None:
    following = Following(server, server.put(APPLICATIONS, manifest), replace(timeouts, image=0.5), capsys)
    server.put(PODS, waiting("ImagePullBackOff", 'Back-off pulling image "x:absent"'))
    following.says("waits: ImagePullBackOff")
    assert 'cannot start: ImagePullBackOff: Back-off pulling image "x:absent"' in following.fails()


@pytest.mark.parametrize("how", ["removed", "being deleted", "replaced", "unseen"])
def test_an_application_that_somebody_deletes_is_an_error(
    server: ApiServerStandIn, following: Following, manifest: dict[str, Any], how: str
) -> None:
    driver_runs(server, "one")
    following.says("one")
    if how == "being deleted":
        server.holds_deletions = True
    if how in {"replaced", "unseen"}:
        server.stop()
    existing = server.get(APPLICATIONS, NAME)
    assert existing is not None
    if how == "being deleted":
        server.put(
            APPLICATIONS, existing | {"metadata": existing["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
        )
    else:
        server.remove(APPLICATIONS, NAME)
    if how == "replaced":
        server.put(APPLICATIONS, manifest | {"metadata": manifest["metadata"] | {"uid": "another"}})
    if how == "unseen":
        server.forget()
    if how in {"replaced", "unseen"}:
        server.start()
    assert "deleted" in following.fails()
    assert isinstance(following.error, JobStaysError), "what is there under its name is not ours to delete"


def test_the_ttl_deletion_of_a_completed_application_is_no_failure(
    server: ApiServerStandIn, following: Following
) -> None:
    driver_runs(server, "one")
    following.says("one")
    server.answer("GET", f"{PODS}.labelSelector=[^&]*$", 503, times=2)  # the follower waits meanwhile
    driver_ends(server, 0)
    server.state(NAME, "COMPLETED")
    server.remove(APPLICATIONS, NAME)
    following.succeeds()


def test_a_full_quota_is_no_failure(server: ApiServerStandIn, following: Following) -> None:
    server.state(
        NAME, "FAILED", "Message: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1. Received status"
    )
    with pytest.raises(QuotaFullError, match="exceeded quota: q"):
        following.succeeds()
