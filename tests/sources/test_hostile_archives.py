"""Hostile and damaged archives: each is read right, or it or a member is set aside by name."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ctbasis.dicom.instance import read_slices
from ctbasis.dicom.set_aside import SetAside
from ctbasis.errors import CtbasisError
from ctbasis.sources.fetch import fetch
from ctbasis.sources.fetch_index import INDEX

if TYPE_CHECKING:
    from pathlib import Path

GOOD = bytes(range(256)) * 4
LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


class Space(NamedTuple):
    """As `shutil.disk_usage` returns it."""

    total: int
    used: int
    free: int


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


BOTH = {"bad": GOOD[::-1], "good": GOOD}


def patched(at: bytes, offset: int, value: bytes, members: dict[str, bytes] = BOTH) -> bytes:
    """Return a zip of `members` with bytes replaced at an offset from the first occurrence of `at`."""
    data = bytearray(zip_of(members))
    start = data.index(at) + offset
    data[start : start + len(value)] = value
    return bytes(data)


def with_method(number: int) -> bytes:
    """Return a zip whose first member claims another compression method, in both of its headers."""
    data = bytearray(patched(CENTRAL, 10, struct.pack("<H", number)))
    struct.pack_into("<H", data, 8, number)
    return bytes(data)


def special(mode: int, content: str = "/etc/passwd") -> bytes:
    """Return a zip whose first member has a file type of Unix other than a regular file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        member = zipfile.ZipInfo("bad")
        member.external_attr = mode << 16
        archive.writestr(member, content)
        archive.writestr("good", GOOD)
    return out.getvalue()


def twice_the_same_name() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("same", GOOD)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("same", GOOD[::-1])
    return out.getvalue()


def zip64() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open("good", "w", force_zip64=True) as member:
        member.write(GOOD)
    return out.getvalue()


def streamed() -> bytes:
    """Return a zip written to a pipe, with sizes after the content."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: object) -> int:
            raise OSError

        def tell(self) -> int:
            raise OSError

    out = Pipe()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("good", GOOD)
    return out.getvalue()


def overlapping(count: int = 300) -> bytes:
    """Return a bomb whose members share one compressed content, as David Fifield's do."""
    data = zip_of({"bad": bytes(100_000)})
    start, end = data.index(CENTRAL), data.index(END)
    entry = data[start:end]
    tail = bytearray(data[end:])
    struct.pack_into("<HHI", tail, 8, count, count, len(entry) * count)
    return data[:start] + entry * count + bytes(tail)


def tar_of(mode: str = "w", kind: bytes = tarfile.REGTYPE, name: str = "good", link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        member.size = len(GOOD) if kind == tarfile.REGTYPE else 0
        archive.addfile(member, io.BytesIO(GOOD))
    return out.getvalue()


@dataclass(frozen=True)
class Case:
    """An archive, and what is to come of it.

    Attributes:
        content: The file.
        files: The contents that must arrive, of the archive's members.
        left_out: Words of the reasons for what is left out, one a member or archive.
        kept: The archive is passed on as a file, and the matrix step sets it aside with these words.
        name: Name of the file.
    """

    content: bytes
    files: tuple[bytes, ...] = ()
    left_out: tuple[str, ...] = ()
    kept: str = ""
    name: str = "a.zip"


MANY = {str(number): GOOD + bytes([number % 256]) for number in range(300)}

NAMES = ("../up", "/root", "a/../../b", "..", "C:\\x", "\\\\host\\x", "n" * 3000, "d/" * 500 + "x")
NAMES += ("e\nf", "\x1b[2J", "\u202egpj", ".", "CON", " ", ".ctbasis-unfinished/x")

METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES", 12345: "12345"}

ONE = (GOOD,)
DEFLATED = zip_of({"good": GOOD})
CASES: dict[str, Case] = {
    "stored": Case(zip_of({"good": GOOD}, zipfile.ZIP_STORED), ONE),
    "deflated": Case(DEFLATED, ONE),
    "bzip2": Case(zip_of({"good": GOOD}, zipfile.ZIP_BZIP2), ONE),
    "lzma": Case(zip_of({"good": GOOD}, zipfile.ZIP_LZMA), ONE),
    "zip64": Case(zip64(), ONE),
    "streamed": Case(streamed(), ONE),
    "a text before it": Case(b"#!/bin/sh\n" * 50 + DEFLATED, ONE),
    "a comment": Case(DEFLATED[:-2] + b"\x05\x00hello", ONE),
    "an upper-case name": Case(DEFLATED, ONE, name="A.ZIP"),
    "no member": Case(zip_of({}), left_out=("holds no file",)),
    "only folders": Case(zip_of({"a/": b"", "a/b/": b""}), left_out=("holds no file",)),
    "an empty member": Case(zip_of({"empty": b"", "good": GOOD}), (b"", GOOD)),
    "a thousand members": Case(zip_of(MANY), tuple(MANY.values())),
    "the same name twice": Case(twice_the_same_name(), (GOOD, GOOD[::-1])),
    "names that differ in case": Case(zip_of({"A": GOOD, "a": GOOD[::-1]}), (GOOD, GOOD[::-1])),
    "a file and a folder of one name": Case(zip_of({"a": GOOD, "a/b": GOOD[::-1]}), (GOOD, GOOD[::-1])),
    "a nested zip": Case(zip_of({"inner.zip": DEFLATED, "good": GOOD}), (DEFLATED, GOOD)),
    "a tar in a zip": Case(zip_of({"inner.tar": tar_of(), "good": GOOD}), (tar_of(), GOOD)),
    "DICOMDIR in a zip": Case(zip_of({"DICOMDIR": GOOD}), ONE),
    **{
        f"the name {name[:12]!r}": Case(zip_of({name: GOOD}), ONE)
        for name in NAMES
    },
    "encrypted": Case(patched(CENTRAL, 8, b"\x01\x00"), ONE, ("encrypted",)),
    "strongly encrypted": Case(patched(CENTRAL, 8, b"\x41\x00"), ONE, ("encrypted",)),
    "a symbolic link": Case(special(0o120777), ONE, ("a link or a device",)),
    "a device": Case(special(0o060666), ONE, ("a link or a device",)),
    "a pipe": Case(special(0o010666), ONE, ("a link or a device",)),
    "a socket": Case(special(0o140666), ONE, ("a link or a device",)),
    "a wrong CRC": Case(patched(CENTRAL, 16, b"\x00\x00\x00\x00"), ONE, ("damaged",)),
    "a flipped byte": Case(patched(b"bad", 12, b"\xff\x00\xff"), ONE, ("damaged",)),
    "a size too small": Case(patched(CENTRAL, 24, struct.pack("<I", 10)), ONE, ("damaged",)),
    "a size too large": Case(patched(CENTRAL, 24, struct.pack("<I", 2000)), ONE, ("damaged",)),
    "a packed size beyond the file": Case(patched(CENTRAL, 20, struct.pack("<I", 10**6)), tuple(BOTH.values())),
    "an offset beyond the file": Case(patched(CENTRAL, 42, struct.pack("<I", 10**6)), ONE, ("damaged",)),
    "an offset of the other member": Case(patched(CENTRAL, 42, struct.pack("<I", 300)), ONE, ("damaged",)),
    "another name in the local header": Case(patched(LOCAL, 30, b"xxx"), ONE, ("damaged",)),
    "a damaged local header": Case(patched(LOCAL, 0, b"XXXX"), ONE, ("damaged",)),
    **{
        f"method {number}": Case(with_method(number), ONE, (words,))
        for number, words in METHODS.items()
    },
    "bzip2 that is not": Case(with_method(zipfile.ZIP_BZIP2), ONE, ("damaged",)),
    "lzma that is not": Case(with_method(zipfile.ZIP_LZMA), ONE, ("damaged",)),
    "stored that is not": Case(with_method(zipfile.ZIP_STORED), ONE, ("damaged",)),
    "a bomb": Case(zip_of({"bad": bytes(10_000_000)}), left_out=("times its size",)),
    "a bomb of overlapping members": Case(overlapping(), left_out=("times its size",)),
    "a size of 4 GB": Case(patched(CENTRAL, 24, struct.pack("<I", 0xFFFFFFFE)), left_out=("times its size",)),
    "truncated": Case(zip_of(BOTH)[:-30], kept="zip archive"),
    "only its first bytes": Case(LOCAL + b" and nothing else", kept="zip archive"),
    "a directory beyond the file": Case(patched(END, 16, struct.pack("<I", 10**7)), (), ("damaged",) * 2),
    "a count of members that is too large": Case(patched(END, 12, struct.pack("<I", 10**7)), kept="zip archive"),
    "an empty file": Case(b"", kept="empty"),
    "text": Case(b"no archive\n" * 100, kept=""),
    "a tar": Case(tar_of(), kept="tar archive", name="a.tar"),
    "a tar with a link": Case(tar_of(kind=tarfile.SYMTYPE, link="/etc/passwd"), kept="tar archive", name="a.tar"),
    "a tar with a name upwards": Case(tar_of(name="../../up"), kept="tar archive", name="a.tar"),
    "a tar with a device": Case(tar_of(kind=tarfile.BLKTYPE), kept="tar archive", name="a.tar"),
    "a truncated tar": Case(tar_of()[:700], kept="tar archive", name="a.tar"),
    "a tar.gz": Case(tar_of("w:gz"), kept="gzip", name="a.tar.gz"),
    "a tar.bz2": Case(tar_of("w:bz2"), kept="bzip2", name="a.tar.bz2"),
    "a tar.xz": Case(tar_of("w:xz"), kept="xz", name="a.tar.xz"),
    "a gzip file": Case(gzip.compress(GOOD), kept="gzip", name="a.dcm.gz"),
    "a bzip2 file": Case(bz2.compress(GOOD), kept="bzip2", name="a.dcm.bz2"),
    "an xz file": Case(lzma.compress(GOOD), kept="xz", name="a.dcm.xz"),
    "a gzip bomb": Case(gzip.compress(bytes(20_000_000)), kept="gzip", name="a.gz"),
    "a tar named zip": Case(tar_of(), kept="tar archive"),
    "a gzip file named zip": Case(gzip.compress(GOOD), kept="gzip"),
    "7z": Case(b"7z\xbc\xaf\x27\x1c" + bytes(200), kept="7z", name="a.7z"),
    "RAR": Case(b"Rar!\x1a\x07\x01\x00" + bytes(200), kept="RAR", name="a.rar"),
    "Zstandard": Case(b"\x28\xb5\x2f\xfd" + bytes(200), kept="Zstandard", name="a.tar.zst"),
    "zlib": Case(zlib.compress(GOOD * 10), name="a.z"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_each_archive_is_read_right_or_set_aside_by_name(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    (source / case.name).write_bytes(case.content)
    (source / "beside").write_bytes(b"beside")
    report = fetch(str(source), out)
    got = [path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != INDEX]
    passed_on = not case.files and not case.left_out
    expected = [*case.files, b"beside", *([case.content] if passed_on else [])]
    assert sorted(got) == sorted(expected)
    assert len(report.left_out) == len(case.left_out)
    for reason, words in zip(report.left_out, case.left_out, strict=True):
        assert words in reason
        assert reason.startswith(case.name)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}, "a file was written outside"
    assert not any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in out.rglob("*"))
    if passed_on:
        for result in read_slices(out, case.name):
            assert isinstance(result, SetAside)
            assert case.kept in result.reason
    assert "Traceback" not in capfd.readouterr().err
    assert fetch(str(source), out).objects == report.objects


def test_at_least_sixty_archives_are_tried() -> None:
    assert len(CASES) >= 60


def test_an_archive_that_would_fill_the_disk_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.zip").write_bytes(zip_of({"one": GOOD * 100, "two": GOOD * 100}))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Space(10**6, 0, 150_000))
    with pytest.raises(CtbasisError) as caught:
        fetch(str(tmp_path / "source"), tmp_path / "out")
    assert "the content of a.zip takes 204,800 bytes, and the workspace has 150,000 bytes free" in caught.value.found
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != INDEX]


@pytest.mark.parametrize("cut", range(0, 100, 7))
def test_an_archive_cut_anywhere_ends_in_files_or_in_a_reason(cut: int, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    data = zip_of(BOTH)
    (tmp_path / "source" / "a.zip").write_bytes(data[: len(data) * cut // 100])
    fetch(str(tmp_path / "source"), tmp_path / "out")
    (result,) = read_slices(tmp_path / "out", "a.zip")
    assert isinstance(result, SetAside)


def test_each_flipped_byte_of_an_archive_leaves_the_right_content_or_none(tmp_path: Path) -> None:
    data = zip_of(BOTH)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x55
        source, out = tmp_path / "source" / "a.zip", tmp_path / f"out-{position}"
        source.parent.mkdir(exist_ok=True)
        source.write_bytes(bytes(flipped))
        # A source without a single good object is refused.
        with contextlib.suppress(CtbasisError):
            fetch(str(source), out)
        allowed = {*BOTH.values(), bytes(flipped)}
        for path in out.rglob("*"):
            if path.is_file() and path.name != INDEX:
                assert path.read_bytes() in allowed, position
