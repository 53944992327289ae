"""The page of `ctbasis view` in a real browser, by what is on the screen."""

from __future__ import annotations

from contextlib import ExitStack
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import requests
from PIL import Image

from ctbasis.errors import CtbasisError
from ctbasis.viewer.result import open_result
from ctbasis.viewer.serve import Viewing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from playwright.sync_api import Browser, Page

    from tests.viewer.conftest import Run

ROW, COLUMN = 11, 21
"""A voxel within the mark of the slices."""

LINE = [(row, 10) for row in range(4, 40, 3)]
"""Voxels of a column."""


@pytest.fixture(scope="module")
def address(run: Run) -> Iterator[str]:
    """Return the address of the page, with the token."""
    with Viewing(open_result(run.out, run.source)).running() as (_, address):
        yield address


class Screen:
    """The page, and what it did."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.messages, self.requests = page, list[str](), list[str]()
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(address)
        self.shows("axial 6")

    def shows(self, image: str) -> None:
        self.page.wait_for_selector(f"[data-shown='{image}']")

    def pane(self, name: str) -> NDArray[Any]:
        """Return the pixels of a pane on the screen, grey."""
        shot = self.page.locator(f".pane-{name} canvas").screenshot()
        return np.asarray(Image.open(BytesIO(shot)).convert("RGB"), np.int16)

    def spot(self, name: str, row: int, column: int) -> tuple[float, float]:
        """Return the place of the centre of a voxel on the canvas of a pane, pixels."""
        place = self.page.evaluate(
            "([name, row, column]) => { const { canvas } = viewer.panes[name]; const p = viewer.layout(canvas);"
            " return [p.left + (column + 0.5) * p.across, p.top + (row + 0.5) * p.down]; }",
            [name, row, column],
        )
        return float(place[0]), float(place[1])

    def greys(self, name: str, voxels: Iterable[tuple[int, int]]) -> list[int]:
        """Return the grey levels of voxels, row and column, on the screen."""
        picture, levels = self.pane(name), []
        for row, column in voxels:
            x, y = self.spot(name, row, column)
            red, green, blue = picture[round(y), round(x)]
            assert red == green == blue
            levels.append(int(red))
        return levels

    def grey(self, name: str, row: int = ROW, column: int = COLUMN) -> int:
        """Return the grey level of a voxel on the screen."""
        return self.greys(name, [(row, column)])[0]

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()


@pytest.fixture
def screen(browser: Browser, address: str) -> Iterator[Screen]:
    """Return the page as it is opened."""
    with ExitStack() as stack:
        context = browser.new_context(viewport={"width": 1400, "height": 620})
        stack.callback(context.close)
        yield Screen(context.new_page(), address)


def level(hu: float, center: float, width: float) -> float:
    return float(np.clip(255 * (hu - (center - width / 2)) / width, 0, 255))


def test_four_panes_show_the_voxels_in_their_windows_and_scroll_together(run: Run, screen: Screen) -> None:
    before, after = run.before.astype(float), run.after.astype(float)
    for step in range(3):
        index = 6 + step
        screen.shows(f"axial {index}")
        assert screen.grey("before") == pytest.approx(level(before[index, ROW, COLUMN], -400, 1200), abs=1)
        assert screen.grey("after") == pytest.approx(level(after[index, ROW, COLUMN], -400, 1200), abs=1)
        limit = float(screen.page.evaluate("viewer.window.removed"))
        removed = (before - after)[index, 36, 14]
        shown = screen.grey("removed", 36, 14)
        assert shown == pytest.approx(level(removed, 0, 2 * limit), abs=1)
        assert screen.pane("sigma").max() > 20
        screen.page.locator(".pane-removed canvas").hover(position={"x": 3, "y": 3})
        screen.page.mouse.wheel(0, 100)
    assert screen.messages == []
    origin = screen.page.url.split("#")[0]
    assert all(url.startswith((origin, "data:")) for url in screen.requests)


def test_a_preset_of_the_window_changes_the_pictures(run: Run, screen: Screen) -> None:
    screen.press("lung")
    hu = float(run.before[6, ROW, COLUMN])
    assert screen.grey("before") == pytest.approx(level(hu, -600, 1500), abs=1)
    screen.press("bone")
    assert screen.grey("before") == pytest.approx(level(hu, 400, 1800), abs=1)


def test_coronal_and_sagittal_planes_have_the_head_up_and_the_marks_of_all_slices(screen: Screen) -> None:
    for plane, index, column in (("coronal", ROW, COLUMN), ("sagittal", COLUMN, ROW)):
        screen.press(plane)
        screen.page.evaluate(f"viewer.go({index})")
        screen.shows(f"{plane} {index}")
        greys = screen.greys("before", [(row, column) for row in range(12)])
        # The mark is brighter from slice to slice upwards.
        expected = [level(100 * (11 - row) - 1000, -400, 1200) for row in range(12)]
        assert greys == pytest.approx(expected, abs=1)


def test_the_mouse_gives_the_hu_of_all_panes(run: Run, screen: Screen) -> None:
    x, y = screen.spot("after", ROW, COLUMN)
    screen.page.locator(".pane-after canvas").hover(position={"x": x, "y": y})
    text = screen.page.locator(".slices-values").text_content() or ""
    before_hu, after_hu = int(run.before[6, ROW, COLUMN]), int(run.after[6, ROW, COLUMN])
    assert text.startswith("slice 7, row 12, column 22: ")
    texts = f"before {before_hu} HU, after {after_hu} HU, removed {before_hu - after_hu} HU, sigma "
    assert texts.replace("-", "\u2212") in text


def test_zoom_and_drag_move_all_panes(screen: Screen) -> None:
    row, column = 24, 22
    old = {name: screen.spot(name, row, column) for name in ("before", "sigma")}
    grey = screen.grey("before", row, column)
    canvas = screen.page.locator(".pane-before canvas")
    canvas.dblclick(position={"x": 60, "y": 60})
    assert screen.grey("before", row, column) == grey
    box = canvas.bounding_box()
    assert box is not None
    screen.page.mouse.move(box["x"] + 60, box["y"] + 60)
    screen.page.mouse.down()
    screen.page.mouse.move(box["x"] + 90, box["y"] + 70)
    screen.page.mouse.up()
    screen.page.mouse.move(0, 0)
    middle = (box["width"] / 2, box["height"] / 2)
    for name, place in old.items():
        moved = screen.spot(name, row, column)
        assert moved[0] == pytest.approx(middle[0] + 2 * (place[0] - middle[0]) + 30, abs=1.5)
        assert moved[1] == pytest.approx(middle[1] + 2 * (place[1] - middle[1]) + 10, abs=1.5)
    assert screen.grey("before", row, column) == grey
    screen.press("reset")
    assert screen.spot("before", row, column) == old["before"]


def test_the_curtain_shows_before_at_the_left_and_after_at_the_right(screen: Screen) -> None:
    before, after = screen.pane("before"), screen.pane("after")
    assert np.abs(before - after).max() > 5
    screen.press("curtain")
    box = screen.page.locator(".pane-after canvas").bounding_box()
    assert box is not None
    pictures = {}
    for side, place in (("before", box["width"] - 2), ("after", 2)):
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        screen.page.evaluate("viewer.curtain = 0.5; viewer.place()")
        screen.page.mouse.move(x, y)
        screen.page.mouse.down()
        screen.page.mouse.move(box["x"] + place, y)
        screen.page.mouse.up()
        screen.page.mouse.move(0, 0)
        pictures[side] = screen.greys("after", LINE)
    assert pictures["before"] != pictures["after"]
    screen.press("panes")
    assert pictures["before"] == screen.greys("before", LINE)
    assert pictures["after"] == screen.greys("after", LINE)


def test_flicker_shows_before_and_after_in_turn_at_one_place(screen: Screen) -> None:
    panes = {name: screen.greys(name, LINE) for name in ("before", "after")}
    assert panes["before"] != panes["after"]
    screen.press("flicker")
    for name in ("before", "after", "before"):
        screen.page.wait_for_selector(f".pane-after figcaption:text-is('{name}')")
    for name in ("before", "after"):
        # The timer could change the picture while it is taken.
        screen.page.evaluate(f"clearInterval(viewer.timer); viewer.flicker = {str(name == 'before').lower()}")
        screen.page.evaluate("viewer.place()")
        assert screen.greys("after", LINE) == panes[name]


def test_images_need_the_token_and_the_page_says_so(browser: Browser, address: str) -> None:
    place, _, token = address.partition("#token=")
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        for route in ("series", "progress", "images/axial/0"):
            assert requests.get(place + route, headers=headers, timeout=10).status_code == 401
    answer = requests.get(f"{place}images/axial/0", headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert answer.headers["Cache-Control"] == "no-store"
    assert len(answer.content) == 3 * 2 * 48 * 40
    for wrong, status in (("images/axial/12", 404), ("images/axial/-1", 404), ("images/oblique/0", 400)):
        answer = requests.get(place + wrong, headers={"Authorization": f"Bearer {token}"}, timeout=10)
        assert answer.status_code == status
    with ExitStack() as stack:
        context = browser.new_context()
        stack.callback(context.close)
        page = context.new_page()
        page.goto(place)
        page.get_by_text("The token is missing or wrong").wait_for()


@pytest.mark.parametrize("host", ["0.0.0.0", "", "192.0.2.7"])  # noqa: S104 - it is refused
def test_other_machines_are_not_served_without_tls(run: Run, host: str) -> None:
    with (
        pytest.raises(CtbasisError, match="without encryption"),
        Viewing(open_result(run.out, run.source), host=host).running(),
    ):
        pass
