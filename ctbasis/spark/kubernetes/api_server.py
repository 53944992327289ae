"""Requests to the API server: plain JSON, and streams of lines."""

from __future__ import annotations

import json
import math
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
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
"""A peer that is gone without a word is found out by the kernel within a minute and at the cost of no request."""

HTTP_UNAUTHORIZED, HTTP_FORBIDDEN, HTTP_NOT_FOUND, HTTP_CONFLICT, HTTP_GONE = 401, 403, 404, 409, 410
HTTP_TOO_MANY, HTTP_SERVER = 429, 500

BROKEN = (urllib3.exceptions.HTTPError, OSError)
"""What a connection that is refused, cut or silent raises."""

SETTLING_SECONDS = 30.0
"""A server that has just come back may deny what it will allow: it has not read its roles and its CRDs yet."""


class ApiError(Exception):
    """An answer of the API server that is no success.

    Attributes:
        status: HTTP status, 0 where the answer makes no sense.
        reason: Kubernetes' own word, such as AlreadyExists.
        message: The answer's text.
        retry_after: Seconds that the server asks to wait.
        settling: Whether the server has come back so lately that its no means little.
    """

    def __init__(
        self, status: int, reason: str = "", message: str = "", *, retry_after: float = 0, settling: bool = False
    ) -> None:
        self.status, self.reason, self.message = status, reason, message
        self.retry_after, self.settling = retry_after, settling
        super().__init__(f"{status} {reason}: {message}")

    @property
    def refused(self) -> bool:
        """Whether asking again is of no use: the server has understood and says no."""
        if self.settling or self.status in {0, HTTP_GONE, HTTP_TOO_MANY} or self.status >= HTTP_SERVER:
            return False
        # A Conflict is a race that somebody else has won, such as for the counter of a ResourceQuota.
        return self.reason != "Conflict"

    @property
    def absent(self) -> bool:
        """Whether the object is not there; a path that the server does not know (yet) is no `NotFound` of its."""
        return self.status == HTTP_NOT_FOUND and self.reason == "NotFound"

    @property
    def history_gone(self) -> bool:
        """Whether a watch cannot go on from its resourceVersion, which is too old, or newer than a restored etcd."""
        return self.status == HTTP_GONE or "Too large resource version" in self.message


class Stream:
    """The lines of one answer as they come, each with its end; to be closed by `with`.

    The lines end where the server ends them; a last one without an end of its own was cut. Where the connection breaks
    they raise.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse, note_break: Callable[[], None]) -> None:
        self._response, self._note_break = response, note_break

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._response.close()

    def __iter__(self) -> Iterator[bytes]:
        begun = b""
        try:
            for part in self._response.stream(amt=None, decode_content=False):
                *whole, begun = (begun + part).split(b"\n")
                for line in whole:
                    yield line + b"\n"
        except BROKEN:
            self._note_break()
            raise
        if begun:
            yield begun

    def stop(self) -> None:
        """End the lines, from another thread than the one that reads them."""
        with suppress(ValueError, *BROKEN):  # it has ended already
            self._response.shutdown()


class ApiServer:
    """The API server, and the namespace that the step works in."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self._away_at = -math.inf
        self._api = api
        self._pool: urllib3.PoolManager = api.rest_client.pool_manager
        self._pool.connection_pool_kw["socket_options"] = KEEPALIVE

    @classmethod
    def connect(cls) -> Self:
        """Connect from inside a pod, or by KUBECONFIG from outside.

        Raises:
            CtbasisError: There is neither a pod's service account nor a usable KUBECONFIG.
        """
        settings = client.Configuration()
        try:
            if POD_NAMESPACE.exists():
                config.load_incluster_config(settings)
                namespace = POD_NAMESPACE.read_text().strip()
            else:
                config.load_kube_config(client_configuration=settings)
                _, context = config.list_kube_config_contexts()
                namespace = context["context"].get("namespace", "default")
        except config.ConfigException as error:
            raise CtbasisError(
                f"no cluster can be reached: {error}",
                expected="a pod with a service account's token, or KUBECONFIG",
            ) from error
        return cls(client.ApiClient(settings), namespace)

    @property
    def applications(self) -> str:
        """Path of the namespace's SparkApplications."""
        return f"/apis/sparkoperator.k8s.io/v1beta2/namespaces/{self.namespace}/sparkapplications"

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
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the answer's object.

        Raises:
            ApiError: The server says no.
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
        """Return the object at `path`, None where there is none; raises as `ask` does."""
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
        return Stream(self._send("GET", path, query, None, silence), self._note_away)

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        silence: float | None,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json, */*", "User-Agent": "ctbasis"}
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
            self._note_away()
            raise
        if response.status // 100 == 2:  # noqa: PLR2004  HTTP's success
            return response
        if response.status >= HTTP_SERVER:
            self._note_away()
        raise _error(response, settling=time.monotonic() - self._away_at < SETTLING_SECONDS)

    def _note_away(self) -> None:
        self._away_at = time.monotonic()


def _error(response: urllib3.BaseHTTPResponse, *, settling: bool) -> ApiError:
    try:
        text = response.data
    finally:
        response.release_conn()
    after = response.headers.get("Retry-After", "")
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
        retry_after=float(after) if after.isdigit() else 0,
        settling=settling,
    )
