"""Fixtures for pages: a real browser, in which a page can load nothing but itself."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

CHROMIUM = "chromium"

WAIT_SECONDS = 30.0


@dataclass
class Opened:
    """A page in the browser.

    Attributes:
        page: The page.
        messages: What it wrote to the console, errors and violations of its policy among them.
        requests: Addresses that it asked for; images that it holds itself are not among them.
    """

    page: Page
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def wait_for(self, condition: str) -> None:
        """Wait until a JavaScript expression is true.

        `Page.wait_for_function` cannot do it: it evaluates text inside the page, which the page's policy forbids.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, f"it never became true: {condition}"
            time.sleep(0.02)

    def first_paint(self) -> float:
        """Return the time from the navigation to the first paint of content, ms."""
        self.wait_for("performance.getEntriesByName('first-contentful-paint').length")
        return float(self.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))


class Open(Protocol):
    """The signature of the `open_page` fixture."""

    def __call__(self, path: Path, *, size: tuple[int, int] = (1500, 1000), javascript: bool = True) -> Opened: ...


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a running Chromium for the tests of one file. Skip them if it is not installed.

    Its driver runs an event loop, which would disturb tests of other files.
    """
    from playwright.sync_api import sync_playwright

    program = shutil.which(CHROMIUM)
    if program is None:
        pytest.skip(f"{CHROMIUM} is not on PATH; it is in Debian's package {CHROMIUM}")
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Return a function that opens a page from a file, in a browser without network."""
    contexts = []

    def open_file(path: Path, *, size: tuple[int, int] = (1500, 1000), javascript: bool = True) -> Opened:
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, java_script_enabled=javascript, offline=True
        )
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.on("console", lambda message: opened.messages.append(message.text))
        opened.page.on("pageerror", lambda error: opened.messages.append(str(error)))
        opened.page.on("dialog", lambda dialog: opened.messages.append(dialog.message))
        opened.page.on("request", lambda request: _add(opened.requests, request.url))
        opened.page.goto(path.as_uri())
        return opened

    yield open_file
    for context in contexts:
        context.close()


def _add(requests: list[str], url: str) -> None:
    if not url.startswith("data:"):
        requests.append(url)
