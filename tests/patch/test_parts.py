"""Gaps and lone slices: a series is cut into parts, and the result of a part depends on nothing beyond its ends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.matrix.slice_store import Series
from ctbasis.patch.bases import PatchBases
from ctbasis.patch.matrix import denoise_matrix
from ctbasis.patch.parts import MAX_STEP, Part, named_notes, notes_on_parts, parts_of, shared_anatomy, without_series
from ctbasis.patch.plan import PatchPlan
from tests.patch.conftest import EDGE, SIGMA, body, noisy, write

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.matrix.store import MatrixStore
    from ctbasis.patch.result import PatchStore

PLAN = PatchPlan(engine="numpy", tau=2.3, wiener=False, stride=2, classes=6)

POSITIONS = (0.0, 2.5, 5.0, 7.5, 10.0, 12.5, 100.0, 130.0, 132.5, 135.0)
"""Six slices, one, and three, which are cut by gaps of 87.5 and 30 mm."""


def series(positions: tuple[float, ...], breaks: tuple[int, ...] = (), first: int = 0) -> Series:
    spacing = float(np.median(np.diff(positions))) if len(positions) > 1 else 0.0
    return Series("1.2", first, len(positions), spacing, (0.7, 0.7), breaks, positions)


def runs(entry: Series) -> list[tuple[int, int, float]]:
    return [(run.first, run.count, run.spacing) for run in shared_anatomy(entry)]


def test_a_series_without_gaps_is_one_part() -> None:
    whole = series((0.0, 2.5, 5.0, 7.5))
    assert shared_anatomy(whole) == [whole]
    assert [(part.number, part.name) for part in parts_of([whole, replace(whole, first=4)])] == [
        (0, "series 1"),
        (1, "series 2"),
    ]


def test_a_series_is_cut_where_slices_are_missing_and_where_they_are_far_apart() -> None:
    assert runs(series(POSITIONS, (6, 7), first=20)) == [(20, 6, 2.5), (26, 1, 0.0), (27, 3, 2.5)]
    names = [part.name for part in parts_of([series(POSITIONS, (6, 7))])]
    assert names == ["series 1, slices 1 to 6", "series 1, slice 7", "series 1, slices 8 to 10"]
    # Thin slices with a gap that is narrower than the largest step.
    assert runs(series((0.0, 1.0, 2.0, 4.0, 5.0), (3,))) == [(0, 3, 1.0), (3, 2, 1.0)]


def test_slices_that_share_no_anatomy_are_each_on_their_own_however_regular_they_are() -> None:
    wide = tuple(np.arange(4) * (MAX_STEP + 4))
    assert runs(series(wide)) == [(number, 1, 0.0) for number in range(4)]
    # A volume made of an array has a spacing and no positions.
    assert runs(replace(series(wide), positions=())) == [(number, 1, 0.0) for number in range(4)]
    near = tuple(np.arange(4) * MAX_STEP)
    assert runs(series(near)) == runs(replace(series(near), positions=())) == [(0, 4, MAX_STEP)]


def test_ten_slices_at_irregular_distances_are_joined_only_where_they_are_near() -> None:
    steps = [4.0, 96.0, 12.0, 4.0, 4.0, 30.0, 20.0, 15.0, 9.0]
    found = runs(series(tuple(np.cumsum([0.0, *steps]))))
    assert [(first, count) for first, count, _ in found] == [(0, 2), (2, 1), (3, 3), (6, 1), (7, 1), (8, 1), (9, 1)]
    assert [spacing for _, count, spacing in found if count > 1] == [4.0, 4.0]


def test_parts_travel_as_attributes_of_a_store() -> None:
    for part in parts_of([series(POSITIONS, (6, 7))]):
        assert Part.from_attributes(part.to_attributes()) == part
    with pytest.raises(ValueError, match="2 positions for 3 slices"):
        Series.from_attributes({**vars(series(POSITIONS[:3])), "positions": [1.0, 2.0]})


def test_notes_name_the_parts_that_they_are_about() -> None:
    parts = parts_of([series(POSITIONS, (6, 7)), series((0.0, 2.5), first=10)])
    ((name, note),) = notes_on_parts(parts)
    assert (name, note[:7]) == ("series 1", "3 parts")
    assert named_notes([("series 1, slice 7", "a"), ("series 1", "b"), ("series 1, slices 8 to 10", "a")]) == [
        "series 1, slice 7; series 1, slices 8 to 10: a",
        "series 1: b",
    ]
    assert without_series("series 1, slice 7; series 1, slices 8 to 10: a") == "slice 7; slices 8 to 10: a"
    assert without_series("series 1: b") == "b"


def denoised(matrix: MatrixStore, place: Path, plan: PatchPlan = PLAN) -> PatchStore:
    return denoise_matrix(matrix.uri, str(place / "denoised.zarr"), str(place / "bases.zarr"), plan)


def gapped(uri: str, hu: NDArray[np.int16]) -> MatrixStore:
    return write(uri, hu, (len(POSITIONS),), positions=POSITIONS, breaks=(6, 7))


@pytest.fixture(scope="module")
def truth() -> NDArray[np.float32]:
    """The slices show the anatomy at their positions: beyond a gap, vessels and lungs are elsewhere."""
    whole = body(EDGE, 70)
    whole[60:90, 80:120, 30:] = 300.0
    return np.ascontiguousarray(whole[..., [round(position / 2.5) for position in POSITIONS]])


@pytest.fixture(scope="module")
def cut(truth: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> tuple[PatchStore, NDArray[np.int16]]:
    place = tmp_path_factory.mktemp("cut")
    hu = noisy(truth)
    # The lone slice has twice the noise of the others.
    hu[..., 6] = np.round(2 * hu[..., 6] - truth[..., 6])
    return denoised(gapped(str(place / "matrix.zarr"), hu), place), hu


def images(store: PatchStore) -> NDArray[np.float32]:
    return store.read_columns(slice(None)).reshape(EDGE, EDGE, -1).astype(np.float32)


def test_every_part_has_its_own_depth_of_patches_and_its_own_noise(
    cut: tuple[PatchStore, NDArray[np.int16]],
) -> None:
    store, _ = cut
    assert [(part.slices.first, part.slices.count) for part in store.parts] == [(0, 6), (6, 1), (7, 3)]
    bases = PatchBases.open(store.uri.replace("denoised", "bases")).bases
    assert [bases[number - 1].shape[2] for number in store.plan.bases] == [5, 1, 3]
    assert [store.noise(number).sigma.shape[2] for number in range(3)] == [6, 1, 3]
    assert [noise.soft_tissue_sigma for noise in store.noise_summaries] == pytest.approx(
        [SIGMA, 2 * SIGMA, SIGMA], rel=0.25
    )
    assert [store.part_of(column) for column in range(10)] == [0] * 6 + [1] + [2] * 3
    assert store.plan.notes[0].startswith("series 1: 3 parts are denoised on their own")


def test_each_part_is_denoised_and_no_anatomy_crosses_a_gap(
    cut: tuple[PatchStore, NDArray[np.int16]], truth: NDArray[np.float32]
) -> None:
    store, hu = cut
    inside = truth > -300
    for part in store.parts:
        own = np.s_[..., part.slices.columns]
        before, after = ((image - truth)[own][inside[own]].std() for image in (hu, images(store)))
        assert after < 0.75 * before
    # The insert begins beyond the first gap: within it, the slices on both sides keep their mean.
    error = (images(store) - truth)[65:85, 85:115].mean(axis=(0, 1))
    assert (np.abs(error) < 0.2 * SIGMA * np.where(np.arange(len(POSITIONS)) == 6, 2, 1)).all()


def test_the_result_of_a_part_is_that_of_the_part_alone(
    cut: tuple[PatchStore, NDArray[np.int16]], tmp_path: Path
) -> None:
    store, hu = cut
    alone = write(str(tmp_path / "matrix.zarr"), hu[..., :6], (6,), positions=POSITIONS[:6])
    np.testing.assert_allclose(images(denoised(alone, tmp_path)), images(store)[..., :6], atol=1e-3)


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("dask", marks=pytest.mark.filterwarnings("ignore::ResourceWarning")),
        *(
            pytest.param(
                engine, marks=[pytest.mark.java, pytest.mark.filterwarnings("ignore:unclosed.*socket:ResourceWarning")]
            )
            for engine in ("spark", "mahout")
        ),
    ],
)
def test_all_engines_cut_a_series_alike(
    engine: str, cut: tuple[PatchStore, NDArray[np.int16]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if engine != "dask":
        request.getfixturevalue("spark_application")
    store, hu = cut
    other = denoised(gapped(str(tmp_path / "matrix.zarr"), hu), tmp_path, replace(PLAN, engine=engine))
    assert (other.parts, other.plan.bases, other.plan.patches) == (store.parts, store.plan.bases, store.plan.patches)
    difference = np.abs(images(other) - images(store))
    assert np.quantile(difference, 0.99) < (0.1 * SIGMA if engine == "mahout" else 0.01)


def test_a_part_of_air_is_returned_as_it_is(truth: NDArray[np.float32], tmp_path: Path) -> None:
    hu = noisy(truth)
    hu[..., 6] = -1000
    store = denoised(gapped(str(tmp_path / "matrix.zarr"), hu), tmp_path)
    assert store.plan.bases[1] == 0
    np.testing.assert_array_equal(images(store)[..., 6], hu[..., 6])
    assert 0 not in {store.plan.bases[0], store.plan.bases[2]}
    assert store.plan.patches == [[5, 5, 5], [5, 5, 3]]


def test_a_lone_slice_that_no_stored_basis_fits_gets_its_own(
    cut: tuple[PatchStore, NDArray[np.int16]], truth: NDArray[np.float32], tmp_path: Path
) -> None:
    store, hu = cut
    stored = store.uri.replace("denoised", "bases") + "/1"
    matrix = gapped(str(tmp_path / "matrix.zarr"), hu)
    again = denoised(matrix, tmp_path, replace(PLAN, basis=stored))
    np.testing.assert_allclose(images(again)[..., :6], images(store)[..., :6], atol=1e-3)
    assert again.plan.bases == [1, 2, 3]
    assert any(note.startswith("series 1, slice 7") and "no stored basis fits" in note for note in again.plan.notes)
    inside = truth[..., 6] > -300
    assert (images(again) - truth)[..., 6][inside].std() < 0.75 * 2 * SIGMA
