"""HTTP requests to the Kubernetes API server: JSON objects, and streams of lines."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import urllib3
import yaml
from kubernetes import client, config

from ctbasis.errors import CtbasisError
from ctbasis.storage.retry_after import retry_after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 30.0

KEEPALIVE = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, option), value)
        for option, value in {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}.items()
        if hasattr(socket, option)
    ),
]
"""With TCP keepalive the kernel detects a peer that vanished within a minute, without a request."""

HTTP_UNAUTHORIZED, HTTP_FORBIDDEN, HTTP_NOT_FOUND, HTTP_CONFLICT, HTTP_GONE = 401, 403, 404, 409, 410
HTTP_INVALID, HTTP_TOO_MANY, HTTP_SERVER = 422, 429, 500

BROKEN = (urllib3.exceptions.HTTPError, OSError)
"""Exceptions of a connection that is refused, broken or silent."""

SETTLING_SECONDS = 30.0
"""Time after an outage in which a refusal is not final: the server may not have loaded its roles and CRDs yet."""


class ApiError(Exception):
    """An error response of the API server.

    Attributes:
        status: HTTP status; 0 if the response cannot be interpreted.
        reason: Reason in Kubernetes' terms, such as AlreadyExists.
        message: Text of the response.
        retry_after: Seconds after which the server wants to be asked again.
        settling: Whether an outage ended so recently that a refusal is not final.
    """

    def __init__(
        self, status: int, reason: str = "", message: str = "", *, retry_after: float = 0, settling: bool = False
    ) -> None:
        self.status, self.reason, self.message = status, reason, message
        self.retry_after, self.settling = retry_after, settling
        super().__init__(f"{status} {reason}: {message}")

    @property
    def refused(self) -> bool:
        """Whether the refusal is final, so that repeating the request is of no use."""
        if self.settling or self.status in {0, HTTP_GONE, HTTP_TOO_MANY} or self.status >= HTTP_SERVER:
            return False
        # A Conflict is a lost race, for instance for the counter of a ResourceQuota.
        return self.reason != "Conflict"

    @property
    def absent(self) -> bool:
        """Whether the object does not exist. A path that the server does not know (yet) has another reason."""
        return self.status == HTTP_NOT_FOUND and self.reason == "NotFound"

    @property
    def history_gone(self) -> bool:
        """Whether a watch cannot continue from its resourceVersion: it is too old, or newer than a restored etcd."""
        return self.status == HTTP_GONE or "Too large resource version" in self.message


class Stream:
    """The lines of one response as they arrive, each with its line break; a context manager that closes the response.

    The iteration ends with the response, and raises if the connection breaks. A last line without a line break is
    truncated.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse, note_break: Callable[[], None]) -> None:
        self._response, self._note_break = response, note_break

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._response.close()

    def __iter__(self) -> Iterator[bytes]:
        partial = b""
        try:
            for part in self._response.stream(amt=None, decode_content=False):
                *whole, partial = (partial + part).split(b"\n")
                for line in whole:
                    yield line + b"\n"
        except BROKEN:
            self._note_break()
            raise
        if partial:
            yield partial

    def stop(self) -> None:
        """End the iteration; called from another thread than the one that iterates."""
        with suppress(ValueError, *BROKEN):  # it has ended already
            self._response.shutdown()


class ApiServer:
    """The API server and the namespace of the step.

    Attributes:
        namespace: Name of the namespace.
    """

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self._last_outage = -math.inf
        self._api = api
        self._pool: urllib3.PoolManager = api.rest_client.pool_manager
        self._pool.connection_pool_kw["socket_options"] = KEEPALIVE

    @classmethod
    def connect(cls) -> Self:
        """Connect with the pod's service account, or outside of a cluster with KUBECONFIG.

        Raises:
            CtbasisError: There is neither a service account of a pod nor a valid KUBECONFIG.
        """
        settings = client.Configuration()
        try:
            if POD_NAMESPACE.exists():
                config.load_incluster_config(settings)
                namespace = POD_NAMESPACE.read_text().strip()
            else:
                # The client reads this variable once, when it is imported.
                files = os.environ.get("KUBECONFIG") or None
                config.load_kube_config(config_file=files, client_configuration=settings)
                _, context = config.list_kube_config_contexts(config_file=files)
                namespace = context["context"].get("namespace", "default")
        except (config.ConfigException, yaml.YAMLError, TypeError, AttributeError, ValueError, OSError) as error:
            # A file that is no KUBECONFIG raises whatever its content provokes.
            raise CtbasisError(
                f"no cluster can be reached: {' '.join(str(error).split())[:300] or type(error).__name__}",
                expected="a pod with the token of a service account, or KUBECONFIG",
            ) from error
        return cls(client.ApiClient(settings), namespace)

    @property
    def pods(self) -> str:
        """Path of the namespace's pods."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Send a request and return the object in the response.

        Args:
            method: HTTP method.
            path: Path of the object or collection.
            query: Query parameters.
            body: JSON object to send; with the method PATCH, the operations of a JSON Patch.

        Raises:
            ApiError: The server answers with an error.
            urllib3.exceptions.HTTPError: The connection is refused, broken or silent.
        """
        response = self._send(method, path, query, body, ANSWER_SECONDS)
        try:
            answer: dict[str, Any] = json.loads(response.data)
        except ValueError as error:
            raise ApiError(0, "NotJSON", response.data[:200].decode("utf-8", "replace")) from error
        finally:
            response.release_conn()
        return answer

    def find(self, path: str) -> dict[str, Any] | None:
        """Return the object at `path`, None if it does not exist; the errors are those of `ask`."""
        try:
            return self.ask("GET", path)
        except ApiError as error:
            if error.absent:
                return None
            raise

    def stream(self, path: str, query: Mapping[str, str], *, silence: float | None) -> Stream:
        """Open a stream of lines.

        Args:
            path: What is streamed.
            query: Its parameters.
            silence: Seconds without a byte after which the connection is taken for dead; None trusts the kernel.

        Raises:
            ApiError: The server says no.
            urllib3.exceptions.HTTPError: The connection is refused, broken or silent.
        """
        return Stream(self._send("GET", path, query, None, silence), self._record_outage)

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
        silence: float | None,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json, */*", "User-Agent": "ctbasis"}
        if method == "PATCH":
            headers["Content-Type"] = "application/json-patch+json"
        # The client knows the token and reads it anew when the kubelet has changed it.
        self._api.update_params_for_auth(headers, [], ["BearerToken"])
        try:
            response = self._pool.request(
                method,
                self._api.configuration.host + path + (f"?{urlencode(query)}" if query else ""),
                headers=headers,
                json=body,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=silence),
            )
        except BROKEN:
            self._record_outage()
            raise
        if response.status // 100 == 2:  # noqa: PLR2004  HTTP's success
            return response
        if response.status >= HTTP_SERVER:
            self._record_outage()
        raise _error(response, settling=time.monotonic() - self._last_outage < SETTLING_SECONDS)

    def _record_outage(self) -> None:
        self._last_outage = time.monotonic()


def _error(response: urllib3.BaseHTTPResponse, *, settling: bool) -> ApiError:
    try:
        text = response.data
    finally:
        response.release_conn()
    try:
        status = json.loads(text)
    except ValueError:
        status = None
    if not isinstance(status, dict):
        status = {"reason": response.reason, "message": text[:500].decode("utf-8", "replace")}
    return ApiError(
        response.status,
        status.get("reason") or "",
        status.get("message") or "",
        retry_after=retry_after(response.headers.get("Retry-After")) or 0,
        settling=settling,
    )
