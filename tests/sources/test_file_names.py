"""File names of object keys are unique, valid, and inside of the destination."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ctbasis.sources.file_names import OWN_PREFIX, FileNames

if TYPE_CHECKING:
    from pathlib import Path

PARTS = st.one_of(
    st.sampled_from(["", ".", "..", "a", "A", "b", "~", "%", "%2E", "a~b", "\\", "C:", "x" * 300, "é", "e\u0301"]),
    st.sampled_from([OWN_PREFIX, f"{OWN_PREFIX}fetch.jsonl", "\x00", "\n", "\ud800"]),
    st.text(max_size=5),
)
KEYS = st.lists(st.lists(PARTS, min_size=1, max_size=5).map("/".join), unique=True, max_size=12)


def name_of(key: str) -> str:
    return FileNames().name(key)


@given(KEYS)
@example(["x" * 300 + "/", "x" * 300])
def test_the_names_of_any_keys_can_be_stored_in_one_folder(keys: list[str]) -> None:
    names = FileNames()
    given_names = [names.name(key) for key in keys]
    normalized = [unicodedata.normalize("NFC", name).casefold() for name in given_names]
    assert len(set(normalized)) == len(keys)
    for name in normalized:
        assert not any(other.startswith(f"{name}/") for other in normalized), "a file is the folder of another"


@given(KEYS)
def test_no_name_leaves_the_destination_or_is_reserved(keys: list[str]) -> None:
    names = FileNames()
    for key in keys:
        parts = names.name(key).split("/")
        assert not {"", ".", ".."} & set(parts)
        assert not any(part.startswith(OWN_PREFIX) for part in parts)
        assert not any(len(part.encode()) > 255 for part in parts)
        assert not any(ord(letter) < 32 for part in parts for letter in part)


@given(KEYS)
def test_the_same_listing_gives_the_same_names(keys: list[str]) -> None:
    first, second = FileNames(), FileNames()
    assert [first.name(key) for key in keys] == [second.name(key) for key in keys]


@pytest.mark.parametrize("key", ["a.dcm", "series/1/image 1.dcm", "ünïcode/日本.dcm", "a~b", "-rf", "con"])
def test_an_ordinary_key_keeps_its_name(key: str) -> None:
    assert name_of(key) == key


@pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "a/../../b", "..", "a/./b", "\x00", "a\\..\\b"])
def test_a_hostile_key_stays_in_the_destination(key: str, tmp_path: Path) -> None:
    path = tmp_path / name_of(key)
    assert path.resolve().is_relative_to(tmp_path.resolve())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def test_keys_with_very_many_parts_or_letters_can_be_stored(tmp_path: Path) -> None:
    for key in ("d/" * 2000 + "x", "x" * 1024, "é" * 512):
        path = tmp_path / name_of(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_a_key_that_is_the_folder_of_another_gets_a_separate_name() -> None:
    names = FileNames()
    first, second = names.name("a"), names.name("a/b")
    assert first == "a"
    assert not second.startswith("a/")
