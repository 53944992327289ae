"""The site in a real browser: accessible, readable on a phone, usable by keyboard; nothing comes from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.accessibility import overhang, reached_by_tab, violations

if TYPE_CHECKING:
    from tests.browser import Open, Opened

SITE = Path(__file__).parents[2] / "build" / "site"
PAGES = ("index.html", "how-to/own-bucket.html", "reference/api.html")


@pytest.fixture(params=PAGES)
def opened(request: pytest.FixtureRequest, open_page: Open) -> Opened:
    page = SITE / request.param
    if not page.is_file():
        pytest.skip("the site is not built: run `make site`, as `make ci` does before the tests")
    return open_page(page)


def test_a_page_of_the_site_is_accessible_on_a_phone_too_and_loads_nothing_from_elsewhere(opened: Opened) -> None:
    assert [request for request in opened.requests if not request.startswith(SITE.as_uri())] == []
    assert reached_by_tab(opened.page, 1) == ["Skip to main content"]
    assert violations(opened.page) == []
    assert violations(opened.page, scheme="dark") == []
    assert overhang(opened.page) == 0
    assert violations(opened.page) == []
