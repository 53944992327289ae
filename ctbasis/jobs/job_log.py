"""The log of the driver pod, copied to the log of the step; each line once, even if the connection breaks."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ctbasis.jobs.api_server import BROKEN, ApiError
from ctbasis.jobs.outage import FIRST_BACKOFF, log

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.jobs.api_server import ApiServer, Stream
    from ctbasis.jobs.pods import Pod

TAIL_LINES = 200

RETRY_SECONDS = 2.0

FINISH_SECONDS = 30.0
"""Timeout for the rest of the log once the driver has ended."""


class DriverLog:
    """Copies the log of the current driver pod; after a restart, that of the next one.

    Args:
        server: API server of the cluster.
        container: Container of the driver pod; empty for the first.
        keep: Called with each line besides; None for nothing.
    """

    def __init__(self, server: ApiServer, container: str = "", keep: Callable[[str], object] | None = None) -> None:
        self._server, self._container, self._keep = server, container, keep
        self._copy: _LogCopy | None = None

    def follow(self, pod: Pod) -> None:
        """Start copying the log of `pod`, unless it is the pod that is copied already."""
        if self._copy is not None:
            if self._copy.uid == pod.uid:
                return
            self.finish()
        self._copy = _LogCopy(self._server, pod, self._container, self._keep)

    def gone(self, pod: Pod) -> None:
        """Record that `pod` was deleted: its log cannot be requested again; a new pod of its name is another one."""
        if self._copy is not None and self._copy.uid == pod.uid:
            self._copy.gone.set()
            self._copy.ended.set()

    def finish(self) -> None:
        """Wait for the rest of the log of a driver that has ended, and log it if lines may be missing."""
        if self._copy is not None:
            self._copy.finish()

    def stop(self) -> None:
        """Stop copying."""
        if self._copy is not None:
            self._copy.stop()

    @property
    def tail(self) -> list[str]:
        """The last lines of the latest driver's log."""
        return list(self._copy.tail) if self._copy is not None else []


class _LogCopy:
    """The copy of one pod's log, made by a thread.

    After a broken connection the log is requested again from the second of the newest line on, the resolution of the
    API. Lines of that second that were copied already are skipped.
    """

    def __init__(self, server: ApiServer, pod: Pod, container: str, keep: Callable[[str], object] | None) -> None:
        self.uid = pod.uid
        self._container, self._keep = container, keep
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
            self._log_missing("the end did not arrive in time")

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
                self._copy_from_last_line(whole=ended)
                problem = ""
            except ApiError as error:
                problem = str(error)
                if error.refused and (ended or self._second is None):
                    break  # the pod was deleted, or the step may not read logs
            except BROKEN as error:
                problem = str(error)
            if ended and not problem:  # every line that was written before this request has arrived
                return
            # A stream may also end without an error when a proxy is shut down.
            self.ended.wait(RETRY_SECONDS if problem else FIRST_BACKOFF)
            if problem:
                time.sleep(FIRST_BACKOFF)
            if self.gone.is_set():
                break  # a pod that has its name now is another one
        if problem and not self._stopped.is_set():
            self._log_missing(problem)

    def _log_missing(self, reason: str) -> None:
        since = f"lines after {self._second:%H:%M:%S} UTC" if self._second else "lines"
        log(f"driver's log: {since} may be missing: {reason}")

    def _copy_from_last_line(self, *, whole: bool) -> None:
        """Copy the lines after the last copied one until the stream ends.

        Args:
            whole: Whether the log is complete; then a last line without a line break is not a truncated one.
        """
        query = {"follow": "true", "timestamps": "true"} | ({"container": self._container} if self._container else {})
        if self._second is not None:
            query["sinceTime"] = self._second.strftime("%Y-%m-%dT%H:%M:%SZ")
        repeated = self._copied.copy()
        with self._server.stream(f"{self._server.pods}/{self._name}/log", query, silence=None) as stream:
            self._stream = stream
            for line in stream:
                if self._stopped.is_set():
                    return
                if not (whole or line.endswith(b"\n")):
                    return
                if repeated[line] > 0:
                    repeated[line] -= 1
                else:
                    self._copy_line(line)

    def _copy_line(self, line: bytes) -> None:
        stamp, _, text = line.rstrip(b"\n").partition(b" ")
        try:
            second = datetime.fromisoformat(stamp.decode()).astimezone(UTC).replace(microsecond=0)
        except ValueError:
            text = line.rstrip(b"\n")  # a message of the kubelet, such as that the log was rotated
        else:
            if self._second is None or second > self._second:
                self._second = second
                self._copied.clear()
            if second == self._second:
                self._copied[line] += 1
        decoded = text.decode("utf-8", "replace")
        self.tail.append(decoded)
        if self._keep is not None:
            self._keep(decoded)
        log(decoded)
