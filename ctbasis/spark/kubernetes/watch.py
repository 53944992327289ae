"""A watch that never ends: what is there, then each change, through disconnects, restarts and lost history."""

from __future__ import annotations

import json
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctbasis.spark.kubernetes.api_server import BROKEN, ApiError
from ctbasis.spark.kubernetes.outage import Outage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ctbasis.spark.kubernetes.api_server import ApiServer, Stream
    from ctbasis.spark.kubernetes.patience import Patience

DELETED = "DELETED"

SHORTEST_SECONDS = 1.0
"""A watch that ends sooner after it was opened is a break; asking again at once would be a storm."""


@dataclass(frozen=True)
class Change:
    """A change of one object.

    Attributes:
        kind: ADDED, MODIFIED or DELETED.
        object: As it is now; as it was last known where it was deleted.
    """

    kind: str
    object: dict[str, Any]


class Watch:
    """The objects of one path that a selector names, watched.

    While nothing changes it costs one request per `Patience.watch` seconds.

    Args:
        server: Where.
        path: Of the collection.
        selector: `fieldSelector` or `labelSelector`.
        patience: How long a watch lasts, and the API server may be away.
        doing: What this is, for errors.
        known: An object that is known already, from whose resourceVersion the watch goes on; without it the watch
            begins with a list of what is there.
    """

    def __init__(
        self,
        server: ApiServer,
        path: str,
        selector: Mapping[str, str],
        *,
        patience: Patience,
        doing: str,
        known: dict[str, Any] | None = None,
    ) -> None:
        self._server, self._path, self._selector, self._patience = server, path, selector, patience
        self._outage = Outage(doing, patience)
        self._known = {known["metadata"]["uid"]: known} if known else {}
        self._version: str | None = known["metadata"]["resourceVersion"] if known else None
        self._stream: Stream | None = None
        self._opened = math.inf
        self._stopped = threading.Event()

    def changes(self) -> Iterator[Change]:
        """Yield each change until `stop`, none twice and, but for what came and went unseen, none missed.

        Raises:
            CtbasisError: Watching is not allowed, or the API server was away for too long.
        """
        while not self._stopped.is_set():
            ended: Exception = ApiError(0, "Ended", "the watch ended at once")
            self._opened = math.inf
            try:
                if self._version is None:
                    yield from self._list()
                yield from self._watch()
            except (ApiError, ValueError, *BROKEN) as error:  # ValueError: a line that was cut is no JSON
                ended = error
                if isinstance(error, ApiError) and error.history_gone:
                    self._version = None
            if self._stopped.is_set():
                return
            if time.monotonic() - self._opened > SHORTEST_SECONDS:
                self._outage.over()  # it was there for a while; whether it still is, the next request tells
            else:
                self._outage.wait_out(ended)

    def stop(self) -> None:
        """End `changes`, from another thread than the one that reads them."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.stop()

    def _list(self) -> Iterator[Change]:
        listing = self._server.ask("GET", self._path, query=self._selector)
        there = {found["metadata"]["uid"]: found for found in listing["items"]}
        for uid in self._known.keys() - there.keys():
            yield self._note(Change(DELETED, self._known[uid]))
        for uid, found in there.items():
            before = self._known.get(uid)
            if before is None:
                yield self._note(Change("ADDED", found))
            elif before["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
                yield self._note(Change("MODIFIED", found))
        self._version = listing["metadata"]["resourceVersion"]

    def _watch(self) -> Iterator[Change]:
        query = {
            **self._selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": str(self._version),
            "timeoutSeconds": str(self._patience.watch),
        }
        with self._server.stream(self._path, query, silence=self._patience.silence) as stream:
            self._stream, self._opened = stream, time.monotonic()
            if self._stopped.is_set():  # between the last look and now
                return
            for line in stream:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    told = event["object"]
                    raise ApiError(int(told.get("code") or 0), told.get("reason") or "", told.get("message") or "")
                self._outage.over()
                if event["type"] != "BOOKMARK":
                    yield self._note(Change(event["type"], event["object"]))
                # After the yield: what the consumer did not get is asked for again.
                self._version = event["object"]["metadata"]["resourceVersion"]

    def _note(self, change: Change) -> Change:
        uid = change.object["metadata"]["uid"]
        if change.kind == DELETED:
            self._known.pop(uid, None)
        else:
            self._known[uid] = change.object
        return change
