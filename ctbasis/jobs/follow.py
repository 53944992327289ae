"""Following one job to its end: two watches, the log of the driver, a line for each change of state."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from ctbasis.errors import CtbasisError, error_in_log
from ctbasis.jobs.job import Phase
from ctbasis.jobs.job_log import DriverLog
from ctbasis.jobs.outage import log, retry_outages
from ctbasis.jobs.outcome import completed_problem, failure_error, removed_error
from ctbasis.jobs.pods import Pods
from ctbasis.jobs.quota import QuotaFullError, quota_is_full
from ctbasis.jobs.watch import DELETED, Change, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from ctbasis.jobs.api_server import ApiServer
    from ctbasis.jobs.job import Job
    from ctbasis.jobs.timeouts import Timeouts

WATCH_LAG_SECONDS = 5.0
"""Largest delay of the watch of the pods after the watch of their job."""

SIGNAL_POLL_SECONDS = 0.5
"""Longest wait for a change. Python handles a signal that arrives just before the wait only when the wait ends."""

SUSPENDED = "it is suspended; a queue such as Kueue starts it when its turn comes"


class Follower:
    """Follows one job until it has succeeded or failed.

    The state of the job decides, not its driver: a queue, a quota or a restart policy may delay the driver for a long
    time.

    Args:
        server: API server of the cluster.
        kind: Kind of the job.
        job: The job as the API server returns it.
        timeouts: Timeouts and intervals.
        keep: Called with each line of the driver's log, which also goes to the log of the step; None for nothing.
    """

    def __init__(
        self,
        server: ApiServer,
        kind: type[Job],
        job: dict[str, Any],
        timeouts: Timeouts,
        keep: Callable[[str], object] | None = None,
    ) -> None:
        self._server, self._kind, self._timeouts = server, kind, timeouts
        self._job = job
        self._name, self._uid = job["metadata"]["name"], job["metadata"]["uid"]
        self._pods = Pods(kind, server.namespace, timeouts)
        self._log = DriverLog(server, kind.driver_container, keep)
        self._logged: tuple[str, ...] | None = None
        self._selector = {"labelSelector": f"{kind.pods_label}={self._name}"}
        self._unseen_due: float | None = time.monotonic() + timeouts.unseen
        self._outcome_due: float | None = None
        # A job that is adopted may have lost its driver before.
        seen = bool(kind.state(job)) and not kind.replaces_driver
        self._driver_lost_due = time.monotonic() + timeouts.unseen if seen else None

    def run(self) -> dict[str, Any]:
        """Return the job once it has succeeded, as the API server describes it then.

        Raises:
            JobStaysError: It failed or was deleted, or the API server was unavailable for too long.
            CtbasisError: A pod cannot start, or the driver program refused its input; the job is to be deleted.
            QuotaFullError: The job is to be created again once the quota has room.
        """
        self._log_state(self._job)
        with _ChangeQueue(self._watches()) as arrivals:
            try:
                while not self._is_over():
                    change = arrivals.next(self._next_due())
                    if change is not None:
                        self._handle(change)
                    self._check_deadlines()
            finally:
                self._log.stop()
        return self._job

    def _watches(self) -> Iterator[Watch]:
        yield Watch(
            self._server,
            self._kind.collection(self._server.namespace),
            {"fieldSelector": f"metadata.name={self._name}"},
            timeouts=self._timeouts,
            doing=f"watching the {self._kind.kind} {self._name}",
            known=self._job,
        )
        yield Watch(
            self._server,
            self._server.pods,
            self._selector,
            timeouts=self._timeouts,
            doing=f"watching the pods of {self._name}",
        )

    def _handle(self, change: Change) -> None:
        if change.object.get("kind") != self._kind.kind:  # a pod, which has no kind in a list
            self._handle_pod(change)
        elif change.object["metadata"]["uid"] != self._uid:
            raise removed_error(self._kind, self._name, "was deleted, and another was created with its name,")
        else:
            self._job = change.object
            # A time to live may delete a job that has succeeded.
            if self._kind.phase(change.object) is not Phase.SUCCEEDED:
                if change.kind == DELETED:
                    raise removed_error(self._kind, self._name, "was deleted")
                if change.object["metadata"].get("deletionTimestamp"):
                    raise removed_error(self._kind, self._name, "is being deleted")
            self._log_state(change.object)

    def _handle_pod(self, change: Change) -> None:
        for line in self._pods.update(change):
            log(line)
        driver = self._pods.driver
        if driver is None or change.object["metadata"]["uid"] != driver.uid:
            return
        if driver.started:
            self._log.follow(driver)
        self._driver_lost_due = None
        if change.kind == DELETED:
            self._log.gone(driver)
            if not self._kind.replaces_driver:
                self._driver_lost_due = time.monotonic() + WATCH_LAG_SECONDS

    def _log_state(self, job: dict[str, Any]) -> None:
        """Log the state of the job if it has changed."""
        current, text = self._kind.state(job), self._kind.message(job)
        described = current, text, self._kind.attempt(job)
        if described == self._logged:
            return
        self._logged = described
        if not text and self._is_suspended():
            text = SUSPENDED
        log(f"{self._kind.title} {self._name}: {current or 'NEW'}" + (f": {text}" if text else ""))
        if current:
            self._unseen_due = None
        self._outcome_due = None
        if self._kind.phase(job) is not Phase.ACTIVE:
            self._read_pods()
            self._outcome_due = time.monotonic() + WATCH_LAG_SECONDS

    def _read_pods(self) -> None:
        """Read the final states of the pods, because their watch may be behind that of the job."""
        listing = retry_outages(
            lambda: self._server.ask("GET", self._server.pods, query=self._selector),
            f"reading the pods of {self._name}",
            self._timeouts,
        )
        for pod in listing["items"]:
            self._handle_pod(Change("MODIFIED", pod))

    def _is_over(self) -> bool:
        """Return whether the job has succeeded, once its final state and the end of its driver are known.

        Raises:
            CtbasisError: The job failed.
            QuotaFullError: It failed because a ResourceQuota had no room.
        """
        # If the driver is not known to have ended, its watch is behind and gets some time.
        if self._outcome_due is None or not (self._pods.driver_ended or time.monotonic() >= self._outcome_due):
            return False
        self._outcome_due = None
        self._log.finish()
        phase, text = self._kind.phase(self._job), self._kind.message(self._job)
        if phase is Phase.FAILING:
            if refused := error_in_log(self._log.tail) or error_in_log(self._kind.output(self._job)):
                # The driver program refused its input; the restart policy would only repeat that.
                raise CtbasisError.from_text(refused)
            return False
        if phase is Phase.FAILED:
            if quota_is_full(text):
                raise QuotaFullError(text)
            raise self._failure()
        if self._kind.checks_driver and (problem := completed_problem(self._pods)):
            raise self._failure(event=f"is {self._kind.state(self._job)}, but {problem}")
        return True

    def _failure(self, *, event: str = "failed") -> CtbasisError:
        return failure_error(self._kind, self._job, self._pods, self._log.tail, event=event)

    def _is_suspended(self) -> bool:
        return bool(self._job["spec"].get("suspend"))

    def _next_due(self) -> float | None:
        return min(
            filter(None, (self._unseen_due, self._outcome_due, self._driver_lost_due, self._pods.next_due())),
            default=None,
        )

    def _check_deadlines(self) -> None:
        """Log, or raise, what follows from a timeout without a change.

        Raises:
            CtbasisError: A pod has been unable to start for longer than its timeout, or the driver pod is lost.
        """
        if self._unseen_due is not None and time.monotonic() >= self._unseen_due:
            self._unseen_due = None
            reason = (
                SUSPENDED
                if self._is_suspended()
                else f"does the {self._kind.operator} run and watch namespace {self._server.namespace}?"
            )
            seconds = f"{self._timeouts.unseen:.0f} s"
            log(f"{self._kind.title} {self._name}: not processed by the operator for {seconds}: {reason}")
        for line in self._pods.slow_starts():
            log(line)
        if error := self._pods.start_error():
            raise error
        if self._driver_lost_due is not None and time.monotonic() >= self._driver_lost_due:
            self._driver_lost_due = None
            if not self._kind.phase(self._job).final:
                lost = f"{self._kind.state(self._job)}, but its {self._kind.driver_role()} pod was deleted"
                raise self._failure(event=f"is {lost}")


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
