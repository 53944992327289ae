"""Paths that a user names: texts that no path can be, and places where nothing can be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.storage.outputs import write_file
from ctbasis.storage.paths import absolute_path, refuse_overlap

if TYPE_CHECKING:
    from pathlib import Path


def test_a_text_that_no_path_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in ("a\x00b", str(tmp_path / "loop")):
        with pytest.raises(CtbasisError, match="is no path"):
            absolute_path(place)
        with pytest.raises(CtbasisError, match="is no path"):
            refuse_overlap(tmp_path / "out", [place])


def test_a_file_is_written_whole_with_its_folders(tmp_path: Path) -> None:
    write_file(tmp_path / "a" / "b" / "page.html", "new")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["page.html"]
    assert (tmp_path / "a" / "b" / "page.html").read_text() == "new"


def test_a_file_that_cannot_be_written_leaves_everything_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("ten years")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "file" / "page.html"):
        with pytest.raises(CtbasisError, match="cannot be written"):
            write_file(path, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "ten years"
