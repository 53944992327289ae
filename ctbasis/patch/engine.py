"""Slabs of a stored series on the workers of any engine: each reads its own slab, and what comes back is small.

To an engine the slabs are the row blocks of a matrix that nobody stores, and what is done to them is a pass that reads
for itself (ctbasis/svd/passes.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ctbasis.patch.volume import StoredVolume
from ctbasis.svd.passes import add

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import DTypeLike, NDArray

    from ctbasis.matrix.store import Series
    from ctbasis.patch.volume import Slab, Sums, Volume
    from ctbasis.svd.passes import Parts
    from ctbasis.svd.workers import Gather, StoredMatrix

T = TypeVar("T")

COPIES = 14
"""Arrays of the size of a slab in float32 that one worker holds at most: filters keep several."""

LINE_COPIES = 4
"""Arrays of the patches of one image row that one worker holds at most."""

PATCH_VOXELS = 125
"""Of a patch at most."""


@dataclass(frozen=True)
class Pieces:
    """So many pieces of work, as the row blocks of a matrix that is not there.

    Attributes:
        uri: Of the matrix that the work reads.
        count: How many.
    """

    uri: str
    count: int

    @property
    def rows(self) -> int:
        """A piece is a row."""
        return self.count

    @property
    def cols(self) -> int:
        """There is nothing in it."""
        return 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of nothing."""
        return np.dtype(np.float32)

    @property
    def block_count(self) -> int:
        """A piece is a block."""
        return self.count

    def block(self, index: int) -> slice:
        """Return the piece as a range of rows."""
        return slice(index, index + 1)

    def read_block(self, index: int, *, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Return nothing."""
        del index
        return np.empty((1, 0), dtype)

    def blocks(self, indices: Iterable[int], *, reads: bool = True) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield the pieces of `indices`."""
        del reads
        for index in indices:
            yield self.block(index), self.read_block(index)


@dataclass(frozen=True)
class Address:
    """Where a worker in any process finds a series.

    Attributes:
        matrix: Its matrix.
        number: Of the series, from 0 on.
    """

    matrix: StoredMatrix
    number: int

    def open(self) -> StoredVolume:
        """Return the series as a volume."""
        matrix = self.matrix.open()
        return StoredVolume(matrix, matrix.series[self.number])


@dataclass(frozen=True)
class Each:
    """The results of some work on slabs, one by one.

    Attributes:
        work: What is done.
        address: Of the series.
        slabs: The pieces.
        what: Its name.
    """

    work: Callable[[Volume, Slab], Any]
    address: Address
    slabs: tuple[Slab, ...]
    what: str
    reads: bool = False

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - it reads for itself
        """Return the number of the slab and what came of it."""
        found = np.empty(1, object)
        found[0] = self.work(self.address.open(), self.slabs[rows.start])
        return np.array([rows.start]), found

    def merge(self, one: Parts, other: Parts) -> Parts:
        """Return both."""
        return np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]])


@dataclass(frozen=True)
class Total:
    """The sum of the results of some work on slabs; see `Each`."""

    work: Callable[[Volume, Slab], Sums]
    address: Address
    slabs: tuple[Slab, ...]
    what: str
    reads: bool = False
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - it reads for itself
        """Return what came of the slab."""
        return self.work(self.address.open(), self.slabs[rows.start])


@dataclass(frozen=True)
class EngineVolume:
    """One series of a matrix store, its slabs worked on by an engine.

    Attributes:
        address: Where it is.
        gather: Gives workers.
    """

    address: Address
    gather: Gather

    @cached_property
    def _stored(self) -> StoredVolume:
        return self.address.open()

    @property
    def series(self) -> Series:
        """Which it is."""
        return self._stored.series

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns, slices."""
        return self._stored.shape

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between rows, columns and slices."""
        return self._stored.spacing

    def read(self, first: int, stop: int) -> NDArray[np.float32]:
        """Return image rows `first` to `stop`, HU, read by this process."""
        return self._stored.read(first, stop)

    def each(self, work: Callable[[Volume, Slab], T], parts: Sequence[Slab], what: str) -> Iterator[T]:
        """Yield what `work` makes of each slab, in their order.

        Raises:
            CtbasisError: A chunk is missing, or workers are lost.
        """
        keys, found = self._run(Each(work, self.address, tuple(parts), what))
        yield from found[np.argsort(keys)]

    def total(self, work: Callable[[Volume, Slab], Sums], parts: Sequence[Slab], what: str) -> Sums:
        """Return the sum of what `work` makes of all slabs.

        Raises:
            CtbasisError: A chunk is missing, or workers are lost.
        """
        return self._run(Total(work, self.address, tuple(parts), what))

    def _run(self, work: Each | Total) -> Parts:
        need = worker_bytes(work.slabs, self.shape)
        return self.gather(Pieces(self.address.matrix.uri, len(work.slabs)), need).run(work)


def worker_bytes(parts: Sequence[Slab], shape: tuple[int, int, int]) -> int:
    """Return the bytes that one worker needs at most for one of `parts` of a volume."""
    _, columns, slices = shape
    height = max(slab.high - slab.low for slab in parts)
    return 4 * columns * slices * (COPIES * height + LINE_COPIES * PATCH_VOXELS)
