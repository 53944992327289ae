"""The header Retry-After: how long a server asks its clients to wait, with an answer 429 or 503."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after(value: object, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for, at least 0, or None if the header is absent or unreadable.

    Args:
        value: Value of the header: a number of seconds or an HTTP date (RFC 9110, section 10.2.3), or None.
        now: The time on this machine; None is the present.
    """
    text = str(value).strip() if value is not None else ""
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
            seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - (now or datetime.now(UTC))).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
