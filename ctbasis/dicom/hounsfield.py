"""Conversion of stored pixel values to Hounsfield units: PS3.3 C.11.1.1.2 (rescale) and C.7.5.1.1.2 (padding)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

TISSUE_HU = (-900.0, 3000.0)
"""Range of HU of lung, soft tissue and bone. A padding value in this range hides anatomy, and is reported."""

MAX_HU = 2.0**24
"""Largest absolute HU: up to here float32 represents every integer. Real scanners end at 32,767, even for metal."""

HOUNSFIELD = {"HU", "HUMOD", "H", "HOUNSFIELD", "HOUNSFIELDUNIT", "HOUNSFIELDUNITS"}
"""Values of RescaleType and ModalityLUTType that mean HU, in capitals and without spaces and punctuation."""

UNSPECIFIED = {"US", "UNSPECIFIED"}
"""Values for unspecified units, which in a CT image are HU (PS3.3 C.11.1.1.2)."""

OTHER_UNITS = {"OD", "MGML", "Z_EFF", "ED", "EDW", "PCT", "HGML"}
"""Defined terms of RescaleType for other quantities (PS3.3 C.11.1.1.2): densities, effective atomic numbers,
percentages. Other terms are permitted; each but those above is another quantity too."""

INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class ModalityLUT:
    """A Modality LUT (PS3.3 C.11.1.1): a table of the HU of each stored value, instead of slope and intercept.

    Attributes:
        first: Stored value of the first entry. Lower values get the first entry, values beyond the table the last.
        entries: HU, as the bytes of little-endian 16-bit integers.
    """

    first: int
    entries: bytes

    @classmethod
    def of(cls, item: Dataset, signed: int) -> ModalityLUT:
        """Read the item of ModalityLUTSequence.

        Args:
            item: The item.
            signed: PixelRepresentation.

        Raises:
            ValueError: The table is not in HU, or its attributes contradict each other.
        """
        _check_units("ModalityLUTType", item.get("ModalityLUTType"))
        count, first, bits = (int(number) for number in _required(item, "LUTDescriptor"))
        count = (count % (1 << 16)) or 1 << 16
        first = _with_sign(first, 16, signed)
        data = _required(item, "LUTData")
        if isinstance(data, bytes):
            entries = np.frombuffer(data, "<u2" if len(data) >= 2 * count else "u1")
        else:
            entries = np.asarray(data, np.int64)
        if entries.size < count or bits not in range(8, 17) or entries.min() < 0 or entries.max() > INT16.max:
            raise ValueError(f"LUTData has {entries.size} entries, LUTDescriptor states {count} of {bits} bits in HU")
        return cls(first, entries[:count].astype("<i2").tobytes())

    def apply(self, values: NDArray[Any]) -> NDArray[np.int16]:
        """Return the HU of stored values, of the same shape."""
        entries = np.frombuffer(self.entries, "<i2")
        looked_up: NDArray[np.int16] = entries[np.clip(values.astype(np.int64) - self.first, 0, entries.size - 1)]
        return looked_up


@dataclass(frozen=True)
class Pixels:
    """The pixel format of a slice: how to read its stored values and convert them to HU.

    PhotometricInterpretation MONOCHROME1 is irrelevant here: it only inverts the display, after the rescale.

    Attributes:
        BitsAllocated: Bits per value in the file.
        BitsStored: Bits of these that hold the value.
        HighBit: Position of the highest of these bits.
        PixelRepresentation: 1 for signed values, 0 for unsigned.
        RescaleSlope: HU per stored unit, not 0.
        RescaleIntercept: HU of the stored value 0.
        padding: Lowest and highest stored value that mean "no measurement"; None if no padding is declared.
        lut: Modality LUT, or None. With a LUT, the rescale is 1 and 0.
        tolerated: Deviations in the attributes that were tolerated, as text for the user.
    """

    BitsAllocated: int
    BitsStored: int
    HighBit: int
    PixelRepresentation: int
    RescaleSlope: float = 1.0
    RescaleIntercept: float = 0.0
    padding: tuple[int, int] | None = None
    lut: ModalityLUT | None = None
    tolerated: tuple[str, ...] = ()

    @classmethod
    def of(cls, ds: Dataset) -> Pixels:
        """Read the attributes of `ds`.

        Raises:
            ValueError: Attributes are absent or contradict each other. The message names the keyword, and contains no
                patient data.
        """
        allocated, stored = int(_number(ds, "BitsAllocated")), int(_number(ds, "BitsStored"))
        signed = int(_number(ds, "PixelRepresentation"))
        high = int(_number(ds, "HighBit", stored - 1))
        if not 0 < stored <= high + 1 <= allocated or allocated not in (8, 16, 32) or signed not in (0, 1):
            raise ValueError(
                f"BitsAllocated {allocated}, BitsStored {stored}, HighBit {high} and PixelRepresentation {signed} "
                "are not a valid pixel format"
            )
        sequence = ds.get("ModalityLUTSequence")
        lut = ModalityLUT.of(sequence[0], signed) if sequence else None
        slope, intercept, tolerated = _rescale(ds) if lut is None else (1.0, 0.0, ("HU come from a Modality LUT",))
        padding = _padding(ds, allocated, signed)
        if padding is not None and lut is None:
            tolerated += _padding_remarks(ds, padding, slope, intercept)
        return cls(allocated, stored, high, signed, slope, intercept, padding, lut, tolerated)

    @property
    def whole(self) -> bool:
        """Whether all HU are integers."""
        return self.RescaleSlope.is_integer() and self.RescaleIntercept.is_integer()

    @property
    def stored_range(self) -> tuple[int, int]:
        """The lowest and the highest value that BitsStored can represent."""
        if self.PixelRepresentation:
            return -(1 << (self.BitsStored - 1)), (1 << (self.BitsStored - 1)) - 1
        return 0, (1 << self.BitsStored) - 1

    def hounsfield(self, stored: float) -> float:
        """Return the HU of one stored value."""
        return stored * self.RescaleSlope + self.RescaleIntercept


@dataclass(frozen=True)
class Conversion:
    """Counts of the conversion of one slice to HU.

    Attributes:
        padded: Number of padding voxels.
        outside_bits: Number of voxels with bits set outside of BitsStored; these bits are ignored.
        fits: Whether all HU fit the output dtype. If not, the output is invalid.
    """

    padded: int
    outside_bits: int
    fits: bool


def to_hounsfield(
    values: NDArray[Any], pixels: Pixels, hu: NDArray[Any], padded: NDArray[np.bool_] | None = None
) -> Conversion:
    """Convert one slice to HU.

    Args:
        values: Stored values as in the file, any integer dtype.
        pixels: Pixel format.
        hu: Receives the HU; int16 or float32, of the shape of `values`. float32 keeps stored values distinct if
            RescaleSlope exceeds 2^-23 times the largest HU.
        padded: Receives the padding mask, if it is not None.

    Raises:
        ValueError: HU exceed `MAX_HU`.
    """
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    mask = _padding_mask(values, pixels, low, high)
    outside_bits = 0
    lowest, highest = pixels.stored_range
    if low < lowest or high > highest or pixels.HighBit + 1 != pixels.BitsStored:
        values, outside_bits = _mask_unused_bits(values, pixels, mask)
        low, high = int(values.min()), int(values.max())
    if pixels.lut is not None:
        values = pixels.lut.apply(values)
        low, high = int(values.min()), int(values.max())
    bounds = sorted((pixels.hounsfield(low), pixels.hounsfield(high)))
    if max(map(abs, bounds)) > MAX_HU:
        raise ValueError(f"its HU run from {bounds[0]:g} to {bounds[1]:g}, which is beyond any CT")
    if hu.dtype == np.int16:
        if not pixels.whole or bounds[0] <= INT16.min or bounds[1] > INT16.max:
            return Conversion(0, outside_bits, fits=False)
        _rescale_modulo(values, pixels, hu)
    else:
        hu[...] = values * np.float64(pixels.RescaleSlope) + np.float64(pixels.RescaleIntercept)
    if padded is not None:
        padded[...] = False if mask is None else mask
    return Conversion(0 if mask is None else int(np.count_nonzero(mask)), outside_bits, fits=True)


def _required(ds: Dataset, keyword: str) -> Any:
    value = ds.get(keyword)
    if value is None:
        raise ValueError(f"{keyword} is absent")
    return value


def _number(ds: Dataset, keyword: str, otherwise: float | None = None) -> float:
    """Return the number in the attribute `keyword`. Errors do not repeat its value, which may identify the patient."""
    try:
        value = ds.get(keyword)
        number = otherwise if value is None or value == "" else float(value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        raise ValueError(f"{keyword} is not one number") from None
    if number is None:
        raise ValueError(f"{keyword} is absent")
    if not math.isfinite(number):
        raise ValueError(f"{keyword} is {number}, not a finite number")
    return number


def _rescale(ds: Dataset) -> tuple[float, float, tuple[str, ...]]:
    tolerated = []
    values = []
    for keyword, neutral in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        values.append(_number(ds, keyword, neutral))
        if ds.get(keyword) in (None, ""):
            tolerated.append(f"{keyword} is absent, taken as {neutral:g}")
    slope, intercept = values
    if slope == 0:
        raise ValueError(f"RescaleSlope is {slope:g}, which gives no HU")
    kind = _check_units("RescaleType", ds.get("RescaleType"))
    if kind in UNSPECIFIED:
        tolerated.append("RescaleType is unspecified, taken as HU")
    elif kind != "HU":
        tolerated.append("RescaleType is another term for HU, taken as HU")
    return slope, intercept, tuple(tolerated)


def _check_units(keyword: str, value: Any) -> str:
    """Return the units in capital letters; HU if there are none.

    Raises:
        ValueError: The units are not Hounsfield units.
    """
    kind = str(value or "HU").strip()
    letters = "".join(character for character in kind.upper() if character not in " ._-")
    if kind and letters not in HOUNSFIELD | UNSPECIFIED:
        # Only defined terms are repeated: another text may identify the patient.
        named = f" {kind}" if kind in OTHER_UNITS else ""
        raise ValueError(f"{keyword}{named} states units other than HU: no Hounsfield units")
    return letters or "HU"


def _padding(ds: Dataset, allocated: int, signed: int) -> tuple[int, int] | None:
    first = ds.get("PixelPaddingValue")
    if not isinstance(first, int):
        return None
    last = ds.get("PixelPaddingRangeLimit")
    ends = [_with_sign(value, allocated, signed) for value in (first, last) if isinstance(value, int)]
    return min(ends), max(ends)


def _with_sign(value: int, allocated: int, signed: int) -> int:
    """Interpret the bits of `value` by PixelRepresentation: some files declare 63536 in signed data and mean -2000."""
    value %= 1 << allocated
    return value - (1 << allocated) if signed and value >> (allocated - 1) else value


def _padding_remarks(ds: Dataset, padding: tuple[int, int], slope: float, intercept: float) -> tuple[str, ...]:
    tolerated = []
    if int(ds.PixelPaddingValue) not in padding:
        tolerated.append("PixelPaddingValue is declared with the wrong sign for PixelRepresentation")
    ends = sorted(value * slope + intercept for value in padding)
    if ends[0] < TISSUE_HU[1] and ends[1] > TISSUE_HU[0]:
        tolerated.append(f"PixelPaddingValue is {ends[0]:g} to {ends[1]:g} HU, within the range of tissue")
    return tuple(tolerated)


def _padding_mask(values: NDArray[Any], pixels: Pixels, low: int, high: int) -> NDArray[np.bool_] | None:
    if pixels.padding is None:
        return None
    first, last = pixels.padding
    if last < low or first > high:
        return None
    mask: NDArray[np.bool_] = values == first if first == last else (values >= first) & (values <= last)
    return mask


def _mask_unused_bits(
    values: NDArray[Any], pixels: Pixels, mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], int]:
    """Clear the bits outside of BitsStored (old scanners kept overlays there), except in padding; count the changes."""
    bits = (values.astype(np.int64) >> (pixels.HighBit + 1 - pixels.BitsStored)) & ((1 << pixels.BitsStored) - 1)
    if pixels.PixelRepresentation:
        bits -= (bits >> (pixels.BitsStored - 1)) << pixels.BitsStored
    if mask is not None:
        np.copyto(bits, values, where=mask)
    return bits, int(np.count_nonzero(bits != values))


def _rescale_modulo(values: NDArray[Any], pixels: Pixels, hu: NDArray[np.int16]) -> None:
    """Rescale in int16: arithmetic modulo 2^16 is exact if the result fits, and needs no wider copy."""
    slope, intercept = (
        np.uint16(int(number) % (1 << 16)).astype(np.int16) for number in (pixels.RescaleSlope, pixels.RescaleIntercept)
    )
    stored = values.view(np.int16) if values.dtype in (np.dtype("<u2"), np.dtype("<i2")) else values.astype(np.int16)
    if slope == 1:
        np.add(stored, intercept, out=hu)
    else:
        np.multiply(stored, slope, out=hu)
        np.add(hu, intercept, out=hu)
