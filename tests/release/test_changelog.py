"""CHANGELOG.md has the form of Keep a Changelog, and agrees with the version of the package."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

from ctbasis.installed import VERSION

TEXT = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def released() -> list[tuple[tuple[int, ...], date]]:
    found = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})$", TEXT, re.MULTILINE)
    return [(tuple(map(int, version.split("."))), date.fromisoformat(day)) for version, day in found]


def test_every_section_is_a_version_with_its_day_or_unreleased_and_the_newest_is_first() -> None:
    headings = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert len(headings) == 1 + len(released())
    assert released() == sorted(released(), reverse=True)
    assert set(re.findall(r"^### (.*)$", TEXT, re.MULTILINE)) <= KINDS


def test_the_version_of_the_package_is_the_newest_of_the_changelog_or_a_later_one() -> None:
    version = tuple(map(int, VERSION.split(".")))
    assert [one for one, _ in released() if one > version] == []
