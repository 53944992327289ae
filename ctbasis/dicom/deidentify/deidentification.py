"""De-identification of a slice's header by PS3.15 Annex E, before anything else is derived from the header.

The table of the standard lists attributes known to be identifying. This module removes more: private elements, elements
that are in no edition of the standard, attributes outside of the CT Image IOD, and all person names, free text, dates,
network names and binary values that the table does not list. What remains is numbers, codes, geometry and UIDs, and the
UIDs are replaced.
"""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Self

import pydicom
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.tag import Tag

from ctbasis.dicom import ct_image
from ctbasis.dicom.deidentify.descriptors import clean_description
from ctbasis.dicom.deidentify.profile import Action, Profile, parse_retain
from ctbasis.dicom.deidentify.pseudonyms import Pseudonyms
from ctbasis.dicom.tolerance import tolerant

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.dataelem import DataElement

NAME = "PS3.15 Annex E Basic Application Level Confidentiality Profile"

DUMMIES = {
    "DA": "19000101",
    "TM": "000000",
    "DT": "19000101000000",
    "AS": "000Y",
    "PN": "Removed",
    "CS": "REMOVED",
    "IS": "0",
    "DS": "0",
    **dict.fromkeys(("LO", "SH", "LT", "ST", "UC", "UT", "AE"), "Removed"),
    **dict.fromkeys(("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"), 0),
}
"""Dummy values by value representation; an element with another representation is removed instead."""

MEANINGS = {code.value: code.meaning for code in codes.cid7050.concepts.values()}
"""Meanings of the codes of CID 7050, De-identification Method."""

IDENTIFYING_VRS = {
    "PN",
    "LT",
    "ST",
    "UT",
    "UC",
    "UR",
    "UN",
    "DA",
    "TM",
    "DT",
    "AE",
    "OB",
    "OW",
    "OF",
    "OD",
    "OL",
    "OV",
}
"""Value representations that may hold identifying values; attributes that are not in the table are removed."""

SAFE_KEYWORDS = {"LUTData", "SpecificCharacterSet"}
"""Attributes with such a representation that hold no identifying values."""

UNLISTED = {
    "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar",
    "PatientAlternativeCalendar",
    "TimeSource",
    "NTPSourceAddress",
    "AuthorizationEquipmentCertificationNumber",
}
"""Identifying attributes of a CT image with other representations that the table does not list."""

KEPT_OUTSIDE_IOD = {"ModalityLUTSequence"}
"""Attributes outside of the CT Image IOD that are kept because they define the meaning of the pixels."""

LOCAL_SCHEME = re.compile(r"99.*|L", re.IGNORECASE)
"""Designators of local coding schemes, whose codes may contain any text."""

TEXT = {"LO", "SH", "LT", "ST", "UC", "UT"}


class IdentifyingError(ValueError):
    """Raised if a slice cannot be de-identified; the message contains none of its values."""


@dataclass(frozen=True)
class Deidentification:
    """De-identifies the headers of one run.

    Attributes:
        profile: The basic profile with its options.
        pseudonyms: The pseudonyms of the run.
    """

    profile: Profile
    pseudonyms: Pseudonyms

    @classmethod
    def of(cls, retain: str = "") -> Self:
        """Return the de-identification with the options of the parameter `retain`, and the salt of the environment.

        Args:
            retain: Options, comma-separated.

        Raises:
            CtbasisError: An option is unknown, or the salt is too short.
        """
        return cls(Profile(parse_retain(retain)), Pseudonyms.of_environment())

    def __str__(self) -> str:
        """Return a description in one line, for the log."""
        options = ", ".join(option.name for option in self.profile.options) or "nothing"
        salt = "the given salt" if self.pseudonyms.given else "a random salt that is not stored"
        return f"de-identified by {NAME}, retaining {options}; UIDs by {salt}"

    def describe(self) -> dict[str, Any]:
        """Return the entry `deidentified` of qc.json."""
        return {
            "profile": NAME,
            "codes": list(self.profile.codes),
            "retained": [option.name for option in self.profile.options],
            "salt": "given" if self.pseudonyms.given else "random, for this run only",
        }

    def uid(self, original: str) -> str:
        """Return the pseudonym of a UID, or the UID itself if the option `uids` retains it."""
        return original if self.profile.has("uids") else self.pseudonyms.uid(original)

    def trait(self, keyword: str, value: str) -> str:
        """Return the value of an attribute that separates the phases of a series, or a token if it may be identifying.

        Args:
            keyword: Keyword of the attribute.
            value: Its value as text.
        """
        tag = Tag(tag_for_keyword(keyword) or 0)
        action = self.profile.action(tag, None)
        plain = action is None and dictionary_VR(tag) in {"CS", "IS", "DS", "US", "UL", "FD"}
        kept = plain or action is Action.KEEP or keyword == "ConvolutionKernel"
        return value if kept else self.pseudonyms.token(value)

    def header(self, header: bytes) -> bytes:
        """Return a de-identified header.

        Args:
            header: A DICOM file (Part 10) without PixelData.

        Raises:
            IdentifyingError: The header cannot be processed, or BurnedInAnnotation is YES.
        """
        try:
            with tolerant():
                out = BytesIO()
                self._deidentified(pydicom.dcmread(BytesIO(header))).save_as(out, enforce_file_format=True)
        except IdentifyingError:
            raise
        except Exception as error:  # noqa: BLE001 - pydicom raises various exceptions, and quotes values in them
            raise IdentifyingError(f"its header cannot be de-identified ({type(error).__name__})") from None
        return out.getvalue()

    def _deidentified(self, source: Dataset) -> Dataset:
        if str(source.get("BurnedInAnnotation", "")).strip().upper() == "YES":
            raise IdentifyingError("BurnedInAnnotation is YES: the pixels may show identifying text")
        patient_key = str(source.get("PatientID") or source.get("StudyInstanceUID") or "")
        _HeaderCleaner(self, patient_key).clean(source, ct_image.types(), top=True)
        source.PatientIdentityRemoved = "YES"
        source.DeidentificationMethod = self._methods()
        earlier = [
            item
            for item in source.get("DeidentificationMethodCodeSequence", [])
            if item.get("CodingSchemeDesignator") == "DCM"
        ]
        earlier_codes = {item.get("CodeValue") for item in earlier}
        source.DeidentificationMethodCodeSequence = Sequence(
            [*earlier, *(_code_item(code) for code in self.profile.codes if code not in earlier_codes)]
        )
        dates = "UNMODIFIED" if self.profile.has("full-dates") else "REMOVED"
        source.LongitudinalTemporalInformationModified = "MODIFIED" if self.profile.has("modified-dates") else dates
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = source.SOPClassUID
        meta.MediaStorageSOPInstanceUID = source.SOPInstanceUID
        meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
        source.file_meta = meta
        source.preamble = b"\0" * 128
        return source

    def _methods(self) -> list[str]:
        version = importlib.metadata.version("ctbasis")
        return [f"ctbasis {version}: PS3.15 E Basic Profile", *(option.name for option in self.profile.options)]


@dataclass(frozen=True)
class _HeaderCleaner:
    """Applies the profile to the elements of one header.

    Attributes:
        deidentification: The profile and the pseudonyms.
        patient_key: The value from which the patient's pseudonyms are derived: PatientID, or StudyInstanceUID if there
            is none. It is never written.
    """

    deidentification: Deidentification
    patient_key: str

    def clean(self, dataset: Dataset, attribute_types: dict[int, str], *, top: bool = False) -> None:
        """Apply the profile to `dataset`, in place.

        Args:
            dataset: The header, or an item of a sequence in it.
            attribute_types: Types of the attributes (1, 1C, 2, ...) by tag, as far as they are known.
            top: Whether `dataset` is the header itself.
        """
        for tag in list(dataset.keys()):
            action = self.deidentification.profile.action(tag, attribute_types.get(int(tag)))
            if action is Action.REMOVE or not self._is_known(tag, attribute_types, top=top):
                del dataset[tag]
            else:
                self._apply(action, dataset, dataset[tag])
        if LOCAL_SCHEME.fullmatch(str(dataset.get("CodingSchemeDesignator", ""))):
            for keyword in {"CodeValue", "LongCodeValue", "CodeMeaning"} & set(dataset.dir()):
                setattr(dataset, keyword, self.deidentification.pseudonyms.token(str(dataset[keyword].value)))

    def _is_known(self, tag: Any, attribute_types: dict[int, str], *, top: bool) -> bool:
        """Return whether the attribute is in the CT Image IOD, or, inside of a sequence, in the standard."""
        if not top:
            return dictionary_has_tag(tag)
        return int(tag) in attribute_types or keyword_for_tag(tag) in KEPT_OUTSIDE_IOD

    def _apply(self, action: Action | None, dataset: Dataset, element: DataElement) -> None:
        if element.keyword in {"PatientID", "PatientName"}:
            element.value = self.deidentification.pseudonyms.patient(self.patient_key)
        elif action is Action.EMPTY:
            element.value = [] if element.VR == "SQ" else None
        elif action is Action.DUMMY:
            self._set_or_remove(dataset, element, DUMMIES.get(element.VR))
        elif action is Action.NEW_UID or (action is None and element.VR == "UI"):
            self._map_values(dataset, element, lambda value: self.deidentification.uid(str(value)))
        elif action is Action.SHIFT and element.VR in {"DA", "DT"}:
            pseudonyms = self.deidentification.pseudonyms
            self._map_values(dataset, element, lambda value: pseudonyms.shift_date(str(value), self.patient_key))
        elif action is Action.CLEAN:
            self._clean_description(dataset, element)
        elif element.VR == "SQ":
            for item in element.value:
                self.clean(item, {})
        elif (
            action is None
            and element.keyword not in SAFE_KEYWORDS
            and (element.VR in IDENTIFYING_VRS or element.keyword in UNLISTED)
        ):
            del dataset[element.tag]

    def _clean_description(self, dataset: Dataset, element: DataElement) -> None:
        if element.VR in TEXT:
            self._map_values(dataset, element, lambda value: clean_description(str(value)))
        else:
            del dataset[element.tag]

    def _map_values(self, dataset: Dataset, element: DataElement, replace: Callable[[Any], str | None]) -> None:
        """Replace every value of `element`; remove the element if a value cannot be replaced."""
        values = element.value if isinstance(element.value, MultiValue) else [element.value]
        replaced = [replace(value) for value in values if value not in {None, ""}]
        self._set_or_remove(dataset, element, None if None in replaced else replaced)

    def _set_or_remove(self, dataset: Dataset, element: DataElement, value: Any) -> None:
        """Set the value of `element`, or remove the element if `value` is None."""
        if value is None:
            del dataset[element.tag]
        else:
            element.value = value[0] if isinstance(value, list) and len(value) == 1 else value


def _code_item(value: str) -> Dataset:
    """Return a code of CID 7050 as an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", MEANINGS[value]
    return item
