"""Manifests: lines of every form, and those that are refused."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.sources.fetch import fetch
from ctbasis.sources.fetch_index import INDEX
from ctbasis.sources.schemes import open_source
from tests.loopback import Served
from tests.repositories import SECRET, use

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ctbasis.demo.s3server import S3Server

FILES = {"/set/a.dcm": b"a" * 1000, "/set/deep/b.dcm": b"b" * 1000, "/other/c.dcm": b"c" * 1000, "/set/empty": b""}


class Web(Served):
    """A web server with `FILES` and a manifest. It knows ranges or not, and each answer has an ETag of its own kind."""

    def __init__(self, *, ranges: bool = True, etag: str = '"5f-{size:x}"') -> None:
        web = self
        self.manifest, self.kind, self.seen = b"", "text/plain", []  # type: ignore[var-annotated]

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.seen.append((self.path, dict(self.headers)))
                path = self.path.partition("?")[0]
                body, status, extra = FILES.get(path), 200, {}
                if path == "/set/manifest.txt":
                    body, extra = web.manifest, {"Content-Type": web.kind}
                elif body is None:
                    body, status = b"no", 404
                else:
                    extra = {"ETag": etag.format(size=len(body))} if etag else {}
                given = self.headers.get("Range", "")
                if ranges and given and status == 200:
                    first, last = map(int, given.removeprefix("bytes=").split("-"))
                    total, status = len(body), 206 if first < len(body) else 416
                    body = body[first : last + 1]
                    extra["Content-Range"] = (
                        f"bytes {first}-{first + len(body) - 1}/{total}" if body else f"bytes */{total}"
                    )
                self.send_response(status)
                for name, value in extra.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Handler)


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def web(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    use(monkeypatch, {})
    with Web(ranges=request.param) as running:
        yield running


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != INDEX
    }


def test_urls_and_paths_of_a_manifest_become_files(web: Web, tmp_path: Path) -> None:
    web.manifest = (
        f"# made today\n\na.dcm?s={SECRET}\r\ndeep/b.dcm\n{web.url}/other/c.dcm?s={SECRET}#x\nempty\n".encode()
    )
    uri, out = f"{web.url}/set/manifest.txt?s={SECRET}", tmp_path / "out"
    report = fetch(uri, out)
    host = web.url.removeprefix("http://")
    assert contents(out) == {
        "a.dcm": FILES["/set/a.dcm"],
        "deep/b.dcm": FILES["/set/deep/b.dcm"],
        f"{host}/other/c.dcm": FILES["/other/c.dcm"],
        "empty": b"",
    }
    assert report.size_only == 4, "the ETag of a web server is no digest"
    assert fetch(uri, out).skipped == 4
    assert SECRET not in (out / INDEX).read_text()
    source = open_source(uri, 2)
    assert not [entry for entry in source.objects() if SECRET in repr(entry)]
    # Another process downloads and reads by the locations alone, such as a step that has a list of objects.
    entries = {entry.key: entry for entry in source.objects()}
    fresh = open_source(uri, 2)
    assert fresh.read(entries["deep/b.dcm"], 990, 2000) == b"b" * 10
    assert fresh.read(entries["empty"], 0, 10) == b""
    assert fresh.download(entries["a.dcm"], tmp_path / "a") is False


def test_a_manifest_that_was_changed_after_the_listing_is_told(web: Web, tmp_path: Path) -> None:
    web.manifest = b"a.dcm\ndeep/b.dcm\n"
    entries = list(open_source(f"{web.url}/set/manifest.txt", 1).objects())
    web.manifest = b"deep/b.dcm\n"
    for entry in entries:
        with pytest.raises(CtbasisError, match="replaced or deleted"):
            open_source(f"{web.url}/set/manifest.txt", 1).download(entry, tmp_path / "file")


def test_an_object_without_an_etag_is_fetched_again_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, {})
    with Web(etag="") as web:
        web.manifest = b"a.dcm\n"
        fetch(f"{web.url}/set/manifest.txt", tmp_path / "out")
        assert fetch(f"{web.url}/set/manifest.txt", tmp_path / "out").skipped == 0


def test_an_etag_in_the_form_of_an_md5_is_no_digest_if_the_server_is_no_object_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, {})
    with Web(etag='"0123456789abcdef0123456789abcdef"') as web:
        web.manifest = b"a.dcm\n"
        fetch(f"{web.url}/set/manifest.txt", tmp_path / "out")
    assert contents(tmp_path / "out") == {"a.dcm": FILES["/set/a.dcm"]}


@pytest.mark.parametrize(
    "line",
    [
        f"file:///etc/passwd?{SECRET}",
        f"ftp://host/{SECRET}",
        f"http://user:{SECRET}@host/a",
        f"http://host:99999/{SECRET}",
        f"<a href='{SECRET}'>",
        f"two words {SECRET}",
        f"az://container/{SECRET}",
        f"cp /local/{SECRET} .",
        f"//[{SECRET}",
    ],
)
def test_a_line_that_is_no_address_is_refused_by_its_number(web: Web, tmp_path: Path, line: str) -> None:
    web.manifest = f"a.dcm\n{line}\n".encode()
    with pytest.raises(CtbasisError) as caught:
        fetch(f"{web.url}/set/manifest.txt", tmp_path / "out")
    assert "entry 2 of the manifest" in str(caught.value)
    assert SECRET not in f"{caught.value!r}{caught.value.__cause__!r}"


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\x80\x81", b"<!DOCTYPE html><html></html>"])
def test_a_file_that_is_no_manifest_is_refused(web: Web, tmp_path: Path, content: bytes) -> None:
    web.manifest = content
    with pytest.raises(CtbasisError, match=r"holds no object|not text|no address"):
        fetch(f"{web.url}/set/manifest.txt", tmp_path / "out")


def test_a_missing_object_is_told(web: Web, tmp_path: Path) -> None:
    web.manifest = b"a.dcm\nnot-here.dcm\n"
    with pytest.raises(CtbasisError, match="answers 404"):
        fetch(f"{web.url}/set/manifest.txt", tmp_path / "out")


def test_prefixes_of_buckets_are_listed_as_a_manifest_of_idc_names_them(
    web: Web, aws: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, aws.environment())
    for series in ("one", "two"):
        (tmp_path / series).mkdir()
        (tmp_path / series / "1.dcm").write_bytes(series.encode())
        aws.put_folder(tmp_path / series, f"s3://idc-open-data/manifest-{series}")
    web.manifest = (
        b"# To download the files in this manifest, install s5cmd\n"
        b"cp s3://idc-open-data/manifest-one/* .\n"
        b"s3://idc-open-data/manifest-two/*\n"
        b"a.dcm\n"
    )
    out = tmp_path / "out"
    fetch(f"{web.url}/set/manifest.txt", out)
    assert contents(out) == {
        "idc-open-data/manifest-one/1.dcm": b"one",
        "idc-open-data/manifest-two/1.dcm": b"two",
        "a.dcm": FILES["/set/a.dcm"],
    }
    source = open_source(f"{web.url}/set/manifest.txt", 1)
    assert [source.read(entry, 0, 2) for entry in source.objects()] == [b"on", b"tw", b"aa"]
    assert fetch(f"{web.url}/set/manifest.txt", out).skipped == 3


def test_an_https_manifest_names_no_object_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source("https://host.invalid/manifest.txt", 1)
    monkeypatch.setattr(source, "_text", lambda _url: "http://host.invalid/a.dcm")
    with pytest.raises(CtbasisError, match="entry 1"):
        list(source.objects())
