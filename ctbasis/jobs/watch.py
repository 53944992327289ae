"""A watch that resumes after disconnects, server restarts and lost history: all objects, then each change."""

from __future__ import annotations

import json
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctbasis.jobs.api_server import BROKEN, ApiError
from ctbasis.jobs.outage import Outage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ctbasis.jobs.api_server import ApiServer, Stream
    from ctbasis.jobs.timeouts import Timeouts

DELETED = "DELETED"

SHORTEST_WATCH_SECONDS = 1.0
"""A watch that ends sooner than this has failed, and is resumed only after a wait, so that requests do not pile up."""


@dataclass(frozen=True)
class Change:
    """A change of one object.

    Attributes:
        kind: ADDED, MODIFIED or DELETED.
        object: The object in its new state, or in its last known state if it was deleted.
    """

    kind: str
    object: dict[str, Any]


class Watch:
    """A watch of the objects of one collection that match a selector.

    While nothing changes, it sends one request every `Timeouts.watch` seconds.

    Args:
        server: API server of the cluster.
        path: Path of the collection.
        selector: `fieldSelector` or `labelSelector`.
        timeouts: How long one watch lasts, and how long the API server may be unavailable.
        doing: The activity for messages, such as `watching the pods`.
        known: An object that is known already; the watch continues from its resourceVersion. Without it the watch
            begins with a list of all objects.
    """

    def __init__(
        self,
        server: ApiServer,
        path: str,
        selector: Mapping[str, str],
        *,
        timeouts: Timeouts,
        doing: str,
        known: dict[str, Any] | None = None,
    ) -> None:
        self._server, self._path, self._selector, self._timeouts = server, path, selector, timeouts
        self._outage = Outage(doing, timeouts)
        self._known = {known["metadata"]["uid"]: known} if known else {}
        self._version: str | None = known["metadata"]["resourceVersion"] if known else None
        self._stream: Stream | None = None
        self._opened = math.inf
        self._stopped = threading.Event()

    def changes(self) -> Iterator[Change]:
        """Yield each change once, until `stop` is called; only an object that lived during an outage may be missed.

        Raises:
            CtbasisError: Watching is not allowed, or the API server was unavailable for too long.
        """
        while not self._stopped.is_set():
            ended: Exception = ApiError(0, "Ended", "the watch ended at once")
            self._opened = math.inf
            try:
                if self._version is None:
                    yield from self._list()
                yield from self._watch()
            except (ApiError, ValueError, *BROKEN) as error:  # ValueError: a truncated line is no JSON
                ended = error
                if isinstance(error, ApiError) and error.history_gone:
                    self._version = None
            if self._stopped.is_set():
                return
            if time.monotonic() - self._opened > SHORTEST_WATCH_SECONDS:
                self._outage.end()  # the server was available; the next request shows whether it still is
            else:
                self._outage.wait(ended)

    def stop(self) -> None:
        """End `changes`; called from another thread than the one that iterates over it."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.stop()

    def _list(self) -> Iterator[Change]:
        listing = self._server.ask("GET", self._path, query=self._selector)
        present = {item["metadata"]["uid"]: item for item in listing["items"]}
        for uid in self._known.keys() - present.keys():
            yield self._record(Change(DELETED, self._known[uid]))
        for uid, item in present.items():
            before = self._known.get(uid)
            if before is None:
                yield self._record(Change("ADDED", item))
            elif before["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
                yield self._record(Change("MODIFIED", item))
        self._version = listing["metadata"]["resourceVersion"]

    def _watch(self) -> Iterator[Change]:
        query = {
            **self._selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": str(self._version),
            "timeoutSeconds": str(self._timeouts.watch),
        }
        with self._server.stream(self._path, query, silence=self._timeouts.silence) as stream:
            self._stream, self._opened = stream, time.monotonic()
            if self._stopped.is_set():  # since the last check
                return
            for line in stream:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    code = int(status.get("code") or 0)
                    raise ApiError(code, status.get("reason") or "", status.get("message") or "")
                self._outage.end()
                if event["type"] != "BOOKMARK":
                    yield self._record(Change(event["type"], event["object"]))
                # After the yield, so that a change which the consumer did not receive is requested again.
                self._version = event["object"]["metadata"]["resourceVersion"]

    def _record(self, change: Change) -> Change:
        uid = change.object["metadata"]["uid"]
        if change.kind == DELETED:
            self._known.pop(uid, None)
        else:
            self._known[uid] = change.object
        return change
