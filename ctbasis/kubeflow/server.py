"""The connection to a Kubeflow Pipelines server. Its error responses become errors that say what to do."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kfp_server_api
import urllib3
from kfp.client import Client
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

from ctbasis.addresses import parse_address
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kubeflow.pipelines import PipelinesClient

TOKEN_VARIABLE = "CTBASIS_KFP_TOKEN"  # noqa: S105 - the name of a variable, not its content

TOKEN_FILE_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105 - the same
"""Variable of Kubeflow: the file with the token of a pod's service account, which Kubernetes renews."""

REQUEST_SECONDS = 60

NOT_FOUND = 404
TEMPORARY = {0, 429, 502, 503, 504}
"""Status codes after which a request may succeed later: no connection, too many requests, and those of a gateway while
the server behind it restarts."""

REFUSALS = {
    401: ("the token is missing or has expired", f"set {TOKEN_VARIABLE} to a valid bearer token"),
    403: ("the user may not do this in this namespace", "check the namespace, or ask for the Kubeflow edit role"),
    NOT_FOUND: (
        "the address is not that of Kubeflow Pipelines, or the named object no longer exists",
        "check the address",
    ),
}
"""Likely cause and remedy of status codes with which a server refuses a request."""


class NoAnswerError(CtbasisError):
    """The server did not answer. It may answer a later request."""


class AbsentError(CtbasisError):
    """The server has no such path, or no object of that name."""


class _Client(Client):  # type: ignore[misc] # kfp ships no types
    """KFP's client with a single health check, in place of five attempts that each print a traceback."""

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:  # noqa: ARG002 - the signature is KFP's
        """Return the server's answer to the health check."""
        api = self._healthz_api
        health = api.healthz_service_get_healthz(_request_timeout=REQUEST_SECONDS)
        if not (api.api_client.last_response.getheader("content-type") or "").startswith("application/json"):
            raise CtbasisError(
                f"{host_of(self)} answers with a web page",
                expected="the Kubeflow Pipelines API",
                cause="a login page protects the server, or the address is that of another server",
                remedy=f"set {TOKEN_VARIABLE}, or check the address (that of a full Kubeflow ends in /pipeline)",
            )
        return health


def connect(host: str, *, token: str = "", namespace: str = "") -> Client:
    """Return a client of the server at `host`, after one request that the server has answered.

    Args:
        host: The server's address, with http:// or https://.
        token: A bearer token. If it is empty, the environment variable CTBASIS_KFP_TOKEN is read; in a pod, without it,
            the file that KF_PIPELINES_SA_TOKEN_PATH names, anew for each request.
        namespace: The user's profile. A multi-user server requires one, a single-user server has none.

    Raises:
        CtbasisError: `host` is not an address, the server does not answer or refuses, it is another server, or
            `namespace` does not fit it.
    """
    if "@" in host:
        raise CtbasisError("the host's URL contains a password", remedy=f"remove it and set {TOKEN_VARIABLE}")
    if not host.lower().startswith(("http://", "https://")):
        raise CtbasisError(
            "the host is not an http or https address", expected="such as http://localhost:8080", remedy="give its URL"
        )
    parse_address(host, what="the host", schemes=("http", "https"), example="http://localhost:8080")
    given = token or os.environ.get(TOKEN_VARIABLE) or None
    with server_errors(host), warnings.catch_warnings():
        # Every client warns: "only works with Kubeflow Pipelines 2".
        warnings.simplefilter("ignore", FutureWarning)
        client = _Client(
            host=host,
            existing_token=given,
            credentials=None if given else _credentials_of_pod(),
            namespace=namespace or "kubeflow",
        )
        health = client.get_kfp_healthz()
    if health.multi_user and not (namespace or client.get_user_namespace()):
        raise CtbasisError(
            f"{host} is a multi-user server and no namespace is given",
            expected="a namespace",
            remedy="give the name of your Kubeflow profile",
        )
    if namespace and not health.multi_user:
        # The server would ignore it, and execute in its own namespace what was meant for a profile.
        raise CtbasisError(
            f"{host} is a single-user server and has no namespace {namespace!r} to choose",
            expected="no namespace",
            cause="a single-user server executes all runs in its own namespace",
            remedy="leave out the namespace, and CTBASIS_KFP_NAMESPACE; or give the address of the multi-user server",
        )
    return client


def _credentials_of_pod() -> ServiceAccountTokenVolumeCredentials | None:
    """Return the credentials of the pod's service account; None if no variable names the file of its token.

    Raises:
        CtbasisError: The file cannot be read.
    """
    path = os.environ.get(TOKEN_FILE_VARIABLE, "")
    if not path:
        return None
    try:
        Path(path).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise CtbasisError(
            f"the token at {path} cannot be read ({type(error).__name__})",
            expected=f"the file that {TOKEN_FILE_VARIABLE} names",
            cause="the pod mounts no projected token of its service account",
            remedy=f"unset {TOKEN_FILE_VARIABLE} for a server without tokens, or mount the token",
        ) from None
    return ServiceAccountTokenVolumeCredentials(path)


def pipelines_client(host: str, *, token: str = "", namespace: str = "") -> PipelinesClient | None:
    """Return a client of the Kubeflow SDK for the same server as `connect`; None if the SDK is not installed.

    Args:
        host: The server's address, with http:// or https://.
        token: A bearer token. If it is empty, the environment variable CTBASIS_KFP_TOKEN is read.
        namespace: The user's profile; empty on a single-user server.
    """
    try:
        from kubeflow.pipelines import KubernetesBackendConfig, PipelinesClient
    except ImportError:
        return None
    return PipelinesClient(
        KubernetesBackendConfig(
            base_url=host,
            user_token=token or os.environ.get(TOKEN_VARIABLE) or None,
            namespace=namespace or None,
        )
    )


def host_of(client: Client) -> str:
    """Return the address of a client's server."""
    return str(client._existing_config.host)  # noqa: SLF001 - kfp has no public attribute for it


def request(client: Client, path: str, method: str, **content: Any) -> Any:
    """Send a request for which kfp has no method, with the client's credentials, and return urllib3's response."""
    return client._run_api.api_client.call_api(  # noqa: SLF001 - kfp has no public way to its connection
        path, method, auth_settings=["Bearer"], _preload_content=False, _request_timeout=REQUEST_SECONDS, **content
    )


def get(client: Client, path: str, query: Mapping[str, object] | None = None, *, action: str = "") -> dict[str, Any]:
    """Return the JSON object at a path of the server.

    Args:
        client: From `connect`.
        path: The path, which starts with a slash.
        query: Parameters of the query by name.
        action: The purpose of the request, such as "to send the run".

    Raises:
        AbsentError: The server has nothing at this path.
        NoAnswerError: The server did not answer, or a later request may succeed.
        CtbasisError: The server refuses, or the response is no JSON object.
    """
    host = host_of(client)
    with server_errors(host, action):
        answer = request(
            client, path, "GET", query_params=[(name, str(value)) for name, value in (query or {}).items()]
        )
    try:
        content = json.loads(answer.data)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise CtbasisError(
            f"{host} answers {path} with something that is no JSON object",
            expected="an answer of Kubeflow Pipelines",
            cause="a login page or a proxy answers in its place",
            remedy="open the address in a browser from this machine",
        )
    return content


@contextmanager
def server_errors(host: str, action: str = "", *, absent: tuple[str, str] = REFUSALS[NOT_FOUND]) -> Iterator[None]:
    """Turn an error response, or no response, into a `CtbasisError` that contains neither the request nor its token.

    Args:
        host: The server's address.
        action: The purpose of the request, such as "to run the package".
        absent: Likely cause and remedy if the server answers 404.

    Raises:
        NoAnswerError: The server did not answer, or a later request may succeed.
        AbsentError: The server answered 404.
        CtbasisError: The server refused the request.
    """
    purpose = f" {action}" if action else ""
    try:
        yield
    except kfp_server_api.ApiException as error:
        kind = {**dict.fromkeys(TEMPORARY, NoAnswerError), NOT_FOUND: AbsentError}.get(error.status, CtbasisError)
        cause, remedy = {**REFUSALS, NOT_FOUND: absent}.get(error.status, ("", ""))
        message = _server_message(error.body)
        found = f"{host} refuses{purpose}: {error.status} {error.reason or ''}".rstrip()
        raise kind(found + (f" ({message})" if message else ""), cause=cause, remedy=remedy) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise NoAnswerError(
            f"{host} cannot be reached{purpose} ({type(error).__name__})",
            cause="the address is wrong, the server is down, or a port-forward or VPN has ended",
            remedy="open the address in a browser from this machine",
        ) from None


def _server_message(body: Any) -> str:
    """Return the error message in a response of Kubeflow, shortened; empty if there is none."""
    try:
        response = json.loads(body)
    except (TypeError, ValueError):
        return ""
    keys = ("message", "error_message", "error")
    message = next(filter(None, map(response.get, keys)), "") if isinstance(response, dict) else ""
    return " ".join(str(message or "").split())[:300]
