"""Ranged reads: `Source.read` gives exactly the bytes of a range, for every kind of source."""

from __future__ import annotations

import os
import zipfile
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest

from ctbasis.demo.s3server import S3Server
from ctbasis.errors import CtbasisError
from ctbasis.sources.schemes import open_source
from ctbasis.sources.zip_archive import UnzippedSource
from tests.loopback import Served

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = os.urandom(100_000)


@pytest.fixture(params=["folder", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URI of a source with one object."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(CONTENT)
    if request.param == "folder":
        return str(folder)
    prefix = str(request.getfixturevalue("prefix"))
    server = request.getfixturevalue("aws")
    assert isinstance(server, S3Server)
    server.put_folder(folder, prefix)
    return prefix


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 1), (0, 65_536), (70_000, 70_008), (99_990, 100_000), (99_990, 200_000), (100_000, 100_008), (5, 5), (9, 3)],
)
def test_a_ranged_read_gives_the_bytes_of_the_range_and_fewer_at_the_end(uri: str, start: int, stop: int) -> None:
    source = open_source(uri, 1)
    (entry,) = source.objects()
    assert source.read(entry, start, stop) == CONTENT[start:stop]


def test_a_ranged_read_of_an_object_that_was_deleted_is_refused(uri: str, request: pytest.FixtureRequest) -> None:
    source = open_source(uri, 1)
    (entry,) = source.objects()
    if uri.startswith("s3://"):
        server = request.getfixturevalue("aws")
        server.client().delete_object(Bucket="stores", Key=entry.location)
    else:
        os.remove(entry.location)  # noqa: PTH107 - the location of an object is text
    with pytest.raises(CtbasisError, match="deleted"):
        source.read(entry, 0, 8)


@pytest.mark.usefixtures("no_aws")
def test_a_server_that_ignores_the_range_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = (
        b"<ListBucketResult><Name>b</Name><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated>"
        b"<Contents><Key>p/a</Key><Size>100</Size></Contents></ListBucketResult>"
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = listing if "list-type" in self.path else bytes(100)
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with Served(Handler) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        source = open_source("s3://b/p", 1)
        (entry,) = source.objects()
        assert source.read(entry, 0, 8) == bytes(8)
        with pytest.raises(CtbasisError, match="another range"):
            source.read(entry, 8, 16)


def test_a_member_of_an_archive_is_read_by_ranges(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    with zipfile.ZipFile(folder / "series.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", CONTENT)
    opened = open_source(str(folder), 1)
    unzipped = UnzippedSource(opened, opened.download, tmp_path)
    (entry,) = unzipped.objects()
    assert entry.key == "series.zip/a.dcm"
    assert unzipped.read(entry, 10, 20) == CONTENT[10:20]
