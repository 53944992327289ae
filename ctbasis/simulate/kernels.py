"""Decorators that compile inner loops with numba and cache the machine code on disk.

`fastmath` is off. With it, freshly compiled code and code from the cache differ in the last bit, and the last bit of an
expected photon count can change the noise of a whole image. It is no faster here.
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

    Call the result from one thread at a time, because not every threading layer of numba is re-entrant.
    """
    return cast("Callable[P, R]", numba.njit(cache=True, parallel=True)(function))
