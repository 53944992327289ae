"""The result of reading every file of two public collections, compared with tables that were reviewed by hand.

The tables are in outcomes/*.csv. `python tests/dicom/test_outcomes.py FOLDER` prints the table of a folder. Review it
before it replaces a recorded table.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest

from ctbasis.dicom.instance import read_slices, read_values
from ctbasis.dicom.set_aside import SetAside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TABLES = Path(__file__).parent / "outcomes"
FIELDS = ("file", "outcome", "reason")
NO_IMAGES = {"INDEX.csv", "SOURCE.txt"}


def outcomes(root: Path) -> Iterator[dict[str, str]]:
    """Yield a row per file: `read`, `aside` (not a CT slice) or `refused` (an unreadable CT slice), with the reason."""
    for path in sorted(root.rglob("*")):
        file = path.relative_to(root).as_posix()
        if path.is_file() and path.suffix not in {".py", ".pyc"} and path.name not in NO_IMAGES:
            results = Counter(_outcome(root, file))
            outcome = "/".join(sorted({kind for kind, _ in results}))
            reasons = [reason if count == 1 else f"{reason} ({count} frames)" for (_, reason), count in results.items()]
            yield {"file": file, "outcome": outcome, "reason": "; ".join(reasons)}


def _outcome(root: Path, file: str) -> Iterator[tuple[str, str]]:
    for result in read_slices(root, file):
        if isinstance(result, SetAside):
            yield "refused" if result.broken else "aside", result.reason
            continue
        entry = result[0]
        try:
            values = read_values(root, entry)
        except ValueError as error:
            yield "refused", str(error)
        else:
            description = f"{entry.Rows} x {entry.Columns}, stored {values.min()} to {values.max()}"
            yield "read", "; ".join((description, *entry.tolerated))


def recorded(name: str) -> list[dict[str, str]]:
    with (TABLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def compare(root: Path, name: str) -> list[dict[str, str]]:
    expected = {row["file"]: row for row in recorded(name)}
    actual = {row["file"]: row for row in outcomes(root)}
    assert actual.keys() == expected.keys()
    assert [row for file, row in actual.items() if row != expected[file]] == []
    return list(actual.values())


def test_every_file_of_pydicom_has_the_reviewed_outcome() -> None:
    rows = compare(Path(pydicom.__file__).parent / "data", "pydicom")
    assert sum(row["file"].startswith("test_files/") for row in rows) == 176


@pytest.mark.data
def test_every_file_of_the_robustness_archive_has_the_reviewed_outcome(
    real_data: Callable[[str], Path],
) -> None:
    assert len(compare(real_data("dicom-robustness"), "dicom-robustness")) == 221


@pytest.mark.parametrize("name", ["pydicom", "dicom-robustness"])
def test_every_recorded_outcome_has_a_reason(name: str) -> None:
    for row in recorded(name):
        assert row["outcome"] in {"read", "aside", "refused"}
        assert row["reason"]


if __name__ == "__main__":
    writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(outcomes(Path(sys.argv[1])))
