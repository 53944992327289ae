"""Zip archives in a source: they are replaced by their members, and hostile or damaged ones are left out."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import TYPE_CHECKING

import pytest

from ctbasis.dicom.instance import read_slices
from ctbasis.dicom.set_aside import SetAside
from ctbasis.sources.fetch import fetch
from ctbasis.sources.fetch_index import INDEX
from ctbasis.sources.zip_archive import MAX_RATIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctbasis.demo.s3server import S3Server


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def zip_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def contents(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != INDEX
    }


SERIES = {"series/1.dcm": b"one" * 1000, "series/2.dcm": b"two" * 1000, "series/": b""}
UNPACKED = {"a.zip/series/1.dcm": b"one" * 1000, "a.zip/series/2.dcm": b"two" * 1000}


def test_an_archive_among_other_files_becomes_a_folder_of_its_members(source: Path, tmp_path: Path) -> None:
    (source / "a.zip").write_bytes(zip_of(SERIES))
    (source / "3.dcm").write_bytes(b"three")
    report = fetch(str(source), tmp_path / "out")
    assert contents(tmp_path / "out") == {**UNPACKED, "3.dcm": b"three"}
    assert (report.objects, report.left_out) == (3, ())
    assert fetch(str(source), tmp_path / "out").skipped == 3


def test_an_archive_can_be_the_source(source: Path, tmp_path: Path) -> None:
    (source / "a.zip").write_bytes(zip_of(SERIES))
    (source / "other file").write_bytes(b"")
    fetch(str(source / "a.zip"), tmp_path / "out")
    assert contents(tmp_path / "out") == UNPACKED


def test_an_archive_on_s3_can_be_the_source(aws: S3Server, source: Path, tmp_path: Path) -> None:
    aws.client()
    (source / "a.zip").write_bytes(zip_of(SERIES))
    aws.put_folder(source, "s3://images/archives")
    for uri in ("s3://images/archives", "s3://images/archives/a.zip"):
        fetch(uri, tmp_path / uri[-5:])
        assert contents(tmp_path / uri[-5:]) == UNPACKED


def test_a_dicomdir_names_the_folder_that_contains_it(aws: S3Server, source: Path, tmp_path: Path) -> None:
    (source / "DICOMDIR").write_bytes(b"index")
    (source / "IMAGES").mkdir()
    (source / "IMAGES" / "I1").write_bytes(b"image")
    aws.client()
    aws.put_folder(source, "s3://images/medium")
    for number, uri in enumerate((f"{source}/DICOMDIR", f"file://{source}/DICOMDIR", "s3://images/medium/DICOMDIR")):
        fetch(uri, tmp_path / str(number))
        assert contents(tmp_path / str(number)) == {"DICOMDIR": b"index", "IMAGES/I1": b"image"}


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../../../evil", "..", "C:\\evil", "a\x00b"])
def test_a_member_with_a_hostile_name_stays_in_the_destination(source: Path, tmp_path: Path, name: str) -> None:
    (source / "a.zip").write_bytes(zip_of({"good": b"good", name: b"evil"}))
    before = set(tmp_path.rglob("*"))
    fetch(str(source), tmp_path / "out")
    assert sorted(contents(tmp_path / "out").values()) == [b"evil", b"good"]
    assert all(path.is_relative_to(tmp_path / "out") for path in set(tmp_path.rglob("*")) - before)


def zip_with_link(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
        archive.writestr("good", content)
    return out.getvalue()


def zip_with_encrypted_member(content: bytes) -> bytes:
    damaged = bytearray(zip_of({"bad": b"x" * 100, "good": content}))
    damaged[damaged.index(b"PK\x01\x02") + 8] |= 1
    return bytes(damaged)


def zip_with_damaged_member(content: bytes) -> bytes:
    damaged = bytearray(zip_of({"bad": bytes(range(200)), "good": content}))
    damaged[damaged.index(b"bad") + 20] ^= 0xFF
    return bytes(damaged)


def zip_with_understated_size(content: bytes) -> bytes:
    damaged = bytearray(zip_of({"bad": b"x" * 1000, "good": content}))
    central = damaged.index(b"PK\x01\x02")
    struct.pack_into("<I", damaged, central + 24, 10)
    return bytes(damaged)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (zip_with_link, "a link"),
        (zip_with_encrypted_member, "encrypted"),
        (zip_with_damaged_member, "damaged"),
        (zip_with_understated_size, "damaged"),
    ],
)
def test_a_bad_member_is_left_out_and_reported(
    source: Path,
    tmp_path: Path,
    make: Callable[[bytes], bytes],
    reason: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (source / "a.zip").write_bytes(make(b"good"))
    report = fetch(str(source), tmp_path / "out")
    assert contents(tmp_path / "out") == {"a.zip/good": b"good"}
    (message,) = report.left_out
    assert message.startswith("a.zip, member 1: ")
    assert reason in message
    assert f"WARNING: {message.partition(': ')[0]} is left out" in capfd.readouterr().err


def test_an_archive_with_an_excessive_compression_ratio_is_not_unpacked(source: Path, tmp_path: Path) -> None:
    (source / "bomb.zip").write_bytes(zip_of({"bomb": bytes(10_000_000)}))
    (source / "good").write_bytes(b"good")
    report = fetch(str(source), tmp_path / "out")
    assert contents(tmp_path / "out") == {"good": b"good"}
    assert report.left_out == (f"bomb.zip: it unpacks to more than {MAX_RATIO} times its size",)


@pytest.mark.parametrize("content", [b"PK\x03\x04 and nothing else", zip_of(SERIES)[:-30]])
def test_an_unreadable_archive_is_kept_and_set_aside_by_the_matrix_step(
    source: Path, tmp_path: Path, content: bytes
) -> None:
    (source / "a.zip").write_bytes(content)
    fetch(str(source), tmp_path / "out")
    assert contents(tmp_path / "out") == {"a.zip": content}
    (result,) = read_slices(tmp_path / "out", "a.zip")
    assert isinstance(result, SetAside)
    assert "zip archive" in result.reason
    assert result.broken


def test_messages_name_an_archive_by_number_if_keys_are_opaque(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (source / "Made^Up.zip").write_bytes(zip_with_link(b"good"))
    fetch(str(source), tmp_path / "out", opaque=True)
    messages = capfd.readouterr().err
    assert "archive 1, member 1" in messages
    assert "Made" not in messages
