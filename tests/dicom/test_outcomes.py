"""What becomes of every file of two public collections, as recorded in outcomes/*.csv and reviewed by hand.

`python tests/dicom/test_outcomes.py FOLDER` prints the table of a folder, to be compared and reviewed
before it replaces a recorded one.
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
    """Yield a row a file: `read`, `aside` (no slice of a CT series) or `refused` (meant to be one), and why."""
    for path in sorted(root.rglob("*")):
        file = path.relative_to(root).as_posix()
        if path.is_file() and path.suffix not in {".py", ".pyc"} and path.name not in NO_IMAGES:
            found = Counter(_outcome(root, file))
            outcome = "/".join(sorted({kind for kind, _ in found}))
            reasons = [reason if count == 1 else f"{reason} ({count} frames)" for (_, reason), count in found.items()]
            yield {"file": file, "outcome": outcome, "reason": "; ".join(reasons)}


def _outcome(root: Path, file: str) -> Iterator[tuple[str, str]]:
    for found in read_slices(root, file):
        if isinstance(found, SetAside):
            yield "refused" if found.broken else "aside", found.reason
            continue
        entry = found[0]
        try:
            values = read_values(root, entry)
        except ValueError as error:
            yield "refused", str(error)
        else:
            seen = f"{entry.Rows} x {entry.Columns}, stored {values.min()} to {values.max()}"
            yield "read", "; ".join((seen, *entry.tolerated))


def recorded(name: str) -> list[dict[str, str]]:
    with (TABLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def compare(root: Path, name: str) -> list[dict[str, str]]:
    expected = {row["file"]: row for row in recorded(name)}
    found = {row["file"]: row for row in outcomes(root)}
    assert found.keys() == expected.keys()
    assert [row for file, row in found.items() if row != expected[file]] == []
    return list(found.values())


def test_every_file_that_pydicom_brings_has_the_outcome_that_was_reviewed() -> None:
    rows = compare(Path(pydicom.__file__).parent / "data", "pydicom")
    assert sum(row["file"].startswith("test_files/") for row in rows) == 176


@pytest.mark.data
def test_every_file_of_the_robustness_archive_has_the_outcome_that_was_reviewed(
    real_data: Callable[[str], Path],
) -> None:
    assert len(compare(real_data("dicom-robustness"), "dicom-robustness")) == 221


@pytest.mark.parametrize("name", ["pydicom", "dicom-robustness"])
def test_no_recorded_outcome_is_that_the_reader_gave_up_without_a_name(name: str) -> None:
    for row in recorded(name):
        assert row["outcome"] in {"read", "aside", "refused"}
        assert row["reason"]


if __name__ == "__main__":
    writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(outcomes(Path(sys.argv[1])))
