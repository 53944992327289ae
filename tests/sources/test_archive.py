from __future__ import annotations

import io
import struct
import zipfile
from typing import TYPE_CHECKING

import pytest

from ctbasis.dicom.instance import read_slices
from ctbasis.dicom.unfit import SetAside
from ctbasis.sources import archive
from ctbasis.sources.fetch import fetch
from ctbasis.sources.index import INDEX

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctbasis.demo.s3server import S3Server


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return out.getvalue()


def fetched(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != INDEX
    }


SERIES = {"series/1.dcm": b"one" * 1000, "series/2.dcm": b"two" * 1000, "series/": b""}
WHOLE = {"a.zip/series/1.dcm": b"one" * 1000, "a.zip/series/2.dcm": b"two" * 1000}


def test_an_archive_among_other_files_becomes_a_folder_of_its_members(source: Path, tmp_path: Path) -> None:
    (source / "a.zip").write_bytes(zipped(SERIES))
    (source / "3.dcm").write_bytes(b"three")
    report = fetch(str(source), tmp_path / "out")
    assert fetched(tmp_path / "out") == {**WHOLE, "3.dcm": b"three"}
    assert (report.objects, report.left_out) == (3, ())
    assert fetch(str(source), tmp_path / "out").skipped == 3


def test_an_archive_can_be_the_source(source: Path, tmp_path: Path) -> None:
    (source / "a.zip").write_bytes(zipped(SERIES))
    (source / "not asked for").write_bytes(b"")
    fetch(str(source / "a.zip"), tmp_path / "out")
    assert fetched(tmp_path / "out") == WHOLE


def test_an_archive_on_s3_can_be_the_source(aws: S3Server, source: Path, tmp_path: Path) -> None:
    aws.client()
    (source / "a.zip").write_bytes(zipped(SERIES))
    aws.put_folder(source, "s3://images/archives")
    for uri in ("s3://images/archives", "s3://images/archives/a.zip"):
        fetch(uri, tmp_path / uri[-5:])
        assert fetched(tmp_path / uri[-5:]) == WHOLE


def test_a_dicomdir_is_a_name_for_the_medium_that_it_lies_on(aws: S3Server, source: Path, tmp_path: Path) -> None:
    (source / "DICOMDIR").write_bytes(b"index")
    (source / "IMAGES").mkdir()
    (source / "IMAGES" / "I1").write_bytes(b"image")
    aws.client()
    aws.put_folder(source, "s3://images/medium")
    for number, uri in enumerate((f"{source}/DICOMDIR", f"file://{source}/DICOMDIR", "s3://images/medium/DICOMDIR")):
        fetch(uri, tmp_path / str(number))
        assert fetched(tmp_path / str(number)) == {"DICOMDIR": b"index", "IMAGES/I1": b"image"}


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../../../evil", "..", "C:\\evil", "a\x00b"])
def test_a_member_of_a_hostile_name_stays_inside(source: Path, tmp_path: Path, name: str) -> None:
    (source / "a.zip").write_bytes(zipped({"good": b"good", name: b"evil"}))
    before = set(tmp_path.rglob("*"))
    fetch(str(source), tmp_path / "out")
    assert sorted(fetched(tmp_path / "out").values()) == [b"evil", b"good"]
    assert all(path.is_relative_to(tmp_path / "out") for path in set(tmp_path.rglob("*")) - before)


def link(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        made.writestr(entry, "/etc/passwd")
        made.writestr("good", content)
    return out.getvalue()


def encrypted(content: bytes) -> bytes:
    damaged = bytearray(zipped({"bad": b"x" * 100, "good": content}))
    damaged[damaged.index(b"PK\x01\x02") + 8] |= 1
    return bytes(damaged)


def flipped(content: bytes) -> bytes:
    damaged = bytearray(zipped({"bad": bytes(range(200)), "good": content}))
    damaged[damaged.index(b"bad") + 20] ^= 0xFF
    return bytes(damaged)


def longer_than_it_says(content: bytes) -> bytes:
    damaged = bytearray(zipped({"bad": b"x" * 1000, "good": content}))
    central = damaged.index(b"PK\x01\x02")
    struct.pack_into("<I", damaged, central + 24, 10)
    return bytes(damaged)


@pytest.mark.parametrize(
    ("make", "why"),
    [(link, "a link"), (encrypted, "encrypted"), (flipped, "damaged"), (longer_than_it_says, "damaged")],
)
def test_a_bad_member_costs_one_file_and_is_named(
    source: Path,
    tmp_path: Path,
    make: Callable[[bytes], bytes],
    why: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (source / "a.zip").write_bytes(make(b"good"))
    report = fetch(str(source), tmp_path / "out")
    assert fetched(tmp_path / "out") == {"a.zip/good": b"good"}
    (said,) = report.left_out
    assert said.startswith("a.zip, member 1: ")
    assert why in said
    assert f"WARNING: {said.partition(': ')[0]} is left out" in capfd.readouterr().err


def test_an_archive_that_unpacks_to_hundreds_of_times_its_size_is_left_closed(source: Path, tmp_path: Path) -> None:
    (source / "bomb.zip").write_bytes(zipped({"bomb": bytes(10_000_000)}))
    (source / "good").write_bytes(b"good")
    report = fetch(str(source), tmp_path / "out")
    assert fetched(tmp_path / "out") == {"good": b"good"}
    assert report.left_out == (f"bomb.zip: it unpacks to more than {archive.LARGEST_RATIO} times its size",)


@pytest.mark.parametrize("content", [b"PK\x03\x04 and no more", zipped(SERIES)[:-30]])
def test_an_archive_that_does_not_open_stays_and_is_set_aside_by_name(
    source: Path, tmp_path: Path, content: bytes
) -> None:
    (source / "a.zip").write_bytes(content)
    fetch(str(source), tmp_path / "out")
    assert fetched(tmp_path / "out") == {"a.zip": content}
    (found,) = read_slices(tmp_path / "out", "a.zip")
    assert isinstance(found, SetAside)
    assert "zip archive" in found.reason
    assert found.broken


def test_an_archive_that_does_not_name_its_keys_is_told_by_number(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (source / "Made^Up.zip").write_bytes(link(b"good"))
    fetch(str(source), tmp_path / "out", opaque=True)
    said = capfd.readouterr().err
    assert "archive 1, member 1" in said
    assert "Made" not in said
