"""The tutorials docs/tutorial/figure-1.md and notebook.md lead to what they promise, with smaller phantoms."""

from __future__ import annotations

import doctest
import json
import re
from typing import TYPE_CHECKING

from tests.docs.fences import CHECKOUT, execute

if TYPE_CHECKING:
    from pathlib import Path

SLICES = 12


def test_figure_1_shows_each_rank_with_its_error(tmp_path: Path) -> None:
    printed = execute("docs/tutorial/figure-1.md", tmp_path, {"SLICES": f"{SLICES}", "EDGE": "64"})
    rows = re.findall(r"^rank +(\d+): error in the body +([\d.]+) HU, edge ratio ([\d.]+)$", printed, re.MULTILINE)
    ranks = json.loads((tmp_path / "figure" / "metrics.json").read_text())["ranks"]
    assert [row[0] for row in rows] == list(ranks) == ["50", "244", "300"]
    assert (tmp_path / "figure" / "figure1.png").is_file()
    # Each rank is above the number of slices, so each is the identity.
    assert all(rank["identity"] for rank in ranks.values())


def test_the_examples_of_the_notebook_run() -> None:
    result = doctest.testfile(str(CHECKOUT / "docs" / "tutorial" / "notebook.md"), module_relative=False)
    assert result.attempted > 8
    assert not result.failed
