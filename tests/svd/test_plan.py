"""The parameters are fitted to the matrix, and the plan says which were reduced."""

from __future__ import annotations

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.svd.plan import Plan, plan_factorization


def planned(rank: int, *, oversample: int = 15, power_iters: int = 2, rows: int = 1000, cols: int = 301) -> Plan:
    return plan_factorization(
        engine="numpy", rows=rows, cols=cols, rank=rank, oversample=oversample, power_iters=power_iters, seed=None
    )


def test_parameters_far_from_full_rank_are_unchanged() -> None:
    plan = planned(50)
    assert (plan.rank, plan.oversample, plan.clamps) == (50, 15, [])


def test_oversampling_is_reduced_near_full_rank_with_a_message() -> None:
    plan = planned(300)
    assert (plan.rank, plan.oversample) == (300, 1)
    assert "oversample 15 is reduced to 1" in plan.clamps[0]


def test_a_rank_above_the_slice_count_is_reduced_with_a_message() -> None:
    plan = planned(500)
    assert (plan.rank, plan.oversample) == (301, 0)
    assert "rank 500 is reduced to 301" in plan.clamps[0]


def test_the_rank_is_at_most_the_number_of_voxels() -> None:
    assert planned(50, rows=20, cols=301).rank == 20


@pytest.mark.parametrize(
    ("rank", "oversample", "power_iters", "name"),
    [(0, 15, 2, "rank"), (-3, 15, 2, "rank"), (5, -1, 2, "oversample"), (5, 15, -1, "power_iters")],
)
def test_an_invalid_parameter_is_an_error_that_names_it(
    rank: int, oversample: int, power_iters: int, name: str
) -> None:
    with pytest.raises(CtbasisError, match=name):
        planned(rank, oversample=oversample, power_iters=power_iters)
