"""Repeating a request that failed: after a delay that grows, or after the time that the server asks for."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from ctbasis.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.errors import CtbasisError

T = TypeVar("T")

ATTEMPTS = 4

LISTING_ATTEMPTS = 2
"""Attempts for a page of a listing, which nothing has been built on yet when the first page fails."""

FIRST_DELAY_SECONDS = 0.25

MAX_WAIT_SECONDS = 600.0
"""Seconds that one request waits at most because the server asks for it (Retry-After), over all its attempts. A quota
per minute, which archives and cloud stores have, is free again within this time."""


def repeat(attempt: Callable[[], T], exhausted: Callable[[str], CtbasisError], *, attempts: int | None = None) -> T:
    """Return the result of `attempt`, which is repeated while it raises TransientError.

    An answer with Retry-After (429 Too Many Requests, 503 Service Unavailable) is no failed attempt: the request is
    repeated when the time has passed, until it has waited for `MAX_WAIT_SECONDS` in total.

    Args:
        attempt: Makes the request.
        exhausted: Gives the error to raise when no attempt is left, for the reason of the last failure.
        attempts: Failed attempts at most; by default `ATTEMPTS`.

    Raises:
        CtbasisError: That of `exhausted`, or one that `attempt` raises.
    """
    failures, waits, waited = 0, 0, 0.0
    while True:
        try:
            return attempt()
        except TransientError as error:
            reason, asked = str(error), error.retry_after
        # Exponential delays with jitter, so that the workers do not repeat their requests at the same moment.
        delay = FIRST_DELAY_SECONDS * 2 ** (failures + waits + 1) * random.uniform(0.5, 1)  # noqa: S311 - no secret
        if asked is None:
            failures += 1
            if failures >= (ATTEMPTS if attempts is None else attempts):
                raise exhausted(reason)
        else:
            waits += 1
            # A server that asks for 0 s for ever is asked less and less often.
            delay = max(asked, delay)
            waited += delay
            if waited > MAX_WAIT_SECONDS:
                raise exhausted(f"{reason}; the server asks to wait for {asked:,.0f} s (Retry-After)")
        time.sleep(delay)
