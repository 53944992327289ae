"""The interface between algorithms and engines: workers that run a pass over all row blocks and combine the results."""

from __future__ import annotations

import itertools
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, is_dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.installed import VERSION
from ctbasis.matrix.store import MatrixStore
from ctbasis.svd.passes import nbytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import DTypeLike, NDArray

    from ctbasis.svd.passes import Parts, Pass


class RowBlocks(Protocol):
    """A matrix that is read row block by row block: a `MatrixStore`, or a matrix computed on the fly."""

    @property
    def uri(self) -> str:
        """Where the matrix is, for messages to the user."""
        ...

    @property
    def rows(self) -> int:
        """Number of rows, m."""
        ...

    @property
    def cols(self) -> int:
        """Number of columns, n."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the stored values."""
        ...

    @property
    def block_count(self) -> int:
        """Number of row blocks."""
        ...

    def block(self, index: int) -> slice:
        """Return the rows of block `index`."""
        ...

    def read_block(self, index: int, *, dtype: DTypeLike = np.float64) -> NDArray[Any]:
        """Return row block `index`, (block rows, n)."""
        ...


@runtime_checkable
class BlockReader(Protocol):
    """A small picklable object from which workers in other processes read row blocks."""

    def blocks(self, indices: Iterable[int], *, reads: bool = True) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield rows and values of the row blocks of `indices`; unless `reads`, the values have no columns."""
        ...


def block_reader(matrix: RowBlocks) -> BlockReader:
    """Return the object that is sent to other processes: `matrix` itself if it can be, else the URI of its store."""
    return matrix if isinstance(matrix, BlockReader) else StoredMatrix(matrix.uri, uuid.uuid4().hex)


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix store for workers in other processes, each of which opens it once.

    Attributes:
        uri: URI of the store.
        run: Random name; it distinguishes this store from an earlier store of the same URI that a process has opened.
    """

    uri: str
    run: str

    def blocks(self, indices: Iterable[int], *, reads: bool = True) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield rows and values of the row blocks of `indices`; unless `reads`, the values have no columns."""
        yield from read_blocks(self.open(), indices, reads=reads)

    def open(self) -> MatrixStore:
        """Return the store, opened once in each process."""
        return _opened(self)


@lru_cache(maxsize=1)
def _opened(matrix: StoredMatrix) -> MatrixStore:
    # The process that made `matrix` has opened the store with a listing; a worker checks each chunk as it reads it.
    return MatrixStore.open(matrix.uri, listing=False)


def read_blocks(
    matrix: RowBlocks, indices: Iterable[int], *, reads: bool = True
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield rows and values of row blocks, in the dtype on disk; unless `reads`, the values have no columns."""
    for index in indices:
        yield matrix.block(index), read_block(matrix, index, reads=reads)


def read_block(matrix: RowBlocks, index: int, *, reads: bool = True) -> NDArray[Any]:
    """Return the values of a row block in the dtype on disk; unless `reads`, they have no columns."""
    if reads:
        return matrix.read_block(index, dtype=matrix.dtype)
    rows = matrix.block(index)
    return np.empty((rows.stop - rows.start, 0))


class Workers(ABC):
    """The workers of one engine on one matrix.

    Args:
        matrix: A.

    Attributes:
        passes: Number of passes over A so far.
        bytes_read: Bytes of A read so far.
        bytes_shuffled: Bytes sent between processes so far.
    """

    def __init__(self, matrix: RowBlocks) -> None:
        self.matrix = matrix
        self.passes = 0
        self.bytes_read = 0
        self.bytes_shuffled = 0

    def run(self, work: Pass) -> Parts:
        """Run a pass over all row blocks and return the combined result.

        Raises:
            CtbasisError: A block is missing, corrupt or not finite, or the workers are lost.
        """
        if work.reads:
            self.passes += 1
            self.bytes_read += self.matrix.rows * self.matrix.cols * self.matrix.dtype.itemsize
        return self._run(work)

    def count_sent(self, parts: Parts, times: int) -> None:
        """Add arrays that were sent between processes `times` times to `bytes_shuffled`."""
        self.bytes_shuffled += nbytes(parts) * times

    @abstractmethod
    def _run(self, work: Pass) -> Parts:
        """Run the pass by the means of the engine."""


WorkersFactory: TypeAlias = "Callable[[RowBlocks, int], Workers]"
"""Function that returns workers of one engine for a matrix; the number is the most bytes that one worker needs."""


def operands(work: object) -> Parts:
    """Return the arrays that a pass carries to the workers, including those of a pass or of probes inside it."""
    arrays: list[NDArray[Any]] = []
    for value in vars(work).values():
        if isinstance(value, np.ndarray):
            arrays.append(value)
        elif is_dataclass(value):
            arrays.extend(operands(value))
    return tuple(arrays)


def require_release(release: str) -> None:
    """Refuse a task of another version of ctbasis; workers in other processes call it before they run a task.

    Args:
        release: Version of ctbasis in the process that submitted the task.

    Raises:
        CtbasisError: This process has another version.
    """
    if release != VERSION:
        raise CtbasisError(
            f"the svd step has ctbasis {release}, and a worker has ctbasis {VERSION}",
            expected="one version of ctbasis on all workers of the cluster",
            cause="the image of the workers was built or tagged at another time",
            remedy=f"start the workers with ctbasis {release}",
        )


def ranges(count: int, parts: int) -> list[range]:
    """Split `count` blocks into at most `parts` ranges whose lengths differ by at most one.

    >>> ranges(5, 2)
    [range(0, 3), range(3, 5)]
    """
    parts = max(1, min(parts, count))
    size, remainder = divmod(count, parts)
    edges = [index * size + min(index, remainder) for index in range(parts + 1)]
    return [range(first, last) for first, last in itertools.pairwise(edges)]
