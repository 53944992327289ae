"""Outages of the API server: requests are repeated until it answers or the timeout ends."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, TypeVar

from ctbasis.errors import CtbasisError
from ctbasis.jobs.api_server import (
    BROKEN,
    HTTP_CONFLICT,
    HTTP_FORBIDDEN,
    HTTP_NOT_FOUND,
    HTTP_UNAUTHORIZED,
    ApiError,
)
from ctbasis.printable import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.jobs.timeouts import Timeouts

T = TypeVar("T")

FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 30.0

LOGGED_AFTER_SECONDS = 5.0

LAUNCH = "ctbasis-launch"
"""The Role of the account that starts jobs, and its RoleBinding in the overlays of manifests/."""


class JobStaysError(CtbasisError):
    """An error after which the job is not deleted: it has ended, or the next attempt of the step adopts it."""


class Outage:
    """Waits while the API server is unavailable, and turns a refusal into the error that the user reads.

    Args:
        doing: The interrupted activity for messages, such as `watching the pods`.
        timeouts: How long an outage may last.
    """

    def __init__(self, doing: str, timeouts: Timeouts) -> None:
        self._doing = doing
        self._seconds = timeouts.api_server
        self._since: float | None = None
        self._backoff = FIRST_BACKOFF
        self._logged = False

    def end(self) -> None:
        """Record that the API server has answered."""
        if self._logged:
            log(f"{self._doing}: the API server is available again")
        self._since, self._backoff, self._logged = None, FIRST_BACKOFF, False

    def wait(self, error: Exception) -> None:
        """Wait before the next request, twice as long each time.

        Args:
            error: The error of the last request.

        Raises:
            CtbasisError: The server has refused the request.
            JobStaysError: The outage has lasted longer than the timeout.
        """
        if isinstance(error, ApiError) and error.refused:
            raise refusal(error, self._doing) from error
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        seconds = now - self._since
        if seconds > self._seconds:
            raise JobStaysError(
                f"{self._doing}: the API server was unavailable for {seconds:.0f} s; last error: {error}",
                cause="its node or the network is down",
                remedy="run again once it is available: the job continues meanwhile and is adopted",
            ) from error
        if seconds > LOGGED_AFTER_SECONDS and not self._logged:
            self._logged = True
            log(f"{self._doing}: the API server has been unavailable for {seconds:.0f} s ({error}); waiting")
        requested = error.retry_after if isinstance(error, ApiError) else 0
        time.sleep(min(LONGEST_BACKOFF, max(requested, self._backoff)))
        self._backoff *= 2


def retry_outages(request: Callable[[], T], doing: str, timeouts: Timeouts) -> T:
    """Return the result of `request`, repeated while the API server is unavailable.

    Args:
        request: Function that sends the request.
        doing: The activity for messages, such as `reading the pods`.
        timeouts: How long an outage may last.

    Raises:
        CtbasisError: The server refused the request, or was unavailable for too long.
    """
    outage = Outage(doing, timeouts)
    while True:
        try:
            answer = request()
        except (ApiError, *BROKEN) as error:
            outage.wait(error)
        else:
            outage.end()
            return answer


def refusal(error: ApiError, doing: str) -> CtbasisError:
    """Return the error that the user reads when the API server refuses a request."""
    found = f"{doing} was refused: {error.status} {error.reason}: {error.message[:500]}"
    if "exceeded quota" in error.message:
        return CtbasisError(found, cause="the ResourceQuota of the namespace", remedy="raise it, or delete old jobs")
    if "admission webhook" in error.message:
        return CtbasisError(found, cause="a policy of this cluster", remedy="change the template of the job")
    if error.status == HTTP_FORBIDDEN:
        return CtbasisError(found, cause=f"the namespace has no RoleBinding {LAUNCH}", remedy=_binding(error.message))
    if error.status in {HTTP_UNAUTHORIZED, HTTP_NOT_FOUND, HTTP_CONFLICT}:
        return CtbasisError(
            found,
            cause="the step's service account has no valid token, or the operator's CRD is not installed",
            remedy="check the installation of the operator, and the account of the run",
        )
    return CtbasisError(found, cause="the manifest is not valid for this cluster's operator")


def _binding(message: str) -> str:
    """Return the command that binds the Role to the account which the API server names in a refusal."""
    account = re.search(r"system:serviceaccount:(?P<namespace>[a-z0-9-]+):(?P<name>[a-z0-9.-]+)", message)
    if account is None:
        return f"apply manifests/overlays/kubeflow or profile, which contain the Role and the RoleBinding {LAUNCH}"
    namespace, name = account["namespace"], account["name"]
    command = f"kubectl -n {namespace} create rolebinding {LAUNCH}-{name} --role={LAUNCH}"
    return f"{command} --serviceaccount={namespace}:{name}; the Role {LAUNCH} is in every overlay of manifests/"


def log(line: str) -> None:
    """Write a line to the log of the step, unbuffered."""
    say(line.expandtabs())
