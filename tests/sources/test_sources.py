"""Errors of sources: wrong keys, unreachable servers, invalid URIs, hostile listings. No message repeats a secret."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest

from ctbasis.demo.s3server import S3Server
from ctbasis.errors import CtbasisError
from ctbasis.sources import fetch as fetch_module
from ctbasis.sources import retries
from ctbasis.sources.fetch import fetch
from ctbasis.sources.schemes import SCHEMES, open_source
from ctbasis.storage import s3
from tests.loopback import Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "a-secret-that-nobody-may-see"  # noqa: S105 - an invented key, which must not appear in messages


@pytest.fixture
def images(aws: S3Server, tmp_path: Path) -> str:
    """Return the URI of one small object on the server."""
    aws.client()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.dcm").write_bytes(b"content")
    aws.put_folder(tmp_path / "images", "s3://images/errors")
    return "s3://images/errors"


def refusal(source: str, destination: Path) -> str:
    """Return the message of a failing fetch, after a check that it shows no secret and that no file was written."""
    with pytest.raises(CtbasisError) as caught:
        fetch(source, destination)
    shown = [str(caught.value), repr(caught.value), repr(caught.value.__cause__)]
    assert not any(SECRET in text for text in shown)
    assert not [path for path in destination.rglob("*") if path.is_file()] if destination.exists() else True
    return str(caught.value)


def test_a_public_bucket_is_read_without_keys(tmp_path: Path, no_aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    del no_aws
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.dcm").write_bytes(b"content")
    with S3Server(tmp_path / "server", anonymous=True) as public:
        public.put_folder(tmp_path / "images", "s3://public/series")
        monkeypatch.setenv("AWS_ENDPOINT_URL", public.endpoint)
        fetch("s3://public/series/*", tmp_path / "out")
    assert (tmp_path / "out" / "a.dcm").read_bytes() == b"content"


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_access_keys_are_reported_without_repeating_them(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, SECRET)
    message = refusal(images, tmp_path / "out")
    assert "denies access to bucket 'images'" in message
    assert "expected: permission to read it" in message
    assert "the keys are wrong" in message


def test_missing_access_keys_for_a_private_bucket_are_reported_as_missing(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no keys were found" in refusal(images, tmp_path / "out")


def test_an_access_key_without_its_secret_is_not_a_valid_configuration(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRET)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "configuration is not valid" in refusal(images, tmp_path / "out")


def test_an_endpoint_that_is_not_a_url_is_not_a_valid_configuration(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"user:{SECRET}@nowhere")
    assert "AWS_ENDPOINT_URL contains an @" in refusal(images, tmp_path / "out")


@pytest.mark.usefixtures("aws")
def test_a_missing_bucket_is_reported_by_name(tmp_path: Path) -> None:
    assert "there is no bucket 'no-such-bucket'" in refusal("s3://no-such-bucket/x", tmp_path / "out")


@pytest.mark.usefixtures("aws")
def test_an_invalid_bucket_name_is_refused(tmp_path: Path) -> None:
    assert "is not a valid bucket name" in refusal("s3://Not A Bucket!/x", tmp_path / "out")


def test_an_empty_prefix_is_refused(images: str, tmp_path: Path) -> None:
    for empty in (f"{images}/nothing", f"{images[:-1]}"):
        assert "holds no object" in refusal(empty, tmp_path / "out")


@pytest.mark.usefixtures("aws")
def test_a_refused_connection_fails_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    start = time.monotonic()
    assert f"S3 at 127.0.0.1:{port} does not answer" in refusal("s3://images/x", tmp_path / "out")
    assert time.monotonic() - start < 10


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """Return an endpoint that never completes a connection, like a firewall that drops packets."""
    with closing(socket.socket()) as listener, closing(socket.socket()) as first, closing(socket.socket()) as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for waiting in (first, second):
            # These connections fill the backlog of the listener, which accepts none.
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.usefixtures("aws")
def test_an_endpoint_that_does_not_answer_fails_after_the_timeouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent_endpoint: str
) -> None:
    monkeypatch.setattr(s3, "CONNECT_SECONDS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent_endpoint)
    start = time.monotonic()
    assert "ConnectTimeoutError" in refusal("s3://images/x", tmp_path / "out")
    assert 1 <= time.monotonic() - start < 15


@pytest.mark.parametrize(
    "uri",
    [
        f"ftp://user:{SECRET}@x",
        f"https://user:{SECRET}@archive/x",
        f"gs://x?token={SECRET}",
        f"s3://user:{SECRET}@bucket/x",
        "",
        "  ",
    ],
)
@pytest.mark.usefixtures("no_aws")
def test_an_invalid_source_uri_is_refused_without_repeating_it(uri: str, tmp_path: Path) -> None:
    message = refusal(uri, tmp_path / "out")
    assert "correct the source" in message
    assert "://" in message, "the form of a valid URI is not named"


@pytest.mark.parametrize(
    "uri", ["{folder}", "{folder}/", "{folder}/*", "file://{folder}", "file://localhost{folder}/*"]
)
def test_a_folder_is_given_by_its_path_or_its_uri(uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / "a").write_bytes(b"content")
    quoted = str(folder).replace(" ", "%20") if uri.startswith("file:") else str(folder)
    assert [entry.key for entry in open_source(uri.format(folder=quoted), 1).objects()] == ["a"]


@pytest.mark.parametrize("uri", ["/no/such/folder", "file:///no/such/folder", "file://other-machine/folder"])
def test_a_missing_folder_is_refused(uri: str, tmp_path: Path) -> None:
    assert "remedy" in refusal(uri, tmp_path / "out")


def test_a_single_file_may_be_the_source_but_not_inside_the_destination(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "other").write_bytes(b"")
    fetch(str(tmp_path / "file"), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == ["file"]
    with pytest.raises(CtbasisError, match="the same folder, or one contains the other"):
        fetch(str(tmp_path / "file"), tmp_path)


def hostile(content: str) -> bytes:
    """Return the XML of a listing as a hostile server might send it."""
    return f'<?xml version="1.0"?><ListBucketResult><Name>b</Name>{content}</ListBucketResult>'.encode()


LISTINGS = {
    "a key outside of the prefix": "<Contents><Key>../../etc/passwd</Key><Size>1</Size></Contents>",
    "no key": "<Contents><Size>1</Size></Contents>",
    "no size": "<Contents><Key>x/a</Key></Contents>",
    "a negative size": "<Contents><Key>x/a</Key><Size>-5</Size></Contents>",
    "a size that is not a number": "<Contents><Key>x/a</Key><Size>many</Size></Contents>",
    "a size beyond any disk": "<Contents><Key>x/a</Key><Size>99999999999999</Size></Contents>",
    "an endless listing": "<IsTruncated>true</IsTruncated><NextContinuationToken>same</NextContinuationToken>",
    "no XML": "<<<",
    "an entity bomb": '<!DOCTYPE z [<!ENTITY a "aaaa">]><Contents><Key>&a;</Key></Contents>',
}


@pytest.mark.parametrize("listing", LISTINGS)
@pytest.mark.usefixtures("aws")
def test_a_hostile_listing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listing: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = hostile(LISTINGS[listing]) if "list-type" in self.path else b"?"
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with Served(Handler) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setattr(retries, "FIRST_DELAY_SECONDS", 0.01)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        refusal("s3://bucket/x", tmp_path / "out")


def test_a_listing_with_too_many_objects_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    for number in range(5):
        (tmp_path / "source" / str(number)).write_bytes(b"")
    monkeypatch.setattr(fetch_module, "MAX_OBJECTS", 4)
    with pytest.raises(CtbasisError, match="more than 4 objects"):
        fetch(str(tmp_path / "source"), tmp_path / "out")


def test_every_scheme_is_lower_case_and_has_a_constructor() -> None:
    assert {"s3", "file", ""} <= set(SCHEMES)
    assert all(scheme == scheme.lower() and callable(source) for scheme, source in SCHEMES.items())
