"""Objects of several buckets or prefixes as parts of one source, such as the series that a manifest or IDC names."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.sources.gs import GsSource
from ctbasis.sources.s3 import S3Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ctbasis.sources.source import RemoteObject

BUCKET_SOURCES: dict[str, type[S3Source | GsSource]] = {"s3": S3Source, "gs": GsSource}
"""Source of each scheme that a manifest or the catalogue may name."""


class Buckets:
    """Sources of buckets, opened when they are first needed.

    The location of an object is its URI, so another process finds it without a listing.

    Args:
        connections: Parallel downloads.
    """

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._sources: dict[str, S3Source | GsSource] = {}
        self._lock = threading.Lock()

    def objects(self, uri: str, folder: str) -> Iterator[RemoteObject]:
        """Yield the objects below `uri`, `s3://bucket/prefix` or `gs://bucket/prefix`, with keys below `folder`.

        Raises:
            CtbasisError: The bucket cannot be listed.
        """
        bucket = bucket_of(uri)
        for entry in self._source(bucket).below(uri.removeprefix(bucket).removesuffix("*").strip("/")):
            yield replace(entry, key=f"{folder}/{entry.key}", location=f"{bucket}/{entry.location}")

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Download an object from its bucket; see `Source.download`."""
        bucket = bucket_of(entry.location)
        return self._source(bucket).download(_inner(entry, bucket), target)

    def read(self, entry: RemoteObject, start: int, stop: int) -> bytes:
        """Read a range of bytes of an object from its bucket; see `Source.read`."""
        bucket = bucket_of(entry.location)
        return self._source(bucket).read(_inner(entry, bucket), start, stop)

    def _source(self, bucket: str) -> S3Source | GsSource:
        with self._lock:
            if bucket not in self._sources:
                self._sources[bucket] = BUCKET_SOURCES[bucket.partition("://")[0]](bucket, self._connections)
            return self._sources[bucket]


def bucket_of(uri: str) -> str:
    """Return `scheme://bucket` of a URI of an object or a prefix.

    Raises:
        CtbasisError: The URI has another scheme than those of buckets.
    """
    scheme, separator, rest = uri.partition("://")
    bucket = rest.partition("/")[0]
    if scheme not in BUCKET_SOURCES or not separator or not bucket:
        raise CtbasisError(
            "an object of the source is in no bucket",
            expected=f"a URI of {' or '.join(f'{name}://' for name in BUCKET_SOURCES)}",
            cause="the manifest or the catalogue has another kind of address",
            remedy="check the source",
        )
    return f"{scheme}://{bucket}"


def _inner(entry: RemoteObject, bucket: str) -> RemoteObject:
    return replace(entry, location=entry.location.removeprefix(f"{bucket}/"))
