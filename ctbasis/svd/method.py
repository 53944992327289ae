"""The methods of the block engines: exact, randomized or single-pass SVD."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from ctbasis.errors import CtbasisError
from ctbasis.svd.exact import factorize_exact
from ctbasis.svd.randomized import factorize_randomized, factorize_single_pass

if TYPE_CHECKING:
    from ctbasis.svd.factors import FactorWriter
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.spectrum import Spectrum
    from ctbasis.svd.workers import Workers

EXACT_COLUMNS = 4096
"""Largest n at which `auto` takes the exact SVD: its n x n matrices take 128 MiB, and eigh of one takes seconds.

The exact SVD costs m n (n + 2k) operations and 2 passes; the randomized SVD costs 4 m n (k + p) (q + 3/2) operations
and q + 2 passes. At k = 50, p = 15 and q = 2 the exact one is cheaper up to n = 810. Beyond that its extra cost gives
all singular values and the smallest possible error.
"""

MIN_THREADED_SIZE = 1e9
"""Smallest n l^2 at which BLAS uses several threads between two passes (QR of n x l, eigh of l x l).

The number of operations is proportional to n l^2. Below this size, threads that wait for each other are slower than one
thread: QR of 6,000 x 65 takes 19 ms with one thread, 24 with two, and 160 where another process occupies a core."""


def factorize_with(workers: Workers, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor the matrix of `workers` by the plan's method; the workers write U.

    Args:
        workers: Workers of an engine on the matrix A.
        factors: Where U goes.
        plan: k, p, q, seed and method.

    Raises:
        CtbasisError: A contains NaN or Inf, or a block is missing or corrupt.
    """
    methods = {"exact": factorize_exact, "randomized": factorize_randomized, "single-pass": factorize_single_pass}
    method = resolve_method(plan)
    width = plan.cols if method == "exact" else plan.rank + plan.oversample
    # This limit holds for the work between passes; the workers set limits of their own.
    threads = 1 if plan.cols * width**2 < MIN_THREADED_SIZE else None
    with threadpool_limits(threads, user_api="blas"):
        return methods[method](workers, factors, plan)


def resolve_method(plan: Plan) -> str:
    """Return the plan's method; for `auto`, the one that suits the number of columns."""
    if plan.method != "auto":
        return plan.method
    return "exact" if plan.cols <= EXACT_COLUMNS else "randomized"


def ctbasis_error_in(error: BaseException) -> CtbasisError | None:
    """Return the `CtbasisError` of a worker that an engine's own exception wraps, or None if it wraps none."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, CtbasisError):
            return current
        current = current.__cause__ or current.__context__
    return None
