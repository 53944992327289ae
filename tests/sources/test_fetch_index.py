"""The index of a fetch is not believed where it names a file outside of the destination."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.sources.fetch import fetch
from ctbasis.sources.fetch_index import INDEX, FetchIndex, Record

if TYPE_CHECKING:
    from pathlib import Path

GOOD = Record("a/b.dcm", "a/b.dcm", 4, "etag", 1, checked=True)


def written(destination: Path, *lines: object) -> FetchIndex:
    destination.mkdir(exist_ok=True)
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    (destination / INDEX).write_text(text, encoding="utf-8", errors="surrogateescape")
    return FetchIndex(destination)


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/passwd", "..", ".", "", "a//b", "a\\..\\x", "a\0b", "link/x", INDEX, f"a/{INDEX}"],
)
def test_a_name_outside_of_the_destination_is_not_believed(name: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    index = written(tmp_path / "out", {**asdict(GOOD), "name": name, "key": "evil"}, asdict(GOOD))
    assert index.names == {"a/b.dcm"}
    assert index.records == {"a/b.dcm": GOOD}


@pytest.mark.parametrize(
    "line",
    [
        {**asdict(GOOD), "name": None},
        {**asdict(GOOD), "name": ["a"]},
        {**asdict(GOOD), "key": {}},
        {**asdict(GOOD), "size": "4"},
        {**asdict(GOOD), "checked": 1},
        [],
        "{",
        "[" * 100_000,
        "\udcff\udcfe",
    ],
    ids=range(9),
)
def test_a_line_that_no_fetch_wrote_is_ignored(line: Any, tmp_path: Path) -> None:
    index = written(tmp_path / "out", line, asdict(GOOD))
    assert index.records == {"a/b.dcm": GOOD}


def test_a_fetch_removes_no_file_that_a_forged_index_names(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_bytes(b"content")
    fetch(str(tmp_path / "source"), tmp_path / "out")
    (tmp_path / "thesis.txt").write_bytes(b"three years of work")
    with (tmp_path / "out" / INDEX).open("a") as file:
        file.write(json.dumps({**asdict(GOOD), "name": "../thesis.txt"}) + "\n")
    fetch(str(tmp_path / "source"), tmp_path / "out")
    assert (tmp_path / "thesis.txt").read_bytes() == b"three years of work"
    assert (tmp_path / "out" / "a").read_bytes() == b"content"
