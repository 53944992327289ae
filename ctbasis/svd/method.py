"""How a block engine goes about a plan: exactly, at random, or in a single pass."""

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
"""n up to which the exact SVD is taken: its n x n matrices take 128 MiB, and eigh of one takes seconds.

It costs m n (n + 2k) operations and 2 passes against 4 m n (k + p) (q + 3/2) and q + 2 passes: at k = 50, p = 15 and q
= 2 it is the cheaper one to n = 810, and beyond that what it costs more buys all singular values and an error that is
optimal.
"""

WORTH_THREADS = 1e9
"""n l^2, to which the operations between two passes (QR of n x l, eigh of l x l) are in proportion, from which BLAS may
take threads for them. Below, threads that wait for one another take longer than one: QR of 6,000 x 65 takes 19 ms alone
and 24 by two, and 160 where another process has a core."""


def factorize_by(workers: Workers, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor the matrix of `workers` by the plan's method and write U through them.

    Raises:
        CtbasisError: A holds NaN or Inf, or a block is missing or corrupt.
    """
    method = {"exact": factorize_exact, "randomized": factorize_randomized, "single-pass": factorize_single_pass}
    width = plan.cols if chosen_method(plan) == "exact" else plan.rank + plan.oversample
    # The workers have limits of their own; this one is for what is done between passes.
    alone = 1 if plan.cols * width**2 < WORTH_THREADS else None
    with threadpool_limits(alone, user_api="blas"):
        return method[chosen_method(plan)](workers, factors, plan)


def chosen_method(plan: Plan) -> str:
    """Return the method to run: the plan's own, or for `auto` by the number of columns."""
    if plan.method != "auto":
        return plan.method
    return "exact" if plan.cols <= EXACT_COLUMNS else "randomized"


def explained(error: BaseException) -> CtbasisError | None:
    """Return the refusal that an engine's own exception carries from a worker, if it does."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, CtbasisError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
