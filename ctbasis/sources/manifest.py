"""The source `https://host/path/manifest.txt`: a file with one object a line, as image archives give it.

A line is the URL of an object, a path relative to the manifest, or a prefix of a bucket, as in the manifests of the NCI
Imaging Data Commons: `s3://idc-open-data/SERIES/*`, also in a command of s5cmd: `cp s3://idc-open-data/SERIES/* .`
"""

from __future__ import annotations

import re
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from ctbasis.addresses import parse_address
from ctbasis.errors import CtbasisError, TransientError
from ctbasis.sources.buckets import BUCKET_SOURCES, Buckets
from ctbasis.sources.etag import MULTIPART, SINGLE
from ctbasis.sources.http import ErrorAnswer, Site, range_header, raw_content, read_range
from ctbasis.sources.listing import object_changed
from ctbasis.sources.received import READ_BYTES, receive, require_range
from ctbasis.sources.retries import repeat
from ctbasis.sources.source import RemoteObject

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

    import requests


AHEAD_PER_CONNECTION = 4
"""Requests for sizes that are queued per connection."""

LINE = re.compile(r"[^\s<>{}\"'`|^\\]{1,8000}")
"""A URL or a path, which has no space and no markup."""

PROBE = range_header(0, 1)
"""Asks for the first byte. Unlike HEAD, a URL that is signed for GET allows it."""

CONTENT_RANGE = re.compile(r"bytes (?:0-0|\*)/([0-9]{1,20})")

STORES = ("x-amz-request-id", "x-goog-generation")
"""Header fields of S3 and of Google Cloud Storage, whose ETag is a digest if it has the form of one."""

EXPIRED = ("Request has expired", "ExpiredToken", "AccessDenied", "SignatureDoesNotMatch", "Signature not valid")
"""Texts of object stores for a signed URL that is not valid, or no longer."""


class ManifestSource:
    """The objects that a manifest names, in its order.

    The listing asks each URL for its first byte, which gives size and ETag. A query, which may be a signature, stays in
    the manifest: no key and no location of an object has it.

    Args:
        uri: `https://host/path/manifest.txt`; `http://` for a server without TLS.
        connections: Parallel downloads.

    Raises:
        CtbasisError: The URI is not that of a server.
    """

    def __init__(self, uri: str, connections: int) -> None:
        self._url = uri
        address = parse_address(
            uri.partition("?")[0],
            what="the source",
            schemes=("https", "http"),
            example="https://host/path/manifest.txt",
        )
        self._connections = connections
        self._buckets = Buckets(connections)
        self._site = Site(
            str(address),
            what="the web server",
            # One more connection for the requests of the listing, which continue during downloads.
            connections=2 * connections,
            explain=self._explain,
            passed=(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,),
        )
        self._listed: list[RemoteObject] | None = None

    def objects(self) -> Iterator[RemoteObject]:
        """Yield the objects of the manifest.

        Raises:
            CtbasisError: The manifest or an object cannot be read, or the file is no manifest.
        """
        if self._listed is not None:
            yield from self._listed
            return
        listed = []
        for entry in self._entries():
            listed.append(entry)
            yield entry
        self._listed = listed

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Stream the object to `target`; see `Source.download`."""
        if _is_in_bucket(entry.location):
            return self._buckets.download(entry, target)
        with self._site.content(self._url_of(entry), headers=_condition(entry)) as answer:
            return receive(raw_content(answer, READ_BYTES), entry, target)

    def read(self, entry: RemoteObject, start: int, stop: int) -> bytes:
        """Return a range of bytes of the object; see `Source.read`."""
        if _is_in_bucket(entry.location):
            return self._buckets.read(entry, start, stop)
        stop = stop if entry.size is None else min(stop, entry.size)
        if start >= stop:
            return b""
        headers = {**_condition(entry), **range_header(start, stop)}
        with self._site.content(self._url_of(entry), headers=headers) as answer:
            if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return require_range(b"", start, stop, entry)
            return require_range(read_range(answer, start, stop), start, stop, entry)

    @cached_property
    def _lines(self) -> list[str]:
        """The URLs and prefixes of the manifest."""
        text = repeat(partial(self._text, self._url), self._site.unreachable)
        places = [_place(line) for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        lines = [place if _is_in_bucket(place) else _joined(self._url, place) for place in places]
        allowed = {*BUCKET_SOURCES, "https", *(["http"] if self._url.lower().startswith("http:") else [])}
        for number, (line, place) in enumerate(zip(lines, places, strict=True), start=1):
            parts = _split(line)
            if not LINE.fullmatch(place) or not parts or parts[0].lower() not in allowed or "@" in parts[1]:
                # The line is not repeated: it may hold a signature.
                raise CtbasisError(
                    f"entry {number} of the manifest at {self._site.server} is no address of an object",
                    expected="a URL (https://, s3://, gs://) or a path on each line",
                    cause="the file is not a manifest, or names objects without TLS or on another kind of server",
                    remedy="check the source",
                )
        return lines

    def _text(self, url: str) -> str:
        try:
            return self._site.get(url).content.decode()
        except UnicodeDecodeError:
            raise self._site.invalid("it is not text") from None

    def _entries(self) -> Iterator[RemoteObject]:
        under_way: deque[Future[RemoteObject] | str] = deque()
        with ThreadPoolExecutor(self._connections) as pool:
            try:
                for number, line in enumerate(self._lines):
                    under_way.append(line if _is_in_bucket(line) else pool.submit(self._probed, number, line))
                    if len(under_way) >= AHEAD_PER_CONNECTION * self._connections:
                        yield from self._arrived(under_way.popleft())
                while under_way:
                    yield from self._arrived(under_way.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _arrived(self, arrival: Future[RemoteObject] | str) -> Iterator[RemoteObject]:
        if isinstance(arrival, str):
            yield from self._buckets.objects(arrival, arrival.partition("://")[2].removesuffix("*").strip("/"))
        else:
            yield arrival.result()

    def _probed(self, number: int, url: str) -> RemoteObject:
        """Return an object with its size and ETag, which its server states."""
        return repeat(partial(self._probe, number, url), self._site.unreachable)

    def _probe(self, number: int, url: str) -> RemoteObject:
        with self._site.content(url, headers=PROBE) as answer:
            status, headers = answer.status_code, answer.headers
            if status == HTTPStatus.OK:
                # The server knows no ranges. The connection is closed before the content arrives.
                length = headers.get("Content-Length", "")
                size = int(length) if length.isdecimal() else None
            else:
                match = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
                if not match:
                    raise TransientError("the answer to a request for a range names no size")
                size = int(match[1])
                if status == HTTPStatus.PARTIAL_CONTENT:
                    # The connection serves the next request only after the content has been read.
                    answer.raw.read(2)
            bare = urlunsplit((*urlsplit(url)[:3], "", ""))
            return RemoteObject(self._key(bare), f"{number} {bare}", size, _etag(answer))

    def _key(self, bare: str) -> str:
        folder = self._url.partition("?")[0].rpartition("/")[0]
        inside = bare.startswith(f"{folder}/")
        return unquote(bare.removeprefix(f"{folder}/") if inside else bare.partition("://")[2])

    def _url_of(self, entry: RemoteObject) -> str:
        number, _, bare = entry.location.partition(" ")
        line = self._lines[int(number)] if number.isdecimal() and int(number) < len(self._lines) else ""
        if line.partition("?")[0].partition("#")[0] != bare:
            raise object_changed(f"the manifest at {self._site.server}")
        return line

    def _explain(self, answer: ErrorAnswer) -> CtbasisError:
        host = urlsplit(answer.url).hostname or self._site.server
        if answer.status == HTTPStatus.PRECONDITION_FAILED:
            return object_changed(host)
        is_signed = any(text in answer.text for text in EXPIRED) and "?" in answer.url
        return CtbasisError(
            f"{host} answers {answer.status} to a request for an object, or for the manifest"
            + (": its signed URL is not valid, or no longer" if is_signed else ""),
            expected="an object at each URL of the manifest, which anybody may read or whose URL is signed",
            cause="signed URLs have expired, the objects were removed, or they need a sign-in",
            remedy="have a new manifest made, and run the step again; or name the bucket itself (s3://, gs://, az://)",
        )


def _place(line: str) -> str:
    """Return the address on a line: the first word that is one, after the words of a command if there are any."""
    words = line.split()
    if words[0] == "cp":
        return next((word.strip("\"'") for word in words if "://" in word), line)
    return line.strip()


def _joined(base: str, place: str) -> str:
    """Return an address that may be relative to `base` as a whole one, or an empty string if it is none."""
    try:
        return urljoin(base, place)
    except ValueError:
        return ""


def _split(url: str) -> tuple[str, str] | None:
    """Return scheme and authority of a URL, or None if it has none."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError for a port that is none
    except ValueError:
        return None
    return (parts.scheme, parts.netloc) if parts.netloc else None


def _is_in_bucket(place: str) -> bool:
    return place.startswith(tuple(f"{scheme}://" for scheme in BUCKET_SOURCES))


def _etag(answer: requests.Response) -> str:
    """Return the ETag: without quotes if it is a digest, else with them, so that it is not taken for one."""
    etag = answer.headers.get("ETag", "")
    bare = etag.strip('"').lower()
    encrypted = answer.headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    if (
        any(field in answer.headers for field in STORES)
        and not encrypted
        and (SINGLE.fullmatch(bare) or MULTIPART.fullmatch(bare))
    ):
        return bare
    # Without either, nothing tells whether a file of an earlier fetch is still that of the object.
    return etag or answer.headers.get("Last-Modified", "") or f"unknown {uuid.uuid4().hex}"


def _condition(entry: RemoteObject) -> dict[str, str]:
    """Return the header field by which the server refuses an object that has changed since it was listed."""
    if SINGLE.fullmatch(entry.etag) or MULTIPART.fullmatch(entry.etag):
        return {"If-Match": f'"{entry.etag}"'}
    return {"If-Match": entry.etag} if entry.etag.startswith('"') else {}
