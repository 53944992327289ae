"""The header Retry-After: how long a server asks its clients to wait, with an answer 429 or 503."""

from __future__ import annotations

from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

LONGEST_SECONDS = 10**9
"""A longer wait is understood as this one; callers give up long before."""

_PARSER = Retry(retry_after_max=LONGEST_SECONDS)


def retry_after(value: object) -> float | None:
    """Return the seconds that a Retry-After header asks for, at least 0, or None if the header is absent or unreadable.

    Args:
        value: Value of the header: a number of seconds or an HTTP date (RFC 9110, section 10.2.3), or None.
    """
    if value is None:
        return None
    try:
        return float(_PARSER.parse_retry_after(str(value)))
    except (InvalidHeader, ValueError, OverflowError):
        return None
