"""Fetching: complete files only, no repeated downloads, resumption, and the safety of other files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.sources import retries
from ctbasis.sources.fetch import UNFINISHED, fetch
from ctbasis.sources.fetch_index import INDEX

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.demo.s3server import S3Server

FETCH = """
import sys
from pathlib import Path
from ctbasis.sources.fetch import fetch
fetch(sys.argv[1], Path(sys.argv[2]), workers=2)
"""

# RLIMIT_FSIZE makes writes beyond the limit fail, as a full disk or a quota does.
FETCH_ON_FULL_DISK = """
import resource, sys
from pathlib import Path
from ctbasis.errors import CtbasisError
from ctbasis.sources.fetch import fetch
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    fetch(sys.argv[1], Path(sys.argv[2]))
except CtbasisError as error:
    print(error)
    sys.exit(2)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a folder with a few files in two folders."""
    return make_files(tmp_path / "source", 12)


def make_files(folder: Path, count: int, size: int = 3000) -> Path:
    for number in range(count):
        path = folder / f"series-{number % 2}" / f"{number:05d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number.to_bytes(4, "little") * (size // 4))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != INDEX
    }


@pytest.fixture
def uploaded(aws: S3Server, source: Path, request: pytest.FixtureRequest) -> str:
    """Return an S3 URI with a copy of the source's files, used by this test only."""
    uri = f"s3://images/{abs(hash(request.node.name))}"
    aws.put_folder(source, uri)
    return uri


def put(aws: S3Server, uri: str, key: str, content: bytes) -> None:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    aws.client().put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=content)


@pytest.mark.parametrize("ending", ["", "/", "/*"])
def test_an_s3_prefix_becomes_a_folder_of_the_same_files(
    uploaded: str, source: Path, tmp_path: Path, ending: str
) -> None:
    report = fetch(uploaded + ending, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(source)
    assert (report.objects, report.bytes, report.skipped, report.size_only) == (12, 12 * 3000, 0, 0)
    assert not (tmp_path / "out" / UNFINISHED).exists()


def test_complete_files_are_not_fetched_again(uploaded: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fetch(uploaded, out)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.rglob("*.dcm")}
    assert fetch(uploaded, out).skipped == 12
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.rglob("*.dcm")} == before


@pytest.mark.parametrize("damage", ["cut", "flipped", "removed", "other date"])
def test_a_file_damaged_after_its_fetch_is_fetched_again(
    uploaded: str, source: Path, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "out"
    fetch(uploaded, out)
    victim = out / "series-1" / "00003.dcm"
    status = victim.stat()
    if damage == "cut":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif damage == "flipped":
        victim.write_bytes(b"\xff" + victim.read_bytes()[1:])
        # Size and date are unchanged, so only the content shows the damage.
        os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif damage == "removed":
        victim.unlink()
    else:
        os.utime(victim, ns=(1, 1))
    report = fetch(uploaded, out)
    assert contents(out) == contents(source)
    # Another date does not prove damage: the content is compared and the file is kept.
    assert report.skipped == (12 if damage == "other date" else 11)


def test_changed_objects_are_fetched_and_files_of_deleted_objects_removed(
    aws: S3Server, uploaded: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    fetch(uploaded, out)
    put(aws, uploaded, "series-0/00000.dcm", b"another content")
    bucket, _, prefix = uploaded.removeprefix("s3://").partition("/")
    for number in range(1, 12, 2):
        aws.client().delete_object(Bucket=bucket, Key=f"{prefix}/series-1/{number:05d}.dcm")
    report = fetch(uploaded, out)
    assert (out / "series-0" / "00000.dcm").read_bytes() == b"another content"
    assert (report.objects, report.skipped, report.removed) == (6, 5, 6)
    assert not (out / "series-1").exists(), "an empty folder was left behind"


def test_a_name_may_change_from_a_file_to_a_folder_and_back(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (source / "name").write_bytes(b"a file")
    fetch(str(source), out)
    (source / "name").unlink()
    (source / "name").mkdir()
    (source / "name" / "inner").write_bytes(b"below")
    fetch(str(source), out)
    assert contents(out) == contents(source)
    shutil.rmtree(source / "name")
    (source / "name").write_bytes(b"a file again")
    fetch(str(source), out)
    assert contents(out) == contents(source)


def test_a_listing_of_several_pages_is_fetched_completely(aws: S3Server, tmp_path: Path) -> None:
    # A page of the S3 protocol holds 1,000 keys.
    source = make_files(tmp_path / "source", 1203, size=8)
    aws.put_folder(source, "s3://images/pages")
    assert fetch("s3://images/pages", tmp_path / "out", workers=16).objects == 1203
    assert contents(tmp_path / "out") == contents(source)


def test_a_prefix_excludes_keys_that_only_begin_alike(aws: S3Server, tmp_path: Path) -> None:
    for key in ("scan/a", "scan-2/b", "scan"):
        put(aws, "s3://images/neighbours", key, key.encode())
    fetch("s3://images/neighbours/scan", tmp_path / "folder")
    assert contents(tmp_path / "folder") == {"a": b"scan/a"}
    fetch("s3://images/neighbours/scan-2/b", tmp_path / "one")
    assert contents(tmp_path / "one") == {"b": b"scan-2/b"}


def test_unusual_keys_become_files_in_the_destination(aws: S3Server, tmp_path: Path) -> None:
    keys = [
        "a b",
        "a+b",
        "a%20b",
        "ü/日本",
        "q?x=1&y=#z",
        "back\\slash",
        "ctl\x01",
        "Case",
        "case",
        ".ctbasis-fetch.jsonl",
    ]
    for key in keys:
        put(aws, "s3://images/odd", key, key.encode())
    put(aws, "s3://images/odd", "marker/", b"")
    report = fetch("s3://images/odd", tmp_path / "out")
    assert sorted(contents(tmp_path / "out").values()) == sorted(key.encode() for key in keys)
    assert report.objects == len(keys)
    assert fetch("s3://images/odd", tmp_path / "out").skipped == len(keys)


def test_an_object_uploaded_in_parts_is_checked_against_its_multipart_etag(aws: S3Server, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "big").write_bytes(os.urandom(20 << 20))
    aws.put_folder(tmp_path / "source", "s3://images/parts")
    entry = aws.client().head_object(Bucket="images", Key="parts/big")
    assert entry["ETag"].strip('"').endswith("-3"), "the upload did not have three parts"
    assert fetch("s3://images/parts", tmp_path / "out").size_only == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "source")


def test_a_killed_fetch_leaves_only_complete_files_and_can_be_continued(aws: S3Server, tmp_path: Path) -> None:
    source = make_files(tmp_path / "source", 300, size=200_000)
    aws.put_folder(source, "s3://images/killed")
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", FETCH, "s3://images/killed", str(out)], env={**os.environ, **aws.environment()}
    )

    # Incomplete files are in the folder UNFINISHED; only complete files have their final names.
    while len([path for path in out.rglob("*.dcm") if UNFINISHED not in path.parts]) < 20:
        assert process.poll() is None, "the fetch ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    expected = contents(source)
    present = {name: content for name, content in contents(out).items() if not name.startswith(UNFINISHED)}
    assert 20 <= len(present) < 300
    assert all(expected[name] == content for name, content in present.items())
    report = fetch("s3://images/killed", out)
    assert contents(out) == expected
    assert report.skipped >= len(present) - 2


def test_an_index_with_an_incomplete_last_line_is_read(uploaded: str, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fetch(uploaded, out)
    (out / INDEX).write_text((out / INDEX).read_text()[:-20])
    original = source / "series-0" / "00000.dcm"
    assert fetch(uploaded, out).skipped == 12
    assert original.exists()
    assert all(json.loads(line)["checked"] for line in (out / INDEX).read_text().splitlines())


def test_files_of_a_folder_are_hard_linked_if_possible(source: Path, tmp_path: Path) -> None:
    report = fetch(source.as_uri(), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(source)
    assert (tmp_path / "out/series-0/00000.dcm").samefile(source / "series-0/00000.dcm")
    assert report.size_only == 0
    assert fetch(str(source), tmp_path / "out").skipped == 12


def test_files_on_another_volume_are_copied(source: Path, tmp_path: Path) -> None:
    other = Path("/dev/shm")  # noqa: S108 - another volume; the test uses a folder of its own there
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has no second volume to write to")
    out = other / f"ctbasis-test-{os.getpid()}"
    try:
        fetch(str(source), out)
        assert contents(out) == contents(source)
        assert not (out / "series-0/00000.dcm").samefile(source / "series-0/00000.dcm")
        assert fetch(str(source), out).skipped == 12
        (source / "series-0/00000.dcm").write_bytes(b"new")
        assert fetch(str(source), out).skipped == 11
        assert contents(out) == contents(source)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def test_symbolic_links_out_of_the_source_are_not_followed(source: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"private")
    (source / "out-file").symlink_to(secret / "key")
    (source / "out-folder").symlink_to(secret)
    (source / "loop").symlink_to(source)
    (source / "dangling").symlink_to(tmp_path / "nowhere")
    (source / "inside").symlink_to(source / "series-0" / "00000.dcm")
    os.mkfifo(source / "pipe")
    fetch(str(source), tmp_path / "out")
    fetched = contents(tmp_path / "out")
    assert b"private" not in fetched.values()
    assert set(fetched) == {f"series-{number % 2}/{number:05d}.dcm" for number in range(12)} | {"inside"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_a_folder_with_files_of_other_origin_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("ten years")
    with pytest.raises(CtbasisError, match="did not fetch"):
        fetch(str(source), out)
    assert contents(out) == {"thesis.tex": b"ten years"}


def test_a_file_that_the_user_added_is_kept(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fetch(str(source), out)
    (out / "notes.txt").write_text("mine")
    (source / "series-0/00000.dcm").unlink()
    assert fetch(str(source), out).removed == 1
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("where", [".", "series-0", ".."])
def test_a_source_cannot_be_fetched_into_itself(source: Path, where: str) -> None:
    before = contents(source)
    with pytest.raises(CtbasisError, match="the same folder, or one contains the other"):
        fetch(str(source), source / where)
    assert contents(source) == before


def test_an_empty_folder_is_refused_and_an_earlier_fetch_kept(source: Path, tmp_path: Path) -> None:
    fetch(str(source), tmp_path / "out")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CtbasisError, match="holds no object"):
        fetch(str(empty), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(source)


def test_a_full_disk_is_reported_and_leaves_no_incomplete_file(source: Path, tmp_path: Path, aws: S3Server) -> None:
    (source / "big").write_bytes(bytes(1 << 20))
    aws.put_folder(source, "s3://images/full-disk")
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", FETCH_ON_FULL_DISK, "s3://images/full-disk", str(out)],
        env={**os.environ, **aws.environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stdout
    assert "remedy" in done.stdout
    assert "big" not in contents(out)
    assert not list((out / UNFINISHED).iterdir())
    assert fetch("s3://images/full-disk", out).objects == 13


def test_an_interrupted_download_is_repeated(
    uploaded: str, source: Path, tmp_path: Path, flaky: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setenv("AWS_ENDPOINT_URL", flaky(3))
    report = fetch(uploaded, tmp_path / "out", workers=1)
    assert report.objects == 12
    assert contents(tmp_path / "out") == contents(source)


def test_a_download_that_always_fails_is_reported(
    uploaded: str, tmp_path: Path, flaky: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setenv("AWS_ENDPOINT_URL", flaky(10_000))
    with pytest.raises(CtbasisError, match="could not be downloaded in 4 attempts"):
        fetch(uploaded, tmp_path / "out", workers=1)
    assert not [path for path in contents(tmp_path / "out") if path.endswith(".dcm")]
