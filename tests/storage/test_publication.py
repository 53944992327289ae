"""A published result is whole or not there, in a folder and on S3, and never takes the place of other files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.storage.object_store import ObjectStore
from ctbasis.storage.objects import open_objects
from ctbasis.storage.outputs import RESULT
from ctbasis.storage.publication import publish, read_published

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.demo.s3server import S3Server

LAST = "series.json"

PART_BYTES = 8 << 20
"""Size of a file from which boto3 uploads it in parts."""


def result(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in {LAST: "{}", **files}.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def published(target: str) -> dict[str, bytes]:
    objects = open_objects(target)
    return {key: objects.read(key) or b"" for key in objects.sizes() if key != RESULT}


def test_a_second_result_takes_the_place_of_the_first_and_leaves_nothing_of_it(place: str, tmp_path: Path) -> None:
    target = f"{place}/patient/series"
    assert read_published(target, LAST) is None
    publish(result(tmp_path / "one", a="1", sub__b="2"), target, last=LAST)
    assert published(target) == {LAST: b"{}", "a": b"1", "sub/b": b"2"}
    publish(result(tmp_path / "two", a="3", c="4"), target, last=LAST)
    assert published(target) == {LAST: b"{}", "a": b"3", "c": b"4"}
    assert read_published(target, LAST) == b"{}"


def test_a_target_with_a_file_of_another_program_is_refused_and_stays(place: str, tmp_path: Path) -> None:
    target = f"{place}/series"
    publish(result(tmp_path / "one", a="1"), target, last=LAST)
    open_objects(target).write("zarr.json", b"mine")
    with pytest.raises(CtbasisError, match=r"zarr\.json"):
        publish(result(tmp_path / "two", a="2"), target, last=LAST)
    assert published(target) == {LAST: b"{}", "a": b"1", "zarr.json": b"mine"}


def test_an_upload_that_breaks_off_leaves_no_result_and_the_next_one_replaces_it(
    prefix: str, aws: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"{prefix}/series"
    publish(result(tmp_path / "one", a="1", old="x"), target, last=LAST)

    def broken(self: ObjectStore, key: str, path: Path) -> NoReturn:
        raise CtbasisError(f"{self.uri}/{key}: the server is off ({path.name})")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "upload", broken)
        with pytest.raises(CtbasisError, match="the server is off"):
            publish(result(tmp_path / "two", a="2"), target, last=LAST)
    assert read_published(target, LAST) is None
    # What a process that was killed in the middle of a large file leaves on the server.
    key = f"{target.removeprefix('s3://stores/')}/a"
    aws.client().create_multipart_upload(Bucket="stores", Key=key)
    publish(result(tmp_path / "three", a="3"), target, last=LAST)
    assert published(target) == {LAST: b"{}", "a": b"3"}
    assert not aws.client().list_multipart_uploads(Bucket="stores", Prefix=key).get("Uploads")


def test_a_large_file_arrives_whole_in_parts(prefix: str, aws: S3Server, tmp_path: Path) -> None:
    text = "0123456789abcdef" * (PART_BYTES // 8)
    publish(result(tmp_path / "one", large=text), f"{prefix}/series", last=LAST)
    key = f"{prefix.removeprefix('s3://stores/')}/series/large"
    answer = aws.client().get_object(Bucket="stores", Key=key)
    assert answer["Body"].read() == text.encode()
    # The ETag of an object that was uploaded in parts ends in their number.
    assert answer["ETag"].strip('"').endswith("-2")
