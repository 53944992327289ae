"""The CT Image IOD: the top-level attributes of its modules, and functions that make a data set conform to it.

`ct_image.csv` is the table of PS3.3 A.3.3 with its modules, taken from highdicom 0.28 (MIT), which derives it from the
standard. It does not contain overlay planes, whose group number varies (60xx).
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

MANDATORY_MODULE = "M"

TYPE_1 = "1"
TYPE_2 = "2"
"""Attribute types: 1 must have a value, 2 must be present but may be empty (PS3.5 7.4)."""

NOT_PADDED_WITH_SPACES = {
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
"""Value representations whose values are not text padded with spaces."""

REFERENCES = (
    "ReferencedStudySequence",
    "ReferencedPatientSequence",
    "ReferencedPerformedProcedureStepSequence",
    "ReferencedImageSequence",
    "ReferencedInstanceSequence",
)
"""Sequences of type 3 whose items refer to SOP instances."""

REFERENCE = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")

ONLY_WITH = {
    "ClinicalTrialProtocolEthicsCommitteeName": "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
}
"""Attributes of type 1C that may only be present together with another, which de-identification may have removed."""

OVERLAY_GROUPS = range(0x6000, 0x6020, 2)


@dataclass(frozen=True)
class Attribute:
    """A top-level attribute of the IOD.

    Attributes:
        keyword: Keyword of the attribute.
        type: Type of the attribute: 1, 1C, 2, 2C or 3.
        usage: Usage of its module in the IOD: M (mandatory), C (conditional) or U (user option).
        module: Name of the module.
    """

    keyword: str
    type: str
    usage: str
    module: str


@cache
def attributes() -> dict[int, Attribute]:
    """Return the attributes of the IOD, by tag."""
    with TABLE.open(encoding="ascii", newline="") as lines:
        table = [Attribute(**row) for row in csv.DictReader(lines)]
    return {tag_for_keyword(attribute.keyword) or 0: attribute for attribute in table}


@cache
def types() -> dict[int, str]:
    """Return the types of the attributes of the IOD, by tag."""
    return {tag: attribute.type for tag, attribute in attributes().items()}


@cache
def mandatory_keywords(attribute_type: str) -> tuple[str, ...]:
    """Return the keywords of the given type in mandatory modules."""
    return tuple(
        attribute.keyword
        for attribute in attributes().values()
        if attribute.type == attribute_type and attribute.usage == MANDATORY_MODULE
    )


def drop_other_attributes(dataset: Dataset) -> None:
    """Remove attributes that are not in the IOD, in place; with them, the instance would be Standard Extended."""
    known = types()
    for tag in list(dataset.keys()):
        if tag not in known and not (tag.group in OVERLAY_GROUPS and not tag.is_private):
            del dataset[tag]


def repair(dataset: Dataset) -> None:
    """Correct common errors of DICOM files, in place, as far as that is possible without inventing values."""
    _repair_values(dataset)
    _drop_incomplete_references(dataset)
    if float(dataset.get("SpacingBetweenSlices") or 0) < 0:
        del dataset.SpacingBetweenSlices
    for keyword, other in ONLY_WITH.items():
        if keyword in dataset and not dataset.get(other):
            delattr(dataset, keyword)
    if dataset.get("PatientIdentityRemoved") == "YES" and not (
        dataset.get("DeidentificationMethod") or dataset.get("DeidentificationMethodCodeSequence")
    ):
        dataset.DeidentificationMethod = "Not stated by the source"


def _repair_values(dataset: Dataset) -> None:
    """Pad text with spaces instead of zero bytes, and remove empty attributes of types 1 and 1C."""
    attribute_types = types()
    for tag in list(dataset.keys()):
        element: Any = dataset.get_item(tag)
        if isinstance(element, RawDataElement) and element.VR not in NOT_PADDED_WITH_SPACES and element.value:
            value = element.value.rstrip(b"\0 ")
            if b"\0" in element.value[len(value) :]:
                value += b" " * (len(value) % 2)
                dataset[tag] = element._replace(value=value, length=len(value))
        if attribute_types.get(int(tag), "").startswith(TYPE_1) and dataset[tag].is_empty:
            # An empty value of type 1C is not allowed, and says no more than an absent attribute.
            del dataset[tag]


def _drop_incomplete_references(dataset: Dataset) -> None:
    """Remove references without a SOP Class UID or SOP Instance UID."""
    for keyword in REFERENCES:
        if keyword in dataset:
            complete = [item for item in dataset[keyword].value or [] if all(item.get(name) for name in REFERENCE)]
            setattr(dataset, keyword, complete)
            if not complete:
                delattr(dataset, keyword)


def fill_empty(dataset: Dataset) -> None:
    """Add the absent attributes of type 2 with empty values, as the standard requires for unknown values, in place.

    This includes the type 2 attributes of optional modules of which any attribute is present; PatientPosition, which a
    CT image has unless PatientOrientationCodeSequence replaces it; and Laterality, if no body part tells whether it is
    paired.
    """
    lacking = [*mandatory_keywords(TYPE_2)]
    used = {attribute.module for tag, attribute in attributes().items() if tag in dataset}
    lacking += [
        attribute.keyword
        for attribute in attributes().values()
        if attribute.type == TYPE_2 and attribute.module in used
    ]
    if "PatientOrientationCodeSequence" not in dataset:
        lacking.append("PatientPosition")
    if not dataset.get("BodyPartExamined") and "ImageLaterality" not in dataset:
        lacking.append("Laterality")
    for keyword in lacking:
        if keyword not in dataset:
            setattr(dataset, keyword, None)


def missing_attributes(dataset: Dataset) -> list[str]:
    """Return the mandatory keywords of type 1 that are absent or empty, and those of type 2 that are absent."""
    lacking = [keyword for keyword in mandatory_keywords(TYPE_1) if keyword not in dataset or dataset[keyword].is_empty]
    return lacking + [keyword for keyword in mandatory_keywords(TYPE_2) if keyword not in dataset]
