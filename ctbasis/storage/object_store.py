"""A zarr store whose chunks are objects below `s3://bucket/prefix`.

Over boto3, and not obstore or s3fs: those keep threads (tokio's, fsspec's event loop) that a forked process has not,
and there they wait for ever, while the matrix step forks its workers. At chunks of megabytes boto3 is as fast, and it
is the client, with the settings and the words for its errors, that the fetch step has anyway.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from ctbasis.errors import TransientError
from ctbasis.storage.s3 import NO_SUCH_KEY, Bucket, code_of, split

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

T = TypeVar("T")

CONNECTIONS = 16
"""Requests that may run at once in one process; zarr itself sends ten."""

READ_SECONDS = 60
"""Silence after which an answer is given up: a chunk is megabytes, and a loaded server takes a while to store one."""

PATIENCE_SECONDS = 180.0
"""How long the server may be away, as while it restarts or its pod moves; a step waits rather than starts over."""

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 8.0

DELETED_AT_ONCE = 1000
"""Keys that one request may delete, by S3's own rule."""


class ObjectStore(Store):
    """Objects below a prefix as a zarr store; also, without zarr, their keys and contents.

    Every process and every thread may use one at once. Requests outlive an outage of `PATIENCE_SECONDS`.

    Args:
        uri: `s3://bucket/prefix`.
        read_only: Refuse to write or delete.

    Raises:
        CtbasisError: The URI names no bucket. Whatever it is asked for: the bucket is not there, the keys are wrong, or
            the server stays away.
    """

    def __init__(self, uri: str, *, read_only: bool = False) -> None:
        super().__init__(read_only=read_only)
        self.uri = uri
        self._name, prefix = split(uri, what="store")
        self._below = f"{prefix}/" if prefix else ""

    def read(self, key: str, byte_range: ByteRequest | None = None) -> bytes | None:
        """Return an object's content or a part of it, None where there is no such object."""
        options: dict[str, str] = {"Range": _range(byte_range)} if byte_range is not None else {}

        def ask(bucket: Bucket) -> bytes | None:
            try:
                answer = bucket.client.get_object(Bucket=bucket.name, Key=self._below + key, **options)
            except ClientError as error:
                if code_of(error) in NO_SUCH_KEY:
                    return None
                raise
            content: bytes = answer["Body"].read()
            return content

        return self._patiently(ask)

    def write(self, key: str, content: bytes) -> None:
        """Make or replace an object."""
        self._patiently(
            lambda bucket: bucket.client.put_object(Bucket=bucket.name, Key=self._below + key, Body=content)
        )

    def keys_below(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that begin with `prefix` as the listing arrives, in the server's order."""
        for page in self._pages(prefix):
            for entry in page.get("Contents", []):
                yield entry["Key"].removeprefix(self._below)

    def remove(self, keys: Iterable[str]) -> int:
        """Delete objects and return how many there were to delete."""
        rest, count = iter(keys), 0
        while batch := list(islice(rest, DELETED_AT_ONCE)):
            listed = {"Objects": [{"Key": self._below + key} for key in batch], "Quiet": True}

            def ask(bucket: Bucket, listed: dict[str, Any] = listed) -> None:
                failed = bucket.client.delete_objects(Bucket=bucket.name, Delete=listed).get("Errors", [])
                if failed:
                    # Each key has a refusal of its own; without a status, it is the server's fault.
                    answer: Any = {"Error": failed[0], "ResponseMetadata": {"HTTPStatusCode": 500}}
                    raise ClientError(answer, "DeleteObjects")

            self._patiently(ask)
            count += len(batch)
        return count

    def copy_from(self, source: ObjectStore, key: str) -> None:
        """Copy an object of another store; the server does it, and nothing of it passes here."""
        there = {"Bucket": source._name, "Key": source._below + key}
        self._patiently(
            lambda bucket: bucket.client.copy_object(Bucket=bucket.name, Key=self._below + key, CopySource=there)
        )

    def _pages(self, prefix: str, **options: Any) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            page = self._page(self._below + prefix, {**options, **token})
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, prefix: str, options: dict[str, Any]) -> dict[str, Any]:
        return self._patiently(
            lambda bucket: bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=prefix, **options)
        )

    def _patiently(self, ask: Callable[[Bucket], T]) -> T:
        """Return what `ask` returns; while the server is away, ask again."""
        bucket = _bucket(self._name, os.getpid(), _environment())
        started, pause, told = time.monotonic(), FIRST_PAUSE_SECONDS, False
        while True:
            try:
                return ask(bucket)
            except (BotoCoreError, ClientError) as error:
                meaning = bucket.explained(error)
            # Out of the handler: what botocore said may repeat what was signed, and is not to be an error's context.
            if not isinstance(meaning, TransientError):
                raise meaning
            if time.monotonic() - started > PATIENCE_SECONDS:
                raise bucket.unreachable(str(meaning))
            if not told and pause > 1:
                told = True
                sys.stderr.write(f"store: S3 at {bucket.endpoint} does not answer ({meaning}); asking again\n")
                sys.stderr.flush()
            # Uneven, so that a thousand executors do not come back in step.
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret hangs on it
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    # What zarr asks of a store.

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStore) and (self.uri, self.read_only) == (other.uri, other.read_only)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.uri

    def __repr__(self) -> str:
        return f"ObjectStore({self.uri!r})"

    def with_read_only(self, read_only: bool = False) -> ObjectStore:
        """Return this store, to be written to or not."""
        return ObjectStore(self.uri, read_only=read_only)

    @property
    def supports_writes(self) -> bool:
        """Yes."""
        return True

    @property
    def supports_deletes(self) -> bool:
        """Yes."""
        return True

    @property
    def supports_listing(self) -> bool:
        """Yes."""
        return True

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an object, or None."""
        content = await asyncio.to_thread(self.read, key, byte_range)
        return None if content is None else prototype.buffer.from_bytes(content)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of objects."""
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    async def exists(self, key: str) -> bool:
        """Tell whether an object is there; asked by listing, as a HEAD does not tell a missing bucket."""
        page = await asyncio.to_thread(self._page, self._below + key, {"MaxKeys": 1})
        return any(entry["Key"] == self._below + key for entry in page.get("Contents", []))

    async def set(self, key: str, value: Buffer) -> None:
        """Make or replace an object."""
        self._check_writable()
        await asyncio.to_thread(self.write, key, value.to_bytes())

    async def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        self._check_writable()
        await asyncio.to_thread(self.remove, [key])

    async def delete_dir(self, prefix: str) -> None:
        """Delete all objects below a prefix."""
        self._check_writable()
        below = f"{prefix.rstrip('/')}/" if prefix else ""
        await asyncio.to_thread(lambda: self.remove(self.keys_below(below)))

    async def list(self) -> AsyncIterator[str]:
        """Yield every key."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that begin with `prefix`."""
        for key in await asyncio.to_thread(lambda: [*self.keys_below(prefix)]):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield what is directly below `prefix`."""
        below = f"{prefix.rstrip('/')}/" if prefix else ""
        pages = await asyncio.to_thread(lambda: [*self._pages(below, Delimiter="/")])
        whole = self._below + below
        for page in pages:
            for entry in page.get("CommonPrefixes", []):
                yield entry["Prefix"].removeprefix(whole).rstrip("/")
            for entry in page.get("Contents", []):
                yield entry["Key"].removeprefix(whole)


def _range(part: ByteRequest) -> str:
    if isinstance(part, RangeByteRequest):
        return f"bytes={part.start}-{part.end - 1}"
    if isinstance(part, OffsetByteRequest):
        return f"bytes={part.offset}-"
    if isinstance(part, SuffixByteRequest):
        return f"bytes=-{part.suffix}"
    raise TypeError(f"{part!r} is no range of bytes")


def _environment() -> tuple[tuple[str, str], ...]:
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))


@lru_cache(maxsize=8)
def _bucket(name: str, _process: int, _environment: tuple[tuple[str, str], ...]) -> Bucket:
    """Connect once for each bucket, process and AWS configuration: a client takes long to make, and none is forked."""
    return Bucket(
        name,
        what="store",
        use="read and write",
        connections=CONNECTIONS,
        read_timeout=READ_SECONDS,
        # Patience is this module's.
        retries={"mode": "standard", "total_max_attempts": 1},
        # Each chunk has a checksum of its own, and not every server knows the trailers that newer ones are sent in.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
