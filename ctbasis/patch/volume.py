"""A series as a volume that is read slab by slab: the row blocks of A are image rows, so a slab is rows of the image.

Axes are (rows, columns, slices) throughout the room: what A holds, reshaped, without a copy or a transposition.

A volume also says where the work on its slabs is done: in threads of this process, or by an engine's workers
(ctbasis/patch/engine.py). So what is said of one slab is a function of its own, and all it needs goes with it.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from ctbasis.progress import progress
from ctbasis.threads import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ctbasis.matrix.store import MatrixStore, Series

T = TypeVar("T")

Sums: TypeAlias = "tuple[NDArray[Any], ...]"
"""Small arrays that are added up over slabs."""


class Volume(Protocol):
    """What can be read slab by slab.

    Attributes:
        shape: Rows, columns, slices.
        spacing: mm between rows, columns and slices.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns, slices."""
        ...

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between rows, columns and slices."""
        ...

    def read(self, first: int, stop: int) -> NDArray[np.float32]:
        """Return image rows `first` to `stop`, HU, (rows, columns, slices), the reader's own to change."""
        ...

    def each(self, work: Callable[[Volume, Slab], T], parts: Sequence[Slab], what: str) -> Iterator[T]:
        """Yield what `work` makes of each slab, in their order, wherever the work is done."""
        ...

    def total(self, work: Callable[[Volume, Slab], Sums], parts: Sequence[Slab], what: str) -> Sums:
        """Return the sum of what `work` makes of all slabs; the order of addition is the volume's."""
        ...


class InThreads:
    """A volume whose slabs are worked on by threads of this process."""

    def each(self, work: Callable[[Any, Slab], T], parts: Sequence[Slab], what: str) -> Iterator[T]:
        """Yield what `work` makes of each slab, in their order; no more wait than there are threads."""
        threads = os.cpu_count() or 1

        def done() -> Iterator[T]:
            # A slab is one core's work: BLAS must not spread each small product over all of them as well.
            with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
                yield from in_order(pool, lambda part: work(self, part), parts, ahead=threads)

        yield from progress(done(), what, total=len(parts), unit="slab")

    def total(self, work: Callable[[Any, Slab], Sums], parts: Sequence[Slab], what: str) -> Sums:
        """Return the sum of what `work` makes of all slabs, added up in their order."""
        found: Sums = ()
        for part in self.each(work, parts, what):
            found = tuple(one + other for one, other in zip(found, part, strict=True)) if found else part
        return found


@dataclass(frozen=True)
class ArrayVolume(InThreads):
    """A volume in memory."""

    hu: NDArray[Any]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns, slices."""
        rows, columns, slices = self.hu.shape
        return rows, columns, slices

    def read(self, first: int, stop: int) -> NDArray[np.float32]:
        """Return image rows `first` to `stop`, HU."""
        return np.array(self.hu[first:stop], np.float32, order="C")


@dataclass(frozen=True)
class StoredVolume(InThreads):
    """One series of a matrix store."""

    matrix: MatrixStore
    series: Series

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns, slices."""
        return (*self.matrix.image, self.series.count)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between rows, columns and slices; an unknown distance of slices is taken for that of rows."""
        return (*self.series.pixel_spacing, self.series.spacing or self.series.pixel_spacing[0])

    def read(self, first: int, stop: int) -> NDArray[np.float32]:
        """Return image rows `first` to `stop`, HU; reads the chunks of A that hold them.

        Raises:
            CtbasisError: A chunk is missing or its checksum does not hold.
        """
        columns = self.matrix.image[1]
        values = self.matrix.read_rows(slice(first * columns, stop * columns), self.series.columns)
        return np.array(values, np.float32, order="C").reshape(stop - first, columns, self.series.count)


@dataclass(frozen=True)
class Slab:
    """A run of image rows that one worker does, and the rows around it that it has to read.

    Attributes:
        first: First row that it does.
        stop: One past the last.
        low: First row that it reads.
        high: One past the last.
    """

    first: int
    stop: int
    low: int
    high: int


def slabs(rows: int, *, height: int, halo: int) -> Iterator[Slab]:
    """Cut `rows` image rows into slabs of `height` with `halo` rows around each, as far as there are rows."""
    for first in range(0, rows, height):
        stop = min(first + height, rows)
        yield Slab(first, stop, max(0, first - halo), min(rows, stop + halo))
