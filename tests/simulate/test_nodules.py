"""Nodules have the right volume and contrast, are placed in lung, and their contrast recovery is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ctbasis.errors import CtbasisError
from ctbasis.simulate.nodules import (
    CLEARANCE,
    Contrast,
    InsertedNodule,
    check_places,
    insert,
    place,
    read_nodules,
    write_nodules,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SPACING = (2.5, 0.7, 0.8)
SHAPE = (9, 64, 56)
NODULE = InsertedNodule(4.0, 30.3, 27.6, 8.0, 600.0)


def lung() -> NDArray[np.float32]:
    return np.full(SHAPE, -850.0, np.float32)


def recovered(truth: NDArray[np.float32], image: NDArray[np.float32], *nodules: InsertedNodule) -> list[float | None]:
    contrast = Contrast(nodules, (SHAPE[1], SHAPE[2]), SPACING)
    for z in range(SHAPE[0]):
        contrast.add(z, truth[z], image[z])
    return contrast.recovered


@pytest.mark.parametrize("diameter", [3.0, 5.0, 8.0])
def test_an_inserted_sphere_has_its_volume_times_its_contrast(diameter: float) -> None:
    hu = lung()
    insert(hu, [InsertedNodule(4.2, 30.3, 27.6, diameter, 150.0)], SPACING)
    mass = (hu - lung()).sum(dtype=np.float64) * np.prod(SPACING)
    assert mass == pytest.approx(150 * np.pi / 6 * diameter**3, rel=0.03)


def test_inserting_into_parts_of_a_volume_gives_the_same_as_into_the_whole() -> None:
    whole, parts = lung(), lung()
    insert(whole, [NODULE], SPACING)
    insert(parts[:4], [NODULE], SPACING)
    insert(parts[4:], [NODULE], SPACING, first=4)
    np.testing.assert_array_equal(parts, whole)


def test_contrast_recovery_is_one_for_a_kept_nodule_and_zero_for_a_removed_one() -> None:
    truth = lung()
    insert(truth, [NODULE], SPACING)
    assert recovered(truth, truth, NODULE) == [pytest.approx(1.0)]
    assert recovered(truth, truth + 25, NODULE) == [pytest.approx(1.0)]
    assert recovered(truth, lung(), NODULE) == [pytest.approx(0.0, abs=1e-6)]
    half = (truth + lung()) / 2
    assert recovered(truth, half, NODULE) == [pytest.approx(0.5)]


def test_the_fit_is_unbiased_under_noise_and_a_blur_lowers_the_contrast() -> None:
    truth = lung()
    insert(truth, [NODULE], SPACING)
    rng = np.random.default_rng(0)
    noisy = [recovered(truth, truth + rng.normal(0, 60, SHAPE).astype(np.float32), NODULE)[0] for _ in range(40)]
    values = np.array(noisy, float)
    assert abs(values.mean() - 1) < 3 * values.std() / np.sqrt(40)
    (blurred,) = recovered(truth, gaussian_filter(truth, (0, 3, 3)), NODULE)
    assert blurred is not None
    assert 0.3 < blurred < 0.8


def test_a_nodule_that_no_slice_shows_has_no_recovery() -> None:
    assert recovered(lung(), lung(), InsertedNodule(30.0, 30.0, 27.0, 5.0, 150.0)) == [None]


def test_positions_are_in_lung_away_from_vessels_and_from_each_other_and_depend_on_the_seed() -> None:
    hu = np.full((20, 96, 96), 40.0, np.float32)
    hu[:, 16:80, 16:80] = -850
    hu[:, 44:48, :] = 0  # a vessel
    hu[:, :12] = -850  # a mattress
    spacing = (2.5, 1.0, 1.0)
    found = place(hu, spacing, seed=3, each=2)
    assert found == place(hu, spacing, seed=3, each=2)
    assert found != place(hu, spacing, seed=4, each=2)
    assert {(one.diameter_mm, one.contrast_hu) for one in found} == {(d, c) for d in (3, 5, 8) for c in (150, 600)}
    for one in found:
        reach = one.diameter_mm / 2 + CLEARANCE - 1
        rows = slice(int(one.row - reach), int(one.row + reach) + 1)
        assert (hu[round(one.slice), rows, round(one.column)] == -850).all()
        others = [other for other in found if other is not one]
        offsets = [np.array([other.slice, other.row, other.column]) - [one.slice, one.row, one.column]
                   for other in others]  # fmt: skip
        gap = min(
            np.linalg.norm(offset * spacing) - (one.diameter_mm + other.diameter_mm) / 2
            for offset, other in zip(offsets, others, strict=True)
        )
        assert gap >= 8 - 1e-9
    only = place(hu, spacing, each=1, within=range(8, 12))
    assert all(8 <= one.slice < 12 for one in only)


def test_without_lung_there_is_no_room_for_a_nodule() -> None:
    with pytest.raises(CtbasisError, match="no room for a nodule of 3 mm"):
        place(np.zeros((6, 32, 32), np.float32), SPACING)


def test_a_written_list_is_read_back_and_any_other_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nodules.json"
    write_nodules([NODULE], path)
    assert read_nodules(path) == [NODULE]
    for text in ("[]", "no json", '{"nodules": []}', '{"nodules": [{"slice": 1}]}'):
        path.write_text(text)
        with pytest.raises(CtbasisError, match=r"nodules\.json"):
            read_nodules(path)
    with pytest.raises(CtbasisError, match="FileNotFoundError"):
        read_nodules(tmp_path / "absent.json")


@pytest.mark.parametrize("values", [(0.0, 150.0), (-3.0, 150.0), (3.0, 0.0), (3.0, float("nan"))])
def test_a_nodule_of_impossible_size_or_contrast_is_refused(values: tuple[float, float]) -> None:
    with pytest.raises(CtbasisError, match="a nodule of"):
        InsertedNodule(0, 0, 0, *values)


def test_a_position_in_air_or_outside_the_volume_is_refused() -> None:
    hu = lung()
    hu[:, :10] = -1000
    check_places([NODULE], hu, air=-950)
    for place_, text in (((4, 4, 27), "in air"), ((12, 30, 27), "outside the 9 slices"), ((4, 30, 90), "outside")):
        with pytest.raises(CtbasisError, match=text):
            check_places([InsertedNodule(*map(float, place_), 5.0, 150.0)], hu, air=-950)
