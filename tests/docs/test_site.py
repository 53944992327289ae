"""The site in a real browser: accessible, readable on a phone, usable by keyboard; nothing comes from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.accessibility import PHONE, overhang, reached_by_tab, violations

if TYPE_CHECKING:
    from tests.browser import Open

SITE = Path(__file__).parents[2] / "build" / "site"
PAGES = ("index.html", "how-to/own-bucket.html", "reference/api.html")


@pytest.fixture(params=PAGES)
def path(request: pytest.FixtureRequest) -> Path:
    page = SITE / request.param
    if not page.is_file():
        pytest.skip("the site is not built: run `make site`, as `make ci` does before the tests")
    return page


def test_a_page_of_the_site_is_accessible_and_loads_nothing_from_elsewhere(path: Path, open_page: Open) -> None:
    opened = open_page(path)
    assert [request for request in opened.requests if not request.startswith(SITE.as_uri())] == []
    assert reached_by_tab(opened.page, 1) == ["Skip to main content"]
    assert violations(opened.page) == []
    assert violations(opened.page, scheme="dark") == []


def test_a_page_of_the_site_is_accessible_on_a_phone_too(path: Path, open_page: Open) -> None:
    phone = open_page(path, size=PHONE).page
    assert overhang(phone) == 0
    assert violations(phone) == []
