"""The summary of a cohort in a real browser: what is on the screen at 1, 50 and 2,000 series."""

from __future__ import annotations

import re
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ctbasis.cohort.distribution import GROUPS_SHOWN
from ctbasis.cohort.record import State
from ctbasis.cohort.summary import write_summary
from tests.cohort.cohorts import SCANNERS, WARNING, cohort, record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from playwright.sync_api import Locator

    from ctbasis.cohort.record import SeriesRecord
    from tests.browser import Open, Opened

FIRST_PAINT = 5000
"""Milliseconds to the first paint, at most, on a machine that runs other tests too; alone it takes a tenth of that."""

LARGEST = {1: 50_000, 50: 600_000, 2000: 8_000_000}
"""Bytes of the page, at most, by number of series."""

PHONE = (390, 844)

COLUMNS = (
    "images",
    "name",
    "patient",
    "scanner",
    "kernel",
    "slices",
    "state",
    "seconds",
    "before",
    "after",
    "removed",
    "warnings",
)
"""Columns of the table of series, in their order."""

ON_SCREEN = """index => {
  const place = row => row.getBoundingClientRect();
  const rows = Array.from(document.querySelectorAll("#series tbody tr")).filter(row => place(row).height > 0);
  rows.sort((one, other) => place(one).top - place(other).top);
  const text = cell => Array.from((cell.querySelector("summary") ?? cell).childNodes)
    .filter(node => node.nodeName !== "SMALL").map(node => node.textContent).join("").trim();
  return rows.map(row => text(row.cells[index]));
}"""
"""Returns the texts of a column, without what is small, in the rows that have a place on the page, top to bottom."""


def summary(folder: Path, records: Sequence[SeriesRecord], **facts: str) -> Path:
    """Write the summary and return the path of its page."""
    write_summary(records, folder, facts=facts)
    return folder / "summary.html"


@pytest.fixture(scope="module")
def fifty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a cohort of 50 series. Tests only open it."""
    return summary(tmp_path_factory.mktemp("fifty"), cohort(50), source="s3://archive/chests", mode="patch")


def column(opened: Opened, name: str) -> list[str]:
    """Return the texts of a column in the rows that the page shows, from top to bottom."""
    found: list[str] = opened.page.evaluate(ON_SCREEN, COLUMNS.index(name))
    return found


def head(opened: Opened, name: str) -> Locator:
    """Return the button in the head of a column."""
    return opened.page.locator(f"#series th[data-key={name}] button")


def ascending(texts: Sequence[str]) -> bool:
    """Return whether numbers ascend; texts without a number come last."""
    numbers = [float(text.split()[0]) for text in texts if text]
    return numbers == sorted(numbers) and "" not in texts[: len(numbers)]


def shown(opened: Opened) -> str:
    """Return the line that says how many series are shown."""
    return opened.page.locator("#shown").inner_text()


@pytest.mark.parametrize("count", [1, 50, 2000])
def test_a_page_is_small_is_soon_on_the_screen_and_loads_nothing(count: int, tmp_path: Path, open_page: Open) -> None:
    path = summary(tmp_path, cohort(count))
    assert path.stat().st_size < LARGEST[count]
    opened = open_page(path)
    assert opened.first_paint() < FIRST_PAINT
    assert len(column(opened, "name")) == count
    assert shown(opened) == f"{count} of {count} series"
    assert opened.requests == [path.as_uri()]
    assert opened.messages == []


def test_two_thousand_series_are_sorted_and_filtered(tmp_path: Path, open_page: Open) -> None:
    records = cohort(2000)
    opened = open_page(summary(tmp_path, records))
    head(opened, "before").click()
    assert column(opened, "before")[0] == f"{min(r.noise_before for r in records if r.noise_before is not None):.1f}"
    assert ascending(column(opened, "before"))
    opened.page.fill("[name=text]", records[1234].row.series)
    assert column(opened, "patient") == [records[1234].row.patient]


@pytest.mark.parametrize("name", ["slices", "seconds", "before", "after", "removed", "warnings"])
def test_a_click_on_the_head_of_a_column_sorts_by_its_numbers_and_unknown_ones_come_last(
    name: str, fifty: Path, open_page: Open
) -> None:
    opened = open_page(fifty)
    head(opened, name).click()
    upwards = column(opened, name)
    assert ascending(upwards)
    assert opened.page.locator(f"th[data-key={name}]").get_attribute("aria-sort") == "ascending"
    head(opened, name).click()
    downwards = column(opened, name)
    known = len([text for text in downwards if text])
    assert ascending(downwards[:known][::-1])
    assert downwards[known:] == [""] * (50 - known)
    assert sorted(upwards) == sorted(downwards)
    assert opened.page.locator("th[aria-sort]").count() == 1


def test_texts_are_sorted_as_people_sort_them(tmp_path: Path, open_page: Open) -> None:
    descriptions = ["Chest 10 mm", "abdomen", "Chest 2 mm", "Ärzte"]
    records = [record(n, description=text) for n, text in enumerate(descriptions)]
    opened = open_page(summary(tmp_path, records))
    assert column(opened, "name") == descriptions
    head(opened, "name").click()
    assert column(opened, "name") == ["abdomen", "Ärzte", "Chest 2 mm", "Chest 10 mm"]


def test_the_keyboard_alone_sorts_filters_and_opens_warnings(fifty: Path, open_page: Open) -> None:
    opened = open_page(fifty)
    keyboard = opened.page.keyboard
    focused = "document.activeElement.name || document.activeElement.innerText.trim()"

    def tab_to(name: str) -> None:
        for _ in range(60):
            keyboard.press("Tab")
            if opened.page.evaluate(focused) == name:
                return
        pytest.fail(f"Tab does not reach {name}")

    tab_to("text")
    keyboard.type("thorax fc08")
    assert set(column(opened, "kernel")) == {"FC08"}
    tab_to("warned")
    keyboard.press("Space")
    assert column(opened, "warnings") == []
    tab_to("Show all")
    keyboard.press("Enter")
    opened.wait_for("document.getElementById('shown').value === '50 of 50 series'")
    tab_to("Seconds")
    keyboard.press("Enter")
    assert ascending(column(opened, "seconds"))
    keyboard.press("Space")
    assert not ascending(column(opened, "seconds"))
    opened.page.locator("details summary").first.focus()
    keyboard.press("Enter")
    assert opened.page.get_by_text(WARNING).first.is_visible()


def test_the_filters_show_the_rows_that_match_all_of_them(fifty: Path, open_page: Open) -> None:
    opened = open_page(fifty)
    opened.page.select_option("[name=state]", "failed")
    assert set(column(opened, "state")) == {"failed"}
    assert shown(opened) == "2 of 50 series"
    opened.page.select_option("[name=state]", "")
    opened.page.select_option("[name=scanner]", "SIEMENS SOMATOM Force")
    both = column(opened, "kernel")
    assert set(both) == {"Br40d", "Bl57d"}
    opened.page.select_option("[name=kernel]", "Bl57d")
    assert column(opened, "kernel") == ["Bl57d"] * both.count("Bl57d")
    opened.page.click("button[type=reset]")
    opened.wait_for("document.getElementById('shown').value === '50 of 50 series'")
    opened.page.check("[name=warned]")
    assert column(opened, "warnings") == ["1"] * len([r for r in cohort(50) if r.warnings])


def test_reasons_are_on_the_screen_and_are_found(fifty: Path, open_page: Open) -> None:
    opened = open_page(fifty)
    opened.page.fill("[name=text]", "holds no pixels")
    assert column(opened, "state") == ["failed", "failed"]
    assert opened.page.get_by_text("slice 12 of 80 holds no pixels").first.is_visible()


def test_the_numbers_above_filter_the_table_by_state_and_the_plot_by_scanner_and_kernel(
    fifty: Path, open_page: Open
) -> None:
    opened = open_page(fifty)
    opened.page.click(".tiles a:has-text('not run')")
    opened.wait_for("document.getElementById('shown').value.startsWith('2 ')")
    assert column(opened, "state") == ["not run", "not run"]
    opened.page.locator("#noise a").first.click()
    opened.wait_for("!document.getElementById('shown').value.startsWith('2 ')")
    assert len(set(zip(column(opened, "scanner"), column(opened, "kernel"), strict=True))) == 1


def test_without_javascript_all_rows_are_there_and_nothing_that_does_not_work(fifty: Path, open_page: Open) -> None:
    opened = open_page(fifty, javascript=False)
    assert opened.page.locator("#series tbody tr").count() == 50
    assert opened.page.locator("#series tbody tr").nth(49).is_visible()
    assert not opened.page.locator("#filter").is_visible()
    assert opened.page.locator("#series button").count() == 0
    opened.page.locator("details summary").first.click()
    assert opened.page.get_by_text(WARNING).first.is_visible()


def test_a_link_opens_the_report_whatever_its_folder_is_called(tmp_path: Path, open_page: Open) -> None:
    folder = tmp_path / "P 1#a?b%20:ä" / "javascript:alert(1)"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<p>the report</p>")
    entry = replace(record(0), report=(folder / "report.html").relative_to(tmp_path).as_posix())
    opened = open_page(summary(tmp_path, [entry]))
    opened.page.locator("#series tbody a").click()
    opened.page.get_by_text("the report").wait_for()
    assert opened.messages == []


def test_texts_of_headers_are_shown_as_they_are_and_run_nothing(tmp_path: Path, open_page: Open) -> None:
    hostile = [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</title></style></script><script>alert(1)</script>",
        "{{ 7 * 7 }}",
        "javascript:alert(1)",
    ]
    records = [
        replace(
            record(n, description=text, patient=text, manufacturer="", model=text, kernel=text, series=text),
            reason=text,
            warnings=(text,),
            report="",
        )
        for n, text in enumerate(hostile)
    ]
    opened = open_page(summary(tmp_path, records, **dict.fromkeys(hostile, hostile[0])))
    for name in ("name", "patient", "scanner", "kernel"):
        assert column(opened, name) == hostile
    opened.page.select_option("[name=scanner]", hostile[1])
    assert column(opened, "scanner") == [hostile[1]]
    opened.page.fill("[name=text]", "7 * 7")
    assert opened.requests == [(tmp_path / "summary.html").as_uri()]
    assert opened.messages == []


def test_a_line_break_or_an_invisible_character_of_a_header_is_shown_as_an_escape(
    tmp_path: Path, open_page: Open
) -> None:
    opened = open_page(summary(tmp_path, [record(0, patient="Doe\n\u202e1")]))
    assert column(opened, "patient") == [r"Doe\n\u202e1"]


def test_the_policy_of_the_page_blocks_any_other_script_style_and_address(fifty: Path, open_page: Open) -> None:
    opened = open_page(fifty)
    opened.page.evaluate(
        """() => {
          for (const [tag, name, value] of [["script", "textContent", "window.ran = 1"],
                                            ["style", "textContent", "body { display: none }"],
                                            ["img", "src", "http://127.0.0.1:9/x.png"]]) {
            const element = document.createElement(tag);
            element[name] = value;
            document.body.append(element);
          }
        }"""
    )
    assert opened.page.evaluate("window.ran") is None
    assert opened.page.locator("h1").is_visible()
    assert len([text for text in opened.messages if "Content Security Policy" in text]) == 3


@pytest.mark.parametrize("size", [PHONE, (800, 900), (1240, 900), (1260, 900), (1500, 1000)])
def test_the_page_is_never_wider_than_the_screen(size: tuple[int, int], tmp_path: Path, open_page: Open) -> None:
    long = "1." + "23456789" * 8
    records = [*cohort(20), record(20, patient=long, description="X" * 64, kernel="K" * 16, model="M" * 64)]
    opened = open_page(summary(tmp_path, records, source="s3://" + "b" * 200), size=size)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_on_a_phone_every_value_of_a_card_is_named_by_the_head_of_its_column(fifty: Path, open_page: Open) -> None:
    opened = open_page(fifty, size=PHONE)
    names = opened.page.evaluate(
        """() => Array.from(document.querySelectorAll("#series tbody tr:first-child td"),
                            cell => getComputedStyle(cell, "::before").content.replaceAll('"', ""))"""
    )
    heads = opened.page.locator("#series thead th").all_text_contents()
    assert len(heads) == len(COLUMNS)
    assert names[2:] == heads[2:]
    head(opened, "after").click()
    assert ascending(column(opened, "after"))


def test_the_plot_draws_the_noise_that_its_table_states(tmp_path: Path, open_page: Open) -> None:
    records = [record(number) for number in range(6 * 70)]
    opened = open_page(summary(tmp_path, records))
    assert opened.page.locator("#noise tbody tr").count() == len(SCANNERS)
    for number, (maker, model, kernel, _) in enumerate(sorted(SCANNERS)):
        row = opened.page.locator("#noise tbody tr").nth(number)
        assert row.locator("th").inner_text().split("\n") == [f"{maker} {model}", kernel]
        members = [r for r in records if r.row.kernel == kernel]
        before = statistics.median(r.noise_before for r in members if r.noise_before is not None)
        after = statistics.median(r.noise_after for r in members if r.noise_after is not None)
        count, _, *medians = row.locator("td").all_inner_texts()
        assert int(count) == len(members) == 70
        assert medians[:2] == [f"{before:.1f}", f"{after:.1f}"]
        ticks = [row.locator("line.grid").nth(n).bounding_box() for n in (0, -1)]
        end = float(opened.page.locator("#noise tfoot text").last.text_content() or "")
        for kind, median in (("before", before), ("after", after)):
            box = row.locator(f"line.median.{kind}").bounding_box()
            assert box is not None
            assert ticks[0] is not None
            assert ticks[1] is not None
            share = (box["x"] - ticks[0]["x"]) / (ticks[1]["x"] - ticks[0]["x"])
            assert share * end == pytest.approx(median, abs=0.01 * end)


def test_few_series_are_dots_and_many_scanners_share_the_last_row(tmp_path: Path, open_page: Open) -> None:
    records = [record(number, model=f"model {number:02}") for number in range(GROUPS_SHOWN + 3)]
    opened = open_page(summary(tmp_path, records))
    rows = opened.page.locator("#noise tbody tr")
    assert rows.count() == GROUPS_SHOWN + 1
    assert rows.last.locator("th").inner_text() == "3 other combinations"
    assert rows.first.locator("circle").count() == 2
    assert rows.last.locator("circle").count() == 6
    assert rows.last.locator("line:not(.grid):not(.median)").count() == 0


def test_a_cohort_without_any_noise_has_no_plot_and_one_without_series_has_no_rows(
    tmp_path: Path, open_page: Open
) -> None:
    opened = open_page(summary(tmp_path / "failed", [record(0, State.FAILED)]))
    assert opened.page.locator("#noise").count() == 0
    assert column(opened, "state") == ["failed"]
    opened = open_page(summary(tmp_path / "none", []))
    assert opened.page.locator("h1").inner_text() == "0 of 0 series denoised"
    assert opened.messages == []


def test_the_page_names_the_patient_as_the_records_do_and_holds_no_digest(tmp_path: Path) -> None:
    entry = record(0, patient="pseudonym-7", digest="d1e5")
    text = summary(tmp_path, [entry]).read_text(encoding="utf-8")
    assert "pseudonym-7" in text
    assert not re.search(r"d1e5|/tmp|" + re.escape(str(tmp_path)), text.split("base64")[0] + text.split("</td>", 1)[1])
