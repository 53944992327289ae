"""Conversion of HU to stored values: the error is at most half a stored unit for any format of the source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.valuerep import DSfloat

from ctbasis.dicom.hounsfield import Pixels
from ctbasis.dicom.stored_values import SIGNED, UNSIGNED, StoredImage, to_full_range, to_stored_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

formats = st.builds(
    Pixels,
    BitsAllocated=st.just(16),
    BitsStored=st.just(12) | st.integers(8, 16),
    HighBit=st.just(15),
    PixelRepresentation=st.sampled_from([0, 1]),
    RescaleSlope=st.sampled_from([1.0, 2.0, 0.5, 0.1, 0.0244140625, -1.0]),
    RescaleIntercept=st.sampled_from([0.0, -1024.0, -8192.0, 12.5]),
    padding=st.none() | st.just((-2000, -2000)) | st.just((63536, 63536)),
).filter(lambda pixels: pixels.padding in (None, (-2000, -2000) if pixels.PixelRepresentation else (63536, 63536)))
"""Pixel formats whose padding has the sign of PixelRepresentation, as `Pixels.of` ensures."""


def hounsfield(image: StoredImage) -> NDArray[np.float64]:
    return image.values * np.float64(image.RescaleSlope) + image.RescaleIntercept


@given(formats, st.data())
def test_conversion_to_hu_and_back_restores_every_stored_value(pixels: Pixels, data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(st.integers(*pixels.stored_range), min_size=1)))
    image = to_stored_values(values * pixels.RescaleSlope + pixels.RescaleIntercept, pixels)
    np.testing.assert_allclose(hounsfield(image), values * pixels.RescaleSlope + pixels.RescaleIntercept, atol=1e-9)
    if pixels.padding is None:
        assert image.values.tolist() == values.tolist()
        assert (image.RescaleSlope, image.RescaleIntercept) == (pixels.RescaleSlope, pixels.RescaleIntercept)


@given(formats, st.lists(st.floats(-1e6, 1e6, width=32), min_size=1))
def test_the_error_of_any_hu_is_at_most_half_a_stored_unit(pixels: Pixels, hu: list[float]) -> None:
    image = to_stored_values(np.array(hu, np.float32), pixels)
    error = np.abs(hounsfield(image) - np.array(hu, np.float32).astype(np.float64)).max()
    assert error <= abs(image.RescaleSlope) / 2 * (1 + 1e-9) + 1e-9


@given(formats, st.lists(st.floats(-2000, 4000, width=32), min_size=1))
def test_hu_of_a_body_keep_the_rescale_slope_of_the_source(pixels: Pixels, hu: list[float]) -> None:
    image = to_stored_values(np.array(hu, np.float32), pixels)
    if 65535 * abs(pixels.RescaleSlope) > 75_000:
        assert image.RescaleSlope == pixels.RescaleSlope


@given(formats, st.lists(st.floats(-1e6, 1e6, width=32), min_size=1))
def test_slope_and_intercept_are_exactly_representable_as_ds(pixels: Pixels, hu: list[float]) -> None:
    for image in (to_stored_values(np.array(hu, np.float32), pixels), to_full_range(np.array(hu, np.float32))):
        for number in (image.RescaleSlope, image.RescaleIntercept):
            text = str(DSfloat(number, auto_format=True))
            assert len(text) <= 16
            assert float(text) == number


@given(st.lists(st.floats(-1e5, 1e5, width=32), min_size=2, max_size=50))
def test_a_computed_image_uses_the_full_range(hu: list[float]) -> None:
    values = np.array(hu, np.float32)
    image = to_full_range(values)
    span = float(values.max()) - float(values.min())
    assert np.abs(hounsfield(image) - values).max() <= abs(image.RescaleSlope) / 2 * (1 + 1e-6) + 1e-9
    if span > 1e-3:
        assert image.RescaleSlope <= span / 65533 * (1 + 1e-6)


@pytest.mark.parametrize(
    ("bits", "signed", "padding", "dtype"),
    [
        (12, 0, None, SIGNED),
        (16, 1, (-2000, -2000), SIGNED),
        (16, 0, None, UNSIGNED),
        (12, 0, (63536, 63536), UNSIGNED),
        (12, 0, (0, 3), SIGNED),
    ],
)
def test_all_slices_of_a_series_get_the_same_format(
    bits: int, signed: int, padding: tuple[int, int] | None, dtype: Any
) -> None:
    pixels = Pixels(16, bits, bits - 1, signed, RescaleIntercept=-1024.0, padding=padding)
    for hu in ([-1000.0, 40.0], [-1024.0, 3071.0], [0.0, 0.0]):
        image = to_stored_values(np.array(hu), pixels)
        assert (image.values.dtype, image.RescaleSlope, image.RescaleIntercept) == (dtype, 1.0, -1024.0)
        assert image.padding == padding


def test_padding_outside_of_bits_stored_is_kept() -> None:
    pixels = Pixels(16, 12, 11, 0, RescaleIntercept=-1024.0, padding=(63536, 63536))
    image = to_stored_values(np.array([62512.0, 2000.0]), pixels)
    assert image.values.tolist() == [63536, 3024]
    assert image.padding == (63536, 63536)


def test_padding_is_adjusted_when_the_intercept_changes() -> None:
    pixels = Pixels(16, 16, 15, 0, RescaleIntercept=-1024.0, padding=(0, 0))
    image = to_stored_values(np.array([-1024.0, -1500.0, 60_000.0]), pixels)
    assert image.RescaleSlope == 1
    np.testing.assert_array_equal(hounsfield(image), [-1024, -1500, 60_000])
    assert image.padding == (image.values[0], image.values[0])


def test_32_bit_values_are_stored_in_16_bits_with_the_smallest_possible_slope() -> None:
    pixels = Pixels(32, 32, 31, 1, RescaleSlope=1.0)
    representable = to_stored_values(np.array([-70_000.0, -10_000.0]), pixels)
    assert hounsfield(representable).tolist() == [-70_000, -10_000]
    coarse = to_stored_values(np.array([-100_000.0, 0.0, 100_000.0]), pixels)
    assert coarse.RescaleSlope == pytest.approx(200_000 / 65_533, rel=1e-6)
    assert np.abs(hounsfield(coarse) - [-100_000, 0, 100_000]).max() <= coarse.RescaleSlope / 2 * (1 + 1e-9)
