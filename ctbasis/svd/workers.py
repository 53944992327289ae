"""What an engine is to the algorithms: workers that run a pass over all row blocks and merge what comes of it."""

from __future__ import annotations

import itertools
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, is_dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from ctbasis.matrix.store import MatrixStore
from ctbasis.svd.passes import nbytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import DTypeLike, NDArray

    from ctbasis.svd.passes import Parts, Pass


class RowBlocks(Protocol):
    """A matrix that can be read row block by row block: a `MatrixStore`, or one that is made on the fly."""

    @property
    def uri(self) -> str:
        """Where it is, in words for the user."""
        ...

    @property
    def rows(self) -> int:
        """M."""
        ...

    @property
    def cols(self) -> int:
        """N."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values as they are kept."""
        ...

    @property
    def block_count(self) -> int:
        """Number of row blocks."""
        ...

    def block(self, index: int) -> slice:
        """Return the rows of block `index`."""
        ...

    def read_block(self, index: int, *, dtype: DTypeLike = np.float64) -> NDArray[Any]:
        """Return row block `index`."""
        ...


@runtime_checkable
class Portable(Protocol):
    """What workers in other processes have row blocks from; small, and pickled to them."""

    def blocks(self, indices: Iterable[int], *, reads: bool = True) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield rows and values of the row blocks of `indices`; values without columns unless `reads`."""
        ...


def portable(matrix: RowBlocks) -> Portable:
    """Return what of `matrix` goes to other processes: itself where it can, else the address of its store."""
    return matrix if isinstance(matrix, Portable) else StoredMatrix(matrix.uri, uuid.uuid4().hex)


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix store, for workers in other processes: each opens it once.

    Attributes:
        uri: Where it is.
        run: Tells this store from one of the same URI that was there before.
    """

    uri: str
    run: str

    def blocks(self, indices: Iterable[int], *, reads: bool = True) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield rows and values of the row blocks of `indices`; values without columns unless `reads`."""
        yield from read_blocks(self.open(), indices, reads=reads)

    def open(self) -> MatrixStore:
        """Return the store, opened once in each process."""
        return _opened(self)


@lru_cache(maxsize=1)
def _opened(matrix: StoredMatrix) -> MatrixStore:
    return MatrixStore.open(matrix.uri)


def read_blocks(
    matrix: RowBlocks, indices: Iterable[int], *, reads: bool = True
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield rows and values of row blocks, in the dtype on disk; values without columns unless `reads`."""
    for index in indices:
        yield matrix.block(index), read_block(matrix, index, reads=reads)


def read_block(matrix: RowBlocks, index: int, *, reads: bool = True) -> NDArray[Any]:
    """Return the values of a row block in the dtype on disk, without columns unless `reads`."""
    if reads:
        return matrix.read_block(index, dtype=matrix.dtype)
    rows = matrix.block(index)
    return np.empty((rows.stop - rows.start, 0))


class Workers(ABC):
    """Workers of one engine on one matrix.

    Args:
        matrix: A.

    Attributes:
        passes: Over A, so far.
        bytes_read: Of A.
        bytes_shuffled: Between processes.
    """

    def __init__(self, matrix: RowBlocks) -> None:
        self.matrix = matrix
        self.passes = 0
        self.bytes_read = 0
        self.bytes_shuffled = 0

    def run(self, work: Pass) -> Parts:
        """Run a pass over all row blocks and return what it makes of them together.

        Raises:
            CtbasisError: A block is missing, corrupt or not finite, or the workers are lost.
        """
        if work.reads:
            self.passes += 1
            self.bytes_read += self.matrix.rows * self.matrix.cols * self.matrix.dtype.itemsize
        return self._run(work)

    def sent(self, parts: Parts, times: int) -> None:
        """Count results, or operands, that went from process to process."""
        self.bytes_shuffled += nbytes(parts) * times

    @abstractmethod
    def _run(self, work: Pass) -> Parts:
        """Do it."""


Gather: TypeAlias = "Callable[[RowBlocks, int], Workers]"
"""What gives workers of one engine for a matrix; a worker needs so many bytes at most."""


def operands(work: object) -> Parts:
    """Return the arrays that a pass carries to the workers, those of a pass or of probes within it too."""
    held: list[NDArray[Any]] = []
    for value in vars(work).values():
        if isinstance(value, np.ndarray):
            held.append(value)
        elif is_dataclass(value):
            held.extend(operands(value))
    return tuple(held)


def ranges(count: int, parts: int) -> list[range]:
    """Cut `count` blocks into at most `parts` ranges, alike but for one block.

    >>> ranges(5, 2)
    [range(0, 3), range(3, 5)]
    """
    parts = max(1, min(parts, count))
    size, more = divmod(count, parts)
    edges = [index * size + min(index, more) for index in range(parts + 1)]
    return [range(first, last) for first, last in itertools.pairwise(edges)]
