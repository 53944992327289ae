"""Fused mode: Spark executors decode DICOM files from the source and feed the SVD, without a matrix store.

The parallel unit is the slice. Executors first read the headers. The driver arranges them with the code of the matrix
step, so that columns, dtype and row blocks, and with them the factors, equal those of the staged mode (`ctbasis run`).
Then each task decodes some slices to HU and cuts them into row blocks; one shuffle joins the pieces of each row block;
and the passes of the SVD run over row blocks in the executors' memory, which are written to disk only where memory is
short. The HU of excluded voxels are written to the factor store by the task that joins the block.

Fused mode reads every file twice, for its header and for its values (a multi-frame file once a task), and saves the
disk space of the matrix and two steps. Archives are refused, because every task would have to unpack them again. The
report step needs the matrix, so fused mode gives factors, and the series that `ctbasis reconstruct` makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.dicom.series import arrange, set_copies_aside
from ctbasis.dicom.set_aside import SetAside
from ctbasis.errors import CtbasisError
from ctbasis.matrix.ingest import drop_broken, require_slices, series_columns, set_duplicates_aside, warn_about
from ctbasis.matrix.qc import qc_report
from ctbasis.matrix.store import block_rows_for, column_chunk_for
from ctbasis.sources.fetch import list_objects
from ctbasis.sources.schemes import open_source
from ctbasis.sources.zip_archive import ZIP_SUFFIX
from ctbasis.spark.fused_tasks import Column, assemble, decode_columns, digests, read_headers
from ctbasis.svd.engines.spark import SparkWorkers, errors_of_tasks, tasks_for
from ctbasis.svd.factors import FactorWriter
from ctbasis.svd.method import factorize_with

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray
    from pyspark import RDD, SparkContext

    from ctbasis.dicom.deidentify.deidentification import Deidentification
    from ctbasis.dicom.instance import Slice
    from ctbasis.dicom.series import CTSeries
    from ctbasis.matrix.columns import SliceResult
    from ctbasis.matrix.slice_store import Series
    from ctbasis.sources.source import RemoteObject
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.spectrum import Spectrum

SLICES_PER_TASK = 16
"""Slices that one task decodes and keeps: 16 MiB of 512 x 512 int16, with the values set aside."""


@dataclass(frozen=True)
class FusedMatrix:
    """The description of A, whose values are in the executors' memory; the SVD uses it in place of a matrix store.

    Attributes:
        uri: The source.
        image: Rows and Columns of every slice.
        series: The columns of each series.
        headers: Header of every column, a DICOM file without pixels.
        dtype: Type of A.
        qc: Report of what was read, set aside and tolerated, as in the matrix step's qc.json.
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
        """Rows of every block but the last, as in a matrix store."""
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
        """Raise: the driver has no values of A.

        Raises:
            CtbasisError: Always.
        """
        raise CtbasisError(
            f"the driver was asked to read row block {index} as {np.dtype(dtype)}", expected="a read by an executor"
        )


class Fused:
    """The factorization of a source of DICOM files by executors that decode them.

    Args:
        spark: The Spark application.
        uri: `s3://bucket/prefix`, or a folder that executors can read.
        deidentification: De-identification of headers before they leave the process that read them; objects are then
            numbered instead of named. None leaves both unchanged. Its salt is sent to the executors with the tasks.

    Raises:
        CtbasisError: There is no CT image in the source, or an archive, its series are no volume, or it cannot be read.
    """

    def __init__(self, spark: SparkContext, uri: str, *, deidentification: Deidentification | None = None) -> None:
        self._spark, self._uri, self._deidentification = spark, uri, deidentification
        self._entries: dict[str, RemoteObject] = {}
        self._blocks: RDD[Any] | None = None
        slices, headers, aside = self._read_headers()
        self.matrix, self._decoded = self._decode(slices, headers, aside)

    def factorize(self, factors_uri: str, plan: Plan, *, dtype: str = "float32") -> tuple[FactorWriter, Spectrum]:
        """Factor A by the plan's method, and write U and the values set aside.

        Args:
            factors_uri: URI of the `FactorStore` to write; replaced if it exists.
            plan: The plan, fitted to `self.matrix`.
            dtype: Type of U on disk.

        Returns:
            The writer of the factors, which the caller finishes, and s and V.

        Raises:
            CtbasisError: A contains NaN or Inf, or a task failed.
        """
        matrix = self.matrix
        factors = FactorWriter.create(factors_uri, matrix, rank=plan.rank, dtype=dtype)
        factors.create_aside(matrix.cols, column_chunk_for(matrix.cols, matrix.rows), matrix.dtype)
        self._assemble(factors_uri)
        spectrum = factorize_with(SparkWorkers(self._spark, matrix, self), factors, plan)
        return factors, spectrum

    def blocks(self, *, reads: bool) -> RDD[Any]:
        """Return the row blocks in the executors' memory: pairs of rows and A there, empty arrays without `reads`.

        Raises:
            CtbasisError: `factorize` has not assembled them yet.
        """
        if self._blocks is None:
            raise CtbasisError("no row blocks have been assembled", expected="a call of factorize before")
        if reads:
            return self._blocks
        return self._blocks.map(lambda block: (block[0], np.empty((block[0].stop - block[0].start, 0))))

    def close(self) -> None:
        """Free the memory of the executors."""
        for persisted in (self._decoded, self._blocks):
            if persisted is not None:
                persisted.unpersist()

    def _read_headers(self) -> tuple[list[Slice], dict[tuple[str, int], bytes], list[SetAside]]:
        objects = files(self._uri, opaque=self._deidentification is not None)
        self._entries = {entry.key: entry for entry in objects}
        self._spark.setJobDescription("fused: headers")
        read = partial(read_headers, self._uri, self._deidentification)
        results = self._collect(self._distribute(objects).mapPartitions(read))
        slices = [result[0] for result in results if not isinstance(result, SetAside)]
        headers = {result[0].place: result[1] for result in results if not isinstance(result, SetAside)}
        aside = [result for result in results if isinstance(result, SetAside)]
        slices, copies = set_copies_aside(slices)
        aside += copies
        slices, duplicates = set_duplicates_aside(slices, self._digests)
        aside += duplicates
        require_slices("the source", slices, aside)
        return slices, headers, aside

    def _digests(self, slices: Sequence[Slice]) -> list[str]:
        self._spark.setJobDescription("fused: slices at one position")
        pairs = [(self._entries[entry.file], entry) for entry in slices]
        return self._collect(self._distribute(pairs).mapPartitions(partial(digests, self._uri)))

    def _decode(
        self,
        slices: list[Slice],
        headers: dict[tuple[str, int], bytes],
        aside: list[SetAside],
    ) -> tuple[FusedMatrix, RDD[Any]]:
        """Decode all columns, as the matrix step does.

        The pass is repeated without slices that cannot be decoded, and as float32 if values do not fit int16.
        """
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
                self._distribute(columns)
                .mapPartitions(partial(decode_columns, self._uri, dtype, rows))
                .persist(StorageLevel.MEMORY_AND_DISK)
            )
            results: dict[int, SliceResult] = dict(self._collect(decoded.flatMap(_results_of)))
            decodings = [results[column.index] for column in columns]
            broken = [
                SetAside(column.slice.file, result.problem, broken=True, frame=column.slice.frame)
                for column, result in zip(columns, decodings, strict=True)
                if result.problem
            ]
            fits = all(result.fits for result in decodings)
            if fits and not broken:
                break
            decoded.unpersist()
            dtype = dtype if fits else "float32"
            aside += broken
            slices = drop_broken(series, broken)
        warn_about(aside)
        return self._describe(series, columns, headers, decodings, aside, dtype), decoded

    def _describe(
        self,
        series: list[CTSeries],
        columns: Sequence[Column],
        headers: dict[tuple[str, int], bytes],
        decodings: list[SliceResult],
        aside: list[SetAside],
        dtype: str,
    ) -> FusedMatrix:
        qc = qc_report(files=len(self._entries), dtype=dtype, series=series, results=decodings, aside=aside)
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
        """Join the pieces of each row block, write the values set aside of it, and keep it in memory."""
        from pyspark import StorageLevel

        matrix = self.matrix
        partitions = tasks_for(self._spark, matrix.block_count)
        join = partial(assemble, factors_uri, matrix.rows, matrix.cols, matrix.block_rows, str(matrix.dtype))
        self._spark.setJobDescription("fused: transpose")
        self._blocks = (
            self._decoded.flatMap(_pieces_of)
            .groupByKey(partitions, partitionFunc=int)
            .map(join)
            .persist(StorageLevel.MEMORY_AND_DISK)
        )
        count = len(self._collect(self._blocks.map(lambda block: block[0].start)))
        if count != matrix.block_count:
            raise CtbasisError(f"{count} row blocks were assembled", expected=f"{matrix.block_count}")
        self._decoded.unpersist()

    def _distribute(self, items: Sequence[Any]) -> RDD[Any]:
        return self._spark.parallelize(items, max(1, -(-len(items) // SLICES_PER_TASK)))

    def _collect(self, results: RDD[Any]) -> list[Any]:
        with errors_of_tasks():
            return list(results.collect())


def files(uri: str, *, opaque: bool) -> list[RemoteObject]:
    """Return the objects of a source, named and ordered as the files that the fetch step writes.

    Args:
        uri: The source.
        opaque: Whether objects are numbered instead of named, for keys that may contain a patient's name.

    Returns:
        The objects; the key of each is the file's name.

    Raises:
        CtbasisError: An object is an archive, or the source cannot be listed.
    """
    objects: list[RemoteObject] = []
    archives = 0
    for entry, name in list_objects(open_source(uri, 1), opaque=opaque):
        archives += entry.location.lower().endswith(ZIP_SUFFIX)
        objects.append(replace(entry, key=name))
    if archives:
        raise CtbasisError(
            f"{archives} of {len(objects)} objects of the source are archives ({ZIP_SUFFIX})",
            expected="one DICOM file an object; in fused mode every task would unpack the archives again",
            remedy="use `ctbasis run`, whose fetch step unpacks them once, or unpack them at the source",
        )
    return sorted(objects, key=lambda entry: entry.key)


def require_files(uri: str) -> None:
    """Refuse a source that fused mode cannot read, or that holds no file, by its listing alone.

    Raises:
        CtbasisError: There is no object, an object is an archive, or the source cannot be listed.
    """
    if not files(uri, opaque=False):
        raise CtbasisError(
            "the source holds no file",
            expected="DICOM files",
            cause="the folder or the prefix is misspelt, or still empty",
            remedy="correct the source",
        )


def _results_of(decoded: tuple[list[tuple[int, SliceResult]], Any]) -> list[tuple[int, SliceResult]]:
    return decoded[0]


def _pieces_of(decoded: tuple[Any, list[tuple[int, Any]]]) -> list[tuple[int, Any]]:
    return decoded[1]
