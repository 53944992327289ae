from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import CtbasisError
from components.matrix.hounsfield import Pixels
from components.matrix.instance import Slice
from components.matrix.series import arrange, set_copies_aside

if TYPE_CHECKING:
    import random

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
TILTED = (1.0, 0.0, 0.0, 0.0, float(np.cos(np.radians(20))), float(-np.sin(np.radians(20))))


def piece(z: float, **changes: Any) -> Slice:
    return Slice(
        **{
            "file": f"{z}.dcm",
            "SOPInstanceUID": f"1.2.{changes.get('SeriesInstanceUID', '3')}.{z}",
            "SeriesInstanceUID": "1.2.3",
            "SeriesNumber": 1,
            "Rows": 8,
            "Columns": 8,
            "ImageOrientationPatient": AXIAL,
            "ImagePositionPatient": (-5.0, -5.0, z),
            "PixelSpacing": (0.7, 0.7),
            "native": None,
            "pixels": Pixels(16, 16, 15, 1),
            **changes,
        }
    )


def stack(heights: list[float], **changes: Any) -> list[Slice]:
    return [piece(z, **changes) for z in heights]


@st.composite
def orientations(draw: st.DrawFn) -> tuple[float, ...]:
    """Draw two directions at a right angle."""
    numbers = draw(st.lists(st.floats(-1, 1), min_size=9, max_size=9))
    Q, _ = np.linalg.qr(np.reshape(numbers, (3, 3)) + 2 * np.eye(3))
    return tuple(float(number) for number in (*Q[:, 0], *Q[:, 1]))


@given(
    orientation=orientations(),
    heights=st.lists(st.integers(-2000, 2000), min_size=1, max_size=20, unique=True),
    shuffle=st.randoms(use_true_random=False),
)
def test_slices_of_any_orientation_are_ordered_along_their_normal(
    orientation: tuple[float, ...], heights: list[int], shuffle: random.Random
) -> None:
    normal = np.cross(orientation[:3], orientation[3:])
    slices = [
        piece(height / 4, ImageOrientationPatient=orientation, ImagePositionPatient=tuple(normal * height / 4))
        for height in heights
    ]
    shuffle.shuffle(slices)
    (series,) = arrange(slices)
    assert [entry.file for entry in series.slices] == [f"{height / 4}.dcm" for height in sorted(heights)]
    np.testing.assert_allclose(series.positions, np.sort(heights) / 4, atol=1e-9)
    assert series.tilt == pytest.approx(0, abs=1e-4)


def test_the_names_and_numbers_of_files_do_not_matter() -> None:
    slices = [piece(z, file=name) for z, name in ((3, "a"), (1, "b"), (2, "c"))]
    (series,) = arrange(slices)
    assert [entry.file for entry in series.slices] == ["b", "c", "a"]


def test_a_missing_slice_is_a_gap_with_its_place_and_size() -> None:
    (series,) = arrange(stack([0, 2.5, 5, 12.5, 15]))
    (gap,) = series.gaps
    assert (gap.after, gap.before, gap.missing) == (5, 12.5, 2)
    assert series.spacing == 2.5
    assert series.oddities == ()


def test_uneven_spacing_is_remarked_on() -> None:
    (series,) = arrange(stack([0, 1, 2, 3.3, 4.3]))
    assert series.gaps == ()
    assert any("spacing varies, from 1.000 to 1.300 mm" in oddity for oddity in series.oddities)


def test_rounded_positions_are_even_spacing() -> None:
    (series,) = arrange(stack([round(-100 + 0.6249 * z, 2) for z in range(20)]))
    assert series.oddities == ()


def test_one_slice_is_a_series_and_is_remarked_on() -> None:
    (series,) = arrange(stack([7]))
    assert series.spacing == 0
    assert series.tilt == 0
    assert any("one slice" in oddity for oddity in series.oddities)


def test_a_tilted_gantry_is_measured() -> None:
    # The table moves along z while the slices lean by 20 degrees.
    (series,) = arrange(stack([0, 5, 10], ImageOrientationPatient=TILTED))
    assert series.tilt == pytest.approx(20)
    assert series.spacing == pytest.approx(5 * np.cos(np.radians(20)))
    assert any("tilted, by 20.0 degrees" in oddity for oddity in series.oddities)


def test_series_are_told_apart_and_ordered_by_number() -> None:
    slices = stack([0, 1], SeriesInstanceUID="1.2.9", SeriesNumber=2) + stack([5, 6], SeriesNumber=10)
    assert [series.SeriesInstanceUID for series in arrange(slices)] == ["1.2.9", "1.2.3"]


def test_two_orientations_in_a_series_are_refused_with_two_files() -> None:
    slices = [*stack([0, 1, 2]), piece(3, file="scout", ImageOrientationPatient=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0))]
    with pytest.raises(CtbasisError, match="two orientations") as caught:
        arrange(slices)
    assert "0.dcm" in str(caught.value)
    assert "scout" in str(caught.value)


def test_rounded_cosines_are_one_orientation() -> None:
    arrange([piece(0), piece(1, ImageOrientationPatient=(0.9999, 0.0, 0.0, 0.0004, 1.0, 0.0))])


def test_two_slices_at_one_position_are_refused_with_both_files() -> None:
    slices = [*stack([0, 1, 2]), piece(1.0, file="second phase", SOPInstanceUID="1.2.4")]
    with pytest.raises(CtbasisError, match="several slices at one position") as caught:
        arrange(slices)
    assert "second phase" in str(caught.value)


def test_mixed_sizes_in_a_series_are_refused_with_both() -> None:
    with pytest.raises(CtbasisError, match=r"8 x 8 .* 8 x 16"):
        arrange([*stack([0, 1]), piece(2, Columns=16)])


def test_series_of_different_sizes_are_refused_and_selecting_is_explained() -> None:
    with pytest.raises(CtbasisError, match=r"8 x 8 .* 16 x 16") as caught:
        arrange(stack([0, 1]) + stack([0, 1], SeriesInstanceUID="1.2.9", Rows=16, Columns=16))
    assert "select the series" in str(caught.value)


def test_copies_of_an_instance_are_set_aside_and_two_of_one_uid_elsewhere_are_not() -> None:
    first, copy = piece(1.0), piece(1.0, file="copy")
    other = piece(2.0, SOPInstanceUID=first.SOPInstanceUID)
    kept, aside = set_copies_aside([first, copy, other])
    assert kept == [first, other]
    assert [(entry.file, "1.0.dcm" in entry.reason, entry.broken) for entry in aside] == [("copy", True, False)]
    (series,) = arrange(kept)
    assert any("SOPInstanceUID" in oddity for oddity in series.oddities)
