"""Rows of an inventory from the headers of its objects.

Slices are grouped, separated and ordered by the functions of `ctbasis.dicom` that the ingest uses. An inventory states
what a run does, as far as headers tell.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctbasis.cohort.inventory_index import content_digest
from ctbasis.cohort.object_header import NUMBERS, SYNTAX, TEXTS
from ctbasis.cohort.series_row import SeriesRow
from ctbasis.dicom.joining import join_single_slices
from ctbasis.dicom.separation import Part, separate_studies
from ctbasis.dicom.series import arrange, set_copies_aside, slices_at_same_position
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from ctbasis.cohort.inventory_index import InventoryIndex
    from ctbasis.cohort.object_header import ObjectHeader
    from ctbasis.dicom.instance import Slice
    from ctbasis.dicom.series import CTSeries
    from ctbasis.dicom.set_aside import SetAside
    from ctbasis.sources.source import RemoteObject

TWINS = "{} slices are at the position of another: a run compares their pixels, and refuses the series if they differ"

MAX_REASONS = 8
"""Reasons that a row names, the most frequent ones."""


@dataclass(frozen=True)
class Member:
    """An object of a series.

    Attributes:
        number: Its number in the index.
        entry: The object.
        header: Its header.
    """

    number: int
    entry: RemoteObject
    header: ObjectHeader

    @property
    def study(self) -> tuple[str, str]:
        """Patient and study."""
        return str(self.header.attributes.get("patient", "")), str(self.header.attributes.get("study", ""))


def write_rows(index: InventoryIndex) -> None:
    """Group the objects of an index to series, and write a row for each of them.

    The objects of one series are in memory at a time, and the series of one slice of one study.
    """
    index.forget_rows()
    singles: list[Member] = []
    study = ("", "")
    for patient, uid, series, slices in index.series():
        if singles and study != (patient, uid):
            _write_singles(index, singles)
            singles = []
        study = patient, uid
        members = [Member(*found) for found in index.headers(series)]
        if slices == 1:
            singles += members
        else:
            _write(index, members)
    _write_singles(index, singles)


def _write_singles(index: InventoryIndex, members: Sequence[Member]) -> None:
    """Write the rows of series of one slice each, which may be the slices of one volume; see `join_single_slices`."""
    owners = {entry.file: member for member in members for entry in member.header.slices}
    grouped = {entry.SeriesInstanceUID: [entry] for member in members for entry in member.header.slices}
    try:
        joined = join_single_slices(grouped)
    except CtbasisError as error:
        if members:
            _add(index, members, _row(members, [], refused=error.found))
        return
    for part in joined.values():
        uids = {entry.SeriesInstanceUID for entry in part.slices}
        series = {owners[entry.file].number for entry in part.slices}
        _write(index, [member for member in members if member.number in series or _series(member) in uids])


def _series(member: Member) -> str:
    return str(member.header.attributes.get("series", ""))


def _write(index: InventoryIndex, members: Sequence[Member]) -> None:
    """Write the rows of the objects of one series: one for each study that they belong to."""
    for group in _by_study(members):
        slices = [entry for member in group for entry in member.header.slices]
        _add(index, group, _described(group, slices))


def _by_study(members: Sequence[Member]) -> Iterator[list[Member]]:
    """Separate objects into patients and studies. Those without slices go to the study that their header names."""
    slices = [entry for member in members for entry in member.header.slices]
    parts = separate_studies(Part(slices)) if slices else []
    groups = [[member for member in members if _holds(member, part)] for part in parts]
    others: dict[tuple[str, str], list[Member]] = {}
    for group in groups:
        others.setdefault(group[0].study, group)
    for member in members:
        if not member.header.slices:
            others.setdefault(member.study, []).append(member)
    yield from groups
    yield from (group for group in others.values() if not any(group is one for one in groups))


def _holds(member: Member, part: Part) -> bool:
    return bool(member.header.slices) and any(member.header.slices[0] is entry for entry in part.slices)


def _add(index: InventoryIndex, members: Sequence[Member], row: SeriesRow) -> None:
    index.add_row(row, [member.number for member in members])


def _described(members: Sequence[Member], slices: Sequence[Slice]) -> SeriesRow:
    """Return the row of the objects of one series of one study."""
    aside = [entry for member in members for entry in member.header.aside]
    if not slices:
        reasons = Counter(entry.reason for entry in aside).most_common(MAX_REASONS)
        named = ", ".join(f"{count} x {reason}" for reason, count in reasons)
        return _row(members, aside, refused=f"no CT image: {named}" if named else "no CT image")
    kept, copies = set_copies_aside(slices)
    remarks: tuple[str, ...] = ()
    try:
        volumes = arrange(kept)
    except CtbasisError as error:
        kept, twins = _without_twins(kept)
        try:
            volumes = arrange(kept) if twins else []
        except CtbasisError:
            volumes = []
        if not volumes:
            return _row(members, [*aside, *copies], refused=error.found)
        remarks = (TWINS.format(twins),)
    return _row(members, [*aside, *copies], volumes=volumes, remarks=remarks)


def _without_twins(slices: list[Slice]) -> tuple[list[Slice], int]:
    """Return slices of which no two are at one position, and the number of those that were left out."""
    try:
        twins = {entry.place for group in slices_at_same_position(slices) for entry in group[1:]}
    except CtbasisError:
        return slices, 0
    return [entry for entry in slices if entry.place not in twins], len(twins)


def _row(
    members: Sequence[Member],
    aside: Sequence[SetAside],
    *,
    volumes: Sequence[CTSeries] = (),
    refused: str = "",
    remarks: tuple[str, ...] = (),
) -> SeriesRow:
    # Values are those of the first object that holds a slice.
    first = next((member for member in members if member.header.slices), members[0])
    known = first.header.attributes
    values: dict[str, Any] = {name: str(known.get(name, "")) for name in (*TEXTS, SYNTAX)}
    values |= {name: float(known[name]) if name in known else None for name in NUMBERS}
    values |= {name: int(known.get(name, 0)) for name in ("rows", "columns")}
    slices = [entry for volume in volumes for entry in volume.slices]
    if slices:
        largest = max(volumes, key=lambda volume: len(volume.slices))
        values |= {
            "rows": slices[0].Rows,
            "columns": slices[0].Columns,
            "kernel": ", ".join(_kernels(slices)) or values["kernel"],
            "spacing": largest.spacing,
            "pixel_spacing": float(slices[0].PixelSpacing[0]),
            "orientation": tuple(slices[0].ImageOrientationPatient),
        }
        remarks += tuple(dict.fromkeys(remark for volume in volumes for remark in volume.tolerated))
    sizes = [member.entry.size for member in members]
    return SeriesRow(
        **values,
        slices=len(slices),
        volumes=len(volumes),
        objects=len(members),
        bytes=None if None in sizes else sum(size for size in sizes if size is not None),
        set_aside=len(aside),
        refused=refused,
        digest=content_digest(member.entry for member in members),
        reasons=tuple(Counter(entry.reason for entry in aside).most_common(MAX_REASONS)),
        remarks=remarks,
    )


def _kernels(slices: Iterable[Slice]) -> list[str]:
    """Return the different kernels of slices in their order."""
    return list(dict.fromkeys(value for entry in slices for name, value in entry.traits if name == "ConvolutionKernel"))
