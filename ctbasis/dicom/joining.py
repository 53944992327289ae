"""Putting slices together to one volume although each of them has a SeriesInstanceUID of its own."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.dicom.separation import Part, on_one_step, positions_of
from ctbasis.dicom.traits import IDENTITY
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctbasis.dicom.instance import Slice

MIN_JOINED = 3
"""Series of one slice that are put together, at least."""


def join_single_slices(grouped: Mapping[str, list[Slice]]) -> dict[str, Part]:
    """Put series of one slice each together where they are the slices of one volume.

    Some anonymizers and converters give every slice a SeriesInstanceUID of its own.

    Args:
        grouped: The slices by SeriesInstanceUID.

    Returns:
        The slices by SeriesInstanceUID; that of slices which are put together is the one of the first slice.

    Raises:
        CtbasisError: At least three such slices follow each other at one step, but differ in StudyInstanceUID or
            FrameOfReferenceUID.
    """
    joined = {uid: Part(slices) for uid, slices in grouped.items() if len(slices) > 1}
    alike: defaultdict[tuple[object, ...], list[Slice]] = defaultdict(list)
    for slices in grouped.values():
        if len(slices) == 1:
            alike[_volume_of(slices[0])].append(slices[0])
    for slices in alike.values():
        if len(slices) < MIN_JOINED or not on_one_step(slices):
            joined.update({entry.SeriesInstanceUID: Part([entry]) for entry in slices})
            continue
        studies = {tuple(dict(entry.traits).get(trait) for trait in IDENTITY) for entry in slices}
        if len(studies) > 1:
            raise CtbasisError(
                f"{len(slices)} slices follow each other at one step, and each has a SeriesInstanceUID of its own; "
                "their PatientID, StudyInstanceUID or FrameOfReferenceUID differ too",
                expected="one SeriesInstanceUID for the slices of a volume, or at least one study and one frame of "
                "reference",
                cause="an anonymizer gave every file new UIDs",
                remedy="anonymize the series again with consistent UIDs",
            )
        first = slices[int(positions_of(slices).argmin())]
        remark = f"put together from {len(slices)} series of one slice each: every slice has its own SeriesInstanceUID"
        joined[first.SeriesInstanceUID] = Part(slices, "", (remark,))
    return joined


def _volume_of(entry: Slice) -> tuple[object, ...]:
    """Return what the slices of one volume have in common, identity apart."""
    traits = dict(entry.traits)
    return (
        (entry.Rows, entry.Columns),
        tuple(np.round(entry.ImageOrientationPatient, 3).tolist()),
        tuple(np.round(entry.PixelSpacing, 3).tolist()),
        *(traits.get(trait) for trait in ("SliceThickness", "ConvolutionKernel", "SeriesDescription")),
    )
