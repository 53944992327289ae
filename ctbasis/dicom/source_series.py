"""The series that derived slices come from, and the attributes that a derived series has only once.

A volume is usually one source series. It can be a part of one, where a series holds several volumes, or several, where
every slice has a SeriesInstanceUID of its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pydicom

from ctbasis.dicom.tolerance import tolerant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydicom.dataset import Dataset

    from ctbasis.dicom.results import SeriesColumns

UNIFORM = ("SeriesNumber", "SeriesDescription", "FrameOfReferenceUID")
"""Attributes that all images of a series share (PS3.3 C.7.3.1 and C.7.4.1), and that derived images keep."""


@dataclass(frozen=True)
class SourceSeries:
    """The source of one derived series.

    Attributes:
        key: Text from which the SeriesInstanceUID of the derived series follows: the source's SeriesInstanceUID, and
            the number of the volume if the source series holds several.
        uniform: Attributes that all slices of the derived series get, by keyword; None for an absent one.
    """

    key: str
    uniform: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, key: str, first: bytes) -> SourceSeries:
        """Return the source of a series whose first slice has the header `first`, a DICOM file without PixelData."""
        with tolerant():
            header = pydicom.dcmread(BytesIO(first))
            return cls(key, {keyword: header.get(keyword) for keyword in UNIFORM})

    def unify(self, dataset: Dataset) -> None:
        """Give `dataset` the attributes that it must share with the other slices, in place."""
        for keyword, value in self.uniform.items():
            if dataset.get(keyword) != value:
                if value is None:
                    delattr(dataset, keyword)
                else:
                    setattr(dataset, keyword, value)


def source_keys(series: Sequence[SeriesColumns]) -> list[str]:
    """Return the key of each series of a matrix: its SeriesInstanceUID, with a number where several share one."""
    uids = [entry.SeriesInstanceUID for entry in series]
    count, number = Counter(uids), Counter[str]()
    keys = []
    for uid in uids:
        number[uid] += 1
        keys.append(uid if count[uid] == 1 else f"{uid} volume {number[uid]}")
    return keys


def sources_of_columns(series: Sequence[SeriesColumns], header: Callable[[int], bytes]) -> list[SourceSeries]:
    """Return the source of every column of a matrix.

    Args:
        series: The series of the matrix in the order of their columns.
        header: Returns the header of a column.
    """
    columns: list[SourceSeries] = []
    for key, entry in zip(source_keys(series), series, strict=True):
        columns += [SourceSeries.of(key, header(entry.first))] * entry.count
    return columns
