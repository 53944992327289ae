"""Broadcast variables of Spark that hold arrays.

With `spark.io.encryption.enabled`, PySpark pickles a broadcast value into a stream that takes bytes and no other buffer
(`ChunkedStream` in pyspark/serializers.py). The pickle of an object with an array above 64 KiB hands the array to the
stream as a `PickleBuffer`, and fails. This module hands it over as bytes.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark import Broadcast, SparkContext

T = TypeVar("T")


def broadcast(spark: SparkContext, value: T) -> Broadcast[T]:
    """Return a broadcast variable with `value`, which may hold arrays of any size.

    Args:
        spark: Context of the application.
        value: An object that can be pickled. It is pickled once, now; each executor process unpickles it once.
    """
    return cast("Broadcast[T]", spark.broadcast(_PickledAsBytes(value)))


class _PickledAsBytes:
    """An object whose pickle is one string of bytes, and unpickles to `value` itself."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return pickle.loads, (pickle.dumps(self.value, pickle.HIGHEST_PROTOCOL),)
