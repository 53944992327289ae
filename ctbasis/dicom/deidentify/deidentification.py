"""De-identify the header of a slice by PS3.15 Annex E, so that nothing made from it later can name the patient.

Beyond the table, which is a list of what is known to identify: private elements, elements that no edition of the
standard knows, attributes of no CT image, and every person's name, free text, date, network name and binary value that
the table does not speak of go too. What is left is numbers, codes, geometry and UIDs, and the UIDs are replaced.
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
from ctbasis.dicom.deidentify.descriptors import cleaned
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
"""Values of no meaning by value representation; what has none here goes."""

MEANINGS = {code.value: code.meaning for code in codes.cid7050.concepts.values()}
"""Of the codes of CID 7050, De-identification Method."""

TELLING = {"PN", "LT", "ST", "UT", "UC", "UR", "UN", "DA", "TM", "DT", "AE", "OB", "OW", "OF", "OD", "OL", "OV"}
"""Value representations that may hold anything of a patient, where the table does not speak of the attribute."""

HARMLESS = {"LUTData", "SpecificCharacterSet"}
"""Attributes of such a representation that hold numbers alone."""

UNLISTED = {
    "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar",
    "PatientAlternativeCalendar",
    "TimeSource",
    "NTPSourceAddress",
    "AuthorizationEquipmentCertificationNumber",
}
"""Attributes of a CT image that tell of patient or place in another representation, and that the table forgot."""

BESIDE_THE_IOD = {"ModalityLUTSequence"}
"""What a header may say of the pixels' meaning though a CT image should not."""

LOCAL_SCHEME = re.compile(r"99.*|L", re.IGNORECASE)
"""Designators of coding schemes that no standard publishes: their codes say whatever a site wants them to."""

TEXT = {"LO", "SH", "LT", "ST", "UC", "UT"}


class IdentifyingError(ValueError):
    """Why a slice cannot be de-identified; the message holds nothing of its content."""


@dataclass(frozen=True)
class Deidentification:
    """How the headers of one run are de-identified.

    Attributes:
        profile: The basic profile and its options.
        pseudonyms: Of the run.
    """

    profile: Profile
    pseudonyms: Pseudonyms

    @classmethod
    def of(cls, retain: str = "") -> Self:
        """Read the options that the user wrote, and the salt from the environment.

        Raises:
            CtbasisError: An option is unknown, or the salt is too short.
        """
        return cls(Profile(parse_retain(retain)), Pseudonyms.of_environment())

    def __str__(self) -> str:
        """Say it in a line of a log."""
        options = ", ".join(option.name for option in self.profile.options) or "nothing"
        salt = "the salt given" if self.pseudonyms.given else "a random salt that is written nowhere"
        return f"de-identified by {NAME}, retaining {options}; UIDs by {salt}"

    def describe(self) -> dict[str, Any]:
        """Return what qc.json says of it."""
        return {
            "profile": NAME,
            "codes": list(self.profile.codes),
            "retained": [option.name for option in self.profile.options],
            "salt": "given" if self.pseudonyms.given else "random, of this run alone",
        }

    def uid(self, original: str) -> str:
        """Return the UID in the place of `original`."""
        return original if self.profile.has("uids") else self.pseudonyms.uid(original)

    def trait(self, keyword: str, value: str) -> str:
        """Return what tells slices apart by an attribute: its value where that stays in the header, else a token."""
        tag = Tag(tag_for_keyword(keyword) or 0)
        action = self.profile.action(tag, None)
        plain = action is None and dictionary_VR(tag) in {"CS", "IS", "DS", "US", "UL", "FD"}
        kept = plain or action is Action.KEEP or keyword == "ConvolutionKernel"
        return value if kept else self.pseudonyms.token(value)

    def header(self, header: bytes) -> bytes:
        """Return `header`, a DICOM file (Part 10) without pixel data, de-identified.

        Raises:
            IdentifyingError: It cannot be, or its pixels may name the patient.
        """
        try:
            with tolerant():
                out = BytesIO()
                self._deidentified(pydicom.dcmread(BytesIO(header))).save_as(out, enforce_file_format=True)
        except IdentifyingError:
            raise
        except Exception as error:  # noqa: BLE001 - pydicom raises what it likes, and quotes what it read
            raise IdentifyingError(f"its header cannot be de-identified ({type(error).__name__})") from None
        return out.getvalue()

    def _deidentified(self, source: Dataset) -> Dataset:
        if str(source.get("BurnedInAnnotation", "")).strip().upper() == "YES":
            raise IdentifyingError("BurnedInAnnotation is YES: its pixels may name the patient")
        patient = _Patient.of(source)
        _Walk(self, patient).clean(source, ct_image.types(), top=True)
        source.PatientIdentityRemoved = "YES"
        source.DeidentificationMethod = self._methods()
        known = [
            item
            for item in source.get("DeidentificationMethodCodeSequence", [])
            if item.get("CodingSchemeDesignator") == "DCM"
        ]
        said = {item.get("CodeValue") for item in known}
        source.DeidentificationMethodCodeSequence = Sequence(
            [*known, *(_coded(code) for code in self.profile.codes if code not in said)]
        )
        kept = "UNMODIFIED" if self.profile.has("full-dates") else "REMOVED"
        source.LongitudinalTemporalInformationModified = "MODIFIED" if self.profile.has("modified-dates") else kept
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
class _Patient:
    """Who a header is of; never leaves this module.

    Attributes:
        key: What pseudonyms are made from: the PatientID, or the study where there is none.
    """

    key: str

    @classmethod
    def of(cls, source: Dataset) -> Self:
        return cls(str(source.get("PatientID") or source.get("StudyInstanceUID") or ""))


@dataclass(frozen=True)
class _Walk:
    """One header, element by element."""

    by: Deidentification
    patient: _Patient

    def clean(self, dataset: Dataset, kinds: dict[int, str], *, top: bool = False) -> None:
        """Apply the profile to `dataset`, in place.

        Args:
            dataset: The header, or an item in it.
            kinds: Type of its attributes, where they are known.
            top: Whether it is the header itself.
        """
        for tag in list(dataset.keys()):
            action = self.by.profile.action(tag, kinds.get(int(tag)))
            if action is Action.REMOVE or not self._is_known(tag, kinds, top=top):
                del dataset[tag]
            else:
                self._apply(action, dataset, dataset[tag])
        if LOCAL_SCHEME.fullmatch(str(dataset.get("CodingSchemeDesignator", ""))):
            for keyword in {"CodeValue", "LongCodeValue", "CodeMeaning"} & set(dataset.dir()):
                setattr(dataset, keyword, self.by.pseudonyms.token(str(dataset[keyword].value)))

    def _is_known(self, tag: Any, kinds: dict[int, str], *, top: bool) -> bool:
        if not top:
            return dictionary_has_tag(tag)
        return int(tag) in kinds or keyword_for_tag(tag) in BESIDE_THE_IOD

    def _apply(self, action: Action | None, dataset: Dataset, element: DataElement) -> None:
        if element.keyword in {"PatientID", "PatientName"}:
            element.value = self.by.pseudonyms.patient(self.patient.key)
        elif action is Action.EMPTY:
            element.value = [] if element.VR == "SQ" else None
        elif action is Action.DUMMY:
            self._replace(dataset, element, DUMMIES.get(element.VR))
        elif action is Action.NEW_UID or (action is None and element.VR == "UI"):
            self._each(dataset, element, lambda value: self.by.uid(str(value)))
        elif action is Action.SHIFT and element.VR in {"DA", "DT"}:
            self._each(dataset, element, lambda value: self.by.pseudonyms.shifted(str(value), self.patient.key))
        elif action is Action.CLEAN:
            self._clean_words(dataset, element)
        elif element.VR == "SQ":
            for item in element.value:
                self.clean(item, {})
        elif (
            action is None
            and element.keyword not in HARMLESS
            and (element.VR in TELLING or element.keyword in UNLISTED)
        ):
            del dataset[element.tag]

    def _clean_words(self, dataset: Dataset, element: DataElement) -> None:
        if element.VR in TEXT:
            self._each(dataset, element, lambda value: cleaned(str(value)))
        else:
            del dataset[element.tag]

    def _each(self, dataset: Dataset, element: DataElement, change: Callable[[Any], str | None]) -> None:
        """Change every value of `element`."""
        values = element.value if isinstance(element.value, MultiValue) else [element.value]
        changed = [change(value) for value in values if value not in {None, ""}]
        self._replace(dataset, element, None if None in changed else changed)

    def _replace(self, dataset: Dataset, element: DataElement, value: Any) -> None:
        """Give `element` a value, or take it away where there is none to give."""
        if value is None:
            del dataset[element.tag]
        else:
            element.value = value[0] if isinstance(value, list) and len(value) == 1 else value


def _coded(value: str) -> Dataset:
    """Return the item for a code of CID 7050."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", MEANINGS[value]
    return item
