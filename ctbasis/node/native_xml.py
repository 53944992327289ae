"""A data set as XML (PS3.19 A, Native DICOM Model), for clients of STOW-RS that ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

from pydicom.multival import MultiValue

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def encode(ds: Dataset) -> bytes:
    """Return a data set of sequences, texts and numbers as an XML document."""
    root = Element("NativeDicomModel", {"xml:space": "preserve"})
    _fill(root, ds)
    document: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _fill(parent: Element, ds: Dataset) -> None:
    for element in ds:
        attribute = SubElement(
            parent, "DicomAttribute", {"tag": f"{element.tag:08X}", "vr": element.VR, "keyword": element.keyword}
        )
        if element.VR == "SQ":
            for number, item in enumerate(element.value, start=1):
                _fill(SubElement(attribute, "Item", {"number": str(number)}), item)
            continue
        values = element.value if isinstance(element.value, MultiValue) else [element.value]
        for number, value in enumerate(values, start=1):
            if value not in {None, ""}:
                SubElement(attribute, "Value", {"number": str(number)}).text = str(value)
