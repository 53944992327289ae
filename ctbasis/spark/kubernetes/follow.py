"""One application followed to its end: two watches, the driver's log, a line for each change."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from ctbasis.errors import CtbasisError, error_in_log
from ctbasis.spark.kubernetes.applications import COMPLETED, FAILED, FAILING, state
from ctbasis.spark.kubernetes.driver_log import DriverLog
from ctbasis.spark.kubernetes.outage import say, through_outages
from ctbasis.spark.kubernetes.pods import APPLICATION_LABEL, Pods
from ctbasis.spark.kubernetes.quota import QuotaFullError, quota_is_full
from ctbasis.spark.kubernetes.verdict import doubt, failure, gone, message
from ctbasis.spark.kubernetes.watch import DELETED, Change, Watch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from ctbasis.spark.kubernetes.api_server import ApiServer
    from ctbasis.spark.kubernetes.patience import Patience

WATCH_LAG_SECONDS = 5.0
"""How far the watch of the pods may be behind that of their application."""

LONGEST_DEAF_SECONDS = 0.5
"""A signal that comes in the moment before a wait begins is heard when it ends. This wait asks nobody for anything."""


class Follower:
    """Follows one application. What it watches is the application and not its driver.

    A queue, a quota or a restart policy may keep the driver away for long and legally: only COMPLETED and FAILED are
    final, and every other state is waited out.

    Args:
        server: Where it is.
        application: As the API server has it.
        patience: With what.
    """

    def __init__(self, server: ApiServer, application: dict[str, Any], patience: Patience) -> None:
        self._server, self._patience = server, patience
        self._application = application
        self._name, self._uid = application["metadata"]["name"], application["metadata"]["uid"]
        self._pods = Pods(server.namespace, patience)
        self._log = DriverLog(server)
        self._said: tuple[str, ...] | None = None
        self._selector = {"labelSelector": f"{APPLICATION_LABEL}={self._name}"}
        self._unseen_due: float | None = time.monotonic() + patience.unseen
        self._verdict_due: float | None = None

    def run(self) -> None:
        """Return when the application has succeeded.

        Raises:
            ApplicationStaysError: It failed or was deleted, or the API server was away for too long.
            CtbasisError: One of its pods cannot start, or its job refused; it is of no use any more.
            QuotaFullError: It is to be created anew once there is room.
        """
        self._see(self._application)
        with _Arrivals(self._watches()) as arrivals:
            try:
                while not self._is_over():
                    change = arrivals.next(self._next_due())
                    if change is not None:
                        self._take(change)
                    self._tell_the_time()
            finally:
                self._log.stop()

    def _watches(self) -> Iterator[Watch]:
        yield Watch(
            self._server,
            self._server.applications,
            {"fieldSelector": f"metadata.name={self._name}"},
            patience=self._patience,
            doing=f"watching the SparkApplication {self._name}",
            known=self._application,
        )
        yield Watch(
            self._server,
            self._server.pods,
            self._selector,
            patience=self._patience,
            doing=f"watching the pods of {self._name}",
        )

    def _take(self, change: Change) -> None:
        if change.object.get("kind") != "SparkApplication":  # a pod, which has no kind where it comes in a list
            self._take_pod(change)
        elif change.object["metadata"]["uid"] != self._uid:
            raise gone(self._name, "was deleted, and another created under its name,")
        else:
            self._application = change.object
            # TTL may take one that has completed.
            if state(change.object) != COMPLETED:
                if change.kind == DELETED:
                    raise gone(self._name, "was deleted")
                if change.object["metadata"].get("deletionTimestamp"):
                    raise gone(self._name, "is being deleted")
            self._see(change.object)

    def _take_pod(self, change: Change) -> None:
        for line in self._pods.take(change):
            say(line)
        driver = self._pods.driver
        if driver is None or change.object["metadata"]["uid"] != driver.uid:
            return
        if driver.started:
            self._log.follow(driver)
        if change.kind == DELETED:
            self._log.gone(driver)

    def _see(self, application: dict[str, Any]) -> None:
        """Say what is new about the application."""
        now, told = state(application), message(application)
        seen = now, told, str((application.get("status") or {}).get("submissionID", ""))
        if seen == self._said:
            return
        self._said = seen
        say(f"spark application {self._name}: {now or 'NEW'}" + (f": {told}" if told else ""))
        if now:
            self._unseen_due = None
        self._verdict_due = None
        if now in {COMPLETED, FAILING, FAILED}:
            self._read_pods()
            self._verdict_due = time.monotonic() + WATCH_LAG_SECONDS

    def _read_pods(self) -> None:
        """Read the pods as they ended: their watch may be behind that of the application."""
        listing = through_outages(
            lambda: self._server.ask("GET", self._server.pods, query=self._selector),
            f"reading the pods of {self._name}",
            self._patience,
        )
        for pod in listing["items"]:
            self._take_pod(Change("MODIFIED", pod))

    def _is_over(self) -> bool:
        """Judge the application where it has come to an end, and how its driver ended is known.

        Returns:
            Whether it has succeeded.

        Raises:
            CtbasisError: It failed.
            QuotaFullError: It failed for want of room.
        """
        # A driver that is gone has ended in a way that its watch is still to tell.
        if self._verdict_due is None or not (self._pods.driver_ended or time.monotonic() >= self._verdict_due):
            return False
        self._verdict_due = None
        self._log.finish()
        now = state(self._application)
        if now == FAILING:
            if refused := error_in_log(self._log.tail):
                # The job has said what the user must mend: the retries of the restart policy would say it again.
                raise CtbasisError(refused)
            return False
        if now == FAILED:
            if quota_is_full(message(self._application)):
                raise QuotaFullError(message(self._application))
            raise failure(self._application, self._pods, self._log.tail)
        if doubted := doubt(self._pods):
            raise failure(self._application, self._pods, self._log.tail, found=f"is COMPLETED, but {doubted}")
        return True

    def _next_due(self) -> float | None:
        return min(filter(None, (self._unseen_due, self._verdict_due, self._pods.next_due())), default=None)

    def _tell_the_time(self) -> None:
        """Say and judge what is so because nothing has changed for long.

        Raises:
            CtbasisError: A pod has not been able to start for longer than there is patience.
        """
        if self._unseen_due is not None and time.monotonic() >= self._unseen_due:
            self._unseen_due = None
            why = (
                "it is suspended; a queue such as Kueue starts it when its turn comes"
                if self._application["spec"].get("suspend")
                else f"does the Spark operator run, and watch namespace {self._server.namespace}?"
            )
            say(
                f"spark application {self._name}: not taken up by the operator for {self._patience.unseen:.0f} s: {why}"
            )
        for line in self._pods.slow():
            say(line)
        if overdue := self._pods.overdue():
            raise overdue


class _Arrivals:
    """The changes of several watches in one queue, each watch read by a thread of its own until the `with` ends."""

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
        except Exception as error:  # noqa: BLE001  it is raised again where the changes are taken
            self._queue.put(error)

    def next(self, due: float | None) -> Change | None:
        """Return the next change, or None at time `due` of the monotonic clock or before; raise what a watch raises.

        Args:
            due: None for never.
        """
        seconds = LONGEST_DEAF_SECONDS if due is None else min(LONGEST_DEAF_SECONDS, due - time.monotonic())
        try:
            arrived = self._queue.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        if isinstance(arrived, Exception):
            raise arrived
        return arrived
