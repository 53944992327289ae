"""Slices to columns of A, in parallel and in bounded memory.

Worker processes fill a buffer that they share with the slices of one column group, one slice after the other as they
are decoded; then each takes row blocks of it, transposes them and writes them as chunks of the store. Memory is bounded
by one group, however many slices there are. Processes, because decoders hold Python's lock, and a hostile file may
crash one.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np

from components.matrix.hounsfield import clip, to_hounsfield
from components.matrix.instance import read_values
from components.matrix.store import MatrixWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from numpy.typing import NDArray

    from components.matrix.instance import Slice

T = TypeVar("T")

STAGGER = 96
"""Elements between the slices in the buffer. Values a power of two apart, as slices are, compete for the same few lines
of the processor's cache: without a stagger, transposing takes several times as long."""

TASKS_PER_WORKER = 4
"""Enough that no worker idles long at the end of a pass, few enough that handing them out costs nothing."""

LARGEST_TASK = 64
"""Items in a task at most, so that progress shows."""


@dataclass(frozen=True)
class Filled:
    """What became of one slice.

    Attributes:
        padded: Number of padding voxels.
        clipped: Number of voxels below AIR that are no padding.
        oddities: What was tolerated in its values, in words for the user.
        fits: Whether its HU fit the dtype of A.
        problem: Why it has no values; empty if it has.
    """

    padded: int = 0
    clipped: int = 0
    oddities: tuple[str, ...] = ()
    fits: bool = True
    problem: str = ""


@dataclass(frozen=True)
class Store:
    """The matrix that workers write to.

    Attributes:
        uri: Where it is.
        attempt: Tells a store from one of the same URI that was started before it.
        voxels: m.
        dtype: Of A.
        block_rows: Rows of a block.
        column_chunk: Columns of a group.
    """

    uri: str
    attempt: int
    voxels: int
    dtype: str
    block_rows: int
    column_chunk: int


@dataclass(frozen=True)
class Buffer:
    """One column group in memory that processes share: a file descriptor that they inherited, mapped by each.

    A file in memory (memfd), for /dev/shm holds 64 MiB in most containers.

    Attributes:
        descriptor: Of the memory.
        dtype: Of HU.
        voxels: m.
        masked: Whether a padding mask goes with HU, where HU alone do not tell padding.
    """

    descriptor: int
    dtype: str
    voxels: int
    masked: bool

    def size(self, columns: int) -> int:
        """Return the bytes that `columns` slices take."""
        return columns * (self.voxels + STAGGER) * (np.dtype(self.dtype).itemsize + self.masked)

    def hounsfield(self, columns: int) -> NDArray[Any]:
        """Return the slices, (columns, voxels), HU."""
        return self._map(columns, self.dtype, 0)

    def padded(self, columns: int) -> NDArray[np.bool_] | None:
        """Return the mask of padding, (columns, voxels), None where there is none."""
        behind = columns * (self.voxels + STAGGER) * np.dtype(self.dtype).itemsize
        return self._map(columns, "bool", behind) if self.masked else None

    def _map(self, columns: int, dtype: str, offset: int) -> NDArray[Any]:
        memory = _mapped(self.descriptor, os.fstat(self.descriptor).st_size)
        whole: NDArray[Any] = np.ndarray((columns, self.voxels + STAGGER), dtype, memory, offset)
        return whole[:, : self.voxels]


def shared_memory() -> BinaryIO:
    """Return memory, empty yet, that processes forked later inherit; it is gone when all have closed it."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("ctbasis-columns"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def fill(
    pool: Executor, workers: int, memory: BinaryIO, *, folder: Path, slices: Sequence[Slice], store: Store
) -> Iterator[Filled]:
    """Write every column of `store`, one group after the other.

    Args:
        pool: Processes that inherited `memory`.
        workers: Their number.
        memory: From `shared_memory`.
        folder: Where the slices' files are.
        slices: In the order of columns.
        store: Where they go, as `MatrixWriter.create` made it.

    Yields:
        What became of each slice, in the same order. A group with a slice that has no values, or none that fit, is
        not written: the caller will want to start again.

    Raises:
        OSError: The store cannot be written.
    """
    masked = any(entry.pixels.padding_above_air for entry in slices)
    buffer = Buffer(memory.fileno(), store.dtype, store.voxels, masked)
    memory.truncate(max(os.fstat(memory.fileno()).st_size, buffer.size(min(store.column_chunk, len(slices)))))
    blocks = range(0, store.voxels, store.block_rows)
    for first in range(0, len(slices), store.column_chunk):
        group = slices[first : first + store.column_chunk]
        decode = partial(_decode, folder, buffer, len(group))
        filled = []
        for result in in_tasks(pool, workers, decode, list(enumerate(group))):
            filled.append(result)
            yield result
        if all(result.fits and not result.problem for result in filled):
            write = partial(_write, store, buffer, slice(first, first + len(group)))
            for _ in in_tasks(pool, workers, write, blocks):
                pass


def in_tasks(pool: Executor, workers: int, work: Any, items: Sequence[T]) -> Iterator[Any]:
    """Yield what `work` makes of lists of `items`, spread over `workers` processes, in order."""
    size = max(1, min(LARGEST_TASK, -(-len(items) // (workers * TASKS_PER_WORKER))))
    rest = iter(items)
    return chain.from_iterable(pool.map(work, iter(lambda: list(islice(rest, size)), [])))


def _decode(folder: Path, buffer: Buffer, columns: int, slices: Sequence[tuple[int, Slice]]) -> list[Filled]:
    hu, padded = buffer.hounsfield(columns), buffer.padded(columns)
    return [
        _decode_one(folder, entry, hu[column], padded[column] if padded is not None else None)
        for column, entry in slices
    ]


def _decode_one(folder: Path, entry: Slice, hu: NDArray[Any], padded: NDArray[np.bool_] | None) -> Filled:
    try:
        found = to_hounsfield(read_values(folder, entry).reshape(-1), entry.pixels, hu, padded)
    except ValueError as error:
        return Filled(problem=str(error))
    except OSError as error:
        return Filled(problem=f"not readable: {error.strerror}")
    oddities = (f"{found.outside_bits} voxels had unused bits set, ignored",) if found.outside_bits else ()
    return Filled(found.padded, found.clipped, oddities, found.fits)


def _write(store: Store, buffer: Buffer, columns: slice, blocks: Sequence[int]) -> list[int]:
    count = columns.stop - columns.start
    hu, padded = buffer.hounsfield(count), buffer.padded(count)
    writer = _writer(store)
    A, aside = _scratch(store.block_rows, count, store.dtype)
    for start in blocks:
        rows = slice(start, min(start + store.block_rows, store.voxels))
        block, rest = A[: rows.stop - start], aside[: rows.stop - start]
        np.copyto(block, hu[:, rows].T)
        clip(block, rest, padded[:, rows].T if padded is not None else None)
        writer.write(rows, columns, block, rest)
    return list(blocks)


@lru_cache(maxsize=1)
def _scratch(rows: int, columns: int, dtype: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return room for a block and what is set aside of it, used again: fresh memory costs more than the work in it."""
    return np.empty((rows, columns), dtype), np.empty((rows, columns), dtype)


@lru_cache(maxsize=1)
def _writer(store: Store) -> MatrixWriter:
    """Open the store, once in each process."""
    return MatrixWriter(store.uri)


@lru_cache(maxsize=1)
def _mapped(descriptor: int, size: int) -> mmap.mmap:
    # Populated at once: faulting page by page costs as much as the decoding.
    return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
