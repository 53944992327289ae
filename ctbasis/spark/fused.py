"""Fused mode: Spark executors decode DICOM from the source in parallel and feed the SVD; no matrix is written anywhere.

The parallelism moves up to the slices. Executors first read headers, which come to the driver and are arranged by the
very code of the matrix step, so that columns, dtype and row blocks, and with them the factors, are those of the
staged mode. Then each task decodes some slices to HU and cuts them into row blocks, one shuffle brings the pieces of
a row block together, and the passes of the SVD run over row blocks that executors keep in memory, spilling only where
they must. What is set aside (padding, below AIR) goes into the factors from the task that assembles the block.

It reads every file twice, for its header and for its values (a file of many frames once a task of these), and saves a
disk and two steps. Files are untrusted here as well: each task reads them in a process of its own that may be lost to
one. Archives are refused, for every task would have to unpack them again. The report step needs the matrix; so this is
for factors, and for the series that `ctbasis reconstruct` makes of them.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ctbasis.dicom.hounsfield import clip
from ctbasis.dicom.series import arrange, set_copies_aside
from ctbasis.dicom.set_aside import SetAside
from ctbasis.dicom.workers import Workers
from ctbasis.errors import CtbasisError
from ctbasis.matrix.columns import SliceResult, crashed_slice, decode_slice
from ctbasis.matrix.ingest import (
    crashed_file,
    drop_broken,
    read_file,
    require_slices,
    series_columns,
    set_duplicates_aside,
    values_digest,
    warn_about,
)
from ctbasis.matrix.qc import qc_report
from ctbasis.matrix.store import block_rows_for, column_chunk_for
from ctbasis.sources.fetch import download_with_retries, list_objects
from ctbasis.sources.schemes import open_source
from ctbasis.sources.zip_archive import ZIP_SUFFIX
from ctbasis.storage.voxels import absent
from ctbasis.svd.engines.spark import SparkWorkers, error_of_task, task_count
from ctbasis.svd.factors import FactorWriter
from ctbasis.svd.method import factorize_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import DTypeLike, NDArray
    from pyspark import RDD, SparkContext

    from ctbasis.dicom.deidentify.deidentification import Deidentification
    from ctbasis.dicom.instance import ReadResult, Slice
    from ctbasis.dicom.series import CTSeries
    from ctbasis.matrix.slice_store import Series
    from ctbasis.sources.source import RemoteObject
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.spectrum import Spectrum

T = TypeVar("T")
R = TypeVar("R")

SLICES_PER_TASK = 16
"""Slices that one task decodes and holds: 16 MiB of 512 x 512 int16, with what is set aside of them."""


@dataclass(frozen=True)
class Column:
    """One column of A: its slice and the object that holds it."""

    index: int
    slice: Slice
    entry: RemoteObject


@dataclass(frozen=True)
class FusedMatrix:
    """The shape of A, which lies in executors' memory; for the algorithms as good as a store.

    Attributes:
        uri: The source.
        image: Rows and Columns of every slice.
        series: The columns that each series takes.
        headers: Of every column, a DICOM file without pixels.
        dtype: Of A.
        qc: What was read, set aside and tolerated, as the matrix step's qc.json.
    """

    uri: str
    image: tuple[int, int]
    series: list[Series]
    headers: list[bytes]
    dtype: np.dtype[Any]
    qc: dict[str, Any]

    @property
    def rows(self) -> int:
        """Number of voxels of a slice."""
        return self.image[0] * self.image[1]

    @property
    def cols(self) -> int:
        """Number of slices."""
        return len(self.headers)

    @property
    def block_rows(self) -> int:
        """Rows of every block but the last, as the matrix step would cut them."""
        return min(block_rows_for(self.cols), self.rows)

    @property
    def block_count(self) -> int:
        """Number of row blocks."""
        return -(-self.rows // self.block_rows)

    def block(self, index: int) -> slice:
        """Return the rows of block `index`."""
        start = index * self.block_rows
        return slice(start, min(start + self.block_rows, self.rows))

    def read_block(self, index: int, *, dtype: DTypeLike = np.float64) -> NDArray[Any]:
        """Refuse: nothing tall comes to the driver."""
        raise CtbasisError(f"row block {index} as {np.dtype(dtype)} was asked of the driver", expected="of an executor")


class Fused:
    """A source of DICOM files, and the executors that read it.

    Args:
        spark: The Spark application.
        uri: `s3://bucket/prefix`, or a folder that executors see.
        deidentification: What headers go through before they leave the process that read them, objects being numbered
            and not named; None leaves them as they are. Its salt travels to the executors with the tasks.

    Raises:
        CtbasisError: There is no CT image in the source, or an archive, its series are no volume, or it cannot be read.
    """

    def __init__(self, spark: SparkContext, uri: str, *, deidentification: Deidentification | None = None) -> None:
        self._spark, self._uri, self._deidentification = spark, uri, deidentification
        self._entries: dict[str, RemoteObject] = {}
        self._columns: RDD[Any] | None = None
        self._blocks: RDD[Any] | None = None
        slices, headers, aside = self._read_headers()
        self.matrix, self._decoded = self._decode(slices, headers, aside)

    def factorize(self, factors_uri: str, plan: Plan, *, dtype: str = "float32") -> tuple[FactorWriter, Spectrum]:
        """Factor by the plan's method, and write U and what is set aside.

        Returns:
            The factors, to be finished, and s and V.
        """
        matrix = self.matrix
        factors = FactorWriter.create(factors_uri, matrix, rank=plan.rank, dtype=dtype)
        factors.create_aside(matrix.cols, column_chunk_for(matrix.cols, matrix.rows), matrix.dtype)
        self._assemble(factors_uri)
        spectrum = factorize_with(SparkWorkers(self._spark, matrix, self), factors, plan)
        return factors, spectrum

    def blocks(self, *, reads: bool) -> RDD[Any]:
        """Return the row blocks, as executors hold them."""
        if self._blocks is None:
            raise CtbasisError("no row blocks have been assembled", expected="factorize to be called")
        if reads:
            return self._blocks
        return self._blocks.map(lambda block: (block[0], np.empty((block[0].stop - block[0].start, 0))))

    def close(self) -> None:
        """Let the executors forget what they hold."""
        for held in (self._decoded, self._blocks):
            if held is not None:
                held.unpersist()

    def _read_headers(self) -> tuple[list[Slice], dict[tuple[str, int], bytes], list[SetAside]]:
        objects = files(self._uri, opaque=self._deidentification is not None)
        self._entries = {entry.key: entry for entry in objects}
        self._spark.setJobDescription("fused: headers")
        read = partial(read_headers, self._uri, self._deidentification)
        found = self._collected(self._parallel(objects).mapPartitions(read))
        slices = [result[0] for result in found if not isinstance(result, SetAside)]
        headers = {result[0].place: result[1] for result in found if not isinstance(result, SetAside)}
        aside = [result for result in found if isinstance(result, SetAside)]
        slices, copies = set_copies_aside(slices)
        aside += copies
        slices, repeated = set_duplicates_aside(slices, self._digests)
        aside += repeated
        require_slices("the source", slices, aside)
        return slices, headers, aside

    def _digests(self, slices: Sequence[Slice]) -> list[str]:
        self._spark.setJobDescription("fused: slices at one place")
        pairs = [(self._entries[entry.file], entry) for entry in slices]
        return self._collected(self._parallel(pairs).mapPartitions(partial(digests, self._uri)))

    def _decode(
        self,
        slices: list[Slice],
        headers: dict[tuple[str, int], bytes],
        aside: list[SetAside],
    ) -> tuple[FusedMatrix, RDD[Any]]:
        """Decode, again without slices whose values are broken, or wider where they do not fit, as when staged."""
        from pyspark import StorageLevel

        dtype = "int16" if all(entry.pixels.whole for entry in slices) else "float32"
        while True:
            series = arrange(slices)
            columns = [
                Column(index, entry, self._entries[entry.file])
                for index, entry in enumerate(entry for part in series for entry in part.slices)
            ]
            image = columns[0].slice.Rows, columns[0].slice.Columns
            rows = min(block_rows_for(len(columns)), image[0] * image[1])
            self._spark.setJobDescription("fused: decode")
            decoded = (
                self._parallel(columns)
                .mapPartitions(partial(decode_columns, self._uri, dtype, rows))
                .persist(StorageLevel.MEMORY_AND_DISK)
            )
            results: dict[int, SliceResult] = dict(self._collected(decoded.flatMap(_results)))
            filled = [results[column.index] for column in columns]
            broken = [
                SetAside(column.slice.file, result.problem, broken=True, frame=column.slice.frame)
                for column, result in zip(columns, filled, strict=True)
                if result.problem
            ]
            fits = all(result.fits for result in filled)
            if fits and not broken:
                break
            decoded.unpersist()
            dtype = dtype if fits else "float32"
            aside += broken
            slices = drop_broken(slices, broken)
        warn_about(aside)
        return self._described(series, columns, headers, filled, aside, dtype), decoded

    def _described(
        self,
        series: list[CTSeries],
        columns: Sequence[Column],
        headers: dict[tuple[str, int], bytes],
        filled: list[SliceResult],
        aside: list[SetAside],
        dtype: str,
    ) -> FusedMatrix:
        qc = qc_report(files=len(self._entries), dtype=dtype, series=series, results=filled, aside=aside)
        qc["deidentified"] = self._deidentification.describe() if self._deidentification else None
        return FusedMatrix(
            uri=self._uri,
            image=series[0].image,
            series=series_columns(series),
            headers=[headers[column.slice.place] for column in columns],
            dtype=np.dtype(dtype),
            qc=qc,
        )

    def _assemble(self, factors_uri: str) -> None:
        """Bring the pieces of each row block together, write what is set aside of it, and keep it."""
        from pyspark import StorageLevel

        matrix = self.matrix
        partitions = task_count(matrix.block_count, self._spark.defaultParallelism)
        place = partial(assemble, factors_uri, matrix.rows, matrix.cols, matrix.block_rows, str(matrix.dtype))
        self._spark.setJobDescription("fused: transpose")
        self._blocks = (
            self._decoded.flatMap(_pieces)
            .groupByKey(partitions, partitionFunc=int)
            .map(place)
            .persist(StorageLevel.MEMORY_AND_DISK)
        )
        count = len(self._collected(self._blocks.map(lambda block: block[0].start)))
        if count != matrix.block_count:
            raise CtbasisError(f"{count} row blocks were assembled", expected=f"{matrix.block_count}")
        self._decoded.unpersist()

    def _parallel(self, items: Sequence[Any]) -> RDD[Any]:
        return self._spark.parallelize(items, max(1, -(-len(items) // SLICES_PER_TASK)))

    def _collected(self, results: RDD[Any]) -> list[Any]:
        from py4j.protocol import Py4JJavaError

        try:
            return list(results.collect())
        except Py4JJavaError as error:
            raise error_of_task(error) or error from error


def files(uri: str, *, opaque: bool) -> list[RemoteObject]:
    """Return the objects of a source in the order of the files that the fetch step would make of them.

    Args:
        uri: The source.
        opaque: Whether objects are to be numbered, for keys that may name a patient.

    Returns:
        Objects whose keys are the names of these files.

    Raises:
        CtbasisError: One of them is an archive, or the source cannot be listed.
    """
    found: list[RemoteObject] = []
    archives = 0
    for entry, name in list_objects(open_source(uri, 1), opaque=opaque):
        archives += entry.location.lower().endswith(ZIP_SUFFIX)
        found.append(replace(entry, key=name))
    if archives:
        raise CtbasisError(
            f"{archives} of {len(found)} objects of the source are archives ({ZIP_SUFFIX})",
            expected="DICOM files, each an object: in fused mode every task would unpack the archives again",
            remedy="take the staged mode, whose fetch step unpacks them once, or unpack them at the source",
        )
    return sorted(found, key=lambda entry: entry.key)


def read_headers(
    uri: str, deidentification: Deidentification | None, entries: Iterable[RemoteObject]
) -> Iterator[ReadResult]:
    """Yield what is in each object: slices and their headers, or why it is none; `file` is the object's key."""
    named = ((entry, entry.key) for entry in entries)
    return chain.from_iterable(_isolated(uri, partial(_found, deidentification), named, crashed_file))


def digests(uri: str, entries: Iterable[tuple[RemoteObject, Slice]]) -> Iterator[str]:
    """Yield what slices have in common that hold the same values, each with its object."""
    return _isolated(uri, values_digest, entries, lambda entry, _: entry.name)


def decode_columns(
    uri: str, dtype: str, block_rows: int, columns: Iterable[Column]
) -> Iterator[tuple[list[tuple[int, SliceResult]], list[tuple[int, Any]]]]:
    """Yield what became of some columns, and their pieces of each row block: (block, (columns, A, aside)).

    A piece is (rows, columns) as in a chunk of the store, HU clipped and what is set aside of them.
    """
    group = list(columns)
    if not group:
        return
    voxels = group[0].slice.Rows * group[0].slice.Columns
    masked = any(column.slice.pixels.padding_above_air for column in group)
    hu = np.empty((len(group), voxels), dtype)
    padded = np.zeros((len(group), voxels), bool) if masked else None
    results: list[tuple[int, SliceResult]] = []
    entries = ((column.entry, column.slice) for column in group)
    decoded = _isolated(
        uri, partial(_decoded, dtype, masked), entries, lambda _, ending: (crashed_slice(ending), None, None)
    )
    for position, (result, values, mask) in enumerate(decoded):
        results.append((group[position].index, result))
        if values is not None:
            hu[position] = values
        if padded is not None and mask is not None:
            padded[position] = mask
    indices = np.array([column.index for column in group])
    pieces: list[tuple[int, Any]] = []
    if all(result.fits and not result.problem for _, result in results):
        for number, start in enumerate(range(0, voxels, block_rows)):
            rows = slice(start, min(start + block_rows, voxels))
            A = np.ascontiguousarray(hu[:, rows].T)
            aside = np.empty_like(A)
            clip(A, aside, padded[:, rows].T if padded is not None else None)
            pieces.append((number, (indices, A, aside)))
    yield results, pieces


def _isolated(
    uri: str,
    work: Callable[[Path, T], R],
    entries: Iterable[tuple[RemoteObject, T]],
    lost: Callable[[T, str], R],
) -> Iterator[R]:
    """Yield what `work` makes of each item, in order, in a process that may be lost to it; see `Workers`.

    Args:
        uri: The source.
        work: Of a folder, in which the item's object is under its key, and the item.
        entries: Objects and items; neighbours that share their object share the download of it.
        lost: As for `Workers.map`.
    """
    source = open_source(uri, 1)
    with Workers(1) as worker, tempfile.TemporaryDirectory(prefix="ctbasis-fused-") as scratch:
        for entry, group in groupby(entries, key=lambda pair: pair[0]):
            path = Path(scratch, entry.key)
            path.parent.mkdir(parents=True, exist_ok=True)
            download_with_retries(source, entry, path)
            yield from worker.map(partial(work, Path(scratch)), [item for _, item in group], lost)
            path.unlink()


def _found(deidentification: Deidentification | None, folder: Path, file: str) -> list[ReadResult]:
    return read_file(folder, deidentification, file)


def _decoded(
    dtype: str, masked: bool, folder: Path, entry: Slice
) -> tuple[SliceResult, NDArray[Any] | None, NDArray[np.bool_] | None]:
    hu = np.empty(entry.Rows * entry.Columns, dtype)
    padded = np.zeros(hu.shape, bool) if masked else None
    return decode_slice(folder, entry, hu, padded), hu, padded


def assemble(
    factors_uri: str, m: int, n: int, block_rows: int, dtype: str, found: tuple[int, Iterable[Any]]
) -> tuple[slice, NDArray[Any]]:
    """Return a row block of A from its pieces, and write what is set aside of it."""
    number, pieces = found
    rows = slice(number * block_rows, min((number + 1) * block_rows, m))
    A = np.full((rows.stop - rows.start, n), absent(dtype), dtype)
    aside = np.full_like(A, absent(dtype))
    seen = 0
    for indices, values, rest in pieces:
        A[:, indices], aside[:, indices] = values, rest
        seen += len(indices)
    if seen != n:
        raise CtbasisError(f"{seen} of {n} columns came for rows {rows.start} to {rows.stop}", expected="all of them")
    FactorWriter(factors_uri).write_aside(rows, aside)
    return rows, A


def _results(decoded: tuple[list[tuple[int, SliceResult]], Any]) -> list[tuple[int, SliceResult]]:
    return decoded[0]


def _pieces(decoded: tuple[Any, list[tuple[int, Any]]]) -> list[tuple[int, Any]]:
    return decoded[1]
