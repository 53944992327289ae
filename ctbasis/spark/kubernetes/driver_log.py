"""The driver's log, copied to the step's own, line by line and each line once, however often the stream breaks."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ctbasis.spark.kubernetes.api_server import BROKEN, ApiError
from ctbasis.spark.kubernetes.outage import FIRST_BACKOFF, say
from ctbasis.spark.kubernetes.pods import DRIVER_CONTAINER

if TYPE_CHECKING:
    from ctbasis.spark.kubernetes.api_server import ApiServer, Stream
    from ctbasis.spark.kubernetes.pods import Pod

TAIL_LINES = 200

RETRY_SECONDS = 2.0

FINISH_SECONDS = 30.0
"""How long the rest of a log may take to arrive once its driver has ended."""


class DriverLog:
    """Follows one driver after the other: a restarted one has a log of its own."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._copy: _Copy | None = None

    def follow(self, pod: Pod) -> None:
        """Begin with the log of `pod`, unless it is or was followed."""
        if self._copy is not None:
            if self._copy.uid == pod.uid:
                return
            self.finish()
        self._copy = _Copy(self._server, pod)

    def gone(self, pod: Pod) -> None:
        """Note that `pod` was deleted: its log cannot be asked for again, and one of its name is another's."""
        if self._copy is not None and self._copy.uid == pod.uid:
            self._copy.gone.set()
            self._copy.ended.set()

    def finish(self) -> None:
        """Wait for the rest of the log; its driver has ended. What is missing is said."""
        if self._copy is not None:
            self._copy.finish()

    def stop(self) -> None:
        """Copy no more."""
        if self._copy is not None:
            self._copy.stop()

    @property
    def tail(self) -> list[str]:
        """The last lines of the latest driver."""
        return list(self._copy.tail) if self._copy is not None else []


class _Copy:
    """The copy of one pod's log, by a thread of its own.

    A stream that broke is asked for again from the second of its newest line on, as finely as the API knows time;
    the lines of that second that were copied already are left out.
    """

    def __init__(self, server: ApiServer, pod: Pod) -> None:
        self.uid = pod.uid
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.ended, self.gone, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._server, self._name = server, pod.name
        self._second: datetime | None = None
        self._copied: Counter[bytes] = Counter()
        self._stream: Stream | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        self.ended.set()
        self._thread.join(timeout=FINISH_SECONDS)
        if self._thread.is_alive() and not self._stopped.is_set():
            self.stop()
            self._missing("it did not come to its end in time")

    def stop(self) -> None:
        self._stopped.set()
        self.ended.set()
        if self._stream is not None:
            self._stream.stop()

    def _run(self) -> None:
        problem = ""
        while not self._stopped.is_set():
            ended = self.ended.is_set()
            try:
                self._copy_on(whole=ended)
                problem = ""
            except ApiError as error:
                problem = str(error)
                if error.refused and (ended or self._second is None):
                    break  # the pod is gone, or the right is lacking
            except BROKEN as error:
                problem = str(error)
            if ended and not problem:  # all that was written before this request is here
                return
            # A stream may also end well because a server on the way was shut down.
            self.ended.wait(RETRY_SECONDS if problem else FIRST_BACKOFF)
            if problem:
                time.sleep(FIRST_BACKOFF)
            if self.gone.is_set():
                break  # what answers to its name now is another
        if problem and not self._stopped.is_set():
            self._missing(problem)

    def _missing(self, why: str) -> None:
        since = f"lines after {self._second:%H:%M:%S} UTC" if self._second else "lines"
        say(f"driver's log: {since} may be missing: {why}")

    def _copy_on(self, *, whole: bool) -> None:
        """Copy from where the copy ends until the stream does.

        Args:
            whole: Whether the log is complete: then a last line without an end is not one that was cut.
        """
        query = {"container": DRIVER_CONTAINER, "follow": "true", "timestamps": "true"}
        if self._second is not None:
            query["sinceTime"] = self._second.strftime("%Y-%m-%dT%H:%M:%SZ")
        again = self._copied.copy()
        with self._server.stream(f"{self._server.pods}/{self._name}/log", query, silence=None) as stream:
            self._stream = stream
            for line in stream:
                if self._stopped.is_set():
                    return
                if not (whole or line.endswith(b"\n")):
                    return
                if again[line] > 0:
                    again[line] -= 1
                else:
                    self._take(line)

    def _take(self, line: bytes) -> None:
        stamp, _, text = line.rstrip(b"\n").partition(b" ")
        try:
            second = datetime.fromisoformat(stamp.decode()).astimezone(UTC).replace(microsecond=0)
        except ValueError:
            text = line.rstrip(b"\n")  # the kubelet's own words, such as that the log was rotated away
        else:
            if self._second is None or second > self._second:
                self._second = second
                self._copied.clear()
            if second == self._second:
                self._copied[line] += 1
        told = text.decode("utf-8", "replace")
        self.tail.append(told)
        say(told)
