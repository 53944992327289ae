"""Slabs of a stored series as tasks on the workers of any engine.

Engines process the row blocks of a matrix (ctbasis/svd/passes.py). Here, a row block stands for a slab: the matrix
itself has no columns and is not stored, and the pass reads its slab from the matrix store where it runs. Only small
results travel back.
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

    from ctbasis.matrix.slice_store import Series
    from ctbasis.patch.volume import Slab, Sums, Volume
    from ctbasis.svd.passes import Parts
    from ctbasis.svd.workers import StoredMatrix, WorkersFactory

T = TypeVar("T")

SLAB_ARRAYS = 14
"""Float32 arrays of the size of a slab that one worker holds at most; filters keep several."""

ROW_ARRAYS = 4
"""Arrays of all patches of one image row that one worker holds at most."""

MAX_PATCH_VOXELS = 125
"""Voxels of a patch, at most."""


@dataclass(frozen=True)
class TaskMatrix:
    """A number of independent tasks in the form of a matrix: each row is a block and a task, and there are no columns.

    Attributes:
        uri: URI of the matrix that the tasks read.
        count: Number of tasks.
    """

    uri: str
    count: int

    @property
    def rows(self) -> int:
        """Number of rows, one per task."""
        return self.count

    @property
    def cols(self) -> int:
        """Number of columns, which is 0."""
        return 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the empty blocks."""
        return np.dtype(np.float32)

    @property
    def block_count(self) -> int:
        """Number of row blocks, one per task."""
        return self.count

    def block(self, index: int) -> slice:
        """Return the rows of a block: the one row of the task."""
        return slice(index, index + 1)

    def read_block(self, index: int, *, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Return an empty block, (1, 0)."""
        del index
        return np.empty((1, 0), dtype)

    def blocks(self, indices: Iterable[int], *, reads: bool = True) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield the rows and the empty block of each of `indices`."""
        del reads
        for index in indices:
            yield self.block(index), self.read_block(index)


@dataclass(frozen=True)
class PartAddress:
    """The location of a part of a series, for workers in other processes.

    Attributes:
        matrix: The matrix that holds the series.
        part: The part, one of `parts_of` a series of the matrix.
    """

    matrix: StoredMatrix
    part: Series

    def open(self) -> StoredVolume:
        """Open the part as a volume."""
        return StoredVolume(self.matrix.open(), self.part)


@dataclass(frozen=True)
class SlabMap:
    """The pass that applies a function to every slab and keeps the results apart.

    Attributes:
        work: Function of a volume and a slab.
        address: Location of the part.
        slabs: Slabs, one per task.
        name: Name of the pass, for progress and logs.
        reads: Whether the engine has to read the matrix for the pass; the pass reads its slab itself.
    """

    work: Callable[[Volume, Slab], Any]
    address: PartAddress
    slabs: tuple[Slab, ...]
    name: str
    reads: bool = False

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - the pass reads its slab itself
        """Return the number of the slab and the result for it."""
        result = np.empty(1, object)
        result[0] = self.work(self.address.open(), self.slabs[rows.start])
        return np.array([rows.start]), result

    def merge(self, one: Parts, other: Parts) -> Parts:
        """Return the results of both."""
        return np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]])


@dataclass(frozen=True)
class SlabSum:
    """The pass that applies a function to every slab and adds up the results; for the attributes see `SlabMap`."""

    work: Callable[[Volume, Slab], Sums]
    address: PartAddress
    slabs: tuple[Slab, ...]
    name: str
    reads: bool = False
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - the pass reads its slab itself
        """Return the result for the slab."""
        return self.work(self.address.open(), self.slabs[rows.start])


@dataclass(frozen=True)
class EngineVolume:
    """A part of a series of a matrix store whose slabs are processed by the workers of an engine.

    Attributes:
        address: Location of the part.
        gather: Function that provides workers for a matrix.
    """

    address: PartAddress
    gather: WorkersFactory

    @cached_property
    def _stored(self) -> StoredVolume:
        return self.address.open()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of rows, columns and slices."""
        return self._stored.shape

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between rows, columns and slices."""
        return self._stored.spacing

    def read(self, first: int, stop: int) -> NDArray[np.float32]:
        """Read image rows `first` to `stop` in this process, HU."""
        return self._stored.read(first, stop)

    def map_slabs(self, work: Callable[[Volume, Slab], T], parts: Sequence[Slab], name: str) -> Iterator[T]:
        """Yield the result of `work` for each slab, in order.

        Raises:
            CtbasisError: A chunk is missing, or workers are lost.
        """
        keys, results = self._run(SlabMap(work, self.address, tuple(parts), name))
        yield from results[np.argsort(keys)]

    def sum_slabs(self, work: Callable[[Volume, Slab], Sums], parts: Sequence[Slab], name: str) -> Sums:
        """Return the sum of the results of `work` over all slabs.

        Raises:
            CtbasisError: A chunk is missing, or workers are lost.
        """
        return self._run(SlabSum(work, self.address, tuple(parts), name))

    def _run(self, work: SlabMap | SlabSum) -> Parts:
        memory = worker_bytes(work.slabs, self.shape)
        return self.gather(TaskMatrix(self.address.matrix.uri, len(work.slabs)), memory).run(work)


def worker_bytes(parts: Sequence[Slab], shape: tuple[int, int, int]) -> int:
    """Return the memory in bytes that one worker needs at most for one of `parts` of a volume of `shape`."""
    _, columns, slices = shape
    height = max(slab.high - slab.low for slab in parts)
    return 4 * columns * slices * (SLAB_ARRAYS * height + ROW_ARRAYS * MAX_PATCH_VOXELS)
