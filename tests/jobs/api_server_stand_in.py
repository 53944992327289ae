"""A stand-in for the API server: HTTP on loopback with the protocol of kube-apiserver 1.34 and its failures.

It stores SparkApplications, RayJobs, DaskJobs, Deployments, InferenceServices, pods and their logs, and counts
resourceVersions. It lists objects, watches them with bookmarks from any version in its history, changes them by JSON
Patch (the operations test and replace), streams logs with timestamps and `sinceTime`, and refuses requests as
Kubernetes does. It changes nothing by itself: the test acts as the operator and the kubelet.

The file has more than 400 lines because the server and its request handler share their state and its lock.
"""

from __future__ import annotations

import copy
import json
import re
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

from kubernetes import client

from ctbasis.jobs.api_server import ApiServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

NAMESPACE = "runs"
APPLICATIONS = f"/apis/sparkoperator.k8s.io/v1beta2/namespaces/{NAMESPACE}/sparkapplications"
RAY_JOBS = f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayjobs"
DASK_JOBS = f"/apis/kubernetes.dask.org/v1/namespaces/{NAMESPACE}/daskjobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
INFERENCE_SERVICES = f"/apis/serving.kserve.io/v1beta1/namespaces/{NAMESPACE}/inferenceservices"
COLLECTIONS = (APPLICATIONS, RAY_JOBS, DASK_JOBS, PODS, DEPLOYMENTS, INFERENCE_SERVICES)
REASONS = {
    403: "Forbidden",
    404: "NotFound",
    409: "AlreadyExists",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
}
GENEROUS_SECONDS = 30.0


@dataclass
class Answer:
    """An error response to the next requests that match."""

    method: str
    path: str
    status: int
    reason: str
    message: str
    times: int
    plain: bool


@dataclass
class Log:
    """The log of one container: lines with timestamps, and whether the container has ended."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    ended: bool = False


class ApiServerStandIn:
    """The server; a context manager that starts and stops it.

    Attributes:
        requests: Method and path with query of every request, in order.
        holds_deletions: Whether a deleted object stays, with a deletionTimestamp, until `remove`.
        cut_lines: Whether the next log stream ends within a line.
        served: Versions of the API groups that the cluster has, by group.
        gone_by: How a watch from a forgotten version is refused: by an `event` or by an HTTP `status`.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.holds_deletions = False
        self.cut_lines = False
        self.gone_by = "event"
        self.served: dict[str, list[str]] = {}
        self._objects: dict[str, dict[str, dict[str, Any]]] = {one: {} for one in COLLECTIONS}
        self._logs: dict[str, Log] = {}
        self._events: list[tuple[int, str, str, dict[str, Any]]] = []
        self._version, self._oldest = 100, 0
        self._answers: list[Answer] = []
        self._changed = threading.Condition(threading.RLock())
        self._connections: set[socket.socket] = set()
        self._generation = 0
        self._port = 0
        self._http: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        stand_in = self

        class Handler(_Handler):
            server_of = stand_in

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Log no error for connections that the test has cut."""

        self._http = Server(("127.0.0.1", self._port), Handler)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Refuse new connections, and cut open ones."""
        http, self._http = self._http, None
        if http is not None:
            http.shutdown()
            http.server_close()
        self.cut()

    def api_server(self) -> ApiServer:
        settings = client.Configuration()
        settings.host = f"http://127.0.0.1:{self._port}"
        settings.api_key = {"authorization": "Bearer token"}
        return ApiServer(client.ApiClient(settings), NAMESPACE)

    # ---- failures of a cluster

    def cut(self) -> None:
        """Cut all open connections."""
        with self._changed:
            for connection in list(self._connections):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def end_streams(self) -> None:
        """End all watches and logs, as a server does in an orderly shutdown."""
        with self._changed:
            self._generation += 1
            self._changed.notify_all()

    def forget(self) -> None:
        """Compact the history: no watch can continue from an earlier version."""
        with self._changed:
            self._oldest = self._version

    def answer(
        self,
        method: str,
        path: str,
        status: int,
        message: str = "",
        *,
        reason: str = "",
        times: int = 1,
        plain: bool = False,
    ) -> None:
        """Answer the next `times` requests whose path and query match the expression `path` with an error."""
        reason = reason or REASONS.get(status, "InternalError")
        self._answers.append(Answer(method, path, status, reason, message, times, plain))

    # ---- actions of the operator and the kubelet

    def put(self, collection: str, item: dict[str, Any]) -> dict[str, Any]:
        """Create or replace an object."""
        with self._changed:
            name = item["metadata"]["name"]
            kind = "MODIFIED" if name in self._objects[collection] else "ADDED"
            item["metadata"].setdefault("uid", str(uuid.uuid4()))
            self._objects[collection][name] = item
            self._note(collection, kind, item)
            return copy.deepcopy(item)

    def remove(self, collection: str, name: str) -> None:
        with self._changed:
            self._note(collection, "DELETED", self._objects[collection].pop(name))

    def get(self, collection: str, name: str) -> dict[str, Any] | None:
        with self._changed:
            return copy.deepcopy(self._objects[collection].get(name))

    def names(self, collection: str) -> list[str]:
        with self._changed:
            return list(self._objects[collection])

    def state(self, name: str, state: str, message: str = "", **status: Any) -> None:
        """Set the state of an application, as the operator does."""
        item = self.get(APPLICATIONS, name)
        assert item is not None
        application_state = {"state": state} | ({"errorMessage": message} if message else {})
        item["status"] = {**item.get("status", {}), "applicationState": application_state, **status}
        self.put(APPLICATIONS, item)

    def status(self, collection: str, name: str, **status: Any) -> None:
        """Set fields of the status of a job, as its operator does."""
        item = self.get(collection, name)
        assert item is not None
        item["status"] = {**item.get("status", {}), **status}
        self.put(collection, item)

    def write(self, pod: str, *lines: str, ended: bool = False, stamp: datetime | None = None) -> None:
        """Append lines to the log of a pod, all with the timestamp `stamp`, by default now."""
        with self._changed:
            log = self._logs.setdefault(pod, Log())
            stamped = (stamp or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            log.lines += [(stamped, line) for line in lines]
            log.ended = log.ended or ended
            self._changed.notify_all()

    def new_log(self, pod: str) -> None:
        """Start an empty log for another pod of the same name."""
        with self._changed:
            self._logs[pod] = Log()

    def bookmark(self, collection: str) -> None:
        """Send a bookmark with the current version to the watches of a collection."""
        with self._changed:
            self._version += 1
            self._events.append((self._version, collection, "BOOKMARK", {}))
            self._changed.notify_all()

    def until(self, true: Callable[[], Any], what: str = "the client did not come that far") -> None:
        deadline = time.monotonic() + GENEROUS_SECONDS
        while not true():
            assert time.monotonic() < deadline, what
            time.sleep(0.01)

    def until_watched(self, collection: str, times: int = 1) -> None:
        """Wait until a collection has been watched `times` times."""
        self.until(lambda: len(self.watches(collection)) >= times)

    def watches(self, collection: str) -> list[str]:
        return [
            path for method, path in list(self.requests) if path.startswith(collection + "?") and "watch=true" in path
        ]

    def _note(self, collection: str, kind: str, item: dict[str, Any]) -> None:
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)
        self._events.append((self._version, collection, kind, copy.deepcopy(item)))
        self._changed.notify_all()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: ApiServerStandIn

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def setup(self) -> None:
        super().setup()
        self.server_of._connections.add(self.connection)

    def finish(self) -> None:
        self.server_of._connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PATCH(self) -> None:
        self._serve("PATCH")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        here = self.server_of
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        here.requests.append((method, self.path))
        assert self.headers["Authorization"] == "Bearer token"
        for answer in here._answers:
            if answer.times and answer.method == method and re.search(answer.path, self.path):
                answer.times -= 1
                self._refuse(answer.status, answer.reason, answer.message, plain=answer.plain)
                return
        split = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(split.query).items()}
        if len(split.path.split("/")) == len(("", "apis", "GROUP")):
            self._group(split.path.rpartition("/")[2])
            return
        collection = next(one for one in COLLECTIONS if split.path.startswith(one))
        name, _, sub = split.path.removeprefix(collection).strip("/").partition("/")
        if sub == "log":
            self._log(name, query)
        elif method == "POST":
            self._create(collection, body)
        elif method == "PATCH":
            self._patch(collection, name, body)
        elif method == "DELETE":
            self._delete(collection, name, body)
        elif name:
            item = here.get(collection, name)
            self._answer(200, item) if item else self._not_found(name)
        elif query.get("watch") == "true":
            self._watch(collection, query)
        else:
            self._list(collection, query)

    def _group(self, group: str) -> None:
        if group in self.server_of.served:
            versions = [{"version": one} for one in self.server_of.served[group]]
            self._answer(200, {"kind": "APIGroup", "name": group, "versions": versions})
        else:
            self._refuse(404, "", "404 page not found", plain=True)

    def _create(self, collection: str, item: dict[str, Any]) -> None:
        here, name = self.server_of, item["metadata"]["name"]
        with here._changed:
            if name in here._objects[collection]:
                self._refuse(409, "AlreadyExists", f'"{name}" already exists')
            else:
                self._answer(201, here.put(collection, item))

    def _patch(self, collection: str, name: str, operations: list[dict[str, Any]]) -> None:
        here = self.server_of
        if self.headers["Content-Type"] != "application/json-patch+json":
            self._refuse(415, "UnsupportedMediaType", "the body is no JSON Patch")
            return
        with here._changed:
            item = here.get(collection, name)
            if item is None:
                self._not_found(name)
                return
            for operation in operations:
                *parents, last = operation["path"].split("/")[1:]
                holder: Any = item
                for key in parents:
                    holder = holder[int(key)] if isinstance(holder, list) else holder[key]
                place = int(last) if isinstance(holder, list) else last
                if operation["op"] == "test" and holder[place] != operation["value"]:
                    self._refuse(422, "Invalid", "the server rejected our request due to an error in our request")
                    return
                if operation["op"] == "replace":
                    holder[place] = operation["value"]
            item["metadata"]["generation"] = item["metadata"].get("generation", 1) + 1
            self._answer(200, here.put(collection, item))

    def _delete(self, collection: str, name: str, options: dict[str, Any]) -> None:
        here = self.server_of
        with here._changed:
            item = here.get(collection, name)
            if item is None:
                self._not_found(name)
            elif options.get("preconditions", {}).get("uid", item["metadata"]["uid"]) != item["metadata"]["uid"]:
                self._refuse(409, "Conflict", "the UID in the precondition does not match the UID in record")
            else:
                if here.holds_deletions:
                    item["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
                    here.put(collection, item)
                else:
                    here.remove(collection, name)
                self._answer(200, item)

    def _list(self, collection: str, query: dict[str, str]) -> None:
        here = self.server_of
        with here._changed:
            items = [copy.deepcopy(one) for one in here._objects[collection].values() if _selected(one, query)]
            for one in items:
                if collection == PODS:  # items of a typed list have no kind
                    one.pop("kind", None)
                    one.pop("apiVersion", None)
            self._answer(200, {"metadata": {"resourceVersion": str(here._version)}, "items": items})

    def _watch(self, collection: str, query: dict[str, str]) -> None:
        here = self.server_of
        seen, ends = int(query["resourceVersion"]), time.monotonic() + float(query["timeoutSeconds"])
        if seen < here._oldest:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": f"too old resource version: {seen}"}
            if here.gone_by == "status":
                self._refuse(410, "Expired", gone["message"])
                return
            self._begin()
            self._chunk(json.dumps({"type": "ERROR", "object": gone}) + "\n")
            self._chunk("")
            return
        if seen > here._version:
            self._refuse(504, "Timeout", f"Too large resource version: {seen}, current: {here._version}")
            return
        self._begin()
        generation = here._generation
        while here._generation == generation and time.monotonic() < ends and here._http is not None:
            with here._changed:
                news = [event for event in here._events if event[0] > seen]
                if not news:
                    here._changed.wait(0.05)
                    continue
            for version, where, kind, item in news:
                seen = version
                if where == collection and kind == "BOOKMARK":
                    mark = {"metadata": {"resourceVersion": str(version)}}
                    self._chunk(json.dumps({"type": kind, "object": mark}) + "\n")
                elif where == collection and _selected(item, query):
                    self._chunk(json.dumps({"type": kind, "object": item}) + "\n")
        self._chunk("")

    def _log(self, name: str, query: dict[str, str]) -> None:
        here = self.server_of
        assert query.get("container", "") in {"spark-kubernetes-driver", ""}
        log = here._logs.get(name)
        if log is None:
            self._not_found(name)
            return
        self._begin()
        since, sent, generation = query.get("sinceTime", ""), 0, here._generation
        while here._generation == generation and here._http is not None:
            with here._changed:
                news, ended = log.lines[sent:], log.ended
                if not news and not ended:
                    here._changed.wait(0.05)
                    continue
            sent += len(news)
            text = "".join(f"{stamp} {line}\n" for stamp, line in news if stamp[:19] >= since[:19])
            data = text.encode(errors="surrogateescape")
            cut, here.cut_lines = here.cut_lines, False
            # Chunk boundaries are arbitrary.
            for start in range(0, len(data) - (14 if cut else 0), 7):
                self._chunk(data[start : start + 7])
            if ended or cut:
                break
        self._chunk("")

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def _chunk(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _not_found(self, name: str) -> None:
        self._refuse(404, "NotFound", f'"{name}" not found')

    def _refuse(self, status: int, reason: str, message: str, *, plain: bool = False) -> None:
        if plain:
            data = message.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        else:
            self._answer(status, {"kind": "Status", "code": status, "reason": reason, "message": message})


def _selected(item: dict[str, Any], query: dict[str, str]) -> bool:
    if "fieldSelector" in query:
        return item["metadata"]["name"] == query["fieldSelector"].removeprefix("metadata.name=")
    if "labelSelector" in query:
        key, _, value = query["labelSelector"].partition("=")
        return (item["metadata"].get("labels") or {}).get(key) == value
    return True
