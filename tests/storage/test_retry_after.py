"""The header Retry-After is read by urllib3, and what no server should send is no time to wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from ctbasis.storage.retry_after import retry_after


def test_a_number_of_seconds_and_a_date_are_read() -> None:
    assert retry_after("120") == retry_after(" 120 ") == retry_after(120) == 120.0
    later = datetime.now(UTC) + timedelta(seconds=300)
    found = retry_after(format_datetime(later, usegmt=True))
    assert found is not None
    assert 290 < found <= 300
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize("value", [None, "", "soon", "-5", "nan", "inf", "²", "9" * 5000])
def test_what_is_no_time_to_wait_is_none(value: str | None) -> None:
    assert retry_after(value) is None


def test_a_wait_of_years_stays_a_number() -> None:
    assert retry_after("9" * 30) == 1e9
