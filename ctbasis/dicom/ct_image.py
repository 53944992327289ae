"""What the CT Image IOD holds: the attributes of its modules at the top level, and which of them must be there.

`ct_image.csv` is the table of PS3.3 A.3.3 with its modules, taken from highdicom 0.28 (MIT), which takes it from the
standard. Overlay planes, whose group repeats (60xx), are not in it.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

TABLE = Path(__file__).with_suffix(".csv")

ALWAYS = "M"

MANDATORY = "1"
MAY_BE_EMPTY = "2"

BINARY = {
    None,
    "SQ",
    "UN",
    "UI",
    "OB",
    "OW",
    "OD",
    "OF",
    "OL",
    "OV",
    "US",
    "SS",
    "UL",
    "SL",
    "UV",
    "SV",
    "FL",
    "FD",
    "AT",
}
"""Value representations that are no text padded with a space."""

REFERENCES = (
    "ReferencedStudySequence",
    "ReferencedPatientSequence",
    "ReferencedPerformedProcedureStepSequence",
    "ReferencedImageSequence",
    "ReferencedInstanceSequence",
)
"""Sequences of type 3 whose items are references to SOP instances."""

REFERENCE = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")

ONLY_WITH = {
    "ClinicalTrialProtocolEthicsCommitteeName": "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
}
"""Attributes of type 1C that may only stand beside another, which a de-identification may have taken away."""

OVERLAY_GROUPS = range(0x6000, 0x6020, 2)

GROUP_MASK = 0xFF00
"""Of groups that repeat: 50xx, 60xx."""


@dataclass(frozen=True)
class Attribute:
    """An attribute of the IOD at the top level.

    Attributes:
        keyword: Of the attribute.
        type: 1, 1C, 2, 2C or 3.
        usage: Of its module in the IOD: M, mandatory, C, conditional, or U, at the user's option.
        module: The module that asks it.
    """

    keyword: str
    type: str
    usage: str
    module: str


@cache
def attributes() -> dict[int, Attribute]:
    """Return the attributes of the IOD by tag."""
    with TABLE.open(encoding="ascii", newline="") as lines:
        found = [Attribute(**row) for row in csv.DictReader(lines)]
    return {tag_for_keyword(attribute.keyword) or 0: attribute for attribute in found}


@cache
def types() -> dict[int, str]:
    """Return the type of every attribute of the IOD, by tag."""
    return {tag: attribute.type for tag, attribute in attributes().items()}


@cache
def wanted(kind: str) -> tuple[str, ...]:
    """Return the keywords of type `kind` that every CT image has: those of mandatory modules."""
    return tuple(
        attribute.keyword for attribute in attributes().values() if attribute.type == kind and attribute.usage == ALWAYS
    )


def drop_foreign(dataset: Dataset) -> None:
    """Drop what is no attribute of the IOD: with it, an instance would be of a Standard Extended SOP Class."""
    known = types()
    for tag in list(dataset.keys()):
        if tag not in known and not (tag.group in OVERLAY_GROUPS and not tag.is_private):
            del dataset[tag]


def repair(dataset: Dataset) -> None:
    """Mend, in place, what files in the world get wrong and what can be mended without inventing anything."""
    _mend_values(dataset)
    _drop_broken_references(dataset)
    if float(dataset.get("SpacingBetweenSlices") or 0) < 0:
        del dataset.SpacingBetweenSlices
    for keyword, other in ONLY_WITH.items():
        if keyword in dataset and not dataset.get(other):
            delattr(dataset, keyword)
    if dataset.get("PatientIdentityRemoved") == "YES" and not (
        dataset.get("DeidentificationMethod") or dataset.get("DeidentificationMethodCodeSequence")
    ):
        dataset.DeidentificationMethod = "Not stated by the source"


def _mend_values(dataset: Dataset) -> None:
    """Pad text with spaces where it was padded with zero bytes, and drop what is empty and may not be."""
    kinds = types()
    for tag in list(dataset.keys()):
        element: Any = dataset.get_item(tag)
        if isinstance(element, RawDataElement) and element.VR not in BINARY and element.value:
            value = element.value.rstrip(b"\0 ")
            if b"\0" in element.value[len(value) :]:
                value += b" " * (len(value) % 2)
                dataset[tag] = element._replace(value=value, length=len(value))
        if kinds.get(int(tag), "").startswith(MANDATORY) and dataset[tag].is_empty:
            # Of type 1C an empty value says no more than none, and is not allowed.
            del dataset[tag]


def _drop_broken_references(dataset: Dataset) -> None:
    """Drop references that name no object, or one of no class: they lead nowhere."""
    for keyword in REFERENCES:
        if keyword in dataset:
            whole = [item for item in dataset[keyword].value or [] if all(item.get(name) for name in REFERENCE)]
            setattr(dataset, keyword, whole)
            if not whole:
                delattr(dataset, keyword)


def fill_empty(dataset: Dataset) -> None:
    """Give `dataset` every attribute of type 2 that it lacks, empty: present and unknown is what the standard asks.

    So too those of optional modules of which it has anything; PatientPosition, which a CT image has unless a code says
    it; and Laterality, where no body part tells whether it is one of a pair.
    """
    lacking = [*wanted(MAY_BE_EMPTY)]
    used = {attribute.module for tag, attribute in attributes().items() if tag in dataset}
    lacking += [
        attribute.keyword
        for attribute in attributes().values()
        if attribute.type == MAY_BE_EMPTY and attribute.module in used
    ]
    if "PatientOrientationCodeSequence" not in dataset:
        lacking.append("PatientPosition")
    if not dataset.get("BodyPartExamined") and "ImageLaterality" not in dataset:
        lacking.append("Laterality")
    for keyword in lacking:
        if keyword not in dataset:
            setattr(dataset, keyword, None)


def missing(dataset: Dataset) -> list[str]:
    """Return the keywords of type 1 that `dataset` lacks or has empty, and of type 2 that it lacks."""
    lacking = [keyword for keyword in wanted(MANDATORY) if keyword not in dataset or dataset[keyword].is_empty]
    return lacking + [keyword for keyword in wanted(MAY_BE_EMPTY) if keyword not in dataset]
