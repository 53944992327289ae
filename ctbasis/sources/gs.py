"""The source `gs://bucket/prefix`: objects of Google Cloud Storage, by its JSON API.

The API is described at https://cloud.google.com/storage/docs/json_api/v1/objects.
"""

from __future__ import annotations

import base64
import os
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ctbasis.addresses import parse_address
from ctbasis.errors import CtbasisError
from ctbasis.sources.google import SIGN_IN_AGAIN, renewing, signed_session
from ctbasis.sources.http import ErrorAnswer, Site, range_header, raw_content, read_range
from ctbasis.sources.listing import object_changed, pages
from ctbasis.sources.received import READ_BYTES, receive, require_range
from ctbasis.sources.source import RemoteObject
from ctbasis.storage.s3 import split_uri

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EMULATOR = "STORAGE_EMULATOR_HOST"
"""Variable of Google's libraries that names an emulator, or a private endpoint."""

ENDPOINT = "https://storage.googleapis.com"

SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"

BILLED_PROJECT = "GOOGLE_CLOUD_QUOTA_PROJECT"
"""Variable of Google's libraries that names the project which pays for requests."""

REFUSED = (HTTPStatus.UNAUTHORIZED,)
"""Status that Google's library handles: it renews its token, and asks again."""

INVALID = "Invalid Credentials"
"""Text of the answer to a request with a token that is not valid, or no longer."""

DOWNLOAD = "/download/storage/v1/b/"

FIELDS = "nextPageToken,items(name,size,generation,md5Hash,crc32c)"


class GsSource:
    """The objects below a prefix, or the single object that the URI names.

    A download names the generation that was listed, so a file never holds another one.

    Args:
        uri: `gs://bucket/prefix`.
        connections: Parallel downloads.

    Raises:
        CtbasisError: The URI names no bucket, or the credentials or the variables are not valid.
    """

    def __init__(self, uri: str, connections: int) -> None:
        self._bucket, self._prefix = split_uri(uri, what="source", scheme="gs")
        endpoint = os.environ.get(EMULATOR, "")
        if endpoint and "://" not in endpoint:
            endpoint = f"http://{endpoint}"
        address = parse_address(
            endpoint or ENDPOINT, what=EMULATOR, schemes=("http", "https"), example="http://127.0.0.1:4443"
        )
        self._base = (endpoint or ENDPOINT).rstrip("/")
        session, self._signed = signed_session(SCOPE, anonymous=bool(endpoint))
        self._site = Site(
            str(address),
            what="Google Cloud Storage",
            # One more connection for the listing, which continues during downloads.
            connections=connections + 1,
            explain=self._explain,
            session=session,
            passed=REFUSED,
        )
        project = os.environ.get(BILLED_PROJECT, "")
        self._billing = {"userProject": project} if project else {}

    def objects(self) -> Iterator[RemoteObject]:
        """Yield the objects below the prefix as their listing arrives, or else the object that the prefix names.

        Raises:
            CtbasisError: The bucket does not exist, access is denied, the server does not answer, or its answer is not
                a valid listing.
        """
        return self.below(self._prefix)

    def below(self, prefix: str) -> Iterator[RemoteObject]:
        """Yield the objects below another prefix of the bucket; see `objects`."""
        folder = f"{prefix}/" if prefix else ""
        empty = True
        for item in self._listing(folder):
            empty = False
            yield self._remote_object(item, folder)
        if empty and prefix:
            first = next(self._listing(prefix), None)
            if first is not None and first.get("name") == prefix:
                yield self._remote_object(first, prefix[: prefix.rfind("/") + 1])

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Stream the object to `target`; see `Source.download`."""
        with renewing(), self._site.content(self._url(entry), **self._options(entry)) as answer:
            self._require_authorized(answer)
            return receive(raw_content(answer, READ_BYTES), entry, target)

    def read(self, entry: RemoteObject, start: int, stop: int) -> bytes:
        """Return a range of bytes of the object; see `Source.read`."""
        stop = stop if entry.size is None else min(stop, entry.size)
        if start >= stop:
            return b""
        options = self._options(entry, **range_header(start, stop))
        with renewing(), self._site.content(self._url(entry), **options) as answer:
            self._require_authorized(answer)
            return require_range(read_range(answer, start, stop), start, stop, entry)

    def _url(self, entry: RemoteObject) -> str:
        name = entry.location.rpartition("#")[0]
        return f"{self._base}{DOWNLOAD}{quote(self._bucket, safe='')}/o/{quote(name, safe='')}"

    def _options(self, entry: RemoteObject, **headers: str) -> dict[str, Any]:
        generation = entry.location.rpartition("#")[2]
        # An object may be stored compressed. Its size and its digest are those of the compressed content, which the
        # server sends only to a client that allows compression.
        return {
            "params": {"alt": "media", "generation": generation, **self._billing},
            "headers": {"Accept-Encoding": "gzip", **headers},
        }

    def _listing(self, prefix: str) -> Iterator[dict[str, Any]]:
        return pages(
            lambda token: self._page(prefix, token), invalid=self._site.invalid, unreachable=self._site.unreachable
        )

    def _page(self, prefix: str, token: str) -> tuple[list[dict[str, Any]], str]:
        parameters = {"prefix": prefix, "fields": FIELDS, **self._billing, **({"pageToken": token} if token else {})}
        with renewing():
            answer = self._site.get(f"{self._base}/storage/v1/b/{quote(self._bucket, safe='')}/o", params=parameters)
            self._require_authorized(answer)
        try:
            page = answer.json()
            items, following = page.get("items", []), page.get("nextPageToken", "")
        except (ValueError, AttributeError, RecursionError):
            raise self._site.invalid("it is not a JSON object") from None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise self._site.invalid("its items are not objects")
        return items, str(following)

    def _remote_object(self, item: dict[str, Any], folder: str) -> RemoteObject:
        name, generation = item.get("name"), str(item.get("generation", ""))
        if not isinstance(name, str) or not name.startswith(folder):
            raise self._site.invalid("an item has no name, or a name outside of the prefix")
        try:
            size = int(item["size"])
        except (KeyError, TypeError, ValueError):
            size = -1
        if size < 0 or not generation.isdecimal():
            raise self._site.invalid("an object has no size or no generation, or a negative one")
        return RemoteObject(name[len(folder) :], f"{name}#{generation}", size, _digest(item) or generation)

    def _require_authorized(self, answer: Any) -> None:
        if answer.status_code in REFUSED:
            raise self._site.adapter.error(answer)

    def _explain(self, answer: ErrorAnswer) -> CtbasisError:
        if answer.status == HTTPStatus.BAD_REQUEST and "requester pays" in answer.text:
            return CtbasisError(
                f"bucket {self._bucket!r} is a Requester Pays bucket",
                expected="the project that pays for the requests",
                remedy=f"set {BILLED_PROJECT} to the identifier of a project that these credentials may bill",
            )
        if answer.status == HTTPStatus.NOT_FOUND and DOWNLOAD in answer.url:
            return object_changed(f"bucket {self._bucket!r}")
        if answer.status == HTTPStatus.NOT_FOUND:
            return CtbasisError(
                f"there is no bucket {self._bucket!r} at {self._site.server}",
                expected="an existing bucket",
                cause="the name is misspelt",
                remedy="check the source",
            )
        if answer.is_denied:
            cause = "no credentials were found, so the request was unsigned, as for a public bucket"
            if self._signed or INVALID in answer.text:
                cause = "the credentials lack the permission, are not valid, or have expired"
            return CtbasisError(
                f"{self._site.server} denies access to bucket {self._bucket!r} ({answer.status})",
                expected="permission to read it (storage.objects.list and storage.objects.get)",
                cause=cause,
                remedy=f"ask the bucket's owner for the permission, or {SIGN_IN_AGAIN}",
            )
        return CtbasisError(
            f"{self._site.server} answers {answer.status} to a request for bucket {self._bucket!r}",
            expected="the JSON API of Google Cloud Storage",
            cause=f"{EMULATOR} names another server, or the bucket's name is not valid",
            remedy="check the source and the variable",
        )


def _digest(item: dict[str, Any]) -> str:
    """Return the MD5 of an object, the CRC-32C of one that was composed of others, or an empty string."""
    for field, prefix, size in (("md5Hash", "", 16), ("crc32c", "crc32c-", 4)):
        try:
            digest = base64.b64decode(str(item.get(field, "")), validate=True)
        except ValueError:
            continue
        if len(digest) == size:
            return prefix + digest.hex()
    return ""
