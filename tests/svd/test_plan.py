"""What is asked is fitted to the matrix, and what had to give way is said."""

from __future__ import annotations

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.svd.plan import Plan, plan_factorization


def planned(rank: int, *, oversample: int = 15, power_iters: int = 2, rows: int = 1000, cols: int = 301) -> Plan:
    return plan_factorization(
        engine="numpy", rows=rows, cols=cols, rank=rank, oversample=oversample, power_iters=power_iters, seed=None
    )


def test_a_plan_far_from_full_rank_is_run_as_asked() -> None:
    plan = planned(50)
    assert (plan.rank, plan.oversample, plan.clamps) == (50, 15, [])


def test_oversampling_is_clamped_near_full_rank_and_says_so() -> None:
    plan = planned(300)
    assert (plan.rank, plan.oversample) == (300, 1)
    assert "oversample 15 was asked, 1 is run" in plan.clamps[0]


def test_a_rank_beyond_the_slice_count_is_clamped_and_says_so() -> None:
    plan = planned(500)
    assert (plan.rank, plan.oversample) == (301, 0)
    assert "rank 500 was asked, 301 is run" in plan.clamps[0]


def test_fewer_voxels_than_slices_bound_the_rank_too() -> None:
    assert planned(50, rows=20, cols=301).rank == 20


@pytest.mark.parametrize(
    ("rank", "oversample", "power_iters", "name"),
    [(0, 15, 2, "rank"), (-3, 15, 2, "rank"), (5, -1, 2, "oversample"), (5, 15, -1, "power_iters")],
)
def test_nonsense_is_refused_by_name(rank: int, oversample: int, power_iters: int, name: str) -> None:
    with pytest.raises(CtbasisError, match=name):
        planned(rank, oversample=oversample, power_iters=power_iters)
