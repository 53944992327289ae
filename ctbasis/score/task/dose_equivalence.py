"""Equivalent dose: the dose at which unprocessed images have the detectability of processed ones.

The detectability of unprocessed images grows with the dose D. Where photons limit it, d'^2 is proportional to D; in
general a power law is fitted to d' at several doses by least squares,

    log d'(D) = a + b log D,            b = 1/2 where quantum noise alone counts

An image of dose D with detectability d' is worth the dose D_eq with d'(D_eq) = d': processing equals D_eq / D - 1 more
dose, or less, for this task. The reached dose is that at which a processed image has a given detectability.

References:
    E. Samei, S. Richard, "Assessment of the dose reduction potential of a model-based iterative reconstruction
        algorithm using a task-based performance metrology", Med. Phys. 42(1), 314-323, 2015.
    J. G. Fletcher et al., "Observer performance with varying radiation dose and reconstruction methods for detection of
        hepatic metastases", Radiology 289(2), 455-464, 2018 (why a task must be named).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Mapping

LEAST = 0.05
"""d' below which a value counts as this one, because the logarithm of a value near 0 says nothing."""

MOST = 1000.0
"""Largest dose that is given; its inverse is the smallest. A curve that is flat under noise has no finite one."""


@dataclass(frozen=True)
class DosePower:
    """The power law d'(D) = exp(level) D^slope.

    Attributes:
        level: a, log of d' at dose 1.
        slope: b.
    """

    level: float
    slope: float

    @classmethod
    def fit(cls, d_prime: Mapping[float, float]) -> Self:
        """Fit the power law to d' by dose.

        Raises:
            CtbasisError: There are fewer than two doses, or a dose is not positive.
        """
        if len(d_prime) < 2 or min(d_prime) <= 0:  # noqa: PLR2004 - a line
            raise CtbasisError(
                f"d' is given at the doses {sorted(d_prime)}", expected="at least two different doses above 0"
            )
        x = np.log(list(d_prime))
        y = np.log(np.maximum(list(d_prime.values()), LEAST))
        slope, level = np.polyfit(x, y, 1).tolist()
        return cls(level, slope)

    def at(self, dose: float) -> float:
        """Return d' at a dose."""
        return math.exp(self.level + self.slope * math.log(dose))

    def dose_of(self, d_prime: float) -> float:
        """Return the dose with a d', at most MOST and at least 1 / MOST; MOST where d' does not grow with the dose."""
        if self.slope <= 0:
            return MOST
        exponent = (math.log(max(d_prime, LEAST)) - self.level) / self.slope
        return math.exp(min(max(exponent, -math.log(MOST)), math.log(MOST)))
