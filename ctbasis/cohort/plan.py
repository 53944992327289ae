"""What a cohort run does: its parameters, the series of the source with their folders, and the jobs made of them.

A job is what is computed at once: one series; or, in global mode and on engines that start Spark, series of equal
geometry whose slices become columns of one matrix.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ctbasis.choices import AUTO
from ctbasis.cohort.template import SOURCE_FOLDER, folder_of, refuse_shared_folders
from ctbasis.installed import VERSION
from ctbasis.parameters import DeidentificationPlan, OutputPlan, SvdPlan
from ctbasis.svd.engines import engine_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ctbasis.cohort.series_row import SeriesRow
    from ctbasis.sources.source import RemoteObject

OWN = "_cohort"
"""Folder of the output for what belongs to no single series: `groups/ID`, and the shared `basis`."""

GROUP_BYTES = 500_000_000
"""Size in bytes up to which series of equal geometry are joined to one matrix, at two bytes a voxel."""

WITHOUT_EFFECT = ("memory",)
"""Parameters that change no result, so that a re-run may change them."""


@dataclass(frozen=True)
class CohortPlan:
    """The parameters of a cohort run.

    Attributes:
        source: URI of the source.
        out: Folder or `s3://bucket/prefix` of the results.
        template: Folder of each series below `out`, see `ctbasis.cohort.template`.
        where: Expression that selects series; empty for all.
        basis_from: Number of series on which one patch basis is learned, for all; 0 learns one on each.
        parallelism: Series that are computed at the same time, one process each.
        parameters: Parameters of the pipeline by name, without the source and those in `NOT_OF_A_COHORT`.
    """

    source: str
    out: str
    template: str
    where: str = ""
    basis_from: int = 0
    parallelism: int = 1
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def svd(self) -> SvdPlan:
        """Parameters of the svd step."""
        return SvdPlan.of(**self._of(SvdPlan.names()))

    @property
    def deidentification(self) -> DeidentificationPlan:
        """Parameters of the matrix step."""
        return DeidentificationPlan.of(**self._of(DeidentificationPlan.names()))

    @property
    def output(self) -> OutputPlan:
        """Parameters of the reconstruct step."""
        return OutputPlan.of(**self._of(OutputPlan.names()))

    @property
    def joins_series(self) -> bool:
        """Whether series of equal geometry are factored as one matrix.

        Global mode factors the slices of many; and an application of Spark takes seconds to start.
        """
        engine = self.svd.engine
        return self.svd.mode == "global" or (engine != AUTO and engine_named(engine).on_spark)

    def settings(self) -> dict[str, Any]:
        """Return what determines the result of a series besides its content, as JSON."""
        given = {**self.parameters, **self.svd.values(), **self.deidentification.values(), **self.output.values()}
        kept = {name: value for name, value in sorted(given.items()) if name not in WITHOUT_EFFECT}
        return {"version": VERSION, "basis_from": self.basis_from, "parameters": kept}

    def _of(self, names: Iterable[str]) -> dict[str, Any]:
        return {name: self.parameters[name] for name in names if name in self.parameters}


@dataclass(frozen=True)
class PlannedSeries:
    """A series that is to be denoised.

    Attributes:
        row: The series as the inventory describes it.
        folder: Its folder below the output.
    """

    row: SeriesRow
    folder: str


@dataclass(frozen=True)
class Job:
    """Series that are computed at once.

    Attributes:
        series: One series, or several of equal geometry.
        joined: Whether they become one matrix with a report of its own, in `group`.
    """

    series: tuple[PlannedSeries, ...]
    joined: bool = False

    @property
    def group(self) -> str:
        """Folder below the output for the basis and the report of joined series; empty for one that has its own."""
        if not self.joined:
            return ""
        row = self.series[0].row
        return f"{OWN}/groups/{row.rows}x{row.columns}-{digest([one.folder for one in self.series])[:12]}"

    @property
    def stamp(self) -> str:
        """Digest of what the source's listing says about the objects: keys, sizes and ETags."""
        return digest(sorted(one.row.digest for one in self.series))

    @property
    def bytes(self) -> int:
        """Bytes of all objects, as far as the source states sizes."""
        return sum(one.row.bytes or 0 for one in self.series)


def planned(rows: Iterable[tuple[SeriesRow, Iterable[RemoteObject]]], template: str) -> list[PlannedSeries]:
    """Return the series with their folders.

    Args:
        rows: The series, and the objects of each.
        template: Template of the folders.

    Raises:
        CtbasisError: Two series would share a folder.
    """
    series = [PlannedSeries(row, folder_of(template, _values(row, template, objects))) for row, objects in rows]
    refuse_shared_folders((one.folder, f"series {one.row.series}, {one.row.slices} slices") for one in series)
    return series


def jobs_of(series: Sequence[PlannedSeries], *, join: bool) -> list[Job]:
    """Return the jobs for all series, in the order of the series.

    Args:
        series: The series.
        join: Whether series of equal geometry become one matrix, up to `GROUP_BYTES`.
    """
    if not join:
        return [Job((one,)) for one in series]
    return [Job(tuple(members), joined=True) for members in _groups(series)]


def geometry(row: SeriesRow) -> tuple[Any, ...]:
    """Return what series must have in common to share a matrix: image size, spacing and orientation."""
    orientation = tuple(round(cosine, 2) for cosine in row.orientation)
    return row.rows, row.columns, round(row.pixel_spacing, 3), round(row.spacing, 3), orientation


def digest(content: Any) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _groups(series: Sequence[PlannedSeries]) -> Iterator[list[PlannedSeries]]:
    """Yield groups of equal geometry; never two series with one SeriesInstanceUID, by which a matrix names them."""
    by_geometry: dict[tuple[Any, ...], list[PlannedSeries]] = defaultdict(list)
    for one in series:
        by_geometry[geometry(one.row)].append(one)
    for alike in by_geometry.values():
        groups: list[list[PlannedSeries]] = []
        for one in alike:
            for group in groups:
                fits = sum(map(_matrix_bytes, group)) + _matrix_bytes(one) <= GROUP_BYTES
                if fits and one.row.series not in {other.row.series for other in group}:
                    group.append(one)
                    break
            else:
                groups.append([one])
        yield from groups


def _matrix_bytes(one: PlannedSeries) -> int:
    return 2 * one.row.rows * one.row.columns * one.row.slices


def _values(row: SeriesRow, template: str, objects: Iterable[RemoteObject]) -> dict[str, str]:
    return {
        SOURCE_FOLDER: _common_folder(objects) if SOURCE_FOLDER in template else "",
        "PatientID": row.patient,
        "StudyInstanceUID": row.study,
        "SeriesInstanceUID": row.series,
        "Modality": row.modality,
        "Manufacturer": row.manufacturer,
        "ManufacturerModelName": row.model,
        "ConvolutionKernel": row.kernel,
    }


def _common_folder(objects: Iterable[RemoteObject]) -> str:
    """Return the deepest folder that contains all keys."""
    common: list[str] | None = None
    for entry in objects:
        parts = entry.key.split("/")[:-1]
        if common is None:
            common = parts
        else:
            same = next((i for i, (one, other) in enumerate(zip(common, parts, strict=False)) if one != other), None)
            common = common[: min(len(common), len(parts)) if same is None else same]
    return "/".join(common or [])
