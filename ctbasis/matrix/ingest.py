"""Reading a folder of DICOM files into the matrix A, and reporting the treatment of every slice in qc.json.

Each file is parsed once. A first pass reads the headers, which determine the columns of A. A second pass reads the
stored values from the file position that the first pass recorded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ctbasis.dicom.deidentify.deidentification import IdentifyingError
from ctbasis.dicom.instance import ReadResult, Slice, read_slices, read_values
from ctbasis.dicom.resource_limits import limited
from ctbasis.dicom.series import CTSeries, arrange, set_copies_aside, slices_at_same_position
from ctbasis.dicom.set_aside import SetAside
from ctbasis.dicom.workers import WorkerCrashError, Workers
from ctbasis.errors import CtbasisError
from ctbasis.matrix.columns import SliceResult, Target, fill_columns, shared_memory
from ctbasis.matrix.qc import qc_report
from ctbasis.matrix.slice_store import Series
from ctbasis.matrix.store import MatrixWriter
from ctbasis.printable import say
from ctbasis.progress import progress
from ctbasis.storage.outputs import replaced_file
from ctbasis.threads import available_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ctbasis.dicom.deidentify.deidentification import Deidentification

OWN_PREFIX = ".ctbasis-"
"""Files and folders with this prefix belong to other steps, for example the index of the fetch step."""

UNFINISHED = f"{OWN_PREFIX}unfinished"
"""A folder of this name shows that a fetch is in progress or was interrupted."""

MAX_WARNINGS = 20


def ingest(
    folder: Path,
    matrix_uri: str,
    qc: Path,
    *,
    workers: int | None = None,
    deidentification: Deidentification | None = None,
    series: str = "",
) -> None:
    """Read the CT series in `folder` into the matrix at `matrix_uri`, and write the report `qc`.

    Args:
        folder: Folder of DICOM files, which may be in subfolders.
        matrix_uri: URI of the matrix. An existing matrix is replaced.
        qc: Path of qc.json, which reports what was read, set aside and tolerated.
        workers: Number of worker processes; by default the number of CPUs available to this process. The buffer of a
            column group is shared, so additional workers need little memory.
        deidentification: De-identifies every header as soon as it is read; None keeps headers as they are. File names
            are not changed: in the pipeline, the fetch step has replaced them by numbers.
        series: SeriesInstanceUID of the only series to read, after de-identification; empty for all.

    Raises:
        CtbasisError: The fetch into the folder is incomplete; there is no CT image, or none of `series`; a series is
            not a volume (see `arrange`); no slice of a series can be decoded; or the matrix cannot be written.
    """
    files, links = _files(folder)
    workers = workers or available_cpus()
    qc.unlink(missing_ok=True)
    # The memory is created first: the workers inherit the descriptors that are open when they are forked.
    with shared_memory() as memory, Workers(workers) as pool:
        try:
            _Ingestion(folder, matrix_uri, pool, memory, deidentification, series).run(files, links, qc)
        except WorkerCrashError as error:
            raise CtbasisError(
                f"worker processes of the matrix step died: {error}",
                expected="at most a few files that crash a decoder",
                cause="the step ran out of memory, or the source is full of damaged files",
                remedy="give the step more memory or fewer workers, or use a source of undamaged files",
            ) from error
        except OSError as error:
            raise CtbasisError(
                f"the matrix at {matrix_uri} cannot be written: {error.strerror or type(error).__name__}",
                expected="a writable location with room for 2 to 4 bytes per voxel",
                cause="the disk is full, or the location is read-only",
                remedy="free space or enlarge the workspace, and run the step again",
            ) from error


@dataclass
class _Ingestion:
    """One run of the matrix step."""

    folder: Path
    uri: str
    workers: Workers
    memory: BinaryIO
    deidentification: Deidentification | None
    series: str = ""

    def run(self, files: Sequence[str], links: Sequence[SetAside], qc: Path) -> None:
        """Read headers, then pixels; repeat the latter without undecodable slices, or as float32 if HU do not fit."""
        headers: dict[tuple[str, int], bytes] = {}
        slices: list[Slice] = []
        aside: list[SetAside] = [*links]
        for result in chain.from_iterable(
            progress(self._read_headers(files), "headers", total=len(files), unit="file")
        ):
            if isinstance(result, SetAside):
                aside.append(result)
            else:
                slices.append(result[0])
                headers[result[0].place] = result[1]
        if self.series:
            slices, others = select_series(slices, self.series)
            aside += others
        slices, copies = set_copies_aside(slices)
        aside += copies
        slices, duplicates = set_duplicates_aside(slices, self._digests)
        aside += duplicates
        require_slices(self.folder, slices, aside)
        dtype = "int16" if all(entry.pixels.whole for entry in slices) else "float32"
        attempt = 0
        while True:
            series = arrange(slices)
            columns = [entry for part in series for entry in part.slices]
            writer, results = self._write(columns, dtype, attempt)
            broken = [
                SetAside(entry.file, result.problem, broken=True, frame=entry.frame)
                for entry, result in zip(columns, results, strict=True)
                if result.problem
            ]
            fits = all(result.fits for result in results)
            if fits and not broken:
                break
            attempt += 1
            dtype = dtype if fits else "float32"
            aside += broken
            slices = drop_broken(series, broken)
        warn_about(aside)
        report = qc_report(files=len(files) + len(links), dtype=dtype, series=series, results=results, aside=aside)
        report["deidentified"] = self.deidentification.describe() if self.deidentification else None
        _write_atomically(qc, json.dumps(report, indent=1) + "\n")
        writer.finish(series=series_columns(series), headers=[headers[entry.place] for entry in columns])

    def _read_headers(self, files: Sequence[str]) -> Iterator[list[ReadResult]]:
        return self.workers.map(partial(read_file, self.folder, self.deidentification), files, crashed_file)

    def _digests(self, slices: Sequence[Slice]) -> Iterator[str]:
        return self.workers.map(partial(values_digest, self.folder), slices, lambda entry, _: entry.name)

    def _write(self, columns: Sequence[Slice], dtype: str, attempt: int) -> tuple[MatrixWriter, list[SliceResult]]:
        image = columns[0].Rows, columns[0].Columns
        writer = MatrixWriter.create(self.uri, image=image, cols=len(columns), dtype=dtype)
        target = Target(self.uri, attempt, image[0] * image[1], dtype, writer.block_rows, writer.column_chunk)
        results = fill_columns(self.workers, self.memory, folder=self.folder, slices=columns, target=target)
        return writer, list(progress(results, "matrix", total=len(columns), unit="slice"))


def _files(folder: Path) -> tuple[list[str], list[SetAside]]:
    """Return the relative paths of the files below the folder, and the symbolic links out of it as set aside."""
    if not folder.is_dir():
        raise CtbasisError(
            f"no folder at {folder}",
            expected="a folder of DICOM files",
            cause="the path is misspelt, or the volume is not mounted on this machine",
            remedy="check the path",
        )
    if (folder / UNFINISHED).exists():
        raise CtbasisError(
            f"{folder} is not complete",
            expected="a folder that the fetch step has finished",
            cause="the fetch step is still running, or was interrupted",
            remedy="run the fetch step again; it continues where it stopped",
        )
    files: list[str] = []
    links: list[SetAside] = []
    root = folder.resolve()
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(OWN_PREFIX)]
        for name in names:
            path = Path(parent, name)
            # Only regular files: reading a pipe or a device could block.
            if not path.is_file() or name.startswith(OWN_PREFIX):
                continue
            file = str(path.relative_to(folder))
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                links.append(SetAside(file, "a symbolic link to a file outside of the folder"))
            else:
                files.append(file)
    return sorted(files), links


def read_file(folder: Path, deidentification: Deidentification | None, file: str) -> list[ReadResult]:
    """Read the slices of a file under the resource limits of `limited`. Run it in a process that may crash.

    Headers are de-identified in this process, so that no identity leaves it.
    """
    with limited():
        results = read_slices(folder, file)
        return results if deidentification is None else [deidentified(entry, deidentification) for entry in results]


def deidentified(result: ReadResult, deidentification: Deidentification) -> ReadResult:
    """Return a slice and its header de-identified; the reason instead if the header cannot be de-identified."""
    if isinstance(result, SetAside):
        return result
    entry, header = result
    try:
        header = deidentification.header(header)
    except IdentifyingError as error:
        return SetAside(entry.file, str(error), broken=True, frame=entry.frame)
    deidentified = replace(
        entry,
        SOPInstanceUID=deidentification.uid(entry.SOPInstanceUID),
        SeriesInstanceUID=deidentification.uid(entry.SeriesInstanceUID),
        traits=tuple((keyword, deidentification.trait(keyword, value)) for keyword, value in entry.traits),
    )
    return deidentified, header


def crashed_file(file: str, ending: str) -> list[ReadResult]:
    """Return the result for a file whose worker process died; `ending` says how."""
    return [SetAside(file, f"its header cannot be read: {ending}", broken=True)]


def set_duplicates_aside(
    slices: list[Slice], digests: Callable[[Sequence[Slice]], Iterable[str]]
) -> tuple[list[Slice], list[SetAside]]:
    """Keep one of several slices at the same position with identical values but different SOPInstanceUIDs.

    Args:
        slices: All slices.
        digests: Computes the `values_digest` of slices.

    Returns:
        The slices to keep, and the duplicates.
    """
    groups = slices_at_same_position(slices)
    if not groups:
        return slices, []
    involved = [entry for group in groups for entry in group]
    known = {entry.place: digest for entry, digest in zip(involved, digests(involved), strict=True)}
    duplicates: dict[tuple[str, int], SetAside] = {}
    for group in groups:
        kept: dict[str, Slice] = {}
        for entry in group:
            first = kept.setdefault(known[entry.place], entry)
            if first is not entry:
                reason = "same position and values as another slice"
                duplicates[entry.place] = SetAside(entry.file, reason, frame=entry.frame, twin=first.name)
    return [entry for entry in slices if entry.place not in duplicates], list(duplicates.values())


def values_digest(folder: Path, entry: Slice) -> str:
    """Return a digest of the stored values and of the tags that give them their meaning.

    It is equal for two slices with the same HU and padding. If the slice cannot be read, the digest is its name.
    """
    try:
        with limited():
            values = read_values(folder, entry).astype(np.int64)
    except (ValueError, OSError, MemoryError):
        return entry.name
    return hashlib.sha256(values.tobytes() + repr(entry.pixels).encode()).hexdigest()


def select_series(slices: Sequence[Slice], uid: str) -> tuple[list[Slice], list[SetAside]]:
    """Return the slices of the series `uid`, and those of other series as set aside.

    Raises:
        CtbasisError: There are slices, but none of this series.
    """
    chosen = [entry for entry in slices if entry.SeriesInstanceUID == uid]
    if slices and not chosen:
        uids = sorted({entry.SeriesInstanceUID for entry in slices})
        raise CtbasisError(
            f"no CT series {uid} in the source; it holds {', '.join(uids)}",
            expected="the SeriesInstanceUID of one of them",
            cause="the UID is misspelt, or the series is in another folder",
            remedy="name one of them, or leave the series out to read all",
        )
    others = [entry for entry in slices if entry.SeriesInstanceUID != uid]
    return chosen, [SetAside(entry.file, "not of the chosen series", frame=entry.frame) for entry in others]


def require_slices(place: Path | str, slices: Sequence[Slice], aside: Sequence[SetAside]) -> None:
    """Raise an error if a source contains no slice.

    Args:
        place: The source, for the message.
        slices: The slices that were found.
        aside: The files that were set aside.

    Raises:
        CtbasisError: `slices` is empty. The message counts the five most frequent reasons.
    """
    if slices:
        return
    reasons = Counter(entry.reason for entry in aside).most_common(5)
    raise CtbasisError(
        f"no CT image among {len(aside)} files in {place}"
        + (f": {', '.join(f'{count} x {reason}' for reason, count in reasons)}" if reasons else ""),
        expected="files of one or more axial CT series (SOP class CT Image Storage)",
        cause="the source is another folder or prefix, or another modality",
        remedy="check the source",
    )


def drop_broken(series: Sequence[CTSeries], broken: Iterable[SetAside]) -> list[Slice]:
    """Return the slices of all series that are not in `broken`.

    Raises:
        CtbasisError: All slices of a series are broken.
    """
    problems = {(entry.file, entry.frame): entry.reason for entry in broken}
    for part in series:
        if all(entry.place in problems for entry in part.slices):
            entry = part.slices[0]
            raise CtbasisError(
                f"no slice of series {entry.SeriesInstanceUID} can be decoded; "
                f"the first, {entry.name}: {problems[entry.place]}",
                expected="at least one slice whose PixelData decodes",
                cause="the files are damaged, or no installed decoder supports their TransferSyntaxUID",
                remedy="fetch the series again, or decompress it with another tool",
            )
    return [entry for part in series for entry in part.slices if entry.place not in problems]


def series_columns(series: Sequence[CTSeries]) -> list[Series]:
    """Return the range of columns of A that each series takes."""
    columns: list[Series] = []
    first = 0
    for entry in series:
        spacing = entry.slices[0].PixelSpacing
        columns.append(
            Series(
                entry.SeriesInstanceUID,
                first,
                len(entry.slices),
                entry.spacing,
                (float(spacing[0]), float(spacing[1])),
                entry.breaks,
                entry.positions,
            )
        )
        first += len(entry.slices)
    return columns


def warn_about(aside: Iterable[SetAside]) -> None:
    """Write a warning to standard error for each file that should be a slice but could not be read."""
    broken = [entry for entry in aside if entry.broken]
    for entry in broken[:MAX_WARNINGS]:
        say(f"WARNING: {entry.file} is set aside: {entry.reason}")
    if len(broken) > MAX_WARNINGS:
        say(f"WARNING: and {len(broken) - MAX_WARNINGS} more files, see qc.json")


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
