"""How wrong the factors may be: what is known exactly, and what random vectors bound with a probability that is told.

A matrix E that cannot be formed is asked through products with r standard normal vectors w. For any w, ||E w|| is at
least ||E||_2 |g| with one standard normal g, so

    ||E||_2 <= max ||E w_i|| / t    fails with probability    P(|g| < t)^r.

Halko, Martinsson and Tropp (section 4.3) bound P(|g| < t) by t sqrt(2/pi); here t is its exact quantile. Applied to
E^T E, whose spectrum falls twice as fast, the same says ||E||_2^2 <= max ||E^T E w_i|| / t: much the sharper bound,
for ||E w|| is near ||E||_F, and ||E^T E w|| near (sum of sigma^4)^(1/2).
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.svd.factor_passes import Probes

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBES = 8
"""r, random vectors a bound is taken over: each costs about as much as one or two more columns of U."""

FAILURE = 1e-6
"""Probability with which a bound does not hold."""

ORTHONORMAL = 1e-4
"""||U^T U - I||_2 from which factors are refused: U in float32 has about 1e-7, a wrong one about 1."""

EPS = float(np.finfo(np.float64).eps)


def make_probes(
    columns: NDArray[np.float64], s: NDArray[np.float64], V: NDArray[np.float64], rng: np.random.Generator
) -> Probes:
    """Return what the last pass over A is asked with: random vectors `columns`, (n, r), and others for U."""
    return Probes(
        columns=columns,
        weighted=s[:, None] * (V.T @ columns),
        basis=rng.standard_normal((len(s), PROBES)),
    )


def quantile(probes: int = PROBES, failure: float = FAILURE) -> float:
    """Return t with P(|g| < t)^probes = failure for a standard normal g."""
    return NormalDist().inv_cdf((1 + failure ** (1 / probes)) / 2)


def norm_bound(products: NDArray[np.float64]) -> float:
    """Return what ||E||_2 is at most, but for probability `FAILURE`, given E w of each random w as columns."""
    return float(np.linalg.norm(products, axis=0).max()) / quantile(products.shape[1])


def normal_norm_bound(products: NDArray[np.float64]) -> float:
    """Return what ||E||_2 is at most, but for probability `FAILURE`, given E^T E w of each random w as columns."""
    return float(np.sqrt(norm_bound(products)))


def basis_error(gram: NDArray[np.float64], probes: NDArray[np.float64], uri: str) -> float:
    """Return what ||U^T U - I||_2 is at most, given U^T U w.

    Raises:
        CtbasisError: So far from orthonormal that the factors are wrong.
    """
    error = norm_bound(gram - probes)
    if not error <= ORTHONORMAL:
        raise CtbasisError(
            f"the basis at {uri} is not orthonormal: ||U^T U - I|| is up to {error:.1e}",
            expected=f"at most {ORTHONORMAL:g}",
            cause="workers with unlike processors computed a block differently, or the matrix changed meanwhile",
            remedy="run the step again; ask for a smaller rank if it comes back",
        )
    return error


def weights_error(V: NDArray[np.float64]) -> float:
    """Return ||V^T V - I||_2."""
    return float(np.linalg.norm(V.T @ V - np.eye(V.shape[1]), 2))


def rounding(s: NDArray[np.float64], dtype: str) -> float:
    """Return what storing U in `dtype` adds to the residual at most: half a unit in the last place of every value."""
    return float(np.finfo(dtype).eps) / 2 * float(np.linalg.norm(s))
