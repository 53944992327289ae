"""The API server's absences: waited out as long as there is patience."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TypeVar

from ctbasis.errors import CtbasisError
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

    from ctbasis.spark.kubernetes.patience import Patience

T = TypeVar("T")

FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 30.0

SAID_AFTER_SECONDS = 5.0


class ApplicationStaysError(CtbasisError):
    """An error after which the application is left as it is: it has ended, or it may be adopted by the next try."""


class Outage:
    """Waits out what passes, and turns the rest into the error that the user reads.

    Args:
        doing: What is interrupted, such as `watching the pods`.
        patience: How long it may last.
    """

    def __init__(self, doing: str, patience: Patience) -> None:
        self._doing = doing
        self._seconds = patience.api_server
        self._since: float | None = None
        self._backoff = FIRST_BACKOFF
        self._said = False

    def over(self) -> None:
        """Note that the API server has answered."""
        if self._said:
            say(f"{self._doing}: the API server answers again")
        self._since, self._backoff, self._said = None, FIRST_BACKOFF, False

    def wait_out(self, error: Exception) -> None:
        """Wait a little, twice as long each time.

        Raises:
            CtbasisError: The server has understood and says no.
            ApplicationStaysError: It has been away for too long.
        """
        if isinstance(error, ApiError) and error.refused:
            raise refusal(error, self._doing) from error
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        away = now - self._since
        if away > self._seconds:
            raise ApplicationStaysError(
                f"{self._doing}: the API server was away for {away:.0f} s; last: {error}",
                cause="its node or the network is down",
                remedy="run again once it is back: the application goes on meanwhile and will be adopted",
            ) from error
        if away > SAID_AFTER_SECONDS and not self._said:
            self._said = True
            say(f"{self._doing}: the API server has been away for {away:.0f} s ({error}); waiting")
        asked = error.retry_after if isinstance(error, ApiError) else 0
        time.sleep(min(LONGEST_BACKOFF, max(asked, self._backoff)))
        self._backoff *= 2


def through_outages(ask: Callable[[], T], doing: str, patience: Patience) -> T:
    """Return what `ask` returns, asked again for as long as the API server is away.

    Raises:
        CtbasisError: The server says no, or was away for too long.
    """
    outage = Outage(doing, patience)
    while True:
        try:
            answer = ask()
        except (ApiError, *BROKEN) as error:
            outage.wait_out(error)
        else:
            outage.over()
            return answer


def refusal(error: ApiError, doing: str) -> CtbasisError:
    """Return the error that the user reads when the API server says no."""
    found = f"{doing} was refused: {error.status} {error.reason}: {error.message[:500]}"
    if "exceeded quota" in error.message:
        return CtbasisError(found, cause="the namespace's ResourceQuota", remedy="raise it, or delete old applications")
    if "admission webhook" in error.message:
        return CtbasisError(found, cause="a policy of this cluster", remedy="change manifests/sparkapplication.yaml")
    if error.status in {HTTP_UNAUTHORIZED, HTTP_FORBIDDEN, HTTP_NOT_FOUND, HTTP_CONFLICT}:
        return CtbasisError(
            found,
            cause="the step's service account lacks the right, or the Spark operator's CRD is not installed",
            remedy="apply manifests/base, which holds the Role, and see the operator's installation",
        )
    return CtbasisError(found, cause="the manifest is not valid for this cluster's operator")


def say(line: str) -> None:
    """Write a line of the step's log at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
