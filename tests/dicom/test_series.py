"""Grouping slices into series: order, gaps, tilt, phases, and series that are not a volume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctbasis.dicom.hounsfield import Pixels
from ctbasis.dicom.instance import Slice
from ctbasis.dicom.pixeldata import StoredValues
from ctbasis.dicom.series import arrange, set_copies_aside
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    import random

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
TILTED = (1.0, 0.0, 0.0, 0.0, float(np.cos(np.radians(20))), float(-np.sin(np.radians(20))))


def slice_at(z: float, **changes: Any) -> Slice:
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
            "stored": StoredValues(0, 128, dtype="<i2"),
            "pixels": Pixels(16, 16, 15, 1),
            **changes,
        }
    )


def stack(heights: list[float], **changes: Any) -> list[Slice]:
    return [slice_at(z, **changes) for z in heights]


@st.composite
def orientations(draw: st.DrawFn) -> tuple[float, ...]:
    """Draw the direction cosines of two perpendicular axes."""
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
        slice_at(height / 4, ImageOrientationPatient=orientation, ImagePositionPatient=tuple(normal * height / 4))
        for height in heights
    ]
    shuffle.shuffle(slices)
    (series,) = arrange(slices)
    assert [entry.file for entry in series.slices] == [f"{height / 4}.dcm" for height in sorted(heights)]
    np.testing.assert_allclose(series.positions, np.sort(heights) / 4, atol=1e-9)
    assert series.tilt == pytest.approx(0, abs=1e-4)


def test_the_order_does_not_depend_on_file_names() -> None:
    slices = [slice_at(z, file=name) for z, name in ((3, "a"), (1, "b"), (2, "c"))]
    (series,) = arrange(slices)
    assert [entry.file for entry in series.slices] == ["b", "c", "a"]


def test_missing_slices_are_reported_as_a_gap_with_position_and_number() -> None:
    (series,) = arrange(stack([0, 2.5, 5, 12.5, 15]))
    (gap,) = series.gaps
    assert (gap.after, gap.before, gap.missing) == (5, 12.5, 2)
    assert series.breaks == (3,)
    assert series.spacing == 2.5
    assert series.tolerated == ()


def test_varying_spacing_is_reported() -> None:
    (series,) = arrange(stack([0, 1, 2, 3.3, 4.3]))
    assert series.gaps == ()
    assert any("spacing varies, from 1.000 to 1.300 mm" in remark for remark in series.tolerated)


def test_rounded_positions_count_as_even_spacing() -> None:
    (series,) = arrange(stack([round(-100 + 0.6249 * z, 2) for z in range(20)]))
    assert series.tolerated == ()


def test_a_single_slice_is_a_series_and_is_reported() -> None:
    (series,) = arrange(stack([7]))
    assert series.spacing == 0
    assert series.tilt == 0
    assert any("one slice" in remark for remark in series.tolerated)


def test_the_gantry_tilt_is_measured() -> None:
    # The table moves along z, and the slices are tilted by 20 degrees.
    (series,) = arrange(stack([0, 5, 10], ImageOrientationPatient=TILTED))
    assert series.tilt == pytest.approx(20)
    assert series.spacing == pytest.approx(5 * np.cos(np.radians(20)))
    assert any("tilted by 20.0 degrees" in remark for remark in series.tolerated)


def test_series_are_separated_by_uid_and_ordered_by_number() -> None:
    slices = stack([0, 1], SeriesInstanceUID="1.2.9", SeriesNumber=2) + stack([5, 6], SeriesNumber=10)
    assert [series.SeriesInstanceUID for series in arrange(slices)] == ["1.2.9", "1.2.3"]


def test_two_orientations_in_a_series_are_refused_with_an_example_of_each() -> None:
    slices = [*stack([0, 1, 2]), slice_at(3, file="scout", ImageOrientationPatient=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0))]
    with pytest.raises(CtbasisError, match="two orientations") as caught:
        arrange(slices)
    assert "0.dcm" in str(caught.value)
    assert "scout" in str(caught.value)


def test_rounded_direction_cosines_count_as_one_orientation() -> None:
    arrange([slice_at(0), slice_at(1, ImageOrientationPatient=(0.9999, 0.0, 0.0, 0.0004, 1.0, 0.0))])


def test_two_slices_at_the_same_position_are_refused_with_both_files() -> None:
    slices = [*stack([0, 1, 2]), slice_at(1.0, file="second phase", SOPInstanceUID="1.2.4")]
    with pytest.raises(CtbasisError, match="several slices at one position") as caught:
        arrange(slices)
    assert "second phase" in str(caught.value)


def test_different_sizes_in_a_series_are_refused_with_both_sizes() -> None:
    with pytest.raises(CtbasisError, match=r"8 x 8 .* 8 x 16"):
        arrange([*stack([0, 1]), slice_at(2, Columns=16)])


def test_series_of_different_sizes_are_refused_with_a_remedy() -> None:
    with pytest.raises(CtbasisError, match=r"8 x 8 .* 16 x 16") as caught:
        arrange(stack([0, 1]) + stack([0, 1], SeriesInstanceUID="1.2.9", Rows=16, Columns=16))
    assert "select the series" in str(caught.value)


def test_copies_are_set_aside() -> None:
    first, copy, other = slice_at(1.0), slice_at(1.0, file="copy"), slice_at(2.0)
    kept, aside = set_copies_aside([first, copy, other])
    assert kept == [first, other]
    assert [(entry.file, entry.twin, entry.broken) for entry in aside] == [("copy", "1.0.dcm", False)]


def test_a_sop_instance_uid_that_several_slices_share_makes_none_of_them_a_copy() -> None:
    # Two phases of two slices each, all with one SOPInstanceUID: at equal positions, the pixels may differ.
    slices = [slice_at(z, file=f"{phase}-{z}", SOPInstanceUID="1.2.9") for z in (1.0, 2.0) for phase in "ab"]
    assert set_copies_aside(slices) == (slices, [])
    (series,) = arrange(slices[::2])
    assert any("several slices have the same SOPInstanceUID" in remark for remark in series.tolerated)


def test_phases_with_the_same_sop_instance_uid_are_no_copies() -> None:
    slices = [slice_at(1.0, file=phase, traits=(("TemporalPositionIndex", phase),)) for phase in "12"]
    assert set_copies_aside(slices) == (slices, [])


def test_the_frames_of_one_object_share_its_sop_instance_uid_without_a_remark() -> None:
    (series,) = arrange([slice_at(z, SOPInstanceUID="1.2.9", frame=frame) for frame, z in enumerate((1.0, 2.0), 1)])
    assert series.tolerated == ()


def phases(trait: str, values: list[str], heights: list[float]) -> list[Slice]:
    return [
        slice_at(z, traits=((trait, value),), file=f"{value}-{z}", SOPInstanceUID=f"{value}.{z}")
        for value in values
        for z in heights
    ]


@pytest.mark.parametrize(
    "trait", ["ConvolutionKernel", "NominalPercentageOfCardiacPhase", "TemporalPositionIndex", "StackID"]
)
def test_phases_and_kernels_are_separated_at_equal_and_at_different_positions(trait: str) -> None:
    for shift in (0.0, 2.5):
        slices = phases(trait, ["a"], [0, 5, 10]) + phases(trait, ["b"], [shift, shift + 5, shift + 10])
        parts = arrange(slices)
        assert [series.part for series in parts] == [f"{trait} a", f"{trait} b"]
        assert [series.spacing for series in parts] == [5, 5]
        assert all("separated from other slices" in str(series.tolerated) for series in parts)


@pytest.mark.parametrize("trait", ["AcquisitionNumber", "KVP", "ImageType", "TriggerTime"])
def test_acquisitions_are_separated_only_if_they_overlap(trait: str) -> None:
    assert [series.part != "" for series in arrange(phases(trait, ["1", "2"], [0, 5, 10]))] == [True, True]
    step_and_shoot = phases(trait, ["1"], [0, 5, 10]) + phases(trait, ["2"], [15, 20])
    (series,) = arrange(step_and_shoot)
    assert (series.part, len(series.slices)) == ("", 5)


def test_acquisitions_are_separated_by_time_without_repeating_the_time() -> None:
    parts = arrange(phases("AcquisitionTime", ["101500", "101600"], [0, 5, 10]))
    assert [series.part for series in parts] == ["AcquisitionTime number 1 of 2", "AcquisitionTime number 2 of 2"]


def test_a_trait_that_numbers_the_slices_does_not_split_a_series() -> None:
    slices = [slice_at(z, traits=(("TemporalPositionIndex", str(z)),)) for z in (0.0, 5.0, 10.0)]
    (series,) = arrange(slices)
    assert series.part == ""


def test_a_trait_that_would_leave_gaps_does_not_split_a_series() -> None:
    # Two slices at every position, and a trait that is unrelated to the positions.
    slices = [
        slice_at(z, traits=(("AcquisitionNumber", str((index + turn * (index > 3)) % 2)),), file=f"{turn}-{z}")
        for turn in (0, 1)
        for index, z in enumerate([0.0, 5.0, 10.0, 15.0, 20.0, 25.0])
    ]
    with pytest.raises(CtbasisError, match="no attribute separates them"):
        arrange(slices)


@given(st.sets(st.integers(1, 38), max_size=9), st.floats(0.3, 5))
def test_no_slice_is_lost_and_gaps_count_the_missing_slices(missing: set[int], spacing: float) -> None:
    heights = [height * spacing for height in range(40) if height not in missing]
    (series,) = arrange(stack(heights))
    assert len(series.slices) == len(heights)
    assert sum(gap.missing for gap in series.gaps) == len(missing)
    assert series.spacing == pytest.approx(spacing)
