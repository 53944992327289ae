"""A pass whose operand is larger than what sockets hold, and whose results are no sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ctbasis.svd.passes import Parts


class LargePass:
    """Counts; its operand is 32 MB of ones."""

    def __init__(self) -> None:
        self.ones = np.ones(4_000_000)

    def merge(self, one: Parts, other: Parts) -> Parts:
        """Return the sum, and one of the operand."""
        return (one[0] + other[0] + self.ones[-1:],)
