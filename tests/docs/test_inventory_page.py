"""docs/reference/inventory.md has a row for each column of the inventory."""

from __future__ import annotations

from pathlib import Path

from ctbasis.cohort.inventory_output import column_table
from ctbasis.cohort.selection import Selection

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "inventory.md"


def test_the_page_has_the_table_of_the_columns() -> None:
    assert "\n".join(column_table()) in PAGE.read_text(encoding="utf-8")


def test_the_expressions_of_the_page_are_valid() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for line in text.splitlines():
        if "--where '" in line:
            Selection(line.split("--where '")[1].split("'")[0])
    for form in ('modality == "CT"', 'kernel =~ "B.*f"', 'description =~~ "thorax"', 'modality in ["CT", "PT"]'):
        assert f"`{form}`" in text
        Selection(form)
