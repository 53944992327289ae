"""CT series as volumes that are read one slab of image rows at a time.

Axes are (rows, columns, slices) everywhere in this package. This is the layout of the matrix A after a reshape, so that
reading a slab needs neither a copy nor a transposition: the row blocks of A are image rows.

A volume also decides where the work on its slabs runs: in threads of this process (`ThreadedVolume`) or on the workers
of an engine (ctbasis/patch/engine.py). Work on a slab is therefore a picklable callable that carries all its inputs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from ctbasis.progress import progress
from ctbasis.threads import available_cpus, in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ctbasis.matrix.slice_store import Series
    from ctbasis.matrix.store import MatrixStore

T = TypeVar("T")

SLAB_HEIGHT = 32
"""Image rows of a slab. Memory is proportional to it."""

Sums: TypeAlias = "tuple[NDArray[Any], ...]"
"""Small arrays that are added up over slabs."""


class Volume(Protocol):
    """A CT volume that is read and processed slab by slab.

    Attributes:
        shape: Number of rows, columns and slices.
        spacing: Distance in mm between rows, columns and slices.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of rows, columns and slices."""
        ...

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between rows, columns and slices."""
        ...

    def read(self, first: int, stop: int) -> NDArray[np.float32]:
        """Return image rows `first` to `stop`, HU, (rows, columns, slices); the caller may modify the array."""
        ...

    def map_slabs(self, work: Callable[[Volume, Slab], T], parts: Sequence[Slab], name: str) -> Iterator[T]:
        """Yield the result of `work` for each slab, in the order of `parts`; `name` labels the progress bar."""
        ...

    def sum_slabs(self, work: Callable[[Volume, Slab], Sums], parts: Sequence[Slab], name: str) -> Sums:
        """Return the sum of the results of `work` over all slabs; the volume chooses the order of addition."""
        ...


class ThreadedVolume:
    """Base of volumes whose slabs are processed by threads of this process."""

    def map_slabs(self, work: Callable[[Any, Slab], T], parts: Sequence[Slab], name: str) -> Iterator[T]:
        """Yield the result of `work` for each slab, in order; at most one result per thread waits to be consumed."""
        threads = available_cpus()

        def results() -> Iterator[T]:
            # Each thread processes one slab on one core, so BLAS must not start threads of its own.
            with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
                yield from in_order(pool, lambda part: work(self, part), parts, ahead=threads)

        yield from progress(results(), name, total=len(parts), unit="slab")

    def sum_slabs(self, work: Callable[[Any, Slab], Sums], parts: Sequence[Slab], name: str) -> Sums:
        """Return the sum of the results of `work` over all slabs, added in the order of `parts`."""
        total: Sums = ()
        for part in self.map_slabs(work, parts, name):
            total = tuple(one + other for one, other in zip(total, part, strict=True)) if total else part
        return total


@dataclass(frozen=True)
class ArrayVolume(ThreadedVolume):
    """A volume in memory.

    Attributes:
        hu: HU, (rows, columns, slices).
        spacing: Distance in mm between rows, columns and slices.
    """

    hu: NDArray[Any]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of rows, columns and slices."""
        rows, columns, slices = self.hu.shape
        return rows, columns, slices

    def read(self, first: int, stop: int) -> NDArray[np.float32]:
        """Return image rows `first` to `stop`, HU."""
        return np.array(self.hu[first:stop], np.float32, order="C")


@dataclass(frozen=True)
class StoredVolume(ThreadedVolume):
    """A series of a matrix store, or a part of one.

    Attributes:
        matrix: The store.
        series: The series or part within it, without gaps (ctbasis/patch/parts.py).
    """

    matrix: MatrixStore
    series: Series

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of rows, columns and slices."""
        return (*self.matrix.image, self.series.count)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between rows, columns and slices; the row distance replaces an unknown slice distance."""
        return (*self.series.pixel_spacing, self.series.spacing or self.series.pixel_spacing[0])

    def read(self, first: int, stop: int) -> NDArray[np.float32]:
        """Return image rows `first` to `stop`, HU. Only the chunks of A that hold these rows are read.

        Raises:
            CtbasisError: A chunk is missing or its checksum does not match.
        """
        columns = self.matrix.image[1]
        values = self.matrix.read_rows(slice(first * columns, stop * columns), self.series.columns)
        return np.array(values, np.float32, order="C").reshape(stop - first, columns, self.series.count)


@dataclass(frozen=True)
class Slab:
    """A run of image rows that one worker processes, and the larger run that it reads.

    Attributes:
        first: First row to process.
        stop: One past the last row to process.
        low: First row to read, halo included.
        high: One past the last row to read, halo included.
    """

    first: int
    stop: int
    low: int
    high: int

    def widened(self, margin: int, rows: int) -> Slab:
        """Return the slab with `margin` more rows to process on either side, in an image of `rows` rows."""
        return replace(self, first=max(0, self.first - margin), stop=min(rows, self.stop + margin))


def slabs(rows: int, *, height: int, halo: int) -> Iterator[Slab]:
    """Cut `rows` image rows into slabs of `height` rows, each with up to `halo` rows to read on either side."""
    for first in range(0, rows, height):
        stop = min(first + height, rows)
        yield Slab(first, stop, max(0, first - halo), min(rows, stop + halo))
