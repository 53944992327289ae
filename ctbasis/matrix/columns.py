"""Slices to columns of A, in parallel and in bounded memory.

Worker processes fill a buffer that they share with the slices of one column group, one slice after the other as they
are decoded; then each takes row blocks of it, transposes them and writes them as chunks of the store. Memory is bounded
by one group and what each worker needs for one frame, however many slices there are. Processes, because decoders hold
Python's lock, and a hostile file may crash one: that costs its slice, and no more.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ctbasis.dicom.hounsfield import clip, to_hounsfield
from ctbasis.dicom.instance import read_values
from ctbasis.dicom.limits import limited
from ctbasis.matrix.store import MatrixWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.dicom.instance import Slice
    from ctbasis.dicom.workers import Workers

STAGGER = 96
"""Elements between the slices in the buffer. Values a power of two apart, as slices are, compete for the same few lines
of the processor's cache: without a stagger, transposing takes several times as long."""

PIECE_ROWS = 1024
"""Rows of a block that are transposed and split at once: 256 KiB of 128 columns."""


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
    workers: Workers, memory: BinaryIO, *, folder: Path, slices: Sequence[Slice], store: Store
) -> Iterator[Filled]:
    """Write every column of `store`, one group after the other.

    Args:
        workers: Processes that inherit `memory`.
        memory: From `shared_memory`.
        folder: Where the slices' files are.
        slices: In the order of columns.
        store: Where they go, as `MatrixWriter.create` made it.

    Yields:
        What became of each slice, in the same order. A group with a slice that has no values, or none that fit, is
        not written: the caller will want to start again.

    Raises:
        OSError: The store cannot be written.
        LostError: A process died while it wrote, or more died than files can be blamed for.
    """
    masked = any(entry.pixels.padding_above_air for entry in slices)
    buffer = Buffer(memory.fileno(), store.dtype, store.voxels, masked)
    memory.truncate(max(os.fstat(memory.fileno()).st_size, buffer.size(min(store.column_chunk, len(slices)))))
    blocks = range(0, store.voxels, store.block_rows)
    for first in range(0, len(slices), store.column_chunk):
        group = slices[first : first + store.column_chunk]
        decode = partial(_decode, folder, buffer, len(group))
        filled = []
        for result in workers.map(decode, list(enumerate(group)), _lost):
            filled.append(result)
            yield result
        if all(result.fits and not result.problem for result in filled):
            write = partial(_write, store, buffer, slice(first, first + len(group)))
            for _ in workers.map(write, blocks):
                pass


def _decode(folder: Path, buffer: Buffer, columns: int, slot: tuple[int, Slice]) -> Filled:
    column, entry = slot
    hu, padded = buffer.hounsfield(columns)[column], buffer.padded(columns)
    return decode_one(folder, entry, hu, padded[column] if padded is not None else None)


def decode_one(folder: Path, entry: Slice, hu: NDArray[Any], padded: NDArray[np.bool_] | None) -> Filled:
    """Read one slice, in a worker that may be lost to it, into `hu`, (voxels,), and its mask of padding."""
    try:
        with limited():
            values = read_values(folder, entry).reshape(-1)
            found = to_hounsfield(values, entry.pixels, hu, padded)
    except MemoryError:
        return Filled(problem="its pixels take more memory to decode than any file should")
    except ValueError as error:
        return Filled(problem=str(error))
    except OSError as error:
        return Filled(problem=f"not readable: {error.strerror}")
    oddities = (f"{found.outside_bits} voxels had unused bits set, ignored",) if found.outside_bits else ()
    return Filled(found.padded, found.clipped, oddities, found.fits)


def _lost(slot: tuple[int, Slice], ending: str) -> Filled:
    del slot
    return lost_slice(ending)


def lost_slice(ending: str) -> Filled:
    """Return what became of a slice whose worker died at it, from how that ended."""
    return Filled(problem=f"its pixels cannot be decoded: {ending}")


def _write(store: Store, buffer: Buffer, columns: slice, start: int) -> None:
    count = columns.stop - columns.start
    hu, padded = buffer.hounsfield(count), buffer.padded(count)
    A, aside = _scratch(store.block_rows, count, store.dtype)
    rows = slice(start, min(start + store.block_rows, store.voxels))
    block, rest = A[: rows.stop - start], aside[: rows.stop - start]
    some = False
    # In pieces that stay in the processor's cache from one pass to the next.
    for first in range(0, len(block), PIECE_ROWS):
        piece = slice(first, min(first + PIECE_ROWS, len(block)))
        source = slice(start + piece.start, start + piece.stop)
        np.copyto(block[piece], hu[:, source].T)
        some |= clip(block[piece], rest[piece], padded[:, source].T if padded is not None else None)
    _writer(store).write(rows, columns, block, rest if some else None)


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
