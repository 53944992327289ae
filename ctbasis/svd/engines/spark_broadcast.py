"""Values that the tasks of a Spark application share, in an application that encrypts its files too."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark import Broadcast, SparkContext

T = TypeVar("T")


class Shared(Generic[T]):
    """A value that each Python worker receives once, and that the driver program keeps.

    With `spark.io.encryption.enabled`, the driver program must not read a broadcast variable of PySpark: it waits until
    the JVM has sent the value, while the JVM waits until the program has read what the socket holds
    (`Broadcast.value` in pyspark/core/broadcast.py). Above a few MB neither ever ends.

    Args:
        variable: The broadcast variable, for the tasks.
        value: Its value, for the driver program.
    """

    def __init__(self, variable: Broadcast[T], value: T) -> None:
        self._variable, self._value = variable, value

    def __reduce__(self) -> tuple[Callable[[Broadcast[T]], _Received[T]], tuple[Broadcast[T]]]:
        return _Received, (self._variable,)

    @property
    def value(self) -> T:
        """The value itself."""
        return self._value

    def destroy(self) -> None:
        """Remove the value from the executors; no task can use it any more."""
        self._variable.destroy()


class _Received(Generic[T]):
    """What a task has of a `Shared`."""

    def __init__(self, variable: Broadcast[T]) -> None:
        self._variable = variable

    @property
    def value(self) -> T:
        return cast("T", self._variable.value)


def broadcast(spark: SparkContext, value: T) -> Shared[T]:
    """Send `value`, which may hold arrays of any size, to the tasks that use what this function returns.

    With `spark.io.encryption.enabled`, PySpark pickles a broadcast value into a stream that takes bytes and no other
    buffer (`ChunkedStream` in pyspark/serializers.py). The pickle of an object hands an array above 64 KiB to the
    stream as a `PickleBuffer`, and fails. This function hands it over as bytes.

    Args:
        spark: Context of the application.
        value: An object that can be pickled. It is pickled once, now; each Python worker unpickles it once.
    """
    return Shared(spark.broadcast(_PickledAsBytes(value)), value)


class _PickledAsBytes:
    """An object whose pickle is one string of bytes, and unpickles to `value` itself."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return pickle.loads, (pickle.dumps(self.value, pickle.HIGHEST_PROTOCOL),)
