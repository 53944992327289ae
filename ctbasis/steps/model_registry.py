"""Registering a basis in Kubeflow's Model Registry, by its own client.

The client is an optional package, `ctbasis[registry]`, and is imported only here. Without a token it would send the
token of the pod's service account for the API server of Kubernetes to whatever address it is given; it gets
`MODEL_REGISTRY_TOKEN`, or none.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError
from ctbasis.jobs.api_server import HTTP_FORBIDDEN, HTTP_NOT_FOUND, HTTP_UNAUTHORIZED
from ctbasis.printable import say

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

TOKEN = "MODEL_REGISTRY_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variable with a bearer token for the registry."""

FORMAT = "ctbasis-basis"
"""Model format of the registered version; its version is that of the layout of the stores."""

AUTHOR = "ctbasis"

SECONDS = 60.0
"""Time for one request."""

MOST_ATTEMPTS = 20
"""Versions of one run at most: an attempt that was interrupted leaves a version without an artifact."""


def register(address: str, model: str, uri: str, *, run: str, metadata: Mapping[str, str]) -> str:
    """Register a basis as a version of a model, and return the name of the version.

    A basis that is registered already, by its URI, stays as it is.

    Args:
        address: Address of the registry, http:// or https://.
        model: Name of the model; it is made if there is none.
        uri: URI of the basis, in the folder of its run.
        run: Id of the run that made it, the name of the version.
        metadata: What its artifact says about it, see `ctbasis.steps.basis_metadata`.

    Raises:
        CtbasisError: The client is not installed, or the registry cannot be reached, refuses, or fails.
    """
    try:
        import aiohttp
        from model_registry import ModelRegistry
        from model_registry.exceptions import StoreError
        from mr_openapi.exceptions import ApiException
    except ImportError as error:
        raise CtbasisError(
            "the client of the Model Registry is not installed",
            expected="the package model-registry",
            remedy="build the image of the steps with `--extra registry`, or pip install 'ctbasis[registry]'",
        ) from error
    token = os.environ.get(TOKEN, "")
    if address.startswith("https://") and not token:
        raise CtbasisError(
            f"the registry {address} has https, and there is no token",
            expected=f"the variable {TOKEN}, on Kubeflow the key `token` of the Secret ctbasis-registry",
            cause="the client of the Model Registry demands a token for https",
            remedy="make the Secret; a registry that checks no token takes any text",
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="User access token is missing")
            registry = ModelRegistry(address, author=AUTHOR, async_runner=_run, **_token(token))
            version = _free_version(registry, model, uri, run)
            if version:
                registry.register_model(
                    model,
                    uri,
                    version=version,
                    model_format_name=FORMAT,
                    model_format_version=metadata.get("layout", ""),
                    metadata=dict(metadata),
                )
                say(f"registry: {model} {version} is registered")
            else:
                say(f"registry: {model} has this basis already")
    except ApiException as error:
        raise _refusal(address, error.status, error.reason) from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise CtbasisError(
            f"the registry {address} cannot be reached: {type(error).__name__}",
            expected="a Model Registry that answers",
            cause="its Service has another name or port, or a network policy blocks the pods of the run",
            remedy="check the address, then retry the run: only this step runs again",
        ) from error
    except (StoreError, ValueError) as error:
        raise CtbasisError(
            f"the registry {address} gives an answer that its client does not understand: {type(error).__name__}",
            expected="a Model Registry with the API v1",
            cause="another service has this address, or the registry is of another version than its client",
            remedy="check the address",
        ) from error
    return version or run


def _token(token: str) -> dict[str, str]:
    # An empty file keeps the client from the token of the service account.
    if token:
        return {"user_token": token}
    os.environ.setdefault("CTBASIS_NO_TOKEN", os.devnull)
    return {"user_token_envvar": "CTBASIS_NO_TOKEN"}


def _run(request: Coroutine[Any, Any, Any]) -> Any:
    """Run a request of the client in a loop of its own; by default, the client patches the loops of the process."""
    return asyncio.run(asyncio.wait_for(request, SECONDS))


def _free_version(registry: Any, model: str, uri: str, run: str) -> str:
    """Return a name for the version; empty if the model has one with this basis."""
    if registry.get_registered_model(model) is None:
        return run
    for attempt in range(1, MOST_ATTEMPTS + 1):
        version = run if attempt == 1 else f"{run}-{attempt}"
        if registry.get_model_version(model, version) is None:
            return version
        artifact = registry.get_model_artifact(model, version)
        if artifact is not None and artifact.uri == uri:
            return ""
    raise CtbasisError(
        f"the model {model} has {MOST_ATTEMPTS} versions {run} with other bases, or without any",
        expected="one version for each run",
        remedy="archive these versions in the registry, and start a new run",
    )


def _refusal(address: str, status: int | None, reason: str | None) -> CtbasisError:
    found = f"the registry {address} answers {status} {reason or ''}".rstrip()
    if status in {HTTP_UNAUTHORIZED, HTTP_FORBIDDEN}:
        return CtbasisError(
            found,
            expected=f"a bearer token that it accepts, in {TOKEN}",
            cause="there is no Secret ctbasis-registry, its token has expired, or its account may not write",
            remedy="renew the key `token` of the Secret, then retry the run: only this step runs again",
        )
    if status == HTTP_NOT_FOUND:
        return CtbasisError(
            found,
            expected="a Model Registry with the API v1",
            cause="another service has this address",
            remedy="check the address",
        )
    return CtbasisError(
        found,
        expected="an answer of success",
        cause="the registry or its database is down",
        remedy="read the log of the registry, then retry the run: only this step runs again",
    )
