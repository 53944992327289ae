"""Following one application to its end: two watches, the log of the driver, a line for each change of state."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from ctbasis.errors import CtbasisError, error_in_log
from ctbasis.spark.kubernetes.applications import COMPLETED, FAILED, FAILING, state
from ctbasis.spark.kubernetes.driver_log import DriverLog
from ctbasis.spark.kubernetes.outage import log, retry_outages
from ctbasis.spark.kubernetes.outcome import completed_problem, failure_error, message, removed_error
from ctbasis.spark.kubernetes.pods import APPLICATION_LABEL, Pods
from ctbasis.spark.kubernetes.quota import QuotaFullError, quota_is_full
from ctbasis.spark.kubernetes.watch import DELETED, Change, Watch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from ctbasis.spark.kubernetes.api_server import ApiServer
    from ctbasis.spark.kubernetes.timeouts import Timeouts

WATCH_LAG_SECONDS = 5.0
"""Largest delay of the watch of the pods after the watch of their application."""

SIGNAL_POLL_SECONDS = 0.5
"""Longest wait for a change. Python handles a signal that arrives just before the wait only when the wait ends."""


class Follower:
    """Follows one application until it has completed or failed.

    The state of the application decides, not its driver: a queue, a quota or a restart policy may delay the driver for
    a long time. Only COMPLETED and FAILED are final.

    Args:
        server: API server of the cluster.
        application: The application as the API server returns it.
        timeouts: Timeouts and intervals.
    """

    def __init__(self, server: ApiServer, application: dict[str, Any], timeouts: Timeouts) -> None:
        self._server, self._timeouts = server, timeouts
        self._application = application
        self._name, self._uid = application["metadata"]["name"], application["metadata"]["uid"]
        self._pods = Pods(server.namespace, timeouts)
        self._log = DriverLog(server)
        self._logged: tuple[str, ...] | None = None
        self._selector = {"labelSelector": f"{APPLICATION_LABEL}={self._name}"}
        self._unseen_due: float | None = time.monotonic() + timeouts.unseen
        self._outcome_due: float | None = None

    def run(self) -> None:
        """Return when the application has succeeded.

        Raises:
            ApplicationStaysError: It failed or was deleted, or the API server was unavailable for too long.
            CtbasisError: A pod cannot start, or the driver program refused its input; the application is to be deleted.
            QuotaFullError: The application is to be created again once the quota has room.
        """
        self._log_state(self._application)
        with _ChangeQueue(self._watches()) as arrivals:
            try:
                while not self._is_over():
                    change = arrivals.next(self._next_due())
                    if change is not None:
                        self._handle(change)
                    self._check_deadlines()
            finally:
                self._log.stop()

    def _watches(self) -> Iterator[Watch]:
        yield Watch(
            self._server,
            self._server.applications,
            {"fieldSelector": f"metadata.name={self._name}"},
            timeouts=self._timeouts,
            doing=f"watching the SparkApplication {self._name}",
            known=self._application,
        )
        yield Watch(
            self._server,
            self._server.pods,
            self._selector,
            timeouts=self._timeouts,
            doing=f"watching the pods of {self._name}",
        )

    def _handle(self, change: Change) -> None:
        if change.object.get("kind") != "SparkApplication":  # a pod, which has no kind in a list
            self._handle_pod(change)
        elif change.object["metadata"]["uid"] != self._uid:
            raise removed_error(self._name, "was deleted, and another was created with its name,")
        else:
            self._application = change.object
            # timeToLiveSeconds may delete an application that has completed.
            if state(change.object) != COMPLETED:
                if change.kind == DELETED:
                    raise removed_error(self._name, "was deleted")
                if change.object["metadata"].get("deletionTimestamp"):
                    raise removed_error(self._name, "is being deleted")
            self._log_state(change.object)

    def _handle_pod(self, change: Change) -> None:
        for line in self._pods.update(change):
            log(line)
        driver = self._pods.driver
        if driver is None or change.object["metadata"]["uid"] != driver.uid:
            return
        if driver.started:
            self._log.follow(driver)
        if change.kind == DELETED:
            self._log.gone(driver)

    def _log_state(self, application: dict[str, Any]) -> None:
        """Log the state of the application if it has changed."""
        current, text = state(application), message(application)
        described = current, text, str((application.get("status") or {}).get("submissionID", ""))
        if described == self._logged:
            return
        self._logged = described
        log(f"spark application {self._name}: {current or 'NEW'}" + (f": {text}" if text else ""))
        if current:
            self._unseen_due = None
        self._outcome_due = None
        if current in {COMPLETED, FAILING, FAILED}:
            self._read_pods()
            self._outcome_due = time.monotonic() + WATCH_LAG_SECONDS

    def _read_pods(self) -> None:
        """Read the final states of the pods, because their watch may be behind that of the application."""
        listing = retry_outages(
            lambda: self._server.ask("GET", self._server.pods, query=self._selector),
            f"reading the pods of {self._name}",
            self._timeouts,
        )
        for pod in listing["items"]:
            self._handle_pod(Change("MODIFIED", pod))

    def _is_over(self) -> bool:
        """Return whether the application has succeeded, once its final state and the end of its driver are known.

        Raises:
            CtbasisError: The application failed.
            QuotaFullError: It failed because a ResourceQuota had no room.
        """
        # If the driver is not known to have ended, its watch is behind and gets some time.
        if self._outcome_due is None or not (self._pods.driver_ended or time.monotonic() >= self._outcome_due):
            return False
        self._outcome_due = None
        self._log.finish()
        current = state(self._application)
        if current == FAILING:
            if refused := error_in_log(self._log.tail):
                # The driver program refused its input; the restart policy would only repeat that.
                raise CtbasisError.from_text(refused)
            return False
        if current == FAILED:
            if quota_is_full(message(self._application)):
                raise QuotaFullError(message(self._application))
            raise failure_error(self._application, self._pods, self._log.tail)
        if problem := completed_problem(self._pods):
            raise failure_error(self._application, self._pods, self._log.tail, event=f"is COMPLETED, but {problem}")
        return True

    def _next_due(self) -> float | None:
        return min(filter(None, (self._unseen_due, self._outcome_due, self._pods.next_due())), default=None)

    def _check_deadlines(self) -> None:
        """Log, or raise, what follows from a timeout without a change.

        Raises:
            CtbasisError: A pod has been unable to start for longer than its timeout.
        """
        if self._unseen_due is not None and time.monotonic() >= self._unseen_due:
            self._unseen_due = None
            reason = (
                "it is suspended; a queue such as Kueue starts it when its turn comes"
                if self._application["spec"].get("suspend")
                else f"does the Spark operator run and watch namespace {self._server.namespace}?"
            )
            seconds = f"{self._timeouts.unseen:.0f} s"
            log(f"spark application {self._name}: not processed by the operator for {seconds}: {reason}")
        for line in self._pods.slow_starts():
            log(line)
        if error := self._pods.start_error():
            raise error


class _ChangeQueue:
    """The changes of several watches in one queue; a thread reads each watch until the `with` block ends."""

    def __init__(self, watches: Iterable[Watch]) -> None:
        self._watches = list(watches)
        self._queue: queue.SimpleQueue[Change | Exception] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        for watch in self._watches:
            threading.Thread(target=self._read, args=(watch,), daemon=True).start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        for watch in self._watches:
            watch.stop()

    def _read(self, watch: Watch) -> None:
        try:
            for change in watch.changes():
                self._queue.put(change)
        except Exception as error:  # noqa: BLE001 - `next` raises it in the thread that takes the changes
            self._queue.put(error)

    def next(self, due: float | None) -> Change | None:
        """Return the next change, or None if there is none for a while.

        Args:
            due: Latest time of the return, on the monotonic clock; None for no limit.

        Raises:
            Exception: The error that a watch raised.
        """
        seconds = SIGNAL_POLL_SECONDS if due is None else min(SIGNAL_POLL_SECONDS, due - time.monotonic())
        try:
            item = self._queue.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        if isinstance(item, Exception):
            raise item
        return item
