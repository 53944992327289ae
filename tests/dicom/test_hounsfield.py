"""Conversion of stored values to HU: rescale, padding, unused bits, and restoring the stored values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from ctbasis.dicom.excluded_voxels import exclude
from ctbasis.dicom.hounsfield import Pixels, to_hounsfield
from ctbasis.dicom.stored_values import to_stored_values
from ctbasis.storage.voxels import AIR, absent, is_absent
from ctbasis.svd.rank_k import restore_set_aside

PADDING_VALUE, PADDING_LIMIT = 0x00280120, 0x00280121


def header(**tags: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in (
        {
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 1,
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
        }
        | tags
    ).items():
        setattr(ds, keyword, value)
    return ds


def split(values: Any, ds: Dataset) -> tuple[Any, Any, Any]:
    """Return A, aside and the padding mask of stored values, of which only padding is excluded, in the step's dtype."""
    pixels = Pixels.of(ds)
    values = np.asarray(values, f"<{'i' if pixels.PixelRepresentation else 'u'}{pixels.BitsAllocated // 8}")
    padded = np.empty(values.shape, np.bool_)
    hu: Any = np.empty(values.shape, np.int16)
    if not to_hounsfield(values, pixels, hu, padded).fits:
        hu = np.empty(values.shape, np.float32)
        assert to_hounsfield(values, pixels, hu, padded).fits
    aside = np.empty_like(hu)
    exclude(hu, aside, padded)
    return hu, aside, padded


@st.composite
def slices(draw: st.DrawFn) -> tuple[list[int], Dataset, tuple[int, int] | None]:
    """Draw stored values, their header, and the lowest and highest stored value of padding."""
    signed = draw(st.sampled_from([0, 1]))
    bits = draw(st.integers(8, 16))
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    slope = draw(st.sampled_from([1.0, 1.0, 2.0, -1.0, 0.5, 0.488281]) | st.floats(0.01, 30))
    intercept = float(draw(st.sampled_from([-1024, -1000, 0, -8192, -1024.5]) | st.integers(-3000, 3000)))
    ds = header(
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=signed,
        RescaleSlope=f"{slope:.8g}",
        RescaleIntercept=intercept,
    )
    # Stored values must be distinct in float32. Integer HU are int16, or far below this limit.
    largest = max(abs(low), abs(high), 32768) * float(ds.RescaleSlope) + abs(intercept)
    assume(abs(largest) * 2.0**-23 < abs(float(ds.RescaleSlope)))
    padding = None
    if draw(st.booleans()):
        # Padding is within the 16 allocated bits, but may be outside of BitsStored.
        ends = (-32768, 32767) if signed else (0, 65535)
        padding = tuple(sorted((draw(st.integers(*ends)), draw(st.integers(*ends)))))
        if draw(st.booleans()):
            padding = padding[0], padding[0]
        declare(ds, padding, wrong_sign=draw(st.booleans()))
    values = st.integers(low, high)
    if padding is not None:
        values |= st.integers(*padding)
    return draw(st.lists(values, min_size=1, max_size=40)), ds, padding


def declare(ds: Dataset, padding: tuple[int, int], *, wrong_sign: bool) -> None:
    """Set the padding attributes, with the wrong one of the VRs US and SS if `wrong_sign`."""
    unsigned = bool(ds.PixelRepresentation) == wrong_sign
    for tag, value in zip((PADDING_VALUE, PADDING_LIMIT), padding, strict=True):
        bits = value % 65536
        ds.add_new(tag, "US" if unsigned else "SS", bits if unsigned or bits < 32768 else bits - 65536)


@given(slices())
def test_a_and_aside_together_restore_every_stored_value(
    drawn: tuple[list[int], Dataset, tuple[int, int] | None],
) -> None:
    values, ds, _ = drawn
    A, aside, _ = split(values, ds)
    hu = A.astype(np.float64)
    restore_set_aside(hu, aside)
    assert to_stored_values(hu, Pixels.of(ds)).values.tolist() == values


@given(slices())
def test_a_is_air_in_padding_and_otherwise_hu_however_low(
    drawn: tuple[list[int], Dataset, tuple[int, int] | None],
) -> None:
    values, ds, padding = drawn
    A, aside, padded = split(values, ds)
    expected = [padding is not None and padding[0] <= value <= padding[1] for value in values]
    assert padded.tolist() == expected
    assert (A[padded] == AIR).all()
    hu = np.asarray(values) * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    np.testing.assert_allclose(A[~padded], hu[~padded], rtol=1e-6, atol=1e-3)
    np.testing.assert_array_equal(is_absent(aside), ~padded)


@pytest.mark.parametrize("stored", [63536, -2000])
def test_padding_with_the_wrong_sign_is_interpreted_by_its_bits(stored: int) -> None:
    ds = header(PixelRepresentation=1)
    declare(ds, (-2000, -2000), wrong_sign=stored > 0)
    pixels = Pixels.of(ds)
    assert pixels.padding == (-2000, -2000)
    assert any("wrong sign" in remark for remark in pixels.tolerated) == (stored > 0)
    A, aside, padded = split([-2000, 0, 24], ds)
    assert A.tolist() == [AIR, -1024, -1000]
    assert aside.tolist() == [-3024, absent(np.int16), absent(np.int16)]
    assert padded.tolist() == [True, False, False]


def test_padding_within_tissue_is_masked_and_reported() -> None:
    ds = header(RescaleIntercept=0)
    declare(ds, (0, 0), wrong_sign=False)
    A, aside, _ = split([0, 40, -2000], ds)
    assert A.tolist() == [AIR, 40, -2000]
    assert aside.tolist() == [0, absent(np.int16), absent(np.int16)]
    assert any("within the range of tissue" in remark for remark in Pixels.of(ds).tolerated)


def test_integer_hu_beyond_int16_become_float32() -> None:
    A, _, _ = split([0, 65535], header(PixelRepresentation=0))
    assert A.dtype == np.float32
    assert A.tolist() == [-1024, 64511]


@pytest.mark.parametrize("value", [-32768, -31743])
def test_the_fill_value_of_the_store_is_never_an_hu(value: int) -> None:
    # -31743 - 1024 is -32767, the lowest HU that fits; -32768 is the fill value of missing chunks.
    A, _, _ = split([value], header())
    assert (A.dtype == np.int16) == (value == -31743)


def test_bits_outside_of_bits_stored_are_ignored_and_counted() -> None:
    ds = header(BitsStored=12, HighBit=11, PixelRepresentation=0)
    pixels = Pixels.of(ds)
    values = np.array([0x1064, 0x0064, 0xF000], "<u2")
    hu = np.empty(3, np.int16)
    conversion = to_hounsfield(values, pixels, hu)
    assert hu.tolist() == [100 - 1024, 100 - 1024, -1024]
    assert conversion.outside_bits == 2


def test_values_in_the_upper_bits_are_shifted_down() -> None:
    pixels = Pixels.of(header(BitsStored=12, HighBit=15, PixelRepresentation=1))
    hu = np.empty(2, np.int16)
    to_hounsfield(np.array([100 << 4, -3 << 4], "<i2"), pixels, hu)
    assert hu.tolist() == [100 - 1024, -3 - 1024]


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<i4", "|i1"])
def test_values_of_any_integer_dtype_give_the_same_hu(dtype: str) -> None:
    values = np.array([-100, 0, 7, 100], dtype)
    hu = np.empty(4, np.int16)
    to_hounsfield(values, Pixels.of(header(RescaleSlope=3)), hu)
    assert hu.tolist() == [3 * value - 1024 for value in (-100, 0, 7, 100)]


def test_padding_is_counted() -> None:
    ds = header()
    declare(ds, (-2000, -2000), wrong_sign=True)
    conversion = to_hounsfield(np.array([-2000, -2000, -5, 24, 1000], "<i2"), Pixels.of(ds), np.empty(5, np.int16))
    assert conversion.padded == 2


def test_a_ct_without_rescale_is_read_as_hu_and_reported() -> None:
    ds = header()
    del ds.RescaleSlope, ds.RescaleIntercept
    pixels = Pixels.of(ds)
    assert (pixels.RescaleSlope, pixels.RescaleIntercept) == (1, 0)
    assert len(pixels.tolerated) == 2


@pytest.mark.parametrize(
    ("tags", "keyword"),
    [
        ({"RescaleSlope": 0}, "RescaleSlope"),
        ({"BitsStored": 0}, "BitsStored"),
        ({"BitsStored": 17}, "BitsStored"),
        ({"HighBit": 3}, "HighBit"),
        ({"HighBit": 16}, "HighBit"),
        ({"PixelRepresentation": 2}, "PixelRepresentation"),
        ({"PixelRepresentation": None}, "PixelRepresentation"),
        ({"BitsAllocated": None}, "BitsAllocated"),
        ({"ModalityLUTSequence": [Dataset()]}, "LUTDescriptor"),
    ],
)
def test_an_invalid_pixel_format_is_refused_with_the_keyword(tags: dict[str, Any], keyword: str) -> None:
    with pytest.raises(ValueError, match=keyword):
        Pixels.of(header(**tags))


@pytest.mark.parametrize("slope", ["1e30", "-1e38", "1e5"])
def test_implausible_hu_are_refused(slope: str) -> None:
    with pytest.raises(ValueError, match="HU run from"):
        to_hounsfield(np.array([0, 1000], "<i2"), Pixels.of(header(RescaleSlope=slope)), np.empty(2, np.float32))
