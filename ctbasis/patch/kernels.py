"""The decorator that compiles the inner loops of patch mode with Numba."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function`; it releases the interpreter's lock, so that threads process slabs in parallel."""
    return cast("Callable[P, R]", numba.njit(cache=True, nogil=True, fastmath=True)(function))
