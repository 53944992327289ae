"""Converting HU to the 16-bit stored values of a CT Image, with an error of at most half a stored unit.

RescaleSlope and RescaleIntercept of the source are kept where possible, so that unchanged voxels get the stored values
of the source. Computed values may be outside of the range of the source's BitsStored. They are not clipped: all 16 bits
are used, as signed values if the source's range allows it. If that is not enough, RescaleIntercept is changed, and
finally RescaleSlope is increased.
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
"""BitsAllocated and BitsStored of all written images; CT Image Storage requires 16 BitsAllocated."""

SIGNED, UNSIGNED = np.dtype("<i2"), np.dtype("<u2")

SPAN = (1 << BITS) - 1
"""Difference between the largest and the smallest stored value."""

LOWEST = np.iinfo(SIGNED).min

DS_DIGITS = 10
"""Significant digits of a computed slope: a DS of 16 characters holds this many beside sign, point and exponent."""


@dataclass(frozen=True)
class StoredImage:
    """The stored values of an image: HU = values * RescaleSlope + RescaleIntercept, to within half a RescaleSlope.

    Attributes:
        values: Stored values, (Rows * Columns,), int16 or uint16, little endian.
        RescaleSlope: HU per stored unit, exactly as its DS represents it.
        RescaleIntercept: HU of the stored value 0, exactly as its DS represents it.
        padding: Lowest and highest stored value of padding voxels, or None without padding.
    """

    values: NDArray[Any]
    RescaleSlope: float
    RescaleIntercept: float
    padding: tuple[int, int] | None = None

    @property
    def signed(self) -> bool:
        """Whether the values are signed (PixelRepresentation is 1)."""
        return self.values.dtype == SIGNED


@dataclass(frozen=True)
class _Format:
    dtype: np.dtype[Any]
    slope: float
    intercept: float

    def quantize(self, hu: NDArray[Any]) -> NDArray[np.float64]:
        """Return the nearest integer stored values (ties to even), which may be out of range."""
        values: NDArray[np.float64] = np.rint((hu.astype(np.float64) - self.intercept) / self.slope)
        return values

    def in_range(self, low: float, high: float) -> bool:
        """Return whether both stored values fit the dtype."""
        limits = np.iinfo(self.dtype)
        return bool(limits.min <= low and high <= limits.max)


def to_stored_values(hu: NDArray[Any], pixels: Pixels) -> StoredImage:
    """Return the stored values of an image in the format of its source if possible.

    Args:
        hu: HU, (Rows * Columns,), including padding and the voxels that were set aside.
        pixels: Pixel format of the source.
    """
    # With a Modality LUT, padding has the HU of measured voxels too and can no longer be declared.
    padding = None if pixels.lut is not None else pixels.padding
    padding_hu = np.array([pixels.hounsfield(value) for value in padding or ()])
    extremes = np.array([hu.min(), hu.max(), *padding_hu])
    for pixel_format in _formats(extremes, pixels):
        quantized = pixel_format.quantize(extremes)
        if pixel_format.in_range(quantized.min(), quantized.max()):
            break
    declared = sorted(int(value) for value in pixel_format.quantize(padding_hu))
    return StoredImage(
        pixel_format.quantize(hu).astype(pixel_format.dtype),
        pixel_format.slope,
        pixel_format.intercept,
        (declared[0], declared[-1]) if declared else None,
    )


def avoid_padding(stored: StoredImage, measured: NDArray[np.bool_]) -> StoredImage:
    """Change measured voxels that have the value of padding by chance to the nearest other value, in place.

    Adding or removing noise can make a value equal to PixelPaddingValue.

    Args:
        stored: Stored values of an image.
        measured: True for voxels that are not padding, (Rows * Columns,).

    Returns:
        `stored`.
    """
    if stored.padding is not None:
        first, last = stored.padding
        values = stored.values
        nearest = last + 1 if last < np.iinfo(values.dtype).max else first - 1
        values[measured & (values >= first) & (values <= last)] = nearest
    return stored


def to_full_range(hu: NDArray[Any]) -> StoredImage:
    """Return the stored values of a computed image, scaled to the full 16-bit range.

    Args:
        hu: HU, (Rows * Columns,).
    """
    pixel_format = _full_range(float(hu.min()), float(hu.max()))
    return StoredImage(pixel_format.quantize(hu).astype(pixel_format.dtype), pixel_format.slope, pixel_format.intercept)


def _formats(extremes: NDArray[Any], pixels: Pixels) -> Iterator[_Format]:
    """Yield the formats to try, in the order of preference; the last one can represent any values."""
    slope, intercept = pixels.RescaleSlope, pixels.RescaleIntercept
    # The sign depends on the header, not on the values, because some readers split a series with varying attributes.
    limits = pixels.stored_range if pixels.lut is None else (0, 0)
    signed = _Format(SIGNED, slope, intercept)
    if signed.in_range(min(limits + (pixels.padding or ())), max(limits + (pixels.padding or ()))):
        yield signed
    else:
        yield _Format(UNSIGNED, slope, intercept)
    # The same slope with another intercept.
    start = int(signed.quantize(extremes).min()) - LOWEST
    yield _Format(SIGNED, slope, _as_ds(Decimal(repr(intercept)) + start * Decimal(repr(slope))))
    yield _full_range(float(extremes.min()), float(extremes.max()))


def _full_range(low: float, high: float) -> _Format:
    """Return the format with the smallest slope that represents HU from `low` to `high`."""
    if low == high:
        return _Format(SIGNED, 1.0, _as_ds(Decimal(repr(low))))
    # Two units are kept in reserve: the intercept is rounded to a DS, and rounding may add half a unit at each end.
    finest = Decimal(repr(high - low)) / (SPAN - 2)
    slope = float(Context(prec=DS_DIGITS, rounding=ROUND_CEILING).create_decimal(finest))
    return _Format(SIGNED, slope, _as_ds(Decimal(repr(low)) - (LOWEST + 1) * Decimal(repr(slope))))


def _as_ds(number: Decimal) -> float:
    """Return the number after conversion to a DS, which has at most 16 characters."""
    return float(str(DSfloat(float(number), auto_format=True)))
