"""HU to the 16 bits that a CT Image stores, losing nothing but half a stored unit.

The source's own slope and intercept stay wherever they can, so that what was not changed is stored as the source stored
it. What a source's BitsStored could not hold (a computed value beyond its ends) is not clipped: all 16 bits are used,
signed where the source's values allow it, and where even those do not reach, the intercept moves, then the slope grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.valuerep import DSfloat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ctbasis.dicom.hounsfield import Pixels

BITS = 16
"""BitsAllocated and BitsStored of all that is written; CT Image Storage knows no other BitsAllocated."""

SIGNED, UNSIGNED = np.dtype("<i2"), np.dtype("<u2")

SPAN = (1 << BITS) - 1
"""Stored units between the smallest and the largest value."""

LEAST = np.iinfo(SIGNED).min

DS_DIGITS = 10
"""Significant digits of a computed slope: as many as a DS holds beside sign, point and exponent."""


@dataclass(frozen=True)
class Stored:
    """An image as it is stored: HU = values * RescaleSlope + RescaleIntercept, to within half a RescaleSlope.

    Attributes:
        values: Flat, int16 or uint16, little endian.
        RescaleSlope: HU per stored unit, as its DS says it.
        RescaleIntercept: HU of stored 0, as its DS says it.
        padding: Lowest and highest stored value that mean "no measurement here"; None where there is none.
    """

    values: NDArray[Any]
    RescaleSlope: float
    RescaleIntercept: float
    padding: tuple[int, int] | None = None

    @property
    def signed(self) -> bool:
        """Whether values are signed: PixelRepresentation."""
        return self.values.dtype == SIGNED


@dataclass(frozen=True)
class _Format:
    dtype: np.dtype[Any]
    slope: float
    intercept: float

    def quantized(self, hu: NDArray[Any]) -> NDArray[np.float64]:
        """Return the nearest whole stored values, halves to even, whether they fit or not."""
        values: NDArray[np.float64] = np.rint((hu.astype(np.float64) - self.intercept) / self.slope)
        return values

    def holds(self, low: float, high: float) -> bool:
        limits = np.iinfo(self.dtype)
        return bool(limits.min <= low and high <= limits.max)


def store(hu: NDArray[Any], pixels: Pixels) -> Stored:
    """Return what is stored for an image.

    Args:
        hu: HU, flat, padding and what else was set aside put back.
        pixels: What the source's stored values meant.
    """
    # HU of padding that a Modality LUT gave are those of measured voxels too: it is no padding value any more.
    padding = None if pixels.lut is not None else pixels.padding
    ends = np.array([pixels.hounsfield(value) for value in padding or ()])
    extent = np.array([hu.min(), hu.max(), *ends])
    for tried in _formats(extent, pixels):
        needed = tried.quantized(extent)
        if tried.holds(needed.min(), needed.max()):
            break
    declared = sorted(int(value) for value in tried.quantized(ends))
    return Stored(
        tried.quantized(hu).astype(tried.dtype),
        tried.slope,
        tried.intercept,
        (declared[0], declared[-1]) if declared else None,
    )


def avoid_padding(stored: Stored, measured: NDArray[np.bool_]) -> Stored:
    """Move measured voxels whose stored value means padding to the nearest value that does not, in place.

    Noise that is added, or removed, may make a value equal to PixelPaddingValue by chance.

    Args:
        stored: An image from `store`.
        measured: Voxels that are no padding, flat.
    """
    if stored.padding is not None:
        first, last = stored.padding
        values = stored.values
        beside = last + 1 if last < np.iinfo(values.dtype).max else first - 1
        values[measured & (values >= first) & (values <= last)] = beside
    return stored


def spread(hu: NDArray[Any]) -> Stored:
    """Return an image that no source stored, spread over all 16 bits."""
    chosen = _spread(float(hu.min()), float(hu.max()))
    return Stored(chosen.quantized(hu).astype(chosen.dtype), chosen.slope, chosen.intercept)


def _formats(extent: NDArray[Any], pixels: Pixels) -> Iterator[_Format]:
    slope, intercept = pixels.RescaleSlope, pixels.RescaleIntercept
    # By the header, not by the values: the slices of one series shall be alike, or some readers take them for two.
    limits = pixels.stored_range if pixels.lut is None else (0, 0)
    signed = _Format(SIGNED, slope, intercept)
    if signed.holds(min(limits + (pixels.padding or ())), max(limits + (pixels.padding or ()))):
        yield signed
    else:
        yield _Format(UNSIGNED, slope, intercept)
    # The same steps, begun lower or higher.
    start = int(signed.quantized(extent).min()) - LEAST
    yield _Format(SIGNED, slope, _as_ds(Decimal(repr(intercept)) + start * Decimal(repr(slope))))
    yield _spread(float(extent.min()), float(extent.max()))


def _spread(low: float, high: float) -> _Format:
    """Return the finest steps of which `SPAN` reach from `low` to `high`."""
    if low == high:
        return _Format(SIGNED, 1.0, _as_ds(Decimal(repr(low))))
    # Two steps to spare: the intercept is rounded to a DS, and the ends may lie half a step off.
    finest = Decimal(repr(high - low)) / (SPAN - 2)
    slope = float(Context(prec=DS_DIGITS, rounding=ROUND_CEILING).create_decimal(finest))
    return _Format(SIGNED, slope, _as_ds(Decimal(repr(low)) - (LEAST + 1) * Decimal(repr(slope))))


def _as_ds(number: Decimal) -> float:
    """Return the number that a DS, of 16 characters at most, says."""
    return float(str(DSfloat(float(number), auto_format=True)))
