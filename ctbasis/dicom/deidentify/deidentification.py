"""De-identification of a slice's header by PS3.15 Annex E, before anything else is derived from the header.

The table of the standard lists attributes known to be identifying, and others may identify a patient as well: any text
may hold a name. The de-identified header is therefore a new data set that holds only what is on a list
(`allow_list.py`): numbers that parse, defined terms, codes of PS3.16 with their meanings, UIDs that PS3.6 registers,
and pseudonyms of the other UIDs. What the options of the profile retain is added; `values.py` parses it by its grammar.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any, Self

import pydicom
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.tag import Tag

from ctbasis.dicom import ct_image
from ctbasis.dicom.deidentify import allow_list, values
from ctbasis.dicom.deidentify.descriptors import clean_description, parts_of_names
from ctbasis.dicom.deidentify.profile import Action, Profile, parse_retain, rows
from ctbasis.dicom.deidentify.pseudonyms import Pseudonyms
from ctbasis.dicom.tolerance import tolerant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydicom.tag import BaseTag

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

TEXT = frozenset({"LO", "SH", "LT", "ST", "UC", "UT"})
"""Value representations of descriptions."""

UTF_8 = "ISO_IR 192"
"""Term of SpecificCharacterSet in which every text of the de-identified header is written."""

BINARY_NUMBERS = frozenset({"US", "SS", "UL", "SL", "FL", "FD"})
"""Value representations of numbers that are not text."""


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
        """Return the pseudonym of a UID, or the UID itself if the option `uids` retains it and it is a UID."""
        return original if self.profile.has("uids") and values.is_uid(original) else self.pseudonyms.uid(original)

    def trait(self, keyword: str, value: str) -> str:
        """Return the value of an attribute that separates the phases of a series, or a token if it may be identifying.

        Args:
            keyword: Keyword of the attribute.
            value: Its value as text.
        """
        tag = Tag(tag_for_keyword(keyword) or 0)
        vr = dictionary_VR(tag).split(" or ")[0]
        action = self.profile.action(tag, None)
        parts = value.split("\\")
        if action is Action.KEEP:
            kept = all(values.parse_value(vr, part) is not None for part in parts)
        elif action is None and vr in {"IS", "DS", *BINARY_NUMBERS}:
            kept = all(values.parse_number(part) is not None for part in parts)
        else:
            kept = action is None and allow_list.known_terms(keyword, parts) == parts
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
        image = _HeaderCleaner(self, source).clean()
        image.PatientIdentityRemoved = "YES"
        image.DeidentificationMethod = self._methods()
        earlier = [
            item
            for item in image.get("DeidentificationMethodCodeSequence", [])
            if item.CodingSchemeDesignator == "DCM" and item.CodeValue in MEANINGS
        ]
        earlier_codes = {item.CodeValue for item in earlier}
        image.DeidentificationMethodCodeSequence = Sequence(
            [*earlier, *(_code_item(code) for code in self.profile.codes if code not in earlier_codes)]
        )
        dates = "UNMODIFIED" if self.profile.has("full-dates") else "REMOVED"
        image.LongitudinalTemporalInformationModified = "MODIFIED" if self.profile.has("modified-dates") else dates
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = image.SOPClassUID
        meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
        if meta.TransferSyntaxUID not in allow_list.STANDARD_UIDS:
            raise IdentifyingError("its TransferSyntaxUID is not registered")
        image.file_meta = meta
        image.preamble = b"\0" * 128
        return image

    def _methods(self) -> list[str]:
        version = importlib.metadata.version("ctbasis")
        return [f"ctbasis {version}: PS3.15 E Basic Profile", *(option.name for option in self.profile.options)]


@dataclass(frozen=True)
class _HeaderCleaner:
    """Makes the de-identified data set of one header.

    Attributes:
        deidentification: The profile and the pseudonyms.
        source: The header.
    """

    deidentification: Deidentification
    source: Dataset

    @cached_property
    def patient_key(self) -> str:
        """The value from which the patient's pseudonyms are derived: PatientID, or StudyInstanceUID if there is none.

        It is never written.
        """
        return str(self.source.get("PatientID") or self.source.get("StudyInstanceUID") or "")

    @cached_property
    def names(self) -> frozenset[str]:
        """The words in names and identifiers of the header, which no description may repeat."""
        return parts_of_names(_names(self.source))

    def clean(self) -> Dataset:
        """Return a data set of what may stay."""
        image = Dataset()
        types = ct_image.types()
        for tag in sorted(set(self.source.keys()) & types.keys()):
            element = _parsed(self.source, tag)
            if element is None:
                continue
            action = self.deidentification.profile.action(element.tag, types[int(tag)])
            value = self._value(action, element)
            if value is not None:
                image.add(DataElement(element.tag, element.VR, value))
        return image

    def _value(self, action: Action | None, element: DataElement) -> Any:
        """Return the value that the element has in the de-identified header; None if the element is removed."""
        pseudonyms = self.deidentification.pseudonyms
        value: Any = None
        if element.keyword in {"PatientID", "PatientName"}:
            value = pseudonyms.patient(self.patient_key)
        elif action is Action.EMPTY:
            value = [] if element.VR == "SQ" else ""
        elif action is Action.DUMMY:
            value = DUMMIES.get(element.VR)
        elif action is Action.CLEAN:
            value = _each(element, self._described) if element.VR in TEXT else None
        elif element.VR == "SQ":
            value = None if action is Action.REMOVE else self._items(action, element)
        elif action is Action.SHIFT:
            value = _each(element, self._shifted(element.VR))
        elif action is Action.NEW_UID:
            value = _each(element, self.deidentification.uid)
        elif action is Action.KEEP:
            value = self._retained(element)
        elif action is None:
            value = self._listed(element)
        return value

    def _listed(self, element: DataElement) -> Any:
        """Return the value of an attribute that table E.1-1 does not name; None if no list has it."""
        keyword = element.keyword
        value: Any = None
        if keyword in allow_list.NUMBERS:
            value = _numbers(element)
        elif keyword in allow_list.CLASS_UIDS:
            value = _each(element, lambda uid: uid if uid in allow_list.STANDARD_UIDS else None)
        elif keyword in allow_list.INSTANCE_UIDS:
            value = _each(element, self.deidentification.uid)
        elif keyword == "SpecificCharacterSet":
            value = UTF_8
        elif keyword in allow_list.DEVICE_NAMES and self.deidentification.profile.has("device-identity"):
            value = self._retained(element)
        else:
            texts = [str(text) for text in _values(element)]
            value = allow_list.known_terms(keyword, texts)
        # An attribute of type 2 may be empty, and has to be present.
        return "" if value is None and ct_image.types()[int(element.tag)] == ct_image.TYPE_2 else value

    def _retained(self, element: DataElement) -> Any:
        """Return a value that an option retains, by the grammar of its VR."""
        if element.VR in {"DS", "IS", *BINARY_NUMBERS}:
            return _numbers(element)
        if element.VR == "UI":
            return _each(element, lambda uid: uid if values.is_uid(uid) else self.deidentification.pseudonyms.uid(uid))
        if element.keyword == "TimezoneOffsetFromUTC":
            return _each(element, lambda text: text if values.OFFSET.fullmatch(text) else None)
        return _each(element, lambda text: values.parse_value(element.VR, text))

    def _shifted(self, vr: str) -> Callable[[str], str | None]:
        """Return the function that moves a date or a time; it gives None for a value that is neither."""
        pseudonyms, patient = self.deidentification.pseudonyms, self.patient_key
        functions: dict[str, Callable[[str], str | None]] = {
            "DA": lambda text: pseudonyms.shift_date(text, patient),
            "DT": lambda text: pseudonyms.shift_date_time(text, patient),
            "TM": values.parse_time,
            "SH": lambda text: text if values.OFFSET.fullmatch(text) else None,
        }
        return functions.get(vr, lambda _: None)

    def _described(self, text: str) -> str:
        return clean_description(text, self.names)

    def _items(self, action: Action | None, element: DataElement) -> Sequence | None:
        """Return the items of a sequence of codes or references that may stay; None if there are none."""
        keyword = element.keyword
        if keyword in allow_list.CODE_SEQUENCES or (
            action is Action.KEEP and keyword in allow_list.RETAINED_CODE_SEQUENCES
        ):
            return allow_list.known_codes(element.value) or None
        if keyword in allow_list.REFERENCE_SEQUENCES:
            return Sequence(filter(None, map(self._reference, element.value))) or None
        return None

    def _reference(self, item: Dataset) -> Dataset | None:
        """Return a reference to a SOP instance: its class, the pseudonym of its UID, the frame and the purpose."""
        sop_class, instance = (str(item.get(keyword, "")) for keyword in ct_image.REFERENCE)
        if sop_class not in allow_list.STANDARD_UIDS or not instance:
            return None
        reference = Dataset()
        reference.ReferencedSOPClassUID = sop_class
        reference.ReferencedSOPInstanceUID = self.deidentification.uid(instance)
        frames = _parsed(item, Tag("ReferencedFrameNumber"))
        if frames is not None and (numbers := _each(frames, values.parse_frame_number)):
            reference.ReferencedFrameNumber = numbers
        purpose = _parsed(item, Tag("PurposeOfReferenceCodeSequence"))
        if purpose is not None and (purposes := allow_list.known_codes(purpose.value)):
            reference.PurposeOfReferenceCodeSequence = purposes
        return reference


def _parsed(dataset: Dataset, tag: BaseTag | int) -> DataElement | None:
    """Return an element with the VR of the dictionary; None if it is absent, or its value does not parse."""
    try:
        if tag not in dataset:
            return None
        element = dataset[tag]
        if element.VR in dictionary_VR(tag).split(" or "):
            return element
        # Some files declare another VR. The value has to parse by the VR that the attribute has.
        vr = dictionary_VR(tag)
        if vr in BINARY_NUMBERS:
            numbers = [float(text) if vr in {"FL", "FD"} else int(text) for text in map(str, _values(element))]
            return DataElement(tag, vr, numbers)
        return None if element.VR == "SQ" or vr == "SQ" else DataElement(tag, vr, [*map(str, _values(element))])
    except Exception:  # noqa: BLE001 - pydicom raises various exceptions; what does not parse is not written
        return None


def _values(element: DataElement) -> list[Any]:
    """Return the values of an element that are not empty."""
    several = element.value if isinstance(element.value, MultiValue | list) else [element.value]
    return [value for value in several if value is not None and value != ""]


def _numbers(element: DataElement) -> Any:
    """Return the numbers of an element; None if one does not parse, or there are more than the attribute may have."""
    numbers = _values(element)
    most = str(dictionary_VM(element.tag)).rpartition("-")[2]
    if most.isdigit() and len(numbers) > int(most):
        return None
    if element.VR not in BINARY_NUMBERS:
        return _each(element, values.parse_number)
    plausible = all(isinstance(number, int | float) and values.is_plausible(number) for number in numbers)
    return (numbers or "") if plausible else None


def _each(element: DataElement, replace: Callable[[str], str | None]) -> list[str] | str | None:
    """Return the replaced values of an element; None if one of them has no replacement, "" if there is no value."""
    replaced = []
    for value in _values(element):
        text = replace(str(value))
        if text is None:
            return None
        replaced.append(text)
    return replaced or ""


def _names(dataset: Dataset) -> Iterator[str]:
    """Yield the names of persons, and the values of attributes that table E.1-1 names, other than descriptions."""
    for tag in list(dataset.keys()):
        named = not tag.is_private and dictionary_has_tag(tag) and dictionary_VR(tag) in {"SQ", "PN", "LO", "SH"}
        element = _parsed(dataset, tag) if named else None
        if element is None:
            continue
        if element.VR == "SQ":
            for item in element.value:
                yield from _names(item)
        elif element.VR == "PN" or (element.VR in {"LO", "SH"} and _identifies(element)):
            yield from map(str, _values(element))


def _identifies(element: DataElement) -> bool:
    """Return whether table E.1-1 names the attribute and does not count it as a description."""
    row = rows().get(int(element.tag))
    return row is not None and not row["clean_descriptors"]


def _code_item(value: str) -> Dataset:
    """Return a code of CID 7050 as an item of a code sequence."""
    return allow_list.code_item((value, "DCM", MEANINGS[value]))
