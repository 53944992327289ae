"""Checks of pages in a browser: axe's rules, a phone's width, and the keyboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from axe_playwright_python.sync_playwright import Axe

if TYPE_CHECKING:
    from playwright.sync_api import Page

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
"""Rules of axe: WCAG 2.2 at level AA (contrast, texts for images, names), good practice (headings, landmarks)."""

PHONE = (390, 844)
"""Width and height of a phone in CSS pixels."""


def violations(page: Page, *, scheme: str = "light") -> list[str]:
    """Return what axe finds in a page in a colour scheme: rule, help, and the elements."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    options = {"runOnly": RULES, "resultTypes": ["violations"], "preload": False}
    found = Axe().run(page, options=options).response["violations"]
    return [f"{one['id']}: {one['help']}: {[node['target'] for node in one['nodes'][:5]]}" for one in found]


def overhang(page: Page) -> int:
    """Return by how many pixels a page is wider than its window; what scrolls by itself does not count."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def reached_by_tab(page: Page, presses: int) -> list[str]:
    """Return the text of the elements that the key Tab reaches one after the other, from the start of the page."""
    reached = []
    for _ in range(presses):
        page.keyboard.press("Tab")
        reached.append(str(page.evaluate("(document.activeElement.innerText || document.activeElement.title).trim()")))
    return reached
