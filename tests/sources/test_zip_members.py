"""Members of archives are read in place: with the content that unpacking gives, and hostile archives break nothing."""

from __future__ import annotations

import contextlib
import io
import random
import zipfile
from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import UnreachableError
from ctbasis.sources import retries
from ctbasis.sources.folder import FolderSource
from ctbasis.sources.ranged_file import MAX_WINDOWS, WINDOW_BYTES, RangedFile, read_with_retries
from ctbasis.sources.s3 import S3Source
from ctbasis.sources.zip_members import DamagedMemberError, ZipMembers
from tests.sources.test_hostile_archives import BOTH, CASES, zip_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctbasis.demo.s3server import S3Server

IN_PLACE = [name for name, case in CASES.items() if case.name.lower().endswith(".zip")]


def contents(folder: Path) -> tuple[list[bytes], list[str]]:
    """Return the contents of the members of the one archive in a folder, and why others cannot be read."""
    source = FolderSource(str(folder), 1)
    (entry,) = source.objects()
    zips = ZipMembers(source)
    found, faults = [], []
    for member in zips.members(entry):
        if member.fault:
            faults.append(member.fault)
            continue
        try:
            found.append(zips.read(entry, member.entry, 0, member.entry.size or 0))
        except DamagedMemberError:
            faults.append("damaged")
    return found, faults


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_each_archive_is_read_in_place_as_it_is_unpacked(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    (tmp_path / case.name).write_bytes(case.content)
    if not case.files and not case.left_out:
        with pytest.raises(zipfile.BadZipFile):
            contents(tmp_path)
        return
    found, faults = contents(tmp_path)
    assert set(case.files) <= set(found)
    assert len(found) + len(faults) == len(case.files) + len(case.left_out)
    for words in case.left_out:
        # A member whose size is stated wrong can be read up to that size.
        assert any(words in fault for fault in faults) or "a size" in name


def test_each_flipped_byte_of_an_archive_gives_content_or_a_damaged_member(tmp_path: Path) -> None:
    data = zip_of(BOTH)
    for position in range(0, len(data), 3):
        flipped = bytearray(data)
        flipped[position] ^= 0x55
        (tmp_path / "a.zip").write_bytes(bytes(flipped))
        with contextlib.suppress(zipfile.BadZipFile):
            contents(tmp_path)


def test_the_start_of_a_member_costs_a_window_of_the_archive(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(3_000_000)
    (tmp_path / "a.zip").write_bytes(zip_of({"a": content, "b": content}))
    reads: list[int] = []

    class Counted(FolderSource):
        def read(self, entry: object, start: int, stop: int) -> bytes:
            reads.append(stop - start)
            return super().read(entry, start, stop)  # type: ignore[arg-type]

    source = Counted(str(tmp_path), 1)
    (entry,) = source.objects()
    zips = ZipMembers(source)
    for member in zips.members(entry):
        assert zips.read(entry, member.entry, 0, 1000) == content[:1000]
    assert sum(reads) <= 4 * WINDOW_BYTES


def test_a_ranged_file_gives_what_a_file_gives(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(WINDOW_BYTES * (MAX_WINDOWS + 3) + 17)
    (tmp_path / "a").write_bytes(content)
    source = FolderSource(str(tmp_path), 1)
    (entry,) = source.objects()
    ranged, plain = RangedFile(source, entry, len(content)), io.BytesIO(content)
    draw = random.Random(2)
    for _ in range(200):
        place = draw.randrange(len(content) + 100)
        count = draw.choice([0, 1, 22, 4096, 200_000])
        assert (ranged.seek(place), ranged.read(count)) == (plain.seek(place), plain.read(count))
    assert ranged.seek(-22, io.SEEK_END) == plain.seek(-22, io.SEEK_END)
    assert ranged.read() == plain.read()
    with pytest.raises(OSError, match="negative"):
        ranged.seek(-1)


@pytest.mark.parametrize("cuts", [2, 1000])
def test_a_range_is_read_again_after_the_connection_broke(
    cuts: int,
    tmp_path: Path,
    aws: S3Server,
    prefix: str,
    flaky: Callable[[int], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = random.Random(3).randbytes(100_000)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a").write_bytes(content)
    aws.put_folder(tmp_path / "images", prefix)
    monkeypatch.setattr(retries, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setenv("AWS_ENDPOINT_URL", flaky(cuts))
    source = S3Source(prefix, 1)
    (entry,) = source.objects()
    if cuts == 2:
        assert read_with_retries(source, entry, 10, 90_000) == content[10:90_000]
    else:
        with pytest.raises(UnreachableError, match="could not be read"):
            read_with_retries(source, entry, 10, 90_000)
