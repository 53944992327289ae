"""Patch extraction and aggregation on slabs, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from ctbasis.patch.rows import PatchGrid, checkerboard, patch_positions, patch_shape
from ctbasis.patch.volume import slabs
from tests.patch.volumes import SHAPE, white_noise


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_aggregating_unchanged_patches_gives_the_slab_up_to_every_border(stride: int) -> None:
    slab = white_noise((5, 17, 6))
    grid = PatchGrid(SHAPE, (5, 17, 6))
    patches = grid.patches_in_row(0, patch_positions(17, 5, stride))
    rows = grid.extract(slab, patches)
    total, certainty = np.zeros_like(slab), np.zeros_like(slab)
    certainty.reshape(-1)[patches] = np.linspace(0.5, 2, len(rows))
    grid.aggregate(total, rows, certainty.reshape(-1)[patches], patches)
    weight = grid.weight_sum(certainty)
    assert (weight > 0).all()
    np.testing.assert_allclose(total / weight, slab, rtol=1e-5)


@pytest.mark.parametrize("shape", [(5, 5, 3), (4, 5, 2), (1, 2, 1)])
def test_extracted_patches_centres_and_weight_sums_equal_those_of_numpy(shape: tuple[int, int, int]) -> None:
    slab = white_noise((9, 11, 6))
    grid = PatchGrid(shape, (9, 11, 6))
    patches = grid.patches_in_row(2, np.array([1, 4]))
    windows = sliding_window_view(slab, shape)[2, [1, 4]].reshape(-1, *shape)
    np.testing.assert_array_equal(grid.extract(slab, patches), windows.reshape(len(windows), -1))
    middle = tuple(edge // 2 for edge in shape)
    np.testing.assert_array_equal(grid.at_centres(slab, patches), windows[:, *middle])
    mask = slab > np.quantile(slab, 0.98)
    held = sliding_window_view(mask, shape).any(axis=(3, 4, 5))
    np.testing.assert_array_equal(grid.occupied(mask)[: held.shape[0], : held.shape[1], : held.shape[2]], held)
    certainty = np.zeros_like(slab)
    certainty[2, 1, 0], certainty[3, 2, 1] = 0.5, 2.0
    expected = np.zeros_like(slab)
    expected[2 : 2 + shape[0], 1 : 1 + shape[1], : shape[2]] += 0.5
    expected[3 : 3 + shape[0], 2 : 2 + shape[1], 1 : 1 + shape[2]] += 2.0
    np.testing.assert_array_equal(grid.weight_sum(certainty), expected)


def test_patches_cover_every_voxel_at_every_stride() -> None:
    for length in range(5, 14):
        for stride in range(1, 6):
            held = {voxel for place in patch_positions(length, 5, stride) for voxel in range(place, place + 5)}
            assert held == set(range(length))


def test_patches_on_a_checkerboard_cover_every_voxel() -> None:
    every = patch_positions(23, 5, 1)
    held = np.zeros((23, 23), np.intp)
    for line in every:
        for place in checkerboard(every, line, every[-1]):
            held[line : line + 5, place : place + 5] += 1
    assert held.min() >= 1
    assert held[5:-5, 5:-5].min() >= 12
    assert held[5:-5, 5:-5].max() <= 13


def test_slabs_process_every_row_once() -> None:
    parts = list(slabs(70, height=32, halo=4))
    assert [row for part in parts for row in range(part.first, part.stop)] == list(range(70))
    assert all(part.low <= part.first and part.high >= part.stop for part in parts)


def test_a_patch_has_fewer_slices_where_they_are_thick_and_is_no_larger_than_the_volume() -> None:
    assert patch_shape((512, 512, 200), (0.7, 0.7, 0.7)) == (5, 5, 5)
    assert patch_shape((512, 512, 200), (0.7, 0.7, 5.0)) == (5, 5, 3)
    assert patch_shape((512, 512, 2), (0.7, 0.7, 5.0)) == (5, 5, 2)
    assert patch_shape((512, 512, 1), (0.7, 0.7, 5.0)) == (7, 7, 1)
    assert patch_shape((4, 6, 1), (0.7, 0.7, 5.0)) == (4, 6, 1)
