"""Outages of the API server: requests are repeated until it answers or the timeout ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from ctbasis.errors import CtbasisError
from ctbasis.printable import say
from ctbasis.spark.kubernetes.api_server import (
    BROKEN,
    HTTP_CONFLICT,
    HTTP_FORBIDDEN,
    HTTP_NOT_FOUND,
    HTTP_UNAUTHORIZED,
    ApiError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.spark.kubernetes.timeouts import Timeouts

T = TypeVar("T")

FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 30.0

LOGGED_AFTER_SECONDS = 5.0


class ApplicationStaysError(CtbasisError):
    """An error after which the application is not deleted: it has ended, or the next attempt of the step adopts it."""


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
            ApplicationStaysError: The outage has lasted longer than the timeout.
        """
        if isinstance(error, ApiError) and error.refused:
            raise refusal(error, self._doing) from error
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        seconds = now - self._since
        if seconds > self._seconds:
            raise ApplicationStaysError(
                f"{self._doing}: the API server was unavailable for {seconds:.0f} s; last error: {error}",
                cause="its node or the network is down",
                remedy="run again once it is available: the application continues meanwhile and is adopted",
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
        return CtbasisError(
            found, cause="the ResourceQuota of the namespace", remedy="raise it, or delete old applications"
        )
    if "admission webhook" in error.message:
        return CtbasisError(found, cause="a policy of this cluster", remedy="change manifests/sparkapplication.yaml")
    if error.status in {HTTP_UNAUTHORIZED, HTTP_FORBIDDEN, HTTP_NOT_FOUND, HTTP_CONFLICT}:
        return CtbasisError(
            found,
            cause="the step's service account lacks the right, or the Spark operator's CRD is not installed",
            remedy="apply manifests/base, which contains the Role, and check the installation of the operator",
        )
    return CtbasisError(found, cause="the manifest is not valid for this cluster's operator")


def log(line: str) -> None:
    """Write a line to the log of the step, unbuffered."""
    say(line.expandtabs())
