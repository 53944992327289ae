"""The source `s3://bucket/prefix`: objects at AWS or at any S3-compatible endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import PaginationError

from ctbasis.errors import CtbasisError, TransientError
from ctbasis.sources.disk_space import require_space
from ctbasis.sources.etag import Digest, Verdict
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
    from collections.abc import Iterator
    from pathlib import Path

READ_BYTES = 1 << 20
"""Bytes per read from the network."""

MAX_EMPTY_PAGES = 1000
"""Consecutive pages of a listing without an object, at most. A server may send a few, while it skips deleted keys."""

LISTING_ELEMENTS = {"Name", "Prefix", "KeyCount", "IsTruncated", "Contents"}
"""Elements of an answer to ListObjectsV2; each server sends some of them for an empty listing too."""

OBJECT_CHANGED = {"412", "PreconditionFailed", *NO_SUCH_KEY}
"""Codes of the answer to a download whose object was replaced or deleted after it had been listed."""


class S3Source:
    """The objects below a prefix, or the single object that the URI names.

    Args:
        uri: `s3://bucket/prefix`.
        connections: Parallel downloads.

    Raises:
        CtbasisError: The URI names no bucket, or the AWS_* variables are not valid.
    """

    def __init__(self, uri: str, connections: int) -> None:
        name, self._prefix = split_uri(uri, what="source")
        # One more connection for the listing, which continues during downloads.
        self._bucket = Bucket(name, what="source", connections=connections + 1)

    def objects(self) -> Iterator[RemoteObject]:
        """Yield the objects below the prefix as their listing arrives, or else the object that the prefix names.

        Raises:
            CtbasisError: The bucket does not exist, access is denied, the server does not answer, or its answer is not
                a valid listing.
        """
        folder = f"{self._prefix}/" if self._prefix else ""
        empty = True
        for entry in self._listing(folder):
            if not entry.get("Key", "").startswith(folder):
                raise invalid_answer("an entry has no key, or a key outside of the prefix")
            empty = False
            yield _remote_object(entry, entry["Key"].removeprefix(folder))
        if empty and self._prefix:
            first = next(self._listing(self._prefix), {"Key": ""})
            if first["Key"] == self._prefix:
                yield _remote_object(first, self._prefix.rpartition("/")[2])

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Stream the object to `target`. Check its size, and its content if the ETag is a digest of it.

        Returns:
            Whether the content was checked against the ETag.

        Raises:
            TransientError: The download failed, or the content differs from the listing; another attempt may succeed.
            CtbasisError: Access is denied, the object was replaced or deleted, or the volume has no room for it.
            OSError: `target` cannot be written.
        """
        require_space(entry.size, target.parent, f"{entry.key!r}")
        digest = Digest(entry.etag, entry.size)
        received = 0
        try:
            condition = {"IfMatch": f'"{entry.etag}"'} if entry.etag else {}
            answer = self._bucket.client.get_object(Bucket=self._bucket.name, Key=entry.location, **condition)
            with target.open("wb") as file:
                for data in answer["Body"].iter_chunks(READ_BYTES):
                    received += len(data)
                    if received > entry.size:
                        answer["Body"].close()
                        raise TransientError("it has more bytes than the listing states; the content differs")
                    digest.update(data)
                    file.write(data)
        except REQUEST_ERRORS as error:
            raise self._object_changed(error) or self._bucket.translate(error) from None
        except MALFORMED_ANSWER as error:
            raise TransientError(f"the answer {malformed(error)}") from None
        verdict = digest.verdict()
        # The ETag of an object encrypted with SSE-C or SSE-KMS has the form of an MD5 but is not one.
        if answer.get("SSECustomerAlgorithm") or str(answer.get("ServerSideEncryption")).startswith("aws:kms"):
            return False
        if verdict is Verdict.DIFFERS:
            raise TransientError("the size or the content differs from the listing")
        return verdict is Verdict.MATCHES

    def _listing(self, prefix: str) -> Iterator[Any]:
        paginator = self._bucket.client.get_paginator("list_objects_v2")
        empty = 0
        try:
            for page in paginator.paginate(Bucket=self._bucket.name, Prefix=prefix):
                if not page.keys() & LISTING_ELEMENTS:
                    raise invalid_answer("it has no element of a listing")
                empty = 0 if "Contents" in page else empty + 1
                if empty > MAX_EMPTY_PAGES:
                    raise invalid_answer(f"it does not end: {MAX_EMPTY_PAGES} pages hold no object")
                yield from page.get("Contents", [])
        except PaginationError:
            raise invalid_answer("it does not end: a continuation token is repeated") from None
        except REQUEST_ERRORS as error:
            translated = self._bucket.translate(error)
            if isinstance(translated, TransientError):
                translated = self._bucket.unreachable(str(translated))
            raise translated from None
        except MALFORMED_ANSWER as error:
            raise invalid_answer(f"it {malformed(error)}") from None

    def _object_changed(self, error: Exception) -> CtbasisError | None:
        if error_code(error) not in OBJECT_CHANGED:
            return None
        return CtbasisError(
            f"an object of bucket {self._bucket.name!r} was replaced or deleted after it had been listed",
            expected="a source that does not change during the fetch",
            cause="somebody writes to the source",
            remedy="run the step again when the source is complete",
        )


def _remote_object(entry: Any, key: str) -> RemoteObject:
    size = entry.get("Size", -1)
    if size < 0:
        raise invalid_answer("an object has no size, or a negative one")
    return RemoteObject(key, entry["Key"], int(size), str(entry.get("ETag", "")).strip('"').lower())
