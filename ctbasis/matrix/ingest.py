"""A folder of DICOM files to the matrix A, with what was done to every slice in qc.json.

Every file is parsed once: a first pass reads headers, so that columns are known before any pixel is, and a second one
reads stored values from the place that the first noted.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ctbasis.dicom.deidentify.deidentification import IdentifyingError
from ctbasis.dicom.instance import Found, Slice, read_slices, read_values
from ctbasis.dicom.limits import limited
from ctbasis.dicom.series import CTSeries, arrange, set_copies_aside, slices_at_one_place
from ctbasis.dicom.unfit import SetAside
from ctbasis.dicom.workers import LostError, Workers
from ctbasis.errors import CtbasisError
from ctbasis.matrix.columns import Filled, Store, fill, shared_memory
from ctbasis.matrix.qc import describe
from ctbasis.matrix.store import MatrixWriter, Series
from ctbasis.progress import progress
from ctbasis.threads import available_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ctbasis.dicom.deidentify.deidentification import Deidentification

OWN_PREFIX = ".ctbasis-"
"""Files and folders named so are notes of other steps, such as fetch's index."""

UNFINISHED = f"{OWN_PREFIX}unfinished"
"""In a folder, it says that a fetch into it is under way or broke off."""

WARNINGS_SHOWN = 20


def ingest(
    folder: Path,
    matrix_uri: str,
    qc: Path,
    *,
    workers: int | None = None,
    deidentification: Deidentification | None = None,
) -> None:
    """Read the CT series in `folder` into the matrix at `matrix_uri`, and write `qc`.

    Args:
        folder: DICOM files, in any depth.
        matrix_uri: Where the matrix goes; replaced if it is there.
        qc: Where qc.json goes: what was read, set aside and tolerated.
        workers: Processes, by default as many as this one may use CPUs. The buffer of one column group is shared, so
            more of them hardly cost more memory.
        deidentification: What headers go through before anything else sees them; None leaves them as they are. Names of
            files stay: in a pipeline, fetch has made them numbers.

    Raises:
        CtbasisError: The folder was not fetched to its end, there is no CT image, its series are no volume (see
            `arrange`), no slice of a series decodes, or the matrix cannot be written.
    """
    files, links = _files(folder)
    workers = workers or available_cpus()
    qc.unlink(missing_ok=True)
    # The memory first: processes share what is open when they are forked.
    with shared_memory() as memory, Workers(workers) as pool:
        try:
            _Ingestion(folder, matrix_uri, pool, memory, deidentification).run(files, links, qc)
        except LostError as error:
            raise CtbasisError(
                f"the matrix step lost its worker processes: {error}",
                cause="they ran out of memory, or the source is full of damaged files",
                remedy="give the step more memory or fewer workers, or name a source of whole files",
            ) from error
        except OSError as error:
            raise CtbasisError(
                f"the matrix at {matrix_uri} cannot be written: {error.strerror or type(error).__name__}",
                expected="a place to write to, with room for 2 to 4 bytes a voxel",
                cause="the disk is full, or the place is read-only",
                remedy="make room or give the workspace more, and run the step again",
            ) from error


@dataclass
class _Ingestion:
    """One run of the step."""

    folder: Path
    uri: str
    workers: Workers
    memory: BinaryIO
    deidentification: Deidentification | None

    def run(self, files: Sequence[str], links: Sequence[SetAside], qc: Path) -> None:
        """Read headers, then values: again without slices whose values are broken, or wider where they do not fit."""
        headers: dict[tuple[str, int], bytes] = {}
        slices: list[Slice] = []
        aside: list[SetAside] = [*links]
        for found in chain.from_iterable(progress(self._read_headers(files), "headers", total=len(files), unit="file")):
            if isinstance(found, SetAside):
                aside.append(found)
            else:
                slices.append(found[0])
                headers[found[0].place] = found[1]
        slices, copies = set_copies_aside(slices)
        aside += copies
        slices, repeated = set_repeated_aside(slices, self._digests)
        aside += repeated
        refuse_nothing(self.folder, slices, aside)
        dtype = "int16" if all(entry.pixels.whole for entry in slices) else "float32"
        attempt = 0
        while True:
            series = arrange(slices)
            columns = [entry for part in series for entry in part.slices]
            writer, filled = self._write(columns, dtype, attempt)
            broken = [
                SetAside(entry.file, result.problem, broken=True, frame=entry.frame)
                for entry, result in zip(columns, filled, strict=True)
                if result.problem
            ]
            fits = all(result.fits for result in filled)
            if fits and not broken:
                break
            attempt += 1
            dtype = dtype if fits else "float32"
            aside += broken
            slices = without(slices, broken)
        warn_of(aside)
        report = describe(files=len(files) + len(links), dtype=dtype, series=series, filled=filled, aside=aside)
        report["deidentified"] = self.deidentification.describe() if self.deidentification else None
        _write_whole(qc, json.dumps(report, indent=1) + "\n")
        writer.finish(series=placed(series), headers=[headers[entry.place] for entry in columns])

    def _read_headers(self, files: Sequence[str]) -> Iterator[list[Found]]:
        return self.workers.map(partial(read_file, self.folder, self.deidentification), files, lost_file)

    def _digests(self, slices: Sequence[Slice]) -> Iterator[str]:
        return self.workers.map(partial(digest_of, self.folder), slices, lambda entry, _: entry.name)

    def _write(self, columns: Sequence[Slice], dtype: str, attempt: int) -> tuple[MatrixWriter, list[Filled]]:
        image = columns[0].Rows, columns[0].Columns
        writer = MatrixWriter.create(self.uri, image=image, cols=len(columns), dtype=dtype)
        store = Store(self.uri, attempt, image[0] * image[1], dtype, writer.block_rows, writer.column_chunk)
        filling = fill(self.workers, self.memory, folder=self.folder, slices=columns, store=store)
        return writer, list(progress(filling, "matrix", total=len(columns), unit="slice"))


def _files(folder: Path) -> tuple[list[str], list[SetAside]]:
    """Return the files below the folder, and links that lead out of it, which nobody follows."""
    if not folder.is_dir():
        raise CtbasisError(f"no folder at {folder}", expected="a folder of DICOM files", remedy="check the path")
    if (folder / UNFINISHED).exists():
        raise CtbasisError(
            f"{folder} is not complete",
            expected="a folder that the fetch step has finished",
            cause="the fetch step is still running, or was interrupted",
            remedy="run the fetch step again; it goes on where it stopped",
        )
    files: list[str] = []
    links: list[SetAside] = []
    root = folder.resolve()
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(OWN_PREFIX)]
        for name in names:
            path = Path(where, name)
            # Reading a pipe or a device would wait for ever.
            if not path.is_file() or name.startswith(OWN_PREFIX):
                continue
            file = str(path.relative_to(folder))
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                links.append(SetAside(file, "a link that leads out of the folder"))
            else:
                files.append(file)
    return sorted(files), links


def read_file(folder: Path, deidentification: Deidentification | None, file: str) -> list[Found]:
    """Return what is in a file, in a worker that may be lost to it, and out of which no identity comes."""
    with limited():
        found = read_slices(folder, file)
        return found if deidentification is None else [_deidentified(entry, deidentification) for entry in found]


def _deidentified(found: Found, by: Deidentification) -> Found:
    """Take the identity out of a slice and its header, in the process that read them."""
    if isinstance(found, SetAside):
        return found
    entry, header = found
    try:
        header = by.header(header)
    except IdentifyingError as error:
        return SetAside(entry.file, str(error), broken=True, frame=entry.frame)
    anonymous = replace(
        entry,
        SOPInstanceUID=by.uid(entry.SOPInstanceUID),
        SeriesInstanceUID=by.uid(entry.SeriesInstanceUID),
        traits=tuple((keyword, by.trait(keyword, value)) for keyword, value in entry.traits),
    )
    return anonymous, header


def lost_file(file: str, ending: str) -> list[Found]:
    """Return what becomes of a file whose worker died at it, from how that ended."""
    return [SetAside(file, f"its header cannot be read: {ending}", broken=True)]


def set_repeated_aside(
    slices: list[Slice], digests: Callable[[Sequence[Slice]], Iterable[str]]
) -> tuple[list[Slice], list[SetAside]]:
    """Keep one of the slices at a place that hold the very same values, though their SOPInstanceUIDs differ.

    Args:
        slices: All there are.
        digests: Finds `digest_of` those that are at one place.
    """
    pairs = slices_at_one_place(slices)
    if not pairs:
        return slices, []
    involved = list({entry.place: entry for pair in pairs for entry in pair}.values())
    known = {entry.place: digest for entry, digest in zip(involved, digests(involved), strict=True)}
    repeated = {
        again.place: SetAside(
            again.file, "at another slice's place, with its values", frame=again.frame, twin=kept.name
        )
        for kept, again in pairs
        if known[kept.place] == known[again.place]
    }
    return [entry for entry in slices if entry.place not in repeated], list(repeated.values())


def digest_of(folder: Path, entry: Slice) -> str:
    """Return what two slices have in common that hold the same values of the same meaning, else its name."""
    try:
        with limited():
            values = read_values(folder, entry).astype(np.int64)
    except (ValueError, OSError, MemoryError):
        return entry.name
    return hashlib.sha256(values.tobytes() + repr(entry.pixels).encode()).hexdigest()


def refuse_nothing(place: Path | str, slices: Sequence[Slice], aside: Sequence[SetAside]) -> None:
    """Refuse a source in which nothing is a slice.

    Raises:
        CtbasisError: `slices` is empty; the reasons are counted.
    """
    if slices:
        return
    reasons = Counter(entry.reason for entry in aside).most_common(5)
    raise CtbasisError(
        f"no CT image among {len(aside)} files in {place}"
        + (f": {', '.join(f'{count} x {reason}' for reason, count in reasons)}" if reasons else ""),
        expected="files of one or more axial CT series (SOP class CT Image Storage)",
        cause="the source names another folder or prefix, or another modality",
        remedy="check the source",
    )


def without(slices: Sequence[Slice], broken: Iterable[SetAside]) -> list[Slice]:
    """Drop broken slices, unless a series has none left."""
    problems = {(entry.file, entry.frame): entry.reason for entry in broken}
    kept = [entry for entry in slices if entry.place not in problems]
    lost = {entry.SeriesInstanceUID for entry in slices} - {entry.SeriesInstanceUID for entry in kept}
    for entry in slices:
        if entry.SeriesInstanceUID in lost:
            raise CtbasisError(
                f"no slice of series {entry.SeriesInstanceUID} has pixels that decode; "
                f"the first, {entry.name}: {problems[entry.place]}",
                expected="at least one slice whose PixelData decodes",
                cause="the files are damaged, or in a transfer syntax that no installed decoder reads",
                remedy="fetch the series again, or decompress it with another tool",
            )
    return kept


def placed(series: Sequence[CTSeries]) -> list[Series]:
    """Return the columns that each series takes in A."""
    columns: list[Series] = []
    first = 0
    for entry in series:
        spacing = entry.slices[0].PixelSpacing
        columns.append(
            Series(
                entry.SeriesInstanceUID, first, len(entry.slices), entry.spacing, (float(spacing[0]), float(spacing[1]))
            )
        )
        first += len(entry.slices)
    return columns


def warn_of(aside: Iterable[SetAside]) -> None:
    """Say on standard error which files were meant to be slices and could not be read."""
    broken = [entry for entry in aside if entry.broken]
    for entry in broken[:WARNINGS_SHOWN]:
        sys.stderr.write(f"WARNING: {entry.file} is set aside: {entry.reason}\n")
    if len(broken) > WARNINGS_SHOWN:
        sys.stderr.write(f"WARNING: and {len(broken) - WARNINGS_SHOWN} more files, see qc.json\n")
    sys.stderr.flush()


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f"{path.name}.partial")
    try:
        partial_path.write_text(text, encoding="utf-8")
        partial_path.replace(path)
    finally:
        partial_path.unlink(missing_ok=True)
