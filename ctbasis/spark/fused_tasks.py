"""Functions that Spark tasks run in fused mode: read headers, decode slices, join row blocks.

Source files are untrusted: a task reads each file in a separate process, so that a file that crashes its decoder costs
one slice and no executor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ctbasis.dicom.excluded_voxels import exclude
from ctbasis.dicom.workers import Workers
from ctbasis.errors import CtbasisError
from ctbasis.matrix.columns import SliceResult, crashed_slice, decode_slice
from ctbasis.matrix.ingest import crashed_file, read_file, values_digest
from ctbasis.sources.fetch import download_with_retries
from ctbasis.sources.schemes import open_source
from ctbasis.storage.voxels import absent
from ctbasis.storage.working_folder import scratch_folder
from ctbasis.svd.factors import FactorWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.dicom.deidentify.deidentification import Deidentification
    from ctbasis.dicom.instance import ReadResult, Slice
    from ctbasis.sources.source import RemoteObject

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Column:
    """One column of A.

    Attributes:
        index: Index of the column.
        slice: Its slice.
        entry: The object of the source that contains the slice.
    """

    index: int
    slice: Slice
    entry: RemoteObject


def read_headers(
    uri: str, deidentification: Deidentification | None, entries: Iterable[RemoteObject]
) -> Iterator[ReadResult]:
    """Yield the slices in each object with their headers, or the reason why it contains none.

    Args:
        uri: The source.
        deidentification: De-identification of the headers; None leaves them unchanged.
        entries: The objects. In the results, `file` is an object's key.
    """
    named = ((entry, entry.key) for entry in entries)
    return chain.from_iterable(_isolated(uri, partial(_read_file, deidentification), named, crashed_file))


def digests(uri: str, entries: Iterable[tuple[RemoteObject, Slice]]) -> Iterator[str]:
    """Yield a digest of each slice's values; slices with equal values have equal digests."""
    return _isolated(uri, values_digest, entries, lambda entry, _: entry.name)


def decode_columns(
    uri: str, dtype: str, block_rows: int, columns: Iterable[Column]
) -> Iterator[tuple[list[tuple[int, SliceResult]], list[tuple[int, Any]]]]:
    """Decode some columns, and cut them into row blocks.

    Args:
        uri: The source.
        dtype: Type of A.
        block_rows: Rows of a row block.
        columns: The columns.

    Yields:
        One pair: the result of each column by its index, and the piece of each row block by its number. A piece is
        (indices of the columns, HU, values set aside), the arrays (rows, columns) as in a chunk of a matrix
        store. There are no pieces if a column could not be decoded or does not fit `dtype`.
    """
    group = list(columns)
    if not group:
        return
    voxels = group[0].slice.Rows * group[0].slice.Columns
    hu, excluded = np.empty((len(group), voxels), dtype), np.zeros((len(group), voxels), bool)
    results: list[tuple[int, SliceResult]] = []
    entries = ((column.entry, column.slice) for column in group)
    decoded = _isolated(
        uri, partial(_decode_slice, dtype), entries, lambda _, ending: (crashed_slice(ending), None, None)
    )
    for position, (result, values, mask) in enumerate(decoded):
        results.append((group[position].index, result))
        if values is not None and mask is not None:
            hu[position], excluded[position] = values, mask
    indices = np.array([column.index for column in group])
    pieces: list[tuple[int, Any]] = []
    if all(result.fits and not result.problem for _, result in results):
        for number, start in enumerate(range(0, voxels, block_rows)):
            rows = slice(start, min(start + block_rows, voxels))
            A = np.ascontiguousarray(hu[:, rows].T)
            aside = np.empty_like(A)
            exclude(A, aside, excluded[:, rows].T)
            pieces.append((number, (indices, A, aside)))
    yield results, pieces


def _isolated(
    uri: str,
    work: Callable[[Path, T], R],
    entries: Iterable[tuple[RemoteObject, T]],
    crashed: Callable[[T, str], R],
) -> Iterator[R]:
    """Yield the result of `work` for each item, in order, computed in a process that a bad file may crash.

    Args:
        uri: The source.
        work: Function of a folder, which contains the item's object under its key, and the item.
        entries: Objects and items. An object is downloaded once for all adjacent items that share it.
        crashed: Function that gives the result of an item that crashed the process; see `Workers.map`.
    """
    source = open_source(uri, 1)
    with Workers(1) as worker, scratch_folder("ctbasis-fused") as scratch:
        for entry, group in groupby(entries, key=lambda pair: pair[0]):
            path = scratch / entry.key
            path.parent.mkdir(parents=True, exist_ok=True)
            download_with_retries(source, entry, path)
            yield from worker.map(partial(work, scratch), [item for _, item in group], crashed)
            path.unlink()


def _read_file(deidentification: Deidentification | None, folder: Path, file: str) -> list[ReadResult]:
    return read_file(folder, deidentification, file)


def _decode_slice(
    dtype: str, folder: Path, entry: Slice
) -> tuple[SliceResult, NDArray[Any] | None, NDArray[np.bool_] | None]:
    hu = np.empty(entry.Rows * entry.Columns, dtype)
    excluded = np.zeros(hu.shape, bool)
    return decode_slice(folder, entry, hu, excluded), hu, excluded


def assemble(
    factors_uri: str, m: int, n: int, block_rows: int, dtype: str, numbered_pieces: tuple[int, Iterable[Any]]
) -> tuple[slice, NDArray[Any]]:
    """Join the pieces of a row block, and write the values that were set aside of it.

    Args:
        factors_uri: URI of the factor store, which keeps the values set aside.
        m: Rows of A.
        n: Columns of A.
        block_rows: Rows of a row block.
        dtype: Type of A.
        numbered_pieces: Number of the row block, and its pieces as `decode_columns` makes them.

    Returns:
        The rows of the block, and A there.

    Raises:
        CtbasisError: Columns are missing.
    """
    number, pieces = numbered_pieces
    rows = slice(number * block_rows, min((number + 1) * block_rows, m))
    A = np.full((rows.stop - rows.start, n), absent(dtype), dtype)
    aside = np.full_like(A, absent(dtype))
    count = 0
    for indices, values, set_aside in pieces:
        A[:, indices], aside[:, indices] = values, set_aside
        count += len(indices)
    if count != n:
        raise CtbasisError(
            f"{count} of {n} columns were decoded for rows {rows.start} to {rows.stop}", expected="all columns"
        )
    FactorWriter(factors_uri).write_aside(rows, aside)
    return rows, A
