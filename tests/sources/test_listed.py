"""A list of objects is a source: exactly these objects are fetched, from the source that lists them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.sources.fetch import fetch
from ctbasis.sources.listed import write_list
from ctbasis.sources.schemes import open_source

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.demo.s3server import S3Server


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".ctbasis")
    }


def test_exactly_the_listed_objects_of_a_folder_are_fetched(tmp_path: Path) -> None:
    source = tmp_path / "a b%20c"
    (source / "sub").mkdir(parents=True)
    for name in ("one", "two", "sub/three"):
        (source / name).write_text(name)
    entries = {entry.key: entry for entry in open_source(str(source), 1).objects()}
    uri = write_list(tmp_path / "list of two.json", str(source), [entries["two"], entries["sub/three"]])
    fetch(uri, tmp_path / "out")
    assert files(tmp_path / "out") == {"two": b"two", "sub/three": b"sub/three"}


def test_listed_objects_of_a_bucket_are_fetched_and_a_deleted_one_is_refused(aws: S3Server, tmp_path: Path) -> None:
    client = aws.client()
    client.create_bucket(Bucket="listed")
    for name in "abc":
        client.put_object(Bucket="listed", Key=f"x/{name}", Body=name.encode())
    entries = list(open_source("s3://listed/x", 1).objects())
    uri = write_list(tmp_path / "list.json", "s3://listed/x", entries[1:])
    fetch(uri, tmp_path / "out")
    assert files(tmp_path / "out") == {"b": b"b", "c": b"c"}
    client.delete_object(Bucket="listed", Key="x/c")
    with pytest.raises(CtbasisError, match="replaced or deleted after it had been listed"):
        fetch(uri, tmp_path / "again")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"source": "x"}',
        '{"source": "x", "objects": [{"key": "k", "location": "l", "size": -1, "etag": ""}]}',
    ],
)
def test_a_damaged_list_is_refused_by_its_path(content: str, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises(CtbasisError, match=r"list\.json cannot be read"):
        open_source(f"objects://{path}", 1)


def test_a_list_does_not_name_a_list(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"source": f"objects://{path}", "objects": []}))
    with pytest.raises(CtbasisError, match="names another list"):
        open_source(f"objects://{path}", 1)
