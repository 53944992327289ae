"""One row of an inventory: a series of a source, described by its headers alone."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Self

from ctbasis.errors import CtbasisError


@dataclass(frozen=True)
class Column:
    """A column of the inventory.

    Attributes:
        name: Name of the field of `SeriesRow`, of the CSV column, and of the variable in a selection expression.
        kind: Type of the values: str, int or float.
        optional: Whether a value may be absent.
        unit: Unit of the values; empty for none.
        meaning: What the column holds, one line.
    """

    name: str
    kind: type
    optional: bool
    unit: str
    meaning: str


def _column(meaning: str, unit: str = "", *, default: Any = dataclasses.MISSING) -> Any:
    """Return a field of `SeriesRow` that is a column of the inventory."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "unit": unit})


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesRow:
    """A series of one study of one patient. The metadata of each field says what it holds; `COLUMNS` lists them.

    Two studies, or two patients, that share a SeriesInstanceUID have a row each. Values that vary within the series are
    those of its first slice, except `kernel`, which names every kernel.
    """

    patient: str = _column("PatientID, or its pseudonym")
    study: str = _column("StudyInstanceUID")
    series: str = _column("SeriesInstanceUID")
    description: str = _column("SeriesDescription", default="")
    modality: str = _column("Modality", default="")
    manufacturer: str = _column("Manufacturer", default="")
    model: str = _column("ManufacturerModelName", default="")
    kernel: str = _column("ConvolutionKernel; those of a series with several are separated by commas", default="")
    rows: int = _column("Rows of a slice", default=0)
    columns: int = _column("Columns of a slice", default=0)
    slices: int = _column("slices that a run reads; 0 if the series holds no axial CT image", default=0)
    volumes: int = _column("volumes into which a run separates the slices, such as phases", default=0)
    spacing: float = _column("median distance between neighbouring slices; 0 for a single slice", "mm", default=0.0)
    pixel_spacing: float = _column("PixelSpacing, distance between the rows", "mm", default=0.0)
    thickness: float | None = _column("SliceThickness", "mm", default=None)
    kvp: float | None = _column("KVP", "kV", default=None)
    tube_current: float | None = _column("XRayTubeCurrent", "mA", default=None)
    exposure: float | None = _column("Exposure", "mAs", default=None)
    ctdi_vol: float | None = _column("CTDIvol", "mGy", default=None)
    transfer_syntax: str = _column("name of TransferSyntaxUID", default="")
    objects: int = _column("objects of the source that hold the series", default=0)
    bytes: int | None = _column("total size of these objects; absent if the source states none", "B", default=None)
    set_aside: int = _column("objects and frames of the series that a run sets aside", default=0)
    refused: str = _column("why a run refuses the series; empty if it can be denoised", default="")
    digest: str = _column("SHA-256 of keys, sizes and ETags of the objects; it changes with the content", default="")
    orientation: tuple[float, ...] = ()
    """ImageOrientationPatient, six direction cosines; empty if the series holds no slice."""
    reasons: tuple[tuple[str, int], ...] = ()
    """Reason and number of what is set aside, the most frequent first."""
    remarks: tuple[str, ...] = ()
    """Deviations that a run tolerates, as text for the user."""

    @property
    def usable(self) -> bool:
        """Whether a run can denoise the series, as far as headers tell."""
        return not self.refused

    def values(self) -> dict[str, Any]:
        """Return the values of the columns by name."""
        return {name: getattr(self, name) for name in COLUMNS}

    def to_json(self) -> dict[str, Any]:
        """Return the row as a JSON object."""
        lists = {"orientation": [*self.orientation], "reasons": dict(self.reasons), "remarks": [*self.remarks]}
        return {**self.values(), **lists}

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """Return the row of a JSON object that `to_json` gave.

        Raises:
            CtbasisError: A field is unknown, absent or of another type.
        """
        faults = _faults(document)
        if faults:
            raise CtbasisError(
                f"a row of an inventory is not valid: {faults[0]}",
                expected="a row as `ctbasis inventory --json` writes it",
                cause="another version of ctbasis wrote it, or it was edited",
                remedy="make the inventory again",
            )
        values = {name: document[name] for name in COLUMNS}
        for name, column in COLUMNS.items():
            if column.kind is float and values[name] is not None:
                values[name] = float(values[name])
        return cls(
            **values,
            orientation=tuple(map(float, document["orientation"])),
            reasons=tuple(document["reasons"].items()),
            remarks=tuple(document["remarks"]),
        )


def _columns() -> dict[str, Column]:
    hints = typing.get_type_hints(SeriesRow)
    found = {}
    for field in dataclasses.fields(SeriesRow):
        if not field.metadata:
            continue
        hint = hints[field.name]
        optional = isinstance(hint, types.UnionType)
        kind = typing.get_args(hint)[0] if optional else hint
        found[field.name] = Column(field.name, kind, optional, field.metadata["unit"], field.metadata["meaning"])
    return found


COLUMNS: dict[str, Column] = _columns()
"""The columns by name, in the order of the table."""


def _faults(document: Any) -> list[str]:
    """Return what is wrong with a JSON object that should be a row."""
    names = {field.name for field in dataclasses.fields(SeriesRow)}
    if not isinstance(document, dict) or document.keys() != names:
        return ["its fields are not those of a row"]
    faults = [
        f"{name} is no {column.kind.__name__}"
        for name, column in COLUMNS.items()
        if not (_is_a(document[name], column.kind) or (column.optional and document[name] is None))
    ]
    orientation, reasons, remarks = (document[name] for name in ("orientation", "reasons", "remarks"))
    if not isinstance(orientation, list) or not all(_is_a(value, float) for value in orientation):
        faults.append("orientation is no list of numbers")
    if not isinstance(reasons, dict) or not all(_is_a(count, int) for count in reasons.values()):
        faults.append("reasons is no object of counts")
    if not isinstance(remarks, list) or not all(isinstance(remark, str) for remark in remarks):
        faults.append("remarks is no list of texts")
    return faults


def _is_a(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)
