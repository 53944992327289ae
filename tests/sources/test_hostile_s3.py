"""A hostile or broken S3 server: each answer ends in a refusal or in the right files, in bounded time.

The server is a real HTTP server on the loopback interface. Each case replaces its answer to the listing or to the
download, and says what the fetch must end in.
"""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.sources import fetch as fetch_module
from ctbasis.sources import listing as listing_module
from ctbasis.sources import retries
from ctbasis.sources.fetch import fetch
from ctbasis.sources.fetch_index import INDEX
from ctbasis.sources.s3 import S3Source
from ctbasis.storage import least_rate, object_store, s3
from ctbasis.storage.object_store import ObjectStore
from tests.sources.hostile_server import (
    CONTENT,
    FILES,
    PACKED,
    PACKED_ETAG,
    Case,
    Handler,
    HostileServer,
    changed_midway,
    cut_connection,
    drip_chunk_sizes,
    drip_content,
    drip_error,
    drip_header,
    drip_listing,
    drip_status_line,
    endless_body,
    entry,
    failing,
    given,
    listed,
    many_headers,
    new_keys_each_time,
    new_token_each_time,
    page,
    refuse_condition,
    right_at_the_third_try,
    two_pages,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_SECONDS = 25
"""Wall time of a case at most, on a loaded machine; without bounds, most cases would never end."""

BILLION_LAUGHS = (
    b"<?xml version='1.0'?><!DOCTYPE l [<!ENTITY a '" + b"ha" * 50 + b"'>"
    + b"".join(b"<!ENTITY %c '%s'>" % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9))
    + b"]><ListBucketResult><Contents><Key>x/&j;</Key><Size>1</Size></Contents></ListBucketResult>"
)  # fmt: skip

EXTERNAL_ENTITY = (
    b"<?xml version='1.0'?><!DOCTYPE l [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>"
    b"<ListBucketResult><Contents><Key>x/&e;</Key><Size>1</Size></Contents></ListBucketResult>"
)

ODD_KEYS = ["../../up", "a//b", "/root", "nul\x00", "new\nline", "esc\x1b[2J", "..", "c/../../d", "e/./f", "\u202egpj"]
ODD_KEYS += [
    "n" * 1000,
    "deep/" * 200 + "z",
    "CON",
    "back\\..\\slash",
    ".ctbasis-fetch.jsonl",
    "\udc80".encode("utf-8", "surrogateescape").decode("latin-1"),
]

CASES: dict[str, Case] = {
    "a right answer": Case(files=FILES),
    "two pages": Case(listing=two_pages, files={"a.dcm": CONTENT, "b.dcm": CONTENT}),
    "SlowDown twice": Case(object=right_at_the_third_try, files=FILES),
    "gzip as content encoding": Case(
        # The stored bytes are the compressed ones, and the listing states their size and ETag.
        listing=listed(page(entry("x/a.dcm", len(PACKED), PACKED_ETAG))),
        object=given(PACKED, Content_Encoding="gzip"),
        files={"a.dcm": PACKED},
    ),
    "a compressed copy of the object": Case(
        object=given(PACKED, Content_Encoding="gzip"), refusal=("differs from the listing",)
    ),
    "Content-Length too large": Case(object=given(CONTENT, length=len(CONTENT) + 10), refusal=("4 attempts",)),
    "Content-Length too small": Case(object=given(CONTENT, length=len(CONTENT) - 10), refusal=("differs",)),
    "Content-Length no number": Case(
        object=lambda handler, _: handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"),
        refusal=("remedy",),
    ),
    "a truncated body": Case(object=given(CONTENT[:-500], length=len(CONTENT)), refusal=("4 attempts",)),
    "a body without an end": Case(object=endless_body, refusal=("more bytes than the listing",)),
    "another content under the same size": Case(object=given(bytes(len(CONTENT))), refusal=("differs",)),
    "an ETag that changes midway": Case(object=changed_midway, refusal=("differs",)),
    "412": Case(object=refuse_condition, refusal=("replaced or deleted after it had been listed",)),
    "404 after the listing": Case(object=failing(404, "NoSuchKey"), refusal=("replaced or deleted",)),
    "416": Case(object=failing(416, "InvalidRange"), refusal=("InvalidRange",)),
    "500 for ever": Case(object=failing(500, "InternalError"), refusal=("4 attempts: InternalError",)),
    "500 to the listing": Case(listing=failing(500, "InternalError"), refusal=("does not answer (InternalError)",)),
    "503 SlowDown for ever": Case(object=failing(503, "SlowDown"), refusal=("4 attempts: SlowDown",)),
    "429 to the listing": Case(listing=failing(429, "TooManyRequests"), refusal=("TooManyRequests",)),
    "301 in a circle": Case(
        listing=failing(301, "PermanentRedirect", "<Endpoint>127.0.0.1</Endpoint>", x_amz_bucket_region="eu-west-1"),
        refusal=("PermanentRedirect",),
    ),
    "307 in a circle": Case(
        listing=failing(307, "TemporaryRedirect", Location="http://127.0.0.1/b"), refusal=("TemporaryRedirect",)
    ),
    "301 of an object": Case(object=failing(301, "PermanentRedirect"), refusal=("the answer redirects in a circle",)),
    "301 without a region": Case(listing=failing(301, "PermanentRedirect"), refusal=("PermanentRedirect",)),
    "HTML as the listing": Case(
        listing=listed(b"<html><body><p>Sign in</body></html>"), refusal=("not an answer of S3",)
    ),
    "well-formed HTML as the listing": Case(
        listing=listed(b"<html><body>Sign in</body></html>"), refusal=("not an S3 listing",)
    ),
    "HTML as an error": Case(listing=listed(b"<html>no</html>", 403), refusal=("denies access",)),
    "JSON as the listing": Case(listing=listed(b'{"Contents": []}'), refusal=("not an answer of S3",)),
    "an empty answer as the listing": Case(listing=listed(b""), refusal=("remedy",)),
    "no answer": Case(listing=cut_connection, refusal=("does not answer",)),
    "5,000 headers": Case(listing=many_headers, refusal=("does not answer",)),
    "a listing without an end": Case(listing=endless_body, refusal=("does not answer", "64 MiB")),
    "the same continuation token for ever": Case(
        listing=listed(page(entry("x/a.dcm", 0), token="same")),  # noqa: S106 - a continuation token
        refusal=("does not end",),
    ),
    "new continuation tokens for ever": Case(listing=new_token_each_time, refusal=("does not end",)),
    "new keys for ever": Case(listing=new_keys_each_time, refusal=("more than 1,000 objects",)),
    "a billion laughs": Case(listing=listed(BILLION_LAUGHS), refusal=("not an answer of S3",)),
    "an external entity": Case(listing=listed(EXTERNAL_ENTITY), refusal=("not an answer of S3",)),
    "a size of 10^30": Case(listing=listed(page(entry("x/a.dcm", 10**30))), refusal=("bytes free",)),
    "a size of 10^5000": Case(listing=listed(page(entry("x/a.dcm", "1" * 5000))), refusal=("not an S3 listing",)),
    "a negative size": Case(listing=listed(page(entry("x/a.dcm", -1))), refusal=("negative",)),
    "odd keys": Case(
        listing=listed(page(*(entry(f"x/{key}") for key in ODD_KEYS))),
        files={str(number): CONTENT for number in range(len(ODD_KEYS))},
    ),
    "one key twice": Case(listing=listed(page(entry("x/a.dcm"), entry("x/a.dcm"))), files={"0": CONTENT, "1": CONTENT}),
    "a byte every 0.2 s as content": Case(object=drip_content, refusal=("4 attempts: too slow", "least rate")),
    "a byte every 0.2 s as chunks": Case(object=drip_chunk_sizes, refusal=("4 attempts: too slow", "least rate")),
    "a byte every 0.2 s as listing": Case(listing=drip_listing, refusal=("does not answer (too slow", "least rate")),
    "a byte every 0.2 s as header": Case(listing=drip_header, refusal=("does not answer (too slow", "least rate")),
    "a byte every 0.2 s as header of an object": Case(object=drip_header, refusal=("too slow", "least rate")),
    "a byte every 0.2 s as status": Case(listing=drip_status_line, refusal=("does not answer (too slow",)),
    "a byte every 0.2 s as error": Case(listing=drip_error, refusal=("does not answer (too slow",)),
    "an archived object": Case(
        object=failing(403, "InvalidObjectState", "<StorageClass>GLACIER</StorageClass>"),
        refusal=("an object is archived", "restore the objects first"),
    ),
}


@pytest.fixture
def patience(no_aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waiting times, and name keys that no server checks."""
    del no_aws
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "known")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setattr(retries, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(fetch_module, "MAX_OBJECTS", 1000)
    monkeypatch.setattr(s3, "REQUEST_ATTEMPTS", 1)
    monkeypatch.setattr(s3, "READ_SECONDS", 2)
    monkeypatch.setattr(listing_module, "MAX_EMPTY_PAGES", 20)
    monkeypatch.setattr(least_rate, "WINDOW_SECONDS", 1.0)


@contextlib.contextmanager
def serving(case: Case, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileServer]:
    with HostileServer(case) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield server


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != INDEX
    }


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("patience")
def test_each_answer_ends_in_the_right_files_or_in_a_refusal(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    case, out = CASES[name], tmp_path / "deep" / "out"
    start = time.monotonic()
    with serving(case, monkeypatch):
        if case.files:
            fetch("s3://b/x", out)
            got = files_in(out)
            if "0" in case.files:
                # Names that no file may have are replaced; each content must be there, and inside.
                assert sorted(got.values()) == sorted(case.files.values())
            else:
                assert got == case.files
        else:
            with pytest.raises(CtbasisError) as caught:
                fetch("s3://b/x", out)
            message = str(caught.value)
            assert not [word for word in case.refusal if word not in message], message
            assert "hidden-secret" not in message
            assert not [name for name in files_in(out) if not name.startswith(".ctbasis-")]
    assert time.monotonic() - start < PATIENCE_SECONDS
    assert {path.name for path in tmp_path.iterdir()} <= {"deep"}, "a file was written outside of the destination"
    assert {path.name for path in (tmp_path / "deep").iterdir()} <= {"out"} if (tmp_path / "deep").exists() else True
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("behaviour", [drip_header, drip_content, endless_body, drip_error])
@pytest.mark.usefixtures("patience")
def test_a_store_refuses_the_same_answers(
    behaviour: Callable[[Handler, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "RETRY_SECONDS", 0.5)
    monkeypatch.setattr(object_store, "READ_SECONDS", 2)
    start = time.monotonic()
    with serving(Case(object=behaviour, listing=behaviour), monkeypatch):  # type: ignore[arg-type]
        with pytest.raises(CtbasisError, match=r"too slow|MiB"):
            list(ObjectStore("s3://b/store").keys_below())
        if behaviour is not endless_body:
            with pytest.raises(CtbasisError, match="too slow"):
                ObjectStore("s3://b/store").read("zarr.json")
    assert time.monotonic() - start < PATIENCE_SECONDS


@pytest.mark.usefixtures("patience")
def test_a_store_refuses_a_listing_that_repeats_a_continuation_token(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = listed(page(entry("store/zarr.json", 0), token="same"))  # noqa: S106 - a continuation token
    with serving(Case(listing=listing), monkeypatch), pytest.raises(CtbasisError, match="does not end"):
        list(ObjectStore("s3://b/store").keys_below())


@pytest.mark.parametrize(
    ("hours", "words"), [(5, "this machine's clock is off by 5.0 hours: it is slow"), (-0.5, "30 minutes: it is fast")]
)
@pytest.mark.usefixtures("patience")
def test_a_wrong_clock_is_told_with_the_difference(
    hours: float, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_time = datetime.now(UTC) + timedelta(hours=hours)

    def listing(handler: Handler, _query: dict[str, str]) -> None:
        body = b"<Error><Code>RequestTimeTooSkewed</Code><Message>m</Message></Error>"
        handler.send_response_only(403)
        handler.send_header("Date", format_datetime(server_time, usegmt=True))
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with serving(Case(listing=listing), monkeypatch), pytest.raises(CtbasisError) as caught:
        fetch("s3://b/x", tmp_path / "out")
    assert words in caught.value.found
    assert f"the server's Date is {server_time:%Y-%m-%d %H:%M}" in caught.value.found
    assert "AWS_ACCESS_KEY_ID" not in str(caught.value)


@pytest.mark.usefixtures("patience")
def test_listing_many_keys_takes_no_more_memory_than_listing_few(monkeypatch: pytest.MonkeyPatch) -> None:
    def listing_of(pages: int) -> Callable[[Handler, dict[str, str]], None]:
        def listing(handler: Handler, query: dict[str, str]) -> None:
            number = int(query.get("continuation-token", "0"))
            token = str(number + 1) if number + 1 < pages else ""
            handler.answer(200, page(*(entry(f"x/{number:06d}-{n:04d}.dcm") for n in range(1000)), token=token))

        return listing

    def peak(pages: int) -> int:
        with serving(Case(listing=listing_of(pages)), monkeypatch):
            tracemalloc.start()
            try:
                assert sum(1 for _ in S3Source("s3://b/x", 1).objects()) == 1000 * pages
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    few = peak(3)
    assert peak(20) < 1.3 * few
    assert few < 60 << 20
