"""What an inventory keeps of one object: the slices that a run would read from it, and attributes of its header.

`read_object_header` runs in a worker process, because headers are untrusted.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

import pydicom
from pydicom.uid import UID

from ctbasis.dicom.frames import PER_FRAME, SHARED
from ctbasis.dicom.header import HEADER_READ, parse
from ctbasis.dicom.hounsfield import Pixels
from ctbasis.dicom.instance import Slice, read_stream
from ctbasis.dicom.pixeldata import StoredValues
from ctbasis.dicom.resource_limits import limited
from ctbasis.dicom.set_aside import SetAside
from ctbasis.dicom.sparse_file import MissingBytesError, SparseFile
from ctbasis.dicom.tolerance import tolerant
from ctbasis.matrix.ingest import deidentified

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from ctbasis.dicom.deidentify.deidentification import Deidentification

TEXTS = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "description": "SeriesDescription",
    "modality": "Modality",
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "kernel": "ConvolutionKernel",
}
"""Keyword of each attribute that is text."""

NUMBERS = {
    "thickness": "SliceThickness",
    "kvp": "KVP",
    "tube_current": "XRayTubeCurrent",
    "exposure": "Exposure",
    "ctdi_vol": "CTDIvol",
}
"""Keyword of each attribute that is a number."""

FRAME_NUMBERS = {"tube_current": "XRayTubeCurrentInmA", "exposure": "ExposureInmAs", "ctdi_vol": "CTDIvol"}
"""Likewise, in the CTExposureSequence of a multi-frame object."""

KEYWORDS = [*TEXTS.values(), *NUMBERS.values(), "Rows", "Columns", "SpecificCharacterSet"]

MAX_TEXT = 256
"""Characters of a text that are kept; the longest of these attributes may have 64."""

SYNTAX = "transfer_syntax"


@dataclass(frozen=True)
class ObjectPart:
    """An object of which some ranges of bytes have been read.

    Attributes:
        name: Name of the object in results.
        size: Its size in bytes; None if it is not known.
        ranges: Offset and content of each range.
    """

    name: str
    size: int | None
    ranges: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True)
class ObjectHeader:
    """The header of one object.

    Attributes:
        attributes: Values of the attributes in `TEXTS` and `NUMBERS`, rows, columns and transfer_syntax, where the
            object has them; empty if it is no DICOM object.
        slices: The slices of the object, as the ingest reads them, but without a Modality LUT.
        aside: What the ingest sets aside: the object, or frames of it.
    """

    attributes: dict[str, str | float | int] = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    aside: tuple[SetAside, ...] = ()

    def pack(self) -> bytes:
        """Return the header as compressed JSON."""
        document = {
            "attributes": self.attributes,
            "slices": [
                {**vars(entry), "stored": vars(entry.stored), "pixels": vars(entry.pixels)} for entry in self.slices
            ],
            "aside": [vars(entry) for entry in self.aside],
        }
        return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 1)

    @classmethod
    def unpack(cls, packed: bytes, name: str) -> Self:
        """Return the header that `pack` gave.

        Args:
            packed: The compressed JSON.
            name: Name of the object in results.

        Raises:
            Exception: Any exception, if the content is not that of `pack`.
        """
        document = json.loads(zlib.decompress(packed))
        return cls(
            attributes=document["attributes"],
            slices=tuple(_slice(entry, name) for entry in document["slices"]),
            aside=tuple(SetAside(**{**entry, "file": name}) for entry in document["aside"]),
        )


def read_object_header(deidentification: Deidentification | None, part: ObjectPart) -> ObjectHeader | tuple[int, int]:
    """Read the header of an object under the resource limits of `limited`. Run it in a process that may crash.

    Args:
        deidentification: De-identifies every header as soon as it is read; None keeps headers as they are.
        part: The object.

    Returns:
        The header, or the range of bytes that is needed in addition.
    """
    try:
        with limited(), tolerant():
            return _read(deidentification, part)
    except MissingBytesError as error:
        return error.start, error.stop


def crashed_header(part: ObjectPart, ending: str) -> ObjectHeader:
    """Return the result for an object whose worker process died; `ending` says how."""
    return ObjectHeader(aside=(SetAside(part.name, f"its header cannot be read: {ending}", broken=True),))


def _read(deidentification: Deidentification | None, part: ObjectPart) -> ObjectHeader:
    results = read_stream(_stream(part), part.name)
    attributes: dict[str, str | float | int] = {}
    if any(isinstance(entry, SetAside) or entry[0].frame for entry in results):
        attributes = _object_attributes(part, deidentification)
    if deidentification is not None:
        results = [deidentified(entry, deidentification) for entry in results]
    first = next((entry for entry in results if not isinstance(entry, SetAside)), None)
    if first is not None:
        attributes |= _attributes(pydicom.dcmread(BytesIO(first[1]), stop_before_pixels=True, specific_tags=KEYWORDS))
    return ObjectHeader(
        attributes,
        tuple(_without_lut(entry[0]) for entry in results if not isinstance(entry, SetAside)),
        tuple(entry for entry in results if isinstance(entry, SetAside)),
    )


def _stream(part: ObjectPart) -> BinaryIO:
    return cast("BinaryIO", SparseFile(part.size, part.ranges))


def _without_lut(entry: Slice) -> Slice:
    return replace(entry, pixels=replace(entry.pixels, lut=None))


def _object_attributes(part: ObjectPart, deidentification: Deidentification | None) -> dict[str, Any]:
    """Return the attributes of an object that holds frames, or that the ingest sets aside; empty if it has none."""
    stream = _stream(part)
    try:
        ds = parse(stream.read(HEADER_READ[0]), stream).ds
        attributes = _attributes(ds)
    except MissingBytesError:
        raise
    except Exception:  # noqa: BLE001 - a hostile file can make the parser raise any exception
        return {}
    if not {"series", "study"} & attributes.keys():
        return {}
    if deidentification is None:
        return attributes
    patient = str(attributes.get("patient") or attributes.get("study", ""))
    return {
        "patient": deidentification.pseudonyms.patient(patient),
        "study": deidentification.uid(str(attributes.get("study", ""))),
        "series": deidentification.uid(str(attributes.get("series", ""))),
        "modality": deidentification.trait("Modality", str(attributes.get("modality", ""))),
        **{name: value for name, value in attributes.items() if isinstance(value, int | float)},
    }


def _attributes(ds: Dataset) -> dict[str, Any]:
    """Return the attributes of a data set that have a value which can be read."""
    texts = {name: _text(ds, keyword) for name, keyword in TEXTS.items()}
    numbers = {name: _number(ds, keyword) for name, keyword in NUMBERS.items()}
    for name, keyword in FRAME_NUMBERS.items():
        if numbers[name] is None:
            numbers[name] = _frame_number(ds, keyword)
    sizes = {name: _number(ds, name.capitalize()) for name in ("rows", "columns")}
    meta = getattr(ds, "file_meta", None)
    syntax = UID(str(meta.get("TransferSyntaxUID") or "")) if meta is not None else UID("")
    return {
        **{name: text for name, text in texts.items() if text},
        **{name: number for name, number in numbers.items() if number is not None},
        **{name: int(size) for name, size in sizes.items() if size is not None},
        **({SYNTAX: syntax.name[:MAX_TEXT]} if syntax else {}),
    }


def _text(ds: Dataset, keyword: str) -> str:
    try:
        value = ds.get(keyword)
        several = value if isinstance(value, pydicom.multival.MultiValue) else [value]
        return "\\".join("" if each is None else str(each) for each in several).strip("\0 ")[:MAX_TEXT]
    except Exception:  # noqa: BLE001 - a value that does not parse is absent
        return ""


def _number(ds: Dataset, keyword: str) -> float | None:
    try:
        number = float(ds[keyword].value)
    except Exception:  # noqa: BLE001 - a value that does not parse is absent
        return None
    return number if math.isfinite(number) else None


def _frame_number(ds: Dataset, keyword: str) -> float | None:
    """Return a number of the CTExposureSequence of the shared functional groups, or of those of the first frame."""
    for sequence in (SHARED, PER_FRAME):
        if sequence in ds and ds[sequence].VR == "SQ" and len(ds[sequence].value):
            exposures = ds[sequence].value[0].get("CTExposureSequence")
            number = _number(exposures[0], keyword) if exposures else None
            if number is not None:
                return number
    return None


def _slice(document: dict[str, Any], name: str) -> Slice:
    pixels = Pixels(**{**document["pixels"], "padding": _tuple(document["pixels"]["padding"]), "tolerated": ()})
    return Slice(
        **{
            **document,
            "file": name,
            "stored": StoredValues(**document["stored"]),
            "pixels": pixels,
            "traits": tuple((str(keyword), str(value)) for keyword, value in document["traits"]),
            **{
                attribute: tuple(document[attribute])
                for attribute in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "tolerated")
            },
        }
    )


def _tuple(values: Any) -> Any:
    return None if values is None else tuple(values)
