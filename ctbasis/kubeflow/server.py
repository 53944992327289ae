"""The connection to a Kubeflow Pipelines server, and its refusals as errors to read."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import kfp_server_api
import urllib3
from kfp.client import Client

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN_VARIABLE = "CTBASIS_KFP_TOKEN"  # noqa: S105 - the name of a variable, not its content

REQUEST_SECONDS = 60

NOT_FOUND = 404
# No connection, too many requests, and what a gateway says while the server behind it restarts.
PASSING = {0, 429, 502, 503, 504}
REFUSALS = {
    401: ("the token is missing or has expired", f"set {TOKEN_VARIABLE} to a valid bearer token"),
    403: ("the user may not do this in this namespace", "check the namespace, or ask for the Kubeflow edit role"),
    NOT_FOUND: ("the address is not that of Kubeflow Pipelines, or what was named is gone", "check the address"),
}


class NoAnswerError(CtbasisError):
    """The server did not answer; it may when asked again."""


class _Client(Client):  # type: ignore[misc] # kfp ships no types
    """KFP's client, which asks a host once whether it is there, not five times with five tracebacks."""

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:  # noqa: ARG002 - the signature is KFP's
        """Return what the server says of itself."""
        api = self._healthz_api
        health = api.healthz_service_get_healthz(_request_timeout=REQUEST_SECONDS)
        if not (api.api_client.last_response.getheader("content-type") or "").startswith("application/json"):
            raise CtbasisError(
                f"{host_of(self)} answers with a page, not as the Kubeflow Pipelines API",
                cause="a login page stands before it, or it is another server",
                remedy=f"set {TOKEN_VARIABLE}, or check the address (Kubeflow's ends in /pipeline)",
            )
        return health


def connect(host: str, *, token: str = "", namespace: str = "") -> Client:
    """Return a client of the server at `host`, which has answered once.

    Args:
        host: The server's address, with http:// or https://.
        token: A bearer token; the variable CTBASIS_KFP_TOKEN where it is empty.
        namespace: The Kubernetes namespace, on servers that have many users.

    Raises:
        CtbasisError: No address, no answer, another server's answer, or a refusal.
    """
    address = urlsplit(host)
    if address.scheme not in {"http", "https"} or not address.hostname:
        raise CtbasisError("the host is no address", expected="such as http://localhost:8080", remedy="give its URL")
    if address.password is not None:
        raise CtbasisError("the host's URL holds a password", remedy=f"leave it out and set {TOKEN_VARIABLE}")
    with explained(host), warnings.catch_warnings():
        # Said by every construction: "only works with Kubeflow Pipelines 2".
        warnings.simplefilter("ignore", FutureWarning)
        client = _Client(
            host=host,
            existing_token=token or os.environ.get(TOKEN_VARIABLE) or None,
            namespace=namespace or "kubeflow",
        )
        health = client.get_kfp_healthz()
    if health.multi_user and not (namespace or client.get_user_namespace()):
        raise CtbasisError(f"{host} has many users", expected="a namespace", remedy="name your Kubeflow profile")
    return client


def host_of(client: Client) -> str:
    """Return the address that a client talks to."""
    return str(client._existing_config.host)  # noqa: SLF001 - kfp has no public way to tell


def request(client: Client, path: str, method: str, **content: Any) -> Any:
    """Make a request that kfp has no method for, with the client's own credentials, and return urllib3's response."""
    return client._run_api.api_client.call_api(  # noqa: SLF001 - kfp has no public way to its connection
        path, method, auth_settings=["Bearer"], _preload_content=False, _request_timeout=REQUEST_SECONDS, **content
    )


@contextmanager
def explained(host: str, what: str = "", *, absent: tuple[str, str] = REFUSALS[NOT_FOUND]) -> Iterator[None]:
    """Turn a server's refusal, or its silence, into an error to read; the request and its token are not part of it.

    Args:
        host: The server.
        what: What was asked, such as "to run the package".
        absent: Likely cause and remedy where the server answers 404.
    """
    doing = f" {what}" if what else ""
    try:
        yield
    except kfp_server_api.ApiException as error:
        kind = NoAnswerError if error.status in PASSING else CtbasisError
        cause, remedy = {**REFUSALS, NOT_FOUND: absent}.get(error.status, ("", ""))
        told = _server_message(error.body)
        found = f"{host} refuses{doing}: {error.status} {error.reason or ''}".rstrip()
        raise kind(found + (f" ({told})" if told else ""), cause=cause, remedy=remedy) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise NoAnswerError(
            f"{host} cannot be reached{doing} ({type(error).__name__})",
            cause="the address is wrong, the server is down, or a port-forward or VPN has ended",
            remedy="open the address in a browser from this machine",
        ) from None


def _server_message(body: Any) -> str:
    """Return what the server says went wrong, short; empty where it is no message of Kubeflow's."""
    try:
        said = json.loads(body)
    except (TypeError, ValueError):
        return ""
    message = said.get("message") or said.get("error_message") or said.get("error") if isinstance(said, dict) else ""
    return " ".join(str(message or "").split())[:300]
