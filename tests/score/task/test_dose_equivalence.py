"""A dose equivalence is exact where d' follows a power of the dose."""

from __future__ import annotations

import math

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.score.task.dose_equivalence import MOST, DosePower


def test_quantum_noise_makes_twice_the_d_prime_worth_four_times_the_dose() -> None:
    scale = DosePower.fit({dose: 2.5 * math.sqrt(dose) for dose in (2.0, 1.0, 0.5, 0.25)})
    assert (scale.slope, scale.at(1.0)) == (pytest.approx(0.5), pytest.approx(2.5))
    assert scale.dose_of(5.0) == pytest.approx(4.0)
    assert scale.dose_of(scale.at(0.3)) == pytest.approx(0.3)


def test_a_d_prime_of_zero_is_worth_little_and_one_that_does_not_grow_is_worth_the_largest_dose() -> None:
    scale = DosePower.fit({1.0: 2.0, 0.25: 1.0})
    assert scale.dose_of(0.0) == pytest.approx(1 / MOST)
    for d_prime in (1.0, 1.0001):
        assert DosePower.fit({1.0: d_prime, 0.25: 1.0}).dose_of(2.0) == pytest.approx(MOST)


@pytest.mark.parametrize("curve", [{1.0: 2.0}, {0.0: 1.0, 1.0: 2.0}])
def test_a_curve_needs_two_doses_above_zero(curve: dict[float, float]) -> None:
    with pytest.raises(CtbasisError, match="d' is given at the doses"):
        DosePower.fit(curve)
