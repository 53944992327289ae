"""`s3://bucket/prefix`: AWS or any S3-compatible endpoint."""

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

PIECE = 1 << 20
"""Bytes taken from the network at once."""

CHANGED = {"412", "PreconditionFailed", *NO_SUCH_KEY}
"""What a download answers when the object is no longer the one that was listed."""


class S3:
    """Objects below a prefix, or the one object that it names.

    Args:
        uri: `s3://bucket/prefix`.
        connections: How many requests run at once.

    Raises:
        CtbasisError: The URI names no bucket, or the AWS_* variables are no configuration.
    """

    def __init__(self, uri: str, connections: int) -> None:
        name, self._prefix = split_uri(uri, what="source")
        # One more, for the listing that goes on meanwhile.
        self._bucket = Bucket(name, what="source", connections=connections + 1)

    def objects(self) -> Iterator[RemoteObject]:
        """Yield the objects below the prefix, page after page, or the one object of that name."""
        below = f"{self._prefix}/" if self._prefix else ""
        found = False
        for entry in self._listing(below):
            if not entry.get("Key", "").startswith(below):
                raise _no_listing("it holds a key that is not below the prefix, or none")
            found = True
            yield _remote(entry, entry["Key"].removeprefix(below))
        if not found and self._prefix:
            first = next(self._listing(self._prefix), {"Key": ""})
            if first["Key"] == self._prefix:
                yield _remote(first, self._prefix.rpartition("/")[2])

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Stream the object to `target`; check its size, and its ETag where that tells the content."""
        digest = Digest(entry.etag, entry.size)
        try:
            condition = {"IfMatch": f'"{entry.etag}"'} if entry.etag else {}
            answer = self._bucket.client.get_object(Bucket=self._bucket.name, Key=entry.location, **condition)
            with target.open("wb") as file:
                for piece in answer["Body"].iter_chunks(PIECE):
                    digest.update(piece)
                    file.write(piece)
        except (BotoCoreError, ClientError) as error:
            raise self._changed(error) or self._bucket.translate(error) from None
        verdict = digest.verdict()
        # Objects encrypted with keys of their own have an ETag that looks like an MD5 and is none.
        if answer.get("SSECustomerAlgorithm") or str(answer.get("ServerSideEncryption")).startswith("aws:kms"):
            return False
        if verdict is Verdict.DIFFERS:
            raise TransientError("the content is not what the listing promised")
        return verdict is Verdict.MATCHES

    def _listing(self, prefix: str) -> Iterator[Any]:
        paginator = self._bucket.client.get_paginator("list_objects_v2")
        try:
            for page in paginator.paginate(Bucket=self._bucket.name, Prefix=prefix):
                yield from page.get("Contents", [])
        except (BotoCoreError, ClientError) as error:
            mapped = self._bucket.translate(error)
            raise (self._bucket.unreachable(str(mapped)) if isinstance(mapped, TransientError) else mapped) from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # The client library's parser takes an answer for what the server's model says.
            raise _no_listing("a part of it does not parse") from error

    def _changed(self, error: BotoCoreError | ClientError) -> CtbasisError | None:
        if error_code(error) not in CHANGED:
            return None
        return CtbasisError(
            f"an object of bucket {self._bucket.name!r} was changed or removed after it had been listed",
            cause="somebody writes to the source",
            remedy="run the step again when the source is complete",
        )


def _remote(entry: Any, key: str) -> RemoteObject:
    size = entry.get("Size", -1)
    if size < 0:
        raise _no_listing("it holds an object of no size, or of one below 0")
    return RemoteObject(key, entry["Key"], int(size), str(entry.get("ETag", "")).strip('"').lower())


def _no_listing(found: str) -> CtbasisError:
    return CtbasisError(
        f"what the source lists is no listing of S3: {found}",
        expected="a listing as S3 gives it",
        cause="the endpoint is no S3 server, or a broken one",
        remedy="check AWS_ENDPOINT_URL",
    )
