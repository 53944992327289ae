"""How this room's inner loops are compiled: numba, cached on disk, threads only where the loop says so.

Without fastmath: with it, what a process compiles and what the next one has from the cache differ in the last bit, and
where photons are drawn a last bit decides a whole image's noise. It is no faster here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` for one thread."""
    return cast("Callable[P, R]", numba.njit(cache=True)(function))


def parallel_kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` with its `numba.prange` loops spread over all cores.

    Call it from one thread at a time: not every threading layer of numba stands being entered twice.
    """
    return cast("Callable[P, R]", numba.njit(cache=True, parallel=True)(function))
