"""The source `s3://bucket/prefix`: objects at AWS or at any S3-compatible endpoint."""

from __future__ import annotations

import os
import re
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError, TransientError
from ctbasis.sources.listing import object_changed, pages
from ctbasis.sources.received import READ_BYTES, receive, require_range
from ctbasis.sources.retries import repeat
from ctbasis.sources.source import RemoteObject
from ctbasis.storage.s3 import (
    MALFORMED_ANSWER,
    NO_SUCH_KEY,
    REQUEST_ERRORS,
    Bucket,
    error_code,
    invalid_answer,
    malformed,
    split_uri,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ONE_ATTEMPT: dict[str, Any] = {"retries": {"mode": "standard", "total_max_attempts": 1}}
"""Setting of botocore, which ignores Retry-After; `repeat` makes the further attempts."""

LISTING_ELEMENTS = {"Name", "Prefix", "KeyCount", "IsTruncated", "Contents"}
"""Elements of an answer to ListObjectsV2; each server sends some of them for an empty listing too."""

NO_SUCH_VERSION = {"NoSuchVersion", "InvalidArgument", "400", "MethodNotAllowed", "405"}
"""Codes of the answer to a request for a version that does not exist, or that marks a deletion."""

OBJECT_CHANGED = {"412", "PreconditionFailed", *NO_SUCH_KEY}
"""Codes of the answer to a download whose object was replaced or deleted after it had been listed."""


PAYER = "AWS_REQUEST_PAYER"
"""Variable of GDAL, s3fs and others: with the value `requester`, the account of these keys pays for the requests."""

DIRECTORY_BUCKET = "--x-s3"
"""End of the name of a directory bucket (S3 Express One Zone), whose listing and ETags differ."""

VERSION = re.compile(r"\?versionId=([\w.-]{1,1024})$")


class S3Source:
    """The objects below a prefix, or the single object that the URI names.

    Args:
        uri: `s3://bucket/prefix`, with the ARN or the alias of an access point in place of the bucket if there is one.
            `s3://bucket/key?versionId=ID` is one version of an object.
        connections: Parallel downloads.

    Raises:
        CtbasisError: The URI names no bucket, or the AWS_* variables are not valid.
    """

    def __init__(self, uri: str, connections: int) -> None:
        name, prefix = split_uri(uri, what="source")
        version = VERSION.search(prefix)
        self._prefix = prefix[: version.start()] if version else prefix
        self._version = {"VersionId": version[1]} if version else {}
        self._is_directory = name.endswith(DIRECTORY_BUCKET)
        self._payer = {"RequestPayer": "requester"} if os.environ.get(PAYER, "").lower() == "requester" else {}
        # One more connection for the listing, which continues during downloads.
        self._bucket = Bucket(name, what="source", connections=connections + 1, **ONE_ATTEMPT)

    def objects(self) -> Iterator[RemoteObject]:
        """Yield the objects below the prefix as their listing arrives, or else the object that the prefix names.

        Raises:
            CtbasisError: The bucket does not exist, access is denied, the server does not answer, or its answer is not
                a valid listing.
        """
        return iter([self._one(self._prefix)]) if self._version else self.below(self._prefix)

    def below(self, prefix: str) -> Iterator[RemoteObject]:
        """Yield the objects below another prefix of the bucket; see `objects`."""
        folder = f"{prefix}/" if prefix else ""
        empty = True
        listing = self._listing(folder)
        # The listing of a directory bucket has no order. With one, each object has the same name in each fetch.
        for entry in sorted(listing, key=lambda entry: str(entry.get("Key"))) if self._is_directory else listing:
            if not entry.get("Key", "").startswith(folder):
                raise invalid_answer("an entry has no key, or a key outside of the prefix")
            empty = False
            yield self._remote_object(entry, entry["Key"].removeprefix(folder))
        if empty and prefix and self._is_directory:
            # A directory bucket lists prefixes that end with a slash only.
            yield self._one(prefix)
        elif empty and prefix:
            first = next(self._listing(prefix), {"Key": ""})
            if first["Key"] == prefix:
                yield self._remote_object(first, prefix.rpartition("/")[2])

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Stream the object to `target`. Check its size, and its content if the ETag is a digest of it.

        Returns:
            Whether the content was checked against the ETag.

        Raises:
            TransientError: The download failed, or the content differs from the listing; another attempt may succeed.
            CtbasisError: Access is denied, the object was replaced or deleted, or the volume has no room for it.
            OSError: `target` cannot be written.
        """
        try:
            answer = self._get(entry)
            # The ETag of an object encrypted with SSE-C or SSE-KMS has the form of an MD5 but is not one.
            encrypted = str(answer.get("ServerSideEncryption")).startswith("aws:kms")
            # That of an object in a directory bucket is no digest either, whatever its form.
            has_digest = not (encrypted or answer.get("SSECustomerAlgorithm") or self._is_directory)
            with closing(answer["Body"]) as body:
                return receive(body.iter_chunks(READ_BYTES), entry, target, has_digest=has_digest)
        except REQUEST_ERRORS as error:
            raise self._object_changed(error) or self._bucket.translate(error) from None
        except MALFORMED_ANSWER as error:
            raise TransientError(f"the answer {malformed(error)}") from None

    def read(self, entry: RemoteObject, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to before `stop` of the object; fewer at its end.

        Raises:
            TransientError: The request failed; another attempt may succeed.
            CtbasisError: Access is denied, the object was replaced or deleted, or the server ignores ranges.
        """
        stop = stop if entry.size is None else min(stop, entry.size)
        if start >= stop:
            return b""
        try:
            answer = self._get(entry, Range=f"bytes={start}-{stop - 1}")
            with closing(answer["Body"]) as body:
                if start and not str(answer.get("ContentRange", "")).startswith(f"bytes {start}-"):
                    raise self._range_ignored()
                data: bytes = body.read(stop - start)
        except REQUEST_ERRORS as error:
            raise self._object_changed(error) or self._bucket.translate(error) from None
        except MALFORMED_ANSWER as error:
            raise TransientError(f"the answer {malformed(error)}") from None
        return require_range(data, start, stop, entry)

    def _one(self, key: str) -> RemoteObject:
        """Return the object of a key, by its header."""
        options = {"Bucket": self._bucket.name, "Key": key, **self._version, **self._payer}
        head = repeat(lambda: self._asked(self._bucket.client.head_object, options), self._bucket.unreachable)
        entry = {"Key": key, "Size": head.get("ContentLength", -1), "ETag": head.get("ETag", "")}
        return self._remote_object(entry, key.rpartition("/")[2])

    def _asked(self, request: Callable[..., Any], options: dict[str, Any]) -> Any:
        try:
            return request(**options)
        except REQUEST_ERRORS as error:
            if error_code(error) in {*NO_SUCH_KEY, *NO_SUCH_VERSION}:
                raise CtbasisError(
                    f"bucket {self._bucket.name!r} has no object of this key, or no such version of it",
                    expected="an object, or a prefix with objects below it",
                    cause="the key or the version is misspelt, or was deleted",
                    remedy="check the source",
                ) from None
            raise self._bucket.translate(error) from None
        except MALFORMED_ANSWER as error:
            raise TransientError(f"the answer {malformed(error)}") from None

    def _remote_object(self, entry: Any, key: str) -> RemoteObject:
        size, etag = entry.get("Size", -1), str(entry.get("ETag", "")).strip('"').lower()
        if size < 0:
            raise invalid_answer("an object has no size, or a negative one")
        return RemoteObject(key, entry["Key"], int(size), etag)

    def _get(self, entry: RemoteObject, **options: str) -> Any:
        condition = {"IfMatch": f'"{entry.etag}"'} if entry.etag else {}
        options = {**options, **condition, **self._version, **self._payer}
        return self._bucket.client.get_object(Bucket=self._bucket.name, Key=entry.location, **options)

    def _listing(self, prefix: str) -> Iterator[Any]:
        return pages(
            lambda token: self._page(prefix, token), invalid=invalid_answer, unreachable=self._bucket.unreachable
        )

    def _page(self, prefix: str, token: str) -> tuple[list[Any], str]:
        try:
            page = self._bucket.client.list_objects_v2(
                Bucket=self._bucket.name,
                Prefix=prefix,
                **({"ContinuationToken": token} if token else {}),
                **self._payer,
            )
            if not page.keys() & LISTING_ELEMENTS:
                raise invalid_answer("it has no element of a listing")
            return page.get("Contents", []), page.get("NextContinuationToken", "") if page.get("IsTruncated") else ""
        except REQUEST_ERRORS as error:
            raise self._bucket.translate(error) from None
        except MALFORMED_ANSWER as error:
            raise invalid_answer(f"it {malformed(error)}") from None

    def _object_changed(self, error: Exception) -> CtbasisError | None:
        return object_changed(f"bucket {self._bucket.name!r}") if error_code(error) in OBJECT_CHANGED else None

    def _range_ignored(self) -> CtbasisError:
        return CtbasisError(
            f"{self._bucket.endpoint} answers a request for a range of an object of bucket {self._bucket.name!r} with "
            "another range",
            expected="a server that supports the Range header, as S3 does",
            cause="the endpoint is not an S3 server, or a proxy removes the header",
            remedy="check AWS_ENDPOINT_URL and the proxy",
        )
