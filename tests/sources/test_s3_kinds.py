"""Kinds of S3 buckets: Requester Pays, access points, directory buckets, and versions of an object.

SeaweedFS keeps versions, and is asked for them. It knows none of the other kinds: what is sent for them is compared
with the API reference of Amazon S3.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from botocore.awsrequest import AWSResponse

from ctbasis.errors import CtbasisError
from ctbasis.sources.fetch import fetch
from ctbasis.sources.s3 import S3Source
from ctbasis.storage.s3 import split_uri
from tests.sources.hostile_server import CONTENT, entry, page
from tests.sources.interposed import Handler, Interposed

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.demo.s3server import S3Server

ACCESS_POINT = "arn:aws:s3:eu-west-1:123456789012:accesspoint/scans"
DIRECTORY = "scans--use1-az4--x-s3"


@pytest.mark.parametrize(("value", "sent"), [("requester", "requester"), ("", None)])
def test_the_payer_is_named_in_every_request_if_the_variable_says_so(
    prefix: str, aws: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, sent: str | None
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a.dcm").write_bytes(CONTENT)
    aws.put_folder(tmp_path / "made", prefix)
    seen = []

    def note(handler: Handler) -> bool:
        seen.append(handler.headers["x-amz-request-payer"])
        return False

    monkeypatch.setenv("AWS_REQUEST_PAYER", value)
    with Interposed(aws.endpoint, to_object=note, to_listing=note) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        fetch(prefix, tmp_path / "out")
    assert len(seen) >= 3
    assert set(seen) == {sent}


def test_one_version_of_an_object_is_fetched(aws: S3Server, tmp_path: Path) -> None:
    client = aws.client()
    if "versions" not in {entry["Name"] for entry in client.list_buckets().get("Buckets", [])}:
        client.create_bucket(Bucket="versions")
    client.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    first, second = (
        client.put_object(Bucket="versions", Key="scan/a.dcm", Body=content)["VersionId"] for content in (b"1", b"22")
    )
    for version, content in ((first, b"1"), (second, b"22")):
        uri = f"s3://versions/scan/a.dcm?versionId={version}"
        fetch(uri, tmp_path / version)
        assert (tmp_path / version / "a.dcm").read_bytes() == content
        source = S3Source(uri, 1)
        (listed,) = source.objects()
        assert source.read(listed, 0, 1) == content[:1]
    with pytest.raises(CtbasisError, match="no such version"):
        fetch(f"s3://versions/scan/a.dcm?versionId={first[:-4]}0000", tmp_path / "none")


@pytest.mark.parametrize(
    ("uri", "bucket", "prefix"),
    [
        (f"s3://{ACCESS_POINT}/a/b/", ACCESS_POINT, "a/b"),
        (f"s3://{ACCESS_POINT}", ACCESS_POINT, ""),
        ("s3://arn:aws:s3:eu-west-1:123456789012:accesspoint:scans/a", ACCESS_POINT.replace("point/", "point:"), "a"),
        ("s3://scans-abc123-s3alias/a", "scans-abc123-s3alias", "a"),
    ],
)
def test_an_access_point_takes_the_place_of_a_bucket(uri: str, bucket: str, prefix: str) -> None:
    assert split_uri(uri, what="source") == (bucket, prefix)


class Answers:
    """Answers requests of botocore without a network, and keeps their addresses and headers."""

    def __init__(self, source: S3Source, listing: bytes) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        self._listing = listing
        source._bucket.client.meta.events.register("before-send.s3", self._answer)

    def _answer(self, request: Any, **_: object) -> AWSResponse:
        headers = {name: v.decode() if isinstance(v, bytes) else str(v) for name, v in request.headers.items()}
        self.seen.append((request.url, headers))
        body, answer = CONTENT, {"ETag": '"0123456789abcdef0123456789abcdef"'}
        if "?session" in request.url:
            keys = "".join(f"<{name}>x</{name}>" for name in ("SessionToken", "SecretAccessKey", "AccessKeyId"))
            expiration = "<Expiration>2100-01-01T00:00:00Z</Expiration>"
            body = f"<CreateSessionResult><Credentials>{keys}{expiration}</Credentials></CreateSessionResult>".encode()
        elif "list-type" in request.url:
            body = self._listing

        class Raw(io.BytesIO):
            def stream(self, size: int = 1 << 16, **_: object) -> Any:
                while data := self.read(size):
                    yield data

            def read_chunked(self, *_: object) -> bytes:
                return self.read()

        answer["Content-Length"] = str(len(body))
        return AWSResponse(request.url, 200, answer, Raw(b"" if request.method == "HEAD" else body))


@pytest.fixture
def amazon(no_aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set keys for Amazon's own endpoint, which no request reaches."""
    del no_aws
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "known")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")


@pytest.mark.usefixtures("amazon")
def test_requests_for_an_access_point_go_to_its_own_host() -> None:
    source = S3Source(f"s3://{ACCESS_POINT}/x", 1)
    answers = Answers(source, page(entry("x/a.dcm")))
    assert [listed.key for listed in source.objects()] == ["a.dcm"]
    (url, _), *_ = answers.seen
    assert url.startswith("https://scans-123456789012.s3-accesspoint.eu-west-1.amazonaws.com/?list-type=2")


@pytest.mark.usefixtures("amazon")
def test_a_directory_bucket_is_listed_in_order_and_its_etag_is_no_digest(tmp_path: Path) -> None:
    source = S3Source(f"s3://{DIRECTORY}/x", 1)
    # The listing of a directory bucket has no order, and the ETag may have the form of an MD5 but is none.
    etag = "0123456789abcdef0123456789abcdef"
    answers = Answers(source, page(*(entry(f"x/{name}", etag=etag) for name in ("b", "c", "a"))))
    listed = list(source.objects())
    assert [one.key for one in listed] == ["a", "b", "c"]
    assert source.download(listed[0], tmp_path / "a") is False
    assert (tmp_path / "a").read_bytes() == CONTENT
    urls = [url for url, _ in answers.seen]
    assert urls[0].startswith(f"https://{DIRECTORY}.s3express-use1-az4.eu-west-1.amazonaws.com/?session")
    assert all("x-amz-s3session-token" in {name.lower() for name in headers} for _, headers in answers.seen[1:])


@pytest.mark.usefixtures("amazon")
def test_one_object_of_a_directory_bucket_is_asked_for_by_its_key(tmp_path: Path) -> None:
    source = S3Source(f"s3://{DIRECTORY}/x/a.dcm", 1)
    answers = Answers(source, page())
    (listed,) = source.objects()
    assert (listed.key, listed.location, listed.size) == ("a.dcm", "x/a.dcm", len(CONTENT))
    # A directory bucket refuses a prefix that does not end with a slash.
    assert not [
        url for url, _ in answers.seen if "prefix=" in url and not url.split("prefix=")[1].startswith("x%2Fa.dcm%2F")
    ]
    source.download(listed, tmp_path / "a.dcm")
    assert (tmp_path / "a.dcm").read_bytes() == CONTENT
