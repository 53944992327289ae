"""Decoding slices into the columns of A, in parallel and with bounded memory.

Worker processes decode the slices of one column group into a shared buffer. Then each worker takes row blocks of the
buffer, transposes them and writes them as chunks of the store. Memory use is one column group plus what each worker
needs for one frame, for any number of slices. Processes are used instead of threads for two reasons: decoders hold the
GIL, and a hostile file may crash its process, which then costs one slice only.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ctbasis.dicom.excluded_voxels import exclude, excluded_voxels
from ctbasis.dicom.hounsfield import to_hounsfield
from ctbasis.dicom.instance import read_values
from ctbasis.dicom.resource_limits import limited
from ctbasis.matrix.store import MatrixWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.dicom.instance import Slice
    from ctbasis.dicom.workers import Workers

STAGGER = 96
"""Padding between the slices of the buffer, in elements.

Slices are often a power of two apart, and such addresses compete for the same few cache lines: without padding, the
transposition takes several times as long.
"""

STRIP_ROWS = 1024
"""Rows of a block that are transposed and divided into A and `aside` at a time: 256 KiB of int16 with 128 columns."""


@dataclass(frozen=True)
class SliceResult:
    """The result of decoding one slice.

    Attributes:
        padded: Number of padding voxels.
        outside: Number of other excluded voxels: air around the patient, and areas that the scanner clipped.
        tolerated: Deviations from the standard in the pixel data that were tolerated, as text for the user.
        fits: Whether the HU fit the dtype of A.
        problem: Why the slice could not be decoded; empty if it was.
    """

    padded: int = 0
    outside: int = 0
    tolerated: tuple[str, ...] = ()
    fits: bool = True
    problem: str = ""


@dataclass(frozen=True)
class Target:
    """The matrix store that workers write to.

    Attributes:
        uri: URI of the store.
        attempt: Number of the attempt, which distinguishes stores created at the same URI one after the other.
        voxels: m, the number of voxels per slice.
        dtype: dtype of A.
        block_rows: Rows per block.
        column_chunk: Columns per column group.
    """

    uri: str
    attempt: int
    voxels: int
    dtype: str
    block_rows: int
    column_chunk: int


@dataclass(frozen=True)
class SharedBuffer:
    """One column group in memory shared by processes: an inherited file descriptor, mapped by each of them.

    The memory is a memfd rather than a file in /dev/shm, which most containers limit to 64 MiB.

    Attributes:
        descriptor: File descriptor of the memory.
        dtype: dtype of the HU.
        voxels: m, the number of voxels per slice.
    """

    descriptor: int
    dtype: str
    voxels: int

    def size(self, columns: int) -> int:
        """Return the size in bytes of a buffer for `columns` slices."""
        return columns * (self.voxels + STAGGER) * (np.dtype(self.dtype).itemsize + 1)

    def hounsfield(self, columns: int) -> NDArray[Any]:
        """Return the HU of the slices, (columns, voxels)."""
        return self._map(columns, self.dtype, 0)

    def excluded(self, columns: int) -> NDArray[np.bool_]:
        """Return the mask of the excluded voxels, (columns, voxels)."""
        return self._map(columns, "bool", columns * (self.voxels + STAGGER) * np.dtype(self.dtype).itemsize)

    def _map(self, columns: int, dtype: str, offset: int) -> NDArray[Any]:
        memory = _mapped(self.descriptor, os.fstat(self.descriptor).st_size)
        padded_slices: NDArray[Any] = np.ndarray((columns, self.voxels + STAGGER), dtype, memory, offset)
        return padded_slices[:, : self.voxels]


def shared_memory() -> BinaryIO:
    """Return an empty anonymous file in memory. Processes forked later inherit it; it is freed when all have closed it.

    The file is a temporary file on disk where the system has no memfd.
    """
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("ctbasis-columns"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def fill_columns(
    workers: Workers, memory: BinaryIO, *, folder: Path, slices: Sequence[Slice], target: Target
) -> Iterator[SliceResult]:
    """Decode all slices and write the columns of the matrix, one column group after the other.

    Args:
        workers: Processes that inherited `memory`.
        memory: The result of `shared_memory`.
        folder: Folder of the slices' files.
        slices: The slices in the order of the columns.
        target: The store, created by `MatrixWriter.create`.

    Yields:
        The result for each slice, in the same order. A column group is not written if a slice in it cannot be decoded
        or does not fit the dtype; the caller then has to start again without it or with another dtype.

    Raises:
        OSError: The store cannot be written.
        WorkerCrashError: A process died while it wrote, or too many processes died.
    """
    buffer = SharedBuffer(memory.fileno(), target.dtype, target.voxels)
    memory.truncate(max(os.fstat(memory.fileno()).st_size, buffer.size(min(target.column_chunk, len(slices)))))
    blocks = range(0, target.voxels, target.block_rows)
    for first in range(0, len(slices), target.column_chunk):
        group = slices[first : first + target.column_chunk]
        decode = partial(_decode, folder, buffer, len(group))
        results = []
        for result in workers.map(decode, list(enumerate(group)), _crashed):
            results.append(result)
            yield result
        if all(result.fits and not result.problem for result in results):
            write = partial(_write, target, buffer, slice(first, first + len(group)))
            for _ in workers.map(write, blocks):
                pass


def _decode(folder: Path, buffer: SharedBuffer, columns: int, numbered: tuple[int, Slice]) -> SliceResult:
    column, entry = numbered
    return decode_slice(folder, entry, buffer.hounsfield(columns)[column], buffer.excluded(columns)[column])


def decode_slice(folder: Path, entry: Slice, hu: NDArray[Any], excluded: NDArray[np.bool_]) -> SliceResult:
    """Decode one slice under the resource limits of `limited`. Run it in a process that may crash.

    Args:
        folder: Folder of the slice's file.
        entry: The slice.
        hu: Receives the HU, (voxels,).
        excluded: Receives the mask of the excluded voxels, (voxels,).

    Returns:
        The result; errors of the file are in its `problem` and are not raised.
    """
    try:
        with limited():
            values = read_values(folder, entry).reshape(-1)
            conversion = to_hounsfield(values, entry.pixels, hu, excluded)
    except MemoryError:
        return SliceResult(problem="decoding its PixelData takes more memory than any valid file should")
    except ValueError as error:
        return SliceResult(problem=str(error))
    except OSError as error:
        return SliceResult(problem=f"not readable: {error.strerror}")
    bits = conversion.outside_bits
    tolerated = (f"{bits} voxels had bits set outside of BitsStored; the bits were ignored",) if bits else ()
    outside = 0
    if conversion.fits:
        image = entry.Rows, entry.Columns
        row, column = entry.PixelSpacing
        mask = excluded_voxels(hu.reshape(image), (row, column), excluded.reshape(image))
        outside = int(np.count_nonzero(mask)) - conversion.padded
        excluded[...] = mask.reshape(-1)
    return SliceResult(conversion.padded, outside, tolerated, conversion.fits)


def _crashed(numbered: tuple[int, Slice], ending: str) -> SliceResult:
    del numbered
    return crashed_slice(ending)


def crashed_slice(ending: str) -> SliceResult:
    """Return the result for a slice whose worker process died; `ending` says how."""
    return SliceResult(problem=f"its PixelData cannot be decoded: {ending}")


def _write(target: Target, buffer: SharedBuffer, columns: slice, start: int) -> None:
    """Transpose the row block that begins at row `start`, divide it into A and `aside`, and write both."""
    count = columns.stop - columns.start
    hu, excluded = buffer.hounsfield(count), buffer.excluded(count)
    A, aside = _scratch(target.block_rows, count, target.dtype)
    rows = slice(start, min(start + target.block_rows, target.voxels))
    A_block, aside_block = A[: rows.stop - start], aside[: rows.stop - start]
    any_aside = False
    # Strips that stay in the processor's cache between the transposition and the division.
    for first in range(0, len(A_block), STRIP_ROWS):
        strip = slice(first, min(first + STRIP_ROWS, len(A_block)))
        voxels = slice(start + strip.start, start + strip.stop)
        np.copyto(A_block[strip], hu[:, voxels].T)
        any_aside |= exclude(A_block[strip], aside_block[strip], excluded[:, voxels].T)
    _writer(target).write(rows, columns, A_block, aside_block if any_aside else None)


@lru_cache(maxsize=1)
def _scratch(rows: int, columns: int, dtype: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return reusable arrays for a block of A and of `aside`; allocating them anew would cost more than the work."""
    return np.empty((rows, columns), dtype), np.empty((rows, columns), dtype)


@lru_cache(maxsize=1)
def _writer(target: Target) -> MatrixWriter:
    """Open the store once per process."""
    return MatrixWriter(target.uri)


@lru_cache(maxsize=1)
def _mapped(descriptor: int, size: int) -> mmap.mmap:
    # MAP_POPULATE: page faults one by one would cost as much time as the decoding.
    return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
