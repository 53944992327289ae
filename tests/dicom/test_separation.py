"""Which slices form one volume: separation of patients, reconstructions and phases, slabs, and slices joined again."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctbasis.dicom.series import CTSeries, arrange
from ctbasis.dicom.traits import ACQUISITIONS, HIDDEN, IDENTITY, PHASES, RECONSTRUCTION, TIMES
from ctbasis.errors import CtbasisError
from tests.dicom.test_series import slice_at, stack

if TYPE_CHECKING:
    import random

    from ctbasis.dicom.instance import Slice


def volume(heights: list[float], name: str, *, at: tuple[float, float] = (-5.0, -5.0), **traits: str) -> list[Slice]:
    """Return slices whose file names begin with `name`, with the given traits."""
    return [
        slice_at(
            z,
            file=f"{name} {z:g}",
            SOPInstanceUID=f"1.2.{name}.{z}",
            ImagePositionPatient=(*at, z),
            traits=tuple(traits.items()),
        )
        for z in heights
    ]


def contents(series: list[CTSeries]) -> list[list[str]]:
    """Return the files of each series."""
    return [[entry.file for entry in one.slices] for one in series]


def files(name: str, heights: list[float]) -> list[str]:
    return [f"{name} {z:g}" for z in heights]


FIRST, BETWEEN = [0.0, 2.5, 5.0, 7.5, 10.0, 12.5], [6.0, 8.5, 11.0, 13.5, 16.0]


@pytest.mark.parametrize("trait", [*IDENTITY, *RECONSTRUCTION, *PHASES, *ACQUISITIONS, *TIMES])
def test_volumes_that_overlap_between_each_others_slices_are_told_apart_by_every_trait(trait: str) -> None:
    values = ("1.0", "5.0")
    slices = volume(FIRST, "a", **{trait: values[0]}) + volume(BETWEEN, "b", **{trait: values[1]})
    series = arrange(slices)
    assert contents(series) == [files("a", FIRST), files("b", BETWEEN)]
    assert [one.spacing for one in series] == [2.5, 2.5]
    assert [one.gaps for one in series] == [(), ()]
    shown = (
        [f"{trait} number {number} of 2" for number in (1, 2)] if trait in HIDDEN else [f"{trait} {v}" for v in values]
    )
    assert [one.part for one in series] == shown


def test_a_single_slice_of_another_patient_is_told_apart() -> None:
    series = arrange(volume(FIRST, "a", PatientID="1") + volume([6.0], "b", PatientID="2"))
    assert contents(series) == [files("a", FIRST), ["b 6"]]


def test_two_patients_whose_volumes_abut_are_told_apart() -> None:
    series = arrange(volume([0, 5, 10], "a", PatientID="1") + volume([15, 20, 25], "b", PatientID="2"))
    assert contents(series) == [files("a", [0, 5, 10]), files("b", [15, 20, 25])]


def test_slices_without_a_patient_id_are_taken_as_of_the_only_patient_that_is_named() -> None:
    (series,) = arrange(volume([0, 5], "a", PatientID="1") + volume([10, 15], "b"))
    assert len(series.slices) == 4


def test_a_frame_of_reference_of_its_own_for_every_slice_is_tolerated_with_a_remark() -> None:
    (series,) = arrange([entry for z in FIRST for entry in volume([z], "a", FrameOfReferenceUID=f"1.2.{z}")])
    assert contents([series]) == [files("a", FIRST)]
    assert any("FrameOfReferenceUID of its own" in remark for remark in series.tolerated)


@pytest.mark.parametrize("heights", [[0.0, 2.5, 5.0, 7.5], [1.0, 3.5, 6.0, 8.5], [10.0, 12.5, 15.0]])
def test_a_series_that_is_recentred_is_told_apart_by_the_position_in_the_plane(heights: list[float]) -> None:
    series = arrange(volume([0, 2.5, 5, 7.5], "a") + volume(heights, "b", at=(35.0, -5.0)))
    assert contents(series) == [files("a", [0, 2.5, 5, 7.5]), files("b", heights)]
    assert [one.part for one in series] == [f"position in the plane number {number} of 2" for number in (1, 2)]
    assert [one.tilt for one in series] == [0, 0]


def test_a_drift_along_a_straight_line_does_not_separate_slices() -> None:
    slices = [slice_at(z, ImagePositionPatient=(0.9 * z, 0.4 * z, z)) for z in range(10)]
    (series,) = arrange(slices)
    assert len(series.slices) == 10


def test_another_pixel_spacing_is_another_volume() -> None:
    series = arrange(stack([0, 1, 2]) + stack([3, 4, 5], PixelSpacing=(0.9, 0.9)))
    assert [len(one.slices) for one in series] == [3, 3]
    assert [one.part for one in series] == ["PixelSpacing 0.7 x 0.7 mm", "PixelSpacing 0.9 x 0.9 mm"]
    (rounded,) = arrange(stack([0, 1, 2]) + stack([3, 4, 5], PixelSpacing=(0.70004, 0.7)))
    assert len(rounded.slices) == 6


def test_thin_and_thick_slices_at_equal_positions_are_told_apart() -> None:
    series = arrange(
        volume([0, 1, 2, 3, 4, 5], "thin", SliceThickness="1") + volume([0, 5], "thick", SliceThickness="5")
    )
    assert contents(series) == [files("thin", [0, 1, 2, 3, 4, 5]), files("thick", [0, 5])]
    assert [one.spacing for one in series] == [1, 5]


def test_a_rounded_slice_thickness_is_one_thickness() -> None:
    (series,) = arrange(volume([0, 5], "a", SliceThickness="0.625") + volume([10, 15], "b", SliceThickness="0.63"))
    assert len(series.slices) == 4


@pytest.mark.parametrize("trait", [*PHASES, "TriggerTime", "AcquisitionNumber", "SeriesNumber", "SeriesDescription"])
@pytest.mark.parametrize("length", [2, 8])
def test_slabs_that_abut_are_one_volume(trait: str, length: int) -> None:
    heights = [2.5 * z for z in range(24)]
    slices = [entry for at, z in enumerate(heights) for entry in volume([z], "a", **{trait: str(300 + at // length)})]
    (series,) = arrange(slices)
    assert contents([series]) == [files("a", heights)]
    assert (series.spacing, series.gaps, series.part) == (2.5, (), "")
    assert any("slabs that abut" in remark for remark in series.tolerated) == (trait in PHASES)
    if trait in PHASES:
        assert f"{trait} 300, {trait} 301" in str(series.tolerated)


def test_a_missing_slice_between_slabs_is_a_gap() -> None:
    slabs = volume([0, 5, 10], "a", StackID="1") + volume([20, 25, 30], "b", StackID="2")
    (series,) = arrange(slabs)
    assert [gap.missing for gap in series.gaps] == [1]


def test_slabs_of_several_phases_are_one_volume_for_each_phase() -> None:
    heights = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    slices = [
        entry
        for phase in (40, 70)
        for z in heights
        for entry in volume(
            [z],
            f"{phase}",
            NominalPercentageOfCardiacPhase=str(phase),
            NominalCardiacTriggerDelayTime=str(10 * phase + z // 3),
        )
    ]
    assert contents(arrange(slices)) == [files("40", heights), files("70", heights)]


@pytest.mark.parametrize("trait", ["SeriesDescription", "SeriesNumber"])
def test_phases_that_differ_in_description_or_number_alone_are_told_apart(trait: str) -> None:
    series = arrange(volume(FIRST, "a", **{trait: "10"}) + volume(FIRST, "b", **{trait: "20"}))
    assert contents(series) == [files("a", FIRST), files("b", FIRST)]


def test_the_remark_names_the_delay_of_each_phase() -> None:
    series = arrange(
        [entry for ms in ("250.5", "600") for entry in volume(FIRST, ms, NominalCardiacTriggerDelayTime=ms)]
    )
    assert [one.part for one in series] == [f"NominalCardiacTriggerDelayTime {ms}" for ms in ("250.5", "600")]


def test_volumes_between_each_others_slices_that_nothing_tells_apart_are_refused() -> None:
    with pytest.raises(CtbasisError, match=r"alternating distances of 1\.500 and 1\.000 mm") as caught:
        arrange(volume([0, 2.5, 5, 7.5, 10], "a") + volume([1.5, 4, 6.5, 9], "b"))
    assert "no attribute separates them" in str(caught.value)


def of_their_own(heights: list[float], **changes: Any) -> list[Slice]:
    """Return slices with a SeriesInstanceUID each."""
    return [slice_at(z, SeriesInstanceUID=f"1.2.7.{1000 - 10 * z:.0f}", **changes) for z in heights]


def test_slices_with_a_series_instance_uid_each_are_put_together_with_a_remark() -> None:
    heights = [2.5 * z for z in range(24)]
    (series,) = arrange(of_their_own(heights[::-1]))
    assert list(series.positions) == heights
    assert series.SeriesInstanceUID == "1.2.7.1000"
    assert "put together from 24 series of one slice each" in str(series.tolerated)


def test_slices_with_a_series_instance_uid_each_are_put_together_around_a_missing_one() -> None:
    (series,) = arrange(of_their_own([0, 5, 10, 20, 25]))
    assert [gap.missing for gap in series.gaps] == [1]


def test_lone_slices_that_do_not_abut_and_series_of_several_slices_stay_apart() -> None:
    assert len(arrange(of_their_own([0, 5, 17, 31]))) == 4
    assert len(arrange(stack([0, 5]) + stack([10, 15], SeriesInstanceUID="1.2.9"))) == 2


def test_slices_with_new_uids_throughout_are_refused() -> None:
    slices = [
        slice_at(5.0 * z, SeriesInstanceUID=f"1.2.7.{z}", traits=(("StudyInstanceUID", f"1.2.8.{z}"),))
        for z in range(6)
    ]
    with pytest.raises(CtbasisError, match="6 slices follow each other at one step"):
        arrange(slices)


@st.composite
def two_sources(draw: st.DrawFn) -> tuple[str, list[Slice]]:
    """Draw slices of two volumes of one series which differ in one trait, and return the trait and the slices."""
    trait = draw(st.sampled_from([*IDENTITY, *RECONSTRUCTION, *PHASES, *ACQUISITIONS]))
    steps = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    starts = draw(st.tuples(st.integers(0, 40), st.integers(0, 40)))
    slices: list[Slice] = []
    for number, (step, start) in enumerate(zip(steps, starts, strict=True), start=1):
        chosen = draw(st.sets(st.integers(0, 19), min_size=1, max_size=20))
        slices += volume([(start + step * at) / 4 for at in sorted(chosen)], f"{number}", **{trait: f"{number}"})
    return trait, draw(st.permutations(slices))


@given(two_sources(), st.randoms(use_true_random=False))
def test_no_volume_is_interleaved_of_two_sources(mixed: tuple[str, list[Slice]], shuffle: random.Random) -> None:
    trait, slices = mixed
    shuffle.shuffle(slices)
    try:
        series = arrange(slices)
    except CtbasisError as error:
        # Slices are missing such that the others alternate.
        assert "alternating" in str(error)  # noqa: PT017 - the other outcome is tested below
        return
    assert sorted(entry.file for one in series for entry in one.slices) == sorted(entry.file for entry in slices)
    for one in series:
        heights = [entry.ImagePositionPatient[2] for entry in one.slices]
        assert heights == sorted(heights)
        assert list(one.positions) == pytest.approx(heights)
        runs: defaultdict[str, int] = defaultdict(int)
        sources = [entry.file[0] for entry in one.slices]
        for before, after in zip(["", *sources], sources, strict=False):
            runs[after] += before != after
        assert max(runs.values()) == 1, f"interleaved by {trait}"
        if trait in (*IDENTITY, *RECONSTRUCTION):
            assert len(runs) == 1


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), min_size=1, max_size=30, unique_by=lambda entry: entry))
def test_two_patients_are_never_in_one_volume_whatever_else_agrees(chosen: list[tuple[int, bool]]) -> None:
    slices = [entry for z, other in chosen for entry in volume([z / 2], f"{other:d}", PatientID=f"{other:d}")]
    try:
        series = arrange(slices)
    except CtbasisError as error:
        assert "alternating" in str(error)  # noqa: PT017 - the other outcome is tested below
        return
    assert all(len({entry.file[0] for entry in one.slices}) == 1 for one in series)
    assert np.sum([len(one.slices) for one in series]) == len(slices)
