"""The source `s3://bucket/prefix`: objects at AWS or at any S3-compatible endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from ctbasis.errors import CtbasisError, TransientError
from ctbasis.sources.etag import Digest, Verdict
from ctbasis.sources.source import RemoteObject
from ctbasis.storage.s3 import NO_SUCH_KEY, Bucket, error_code, split_uri

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READ_BYTES = 1 << 20
"""Bytes per read from the network."""

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
                raise _invalid_listing("an entry has no key, or a key outside of the prefix")
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
            CtbasisError: Access is denied, or the object was replaced or deleted.
            OSError: `target` cannot be written.
        """
        digest = Digest(entry.etag, entry.size)
        try:
            condition = {"IfMatch": f'"{entry.etag}"'} if entry.etag else {}
            answer = self._bucket.client.get_object(Bucket=self._bucket.name, Key=entry.location, **condition)
            with target.open("wb") as file:
                for data in answer["Body"].iter_chunks(READ_BYTES):
                    digest.update(data)
                    file.write(data)
        except (BotoCoreError, ClientError) as error:
            raise self._object_changed(error) or self._bucket.translate(error) from None
        verdict = digest.verdict()
        # The ETag of an object encrypted with SSE-C or SSE-KMS has the form of an MD5 but is not one.
        if answer.get("SSECustomerAlgorithm") or str(answer.get("ServerSideEncryption")).startswith("aws:kms"):
            return False
        if verdict is Verdict.DIFFERS:
            raise TransientError("the size or the content differs from the listing")
        return verdict is Verdict.MATCHES

    def _listing(self, prefix: str) -> Iterator[Any]:
        paginator = self._bucket.client.get_paginator("list_objects_v2")
        try:
            for page in paginator.paginate(Bucket=self._bucket.name, Prefix=prefix):
                yield from page.get("Contents", [])
        except (BotoCoreError, ClientError) as error:
            translated = self._bucket.translate(error)
            if isinstance(translated, TransientError):
                translated = self._bucket.unreachable(str(translated))
            raise translated from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # botocore's parser assumes a well-formed answer and raises any of these for others.
            raise _invalid_listing("it does not parse") from error

    def _object_changed(self, error: BotoCoreError | ClientError) -> CtbasisError | None:
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
        raise _invalid_listing("an object has no size, or a negative one")
    return RemoteObject(key, entry["Key"], int(size), str(entry.get("ETag", "")).strip('"').lower())


def _invalid_listing(fault: str) -> CtbasisError:
    return CtbasisError(
        f"the answer to the listing request is not an S3 listing: {fault}",
        expected="the answer of an S3-compatible server to ListObjectsV2",
        cause="the endpoint is not an S3 server, or is faulty",
        remedy="check AWS_ENDPOINT_URL",
    )
