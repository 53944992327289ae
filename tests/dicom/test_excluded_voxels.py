"""Which voxels come back as they were: what is around the patient, not what is low."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from ctbasis.dicom.excluded_voxels import exclude, excluded_voxels
from ctbasis.storage.voxels import AIR, absent
from tests.emphysema import EDGE, PIXEL, chest, ellipse, noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.emphysema import Masks


def away_from(mask: NDArray[np.bool_], pixels: int = 3) -> NDArray[np.bool_]:
    """Return `mask` without the pixels next to other parts."""
    return np.asarray(binary_erosion(mask, iterations=pixels, border_value=1))


@pytest.fixture(scope="module")
def noisy() -> tuple[NDArray[np.float32], Masks]:
    clean, masks = chest()
    return clean + noise(), masks


def test_noise_below_air_inside_the_body_is_not_excluded(noisy: tuple[NDArray[np.float32], Masks]) -> None:
    hu, masks = noisy
    excluded = excluded_voxels(hu, (PIXEL, PIXEL))
    for part, share in (("emphysema", 0.08), ("airway", 0.3), ("lung", -1)):
        assert (hu < AIR)[masks[part]].mean() > share
        assert not excluded[masks[part]].any()
    assert not excluded[away_from(masks["body"])].any()


def test_air_around_the_patient_is_excluded_whether_noise_takes_it_above_or_below_air(
    noisy: tuple[NDArray[np.float32], Masks],
) -> None:
    hu, masks = noisy
    excluded = excluded_voxels(hu, (PIXEL, PIXEL))
    air = away_from(masks["air"])
    assert 0.4 < (hu < AIR)[air].mean() < 0.6
    assert excluded[air].all()
    # Next to the skin, all that is lower than any lung.
    near = masks["air"] & ~air & (hu < AIR)
    assert near.sum() > 100
    assert excluded[near].mean() > 0.97


def test_a_table_that_touches_the_body_does_not_make_the_air_below_the_back_a_part_of_the_body(
    noisy: tuple[NDArray[np.float32], Masks],
) -> None:
    hu, masks = noisy
    excluded = excluded_voxels(hu, (PIXEL, PIXEL))
    pocket = away_from(masks["pocket"], 4)
    assert pocket.sum() > 500
    assert excluded[pocket].all()
    assert not excluded[away_from(masks["table"], 1)].any()


def test_a_foam_pillow_is_no_air_and_does_not_join_lung_and_outside() -> None:
    hu, masks = chest()
    pillow = ellipse(30, 60, -105, 0) & ~masks["body"]
    hu[pillow] = -840
    excluded = excluded_voxels(hu + noise(), (PIXEL, PIXEL))
    assert not excluded[away_from(pillow, 5)].any()
    assert not excluded[masks["body"]].any()


def test_padding_and_what_it_touches_are_excluded_with_and_without_a_declaration() -> None:
    hu, masks = chest()
    hu += noise()
    corners = ~ellipse(178, 178)
    hu[corners] = -2000
    for padded in (None, corners):
        excluded = excluded_voxels(hu, (PIXEL, PIXEL), padded)
        assert excluded[corners].all()
        assert excluded[away_from(masks["air"] & ~corners)].all()
        assert not excluded[masks["emphysema"]].any()
    tissue = np.zeros(hu.shape, np.bool_)
    tissue[EDGE // 2, EDGE // 2 - 20 : EDGE // 2] = True
    np.testing.assert_array_equal(
        excluded_voxels(hu, (PIXEL, PIXEL), tissue), excluded_voxels(hu, (PIXEL, PIXEL)) | tissue
    )


@pytest.mark.parametrize("floor", [-1024, -1200, -3024, -8192])
def test_an_area_that_the_scanner_clipped_is_excluded_and_single_clipped_voxels_are_not(floor: int) -> None:
    hu, masks = chest()
    hu = np.maximum(np.round(hu + noise()), -1024).astype(np.int16)
    hu[120:130, 60:72] = floor
    excluded = excluded_voxels(hu, (PIXEL, PIXEL))
    assert excluded[120:130, 60:72].all()
    inside = masks["body"].copy()
    inside[120:130, 60:72] = False
    assert (hu == -1024)[inside].sum() > 100
    assert not excluded[inside].any()


@pytest.mark.parametrize("value", [-1500, -3000, -20000])
def test_voxels_far_below_air_inside_the_body_are_not_excluded_and_change_nothing_else(value: int) -> None:
    hu, masks = chest()
    hu += noise()
    before = excluded_voxels(hu, (PIXEL, PIXEL))
    defective = np.zeros(hu.shape, np.bool_)
    defective[100:160:12, 60:90:7] = True
    defective &= masks["body"]
    hu[defective] = value
    np.testing.assert_array_equal(excluded_voxels(hu, (PIXEL, PIXEL)), before)


def test_metal_and_its_streaks_do_not_open_the_chest() -> None:
    hu, masks = chest()
    hu[ellipse(6, 6, -80, 60)] = 8000
    streak = (np.abs((np.arange(EDGE) - (EDGE - 1) / 2)[:, None] * PIXEL + 80) < 3) & masks["body"]
    hu[streak & ~ellipse(6, 6, -80, 60)] -= 1400
    excluded = excluded_voxels(hu + noise(), (PIXEL, PIXEL))
    assert not excluded[masks["lung"] | masks["emphysema"]].any()


def test_a_lung_that_the_image_border_cuts_is_not_outside() -> None:
    hu, _ = chest()
    hu = (hu + noise())[90:160, 60:110]
    assert not excluded_voxels(hu, (PIXEL, PIXEL)).any()


@pytest.mark.parametrize("value", [-1000.0, -1024.0, 0.0, 40.0])
def test_a_constant_slice_is_excluded_if_it_is_air(value: float) -> None:
    assert excluded_voxels(np.full((16, 9), value), (1.0, 1.0)).all() == (value <= AIR)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 3), (5, 4)])
def test_tiny_slices_of_any_content(shape: tuple[int, int]) -> None:
    for hu in (np.full(shape, -1000), np.full(shape, 40), np.arange(np.prod(shape)).reshape(shape) * 300 - 1500):
        assert excluded_voxels(hu, (4.0, 4.0)).shape == shape


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_and_aside_share_the_voxels(dtype: type) -> None:
    hu = np.array([[-1020, -990, 40], [-2000, 7, -1010]], dtype)
    excluded = np.array([[True, False, True], [True, False, False]])
    A, aside = hu.copy(), np.empty_like(hu)
    assert exclude(A, aside, excluded)
    assert A.tolist() == [[AIR, -990, AIR], [AIR, 7, -1010]]
    np.testing.assert_array_equal(aside, np.where(excluded, hu, dtype(absent(dtype))))
    assert not exclude(A, aside, np.zeros_like(excluded))
