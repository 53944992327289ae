"""The log of the driver is copied to the log of the step; each line once, even if the connection breaks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.jobs.job_log import DriverLog
from ctbasis.jobs.pods import Pod
from ctbasis.jobs.spark_application import SparkApplication

if TYPE_CHECKING:
    from tests.jobs.api_server_stand_in import ApiServerStandIn

POD = "run-driver"


def pod(uid: str = "1") -> Pod:
    raw: dict[str, Any] = {"metadata": {"name": POD, "uid": uid, "labels": {"spark-role": "driver"}}}
    return Pod(raw, SparkApplication)


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> LoggedLines:
    return LoggedLines(capsys)


class LoggedLines:
    """The lines of the step's log so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys, self._lines = capsys, list[str]()

    def __call__(self) -> list[str]:
        self._lines += self._capsys.readouterr().err.splitlines()
        return self._lines


def test_lines_are_copied_as_they_are_written_without_their_timestamps(
    server: ApiServerStandIn, logged: LoggedLines
) -> None:
    server.write(POD, "one")
    log = DriverLog(server.api_server(), SparkApplication.driver_container)
    log.follow(pod())
    server.until(lambda: logged() == ["one"])
    server.write(POD, "two", "", "three 3")
    server.until(lambda: logged() == ["one", "two", "", "three 3"])
    server.write(POD, ended=True)
    log.finish()
    assert logged() == log.tail == ["one", "two", "", "three 3"]


@pytest.mark.parametrize("how", ["cut", "end_streams", "restart"])
def test_a_connection_that_breaks_within_a_second_repeats_and_loses_no_line(
    server: ApiServerStandIn, logged: LoggedLines, how: str
) -> None:
    second = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    log = DriverLog(server.api_server(), SparkApplication.driver_container)
    server.write(POD, "same", "same", "other", stamp=second)
    log.follow(pod())
    written = ["same", "same", "other"]
    for round_ in range(2):
        server.until(lambda: logged() == written)  # noqa: B023 - called at once
        if how == "restart":
            server.stop()
        else:
            getattr(server, how)()
        # More lines of that second with the same timestamp, then lines of the next second.
        server.write(POD, "same", f"{round_}", stamp=second)
        second += timedelta(seconds=1)
        server.write(POD, "same", stamp=second)
        written += ["same", f"{round_}", "same"]
        if how == "restart":
            server.start()
    server.write(POD, ended=True)
    log.finish()
    assert logged() == written


def test_a_line_that_was_truncated_is_copied_once_and_complete(server: ApiServerStandIn, logged: LoggedLines) -> None:
    server.cut_lines = True
    server.write(POD, "a line that is long enough to be cut", "another one")
    log = DriverLog(server.api_server(), SparkApplication.driver_container)
    log.follow(pod())
    server.until(lambda: logged() == ["a line that is long enough to be cut", "another one"])
    server.write(POD, "the last one of all", ended=True)
    log.finish()
    assert logged() == ["a line that is long enough to be cut", "another one", "the last one of all"]


def test_a_restarted_driver_has_another_log(server: ApiServerStandIn, logged: LoggedLines) -> None:
    log = DriverLog(server.api_server(), SparkApplication.driver_container)
    server.write(POD, "first try", "failed", ended=True)
    log.follow(pod("1"))
    server.until(lambda: len(logged()) == 2)
    log.finish()
    server.new_log(POD)
    log.follow(pod("1"))  # a repeated call
    server.write(POD, "second try", ended=True)
    log.follow(pod("2"))
    log.finish()
    assert logged() == ["first try", "failed", "second try"]
    assert log.tail == ["second try"], "what the latest driver logged is what counts"


def test_the_log_of_a_deleted_pod_causes_no_wait(server: ApiServerStandIn, logged: LoggedLines) -> None:
    log = DriverLog(server.api_server(), SparkApplication.driver_container)
    server.write(POD, "one")
    log.follow(pod())
    server.until(lambda: logged() == ["one"])
    log.gone(pod())
    server.end_streams()
    log.finish()
    assert logged() == ["one"]


def test_a_log_that_may_not_be_read_is_reported(server: ApiServerStandIn, logged: LoggedLines) -> None:
    server.answer("GET", "/log", 403, 'cannot get resource "pods/log"', times=99)
    log = DriverLog(server.api_server(), SparkApplication.driver_container)
    log.follow(pod())
    log.finish()
    assert logged() == ['driver\'s log: lines may be missing: 403 Forbidden: cannot get resource "pods/log"']
    assert len(server.requests) == 1


def test_a_log_is_not_requested_repeatedly(server: ApiServerStandIn, logged: LoggedLines) -> None:
    server.write(POD, "one")
    log = DriverLog(server.api_server(), SparkApplication.driver_container)
    log.follow(pod())
    server.until(lambda: logged() == ["one"])
    server.write(POD, "two")
    server.until(lambda: logged() == ["one", "two"])
    assert len(server.requests) == 1
    log.stop()


def test_bytes_that_are_no_text_do_not_stop_the_log(server: ApiServerStandIn, logged: LoggedLines) -> None:
    server.write(POD, "\udcff\udcfe", "two", ended=True)
    log = DriverLog(server.api_server(), SparkApplication.driver_container)
    log.follow(pod())
    log.finish()
    assert logged()[-1] == "two"
