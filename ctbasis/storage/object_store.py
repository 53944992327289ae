"""A zarr store whose chunks are objects below `s3://bucket/prefix`.

This store uses boto3 rather than obstore or s3fs. Both of those keep background threads (tokio's, fsspec's event loop),
which do not survive a fork, so that a call in a forked process would never return; the matrix step forks its workers.
With chunks of several megabytes boto3 is as fast. The fetch step uses the same client, with the same settings and error
messages.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import ClientError
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from ctbasis.errors import CtbasisError, TransientError
from ctbasis.printable import say
from ctbasis.storage.s3 import MALFORMED_ANSWER, NO_SUCH_KEY, REQUEST_ERRORS, Bucket, error_code, malformed, split_uri
from ctbasis.storage.unreadable import MAX_OBJECT_BYTES, too_large

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

T = TypeVar("T")

MAX_CONNECTIONS = 16
"""Concurrent requests of one process; zarr itself sends ten."""

PARALLEL_REQUESTS = 10
"""Requests for chunks that one process sends concurrently."""

READ_SECONDS = 60
"""Read timeout in seconds. A chunk has megabytes, and a loaded server may take long to store one."""

RETRY_SECONDS = 180.0
"""Time in seconds for which requests are repeated while the server is down, for example while its pod restarts.

Waiting is cheaper than repeating a step.
"""

FIRST_DELAY_SECONDS = 0.25
MAX_DELAY_SECONDS = 8.0

DELETE_BATCH = 1000
"""Keys that one DeleteObjects request may hold: S3's limit."""


class ObjectStore(Store):
    """A zarr store of objects below a prefix; its objects can also be listed, read and written without zarr.

    Any number of processes and threads may use one store concurrently. A request is repeated for up to `RETRY_SECONDS`
    while the server does not answer.

    Args:
        uri: `s3://bucket/prefix`.
        read_only: Refuse to write or delete.

    Raises:
        CtbasisError: The URI names no bucket. Every method: the bucket does not exist, access is denied, or the server
            did not answer within `RETRY_SECONDS`.
    """

    parallel = PARALLEL_REQUESTS

    def __init__(self, uri: str, *, read_only: bool = False) -> None:
        super().__init__(read_only=read_only)
        self.uri = uri
        self._name, prefix = split_uri(uri, what="store")
        self._below = f"{prefix}/" if prefix else ""

    def read(self, key: str, byte_range: ByteRequest | None = None, *, most: int = MAX_OBJECT_BYTES) -> bytes | None:
        """Return the content of an object, or the given range of its bytes; None if there is no such object.

        Raises:
            UnreadableError: It has more than `most` bytes.
        """
        options: dict[str, str] = {"Range": _range(byte_range)} if byte_range is not None else {}

        def request(bucket: Bucket) -> bytes | None:
            try:
                answer = bucket.client.get_object(Bucket=bucket.name, Key=self._below + key, **options)
            except ClientError as error:
                if error_code(error) in NO_SUCH_KEY:
                    return None
                raise
            if answer["ContentLength"] > most:
                answer["Body"].close()
                raise too_large(f"{self.uri}/{key}", answer["ContentLength"], most)
            content: bytes = answer["Body"].read()
            return content

        return self._with_retries(request)

    def write(self, key: str, content: bytes) -> None:
        """Create or replace an object."""
        self._with_retries(
            lambda bucket: bucket.client.put_object(Bucket=bucket.name, Key=self._below + key, Body=content)
        )

    def upload(self, key: str, path: Path) -> None:
        """Create or replace an object with the content of a file; a large file is sent in parts, whole or not at all.

        Raises:
            OSError: The file cannot be read.
        """

        def request(bucket: Bucket) -> None:
            with path.open("rb") as file:
                bucket.client.upload_fileobj(file, bucket.name, self._below + key)

        self._with_retries(request)

    def abort_uploads(self) -> None:
        """Remove the parts of uploads to keys below the prefix that a process began and did not complete.

        A server that does not list them, or not to this user, keeps them.
        """

        def request(bucket: Bucket) -> None:
            listing = bucket.client.list_multipart_uploads(Bucket=bucket.name, Prefix=self._below)
            for upload in listing.get("Uploads", []):
                names = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                bucket.client.abort_multipart_upload(Bucket=bucket.name, **names)

        with suppress(CtbasisError):
            self._with_retries(request)

    def read_into(self, key: str, buffer: NDArray[np.uint8]) -> int | None:
        """Read an object into `buffer` if it has its size; return the object's size, or None if there is no object."""
        content = self.read(key)
        if content is not None and len(content) == buffer.size:
            buffer.data[:] = content
        return None if content is None else len(content)

    def read_end(self, key: str, count: int) -> bytes:
        """Return the last `count` bytes of an object; empty if there is no object."""
        return self.read(key, SuffixByteRequest(count)) or b""

    def write_chunk(self, key: str, values: NDArray[Any], checksum: bytes) -> None:
        """Create or replace an object that holds the bytes of `values` and a checksum."""
        self.write(key, values.tobytes() + checksum)

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of every object by its key."""
        pages = self._pages("")
        return {
            entry["Key"].removeprefix(self._below): int(entry["Size"])
            for page in pages
            for entry in page.get("Contents", [])
        }

    def written(self) -> dict[str, datetime]:
        """Return the time at which each object was written, by its key."""
        return {
            entry["Key"].removeprefix(self._below): entry["LastModified"]
            for page in self._pages("")
            for entry in page.get("Contents", [])
        }

    def keys_below(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that begin with `prefix`, page by page, in the server's order."""
        for page in self._pages(prefix):
            for entry in page.get("Contents", []):
                yield entry["Key"].removeprefix(self._below)

    def remove(self, keys: Iterable[str]) -> int:
        """Delete objects and return the number of keys that were given.

        Raises:
            CtbasisError: See the class.
        """
        remaining, count = iter(keys), 0
        while batch := list(islice(remaining, DELETE_BATCH)):
            objects = {"Objects": [{"Key": self._below + key} for key in batch], "Quiet": True}

            def request(bucket: Bucket, objects: dict[str, Any] = objects) -> None:
                failed = bucket.client.delete_objects(Bucket=bucket.name, Delete=objects).get("Errors", [])
                if failed:
                    # The server reports one error per key and no HTTP status; 500 marks them as worth another attempt.
                    answer: Any = {"Error": failed[0], "ResponseMetadata": {"HTTPStatusCode": 500}}
                    raise ClientError(answer, "DeleteObjects")

            self._with_retries(request)
            count += len(batch)
        return count

    def copy_from(self, source: ObjectStore, key: str) -> None:
        """Copy an object of another store within the server; no content passes through this process."""
        original = {"Bucket": source._name, "Key": source._below + key}
        self._with_retries(
            lambda bucket: bucket.client.copy_object(Bucket=bucket.name, Key=self._below + key, CopySource=original)
        )

    def _pages(self, prefix: str, **options: Any) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        used: set[str] = set()
        while True:
            page = self._page(self._below + prefix, {**options, **token})
            yield page
            if not page.get("IsTruncated"):
                return
            following = str(page.get("NextContinuationToken", ""))
            if not following or following in used:
                raise CtbasisError(
                    f"the listing of {self.uri} does not end: a continuation token is missing or repeated",
                    expected="a listing as S3 gives it",
                    cause="the server is no S3 server, or a proxy caches its answers",
                    remedy="check AWS_ENDPOINT_URL",
                )
            used.add(following)
            token = {"ContinuationToken": following}

    def _page(self, prefix: str, options: dict[str, Any]) -> dict[str, Any]:
        return self._with_retries(
            lambda bucket: bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=prefix, **options)
        )

    def _with_retries(self, request: Callable[[Bucket], T]) -> T:
        """Return the result of `request`; repeat it with growing delays while the server does not answer."""
        bucket = _bucket(self._name, os.getpid(), _environment())
        started, delay, reported = time.monotonic(), FIRST_DELAY_SECONDS, False
        while True:
            try:
                return request(bucket)
            except REQUEST_ERRORS as error:
                translated = bucket.translate(error)
            except MALFORMED_ANSWER as error:
                translated = bucket.unreachable(f"its answer {malformed(error)}")
            # Raised outside of the handler: botocore's message may repeat signed headers and must not become the
            # context of our error.
            if not isinstance(translated, TransientError):
                raise translated
            if time.monotonic() - started > RETRY_SECONDS:
                raise bucket.unreachable(str(translated))
            if not reported and delay > 1:
                reported = True
                say(f"store: S3 at {bucket.endpoint} does not answer ({translated}); asking again")
            # Jitter, so that a thousand executors do not repeat their requests at the same moment.
            time.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - the delay is no secret
            delay = min(2 * delay, MAX_DELAY_SECONDS)

    # The methods that zarr's Store interface requires.

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStore) and (self.uri, self.read_only) == (other.uri, other.read_only)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.uri

    def __repr__(self) -> str:
        return f"ObjectStore({self.uri!r})"

    def with_read_only(self, read_only: bool = False) -> ObjectStore:
        """Return a store of the same URI with the given `read_only`."""
        return ObjectStore(self.uri, read_only=read_only)

    @property
    def supports_writes(self) -> bool:
        """True: objects can be written."""
        return True

    @property
    def supports_deletes(self) -> bool:
        """True: objects can be deleted."""
        return True

    @property
    def supports_listing(self) -> bool:
        """True: keys can be listed."""
        return True

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the content of an object or a part of it, or None."""
        content = await asyncio.to_thread(self.read, key, byte_range)
        return None if content is None else prototype.buffer.from_bytes(content)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of objects."""
        return await asyncio.gather(*(self.get(key, prototype, byte_range) for key, byte_range in key_ranges))

    async def exists(self, key: str) -> bool:
        """Tell whether an object exists. Uses a listing, because HEAD gives the same answer for a missing bucket."""
        page = await asyncio.to_thread(self._page, self._below + key, {"MaxKeys": 1})
        return any(entry["Key"] == self._below + key for entry in page.get("Contents", []))

    async def set(self, key: str, value: Buffer) -> None:
        """Create or replace an object."""
        self._check_writable()
        await asyncio.to_thread(self.write, key, value.to_bytes())

    async def delete(self, key: str) -> None:
        """Delete an object if it exists."""
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
        """Yield the names of the objects and prefixes directly below `prefix`."""
        below = f"{prefix.rstrip('/')}/" if prefix else ""
        pages = await asyncio.to_thread(lambda: [*self._pages(below, Delimiter="/")])
        parent = self._below + below
        for page in pages:
            for entry in page.get("CommonPrefixes", []):
                yield entry["Prefix"].removeprefix(parent).rstrip("/")
            for entry in page.get("Contents", []):
                yield entry["Key"].removeprefix(parent)


def _range(byte_range: ByteRequest) -> str:
    """Return the value of the HTTP header Range."""
    if isinstance(byte_range, RangeByteRequest):
        return f"bytes={byte_range.start}-{byte_range.end - 1}"
    if isinstance(byte_range, OffsetByteRequest):
        return f"bytes={byte_range.offset}-"
    if isinstance(byte_range, SuffixByteRequest):
        return f"bytes=-{byte_range.suffix}"
    raise TypeError(f"{byte_range!r} is not a byte range")


def _environment() -> tuple[tuple[str, str], ...]:
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))


@lru_cache(maxsize=8)
def _bucket(name: str, _process: int, _environment: tuple[tuple[str, str], ...]) -> Bucket:
    """Return the client of a bucket, one per process and configuration: it is slow to create and must not be forked."""
    return Bucket(
        name,
        what="store",
        use="read and write",
        connections=MAX_CONNECTIONS,
        read_timeout=READ_SECONDS,
        # `_with_retries` repeats requests; botocore must not do so as well.
        retries={"mode": "standard", "total_max_attempts": 1},
        # Each chunk carries its own CRC-32C, and not every S3-compatible server accepts botocore's checksum trailers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
