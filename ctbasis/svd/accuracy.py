"""Error bounds of computed factors from products with random vectors, which hold with a stated probability.

The error E = A - U diag(s) V^T is too large to form, but its products with r standard normal vectors w_i are cheap. For
any w, ||E w|| is at least ||E||_2 |g| with one standard normal g, so

    ||E||_2 <= max ||E w_i|| / t    fails with probability    P(|g| < t)^r.

Halko, Martinsson and Tropp (section 4.3) bound P(|g| < t) by t sqrt(2/pi); here t is the exact quantile. Applied to
E^T E, whose spectrum decays twice as fast, the same argument gives ||E||_2^2 <= max ||E^T E w_i|| / t. This second
bound is much sharper: ||E w|| is about ||E||_F, and ||E^T E w|| is about (sum of sigma^4)^(1/2).
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.svd.factor_passes import Probes

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBE_COUNT = 8
"""r, the number of random vectors of a bound; each costs about as much as one or two more columns of U."""

FAILURE_PROBABILITY = 1e-6
"""Probability that a bound from random vectors does not hold."""

MAX_BASIS_ERROR = 1e-4
"""Largest accepted ||U^T U - I||_2: a correct U in float32 has about 1e-7, and a wrong one about 1."""

EPS = float(np.finfo(np.float64).eps)


def make_probes(
    columns: NDArray[np.float64], s: NDArray[np.float64], V: NDArray[np.float64], rng: np.random.Generator
) -> Probes:
    """Return the random vectors of the last pass.

    Args:
        columns: Standard normal vectors for A, (n, r).
        s: Singular values, (k,).
        V: Right singular vectors, (n, k).
        rng: Draws the vectors for U.
    """
    return Probes(
        columns=columns,
        weighted=s[:, None] * (V.T @ columns),
        basis=rng.standard_normal((len(s), PROBE_COUNT)),
    )


def quantile(probes: int = PROBE_COUNT, failure: float = FAILURE_PROBABILITY) -> float:
    """Return t with P(|g| < t)^probes = failure for a standard normal g."""
    return NormalDist().inv_cdf((1 + failure ** (1 / probes)) / 2)


def norm_bound(products: NDArray[np.float64]) -> float:
    """Return an upper bound of ||E||_2 that fails with probability `FAILURE_PROBABILITY`.

    Args:
        products: E w_i as columns, for random w_i.
    """
    return float(np.linalg.norm(products, axis=0).max()) / quantile(products.shape[1])


def normal_norm_bound(products: NDArray[np.float64]) -> float:
    """Return an upper bound of ||E||_2 that fails with probability `FAILURE_PROBABILITY`.

    Args:
        products: E^T E w_i as columns, for random w_i.
    """
    return float(np.sqrt(norm_bound(products)))


def basis_error(gram: NDArray[np.float64], probes: NDArray[np.float64], uri: str) -> float:
    """Return an upper bound of ||U^T U - I||_2.

    Args:
        gram: U^T U w_i as columns, (k, r).
        probes: The random w_i as columns, (k, r).
        uri: URI of the factor store, for the error.

    Raises:
        CtbasisError: The bound is above `MAX_BASIS_ERROR`, so the factors are wrong.
    """
    error = norm_bound(gram - probes)
    if not error <= MAX_BASIS_ERROR:
        raise CtbasisError(
            f"the basis at {uri} is not orthonormal: ||U^T U - I|| is up to {error:.1e}",
            expected=f"at most {MAX_BASIS_ERROR:g}",
            cause="workers with different processors computed a block differently, or the matrix changed meanwhile",
            remedy="run the step again; if the error returns, ask for a smaller rank",
        )
    return error


def weights_error(V: NDArray[np.float64]) -> float:
    """Return ||V^T V - I||_2 for V, (n, k)."""
    return float(np.linalg.norm(V.T @ V - np.eye(V.shape[1]), 2))


def rounding(s: NDArray[np.float64], dtype: str) -> float:
    """Return the most that storing U in `dtype` adds to the residual: half a unit in the last place of every value.

    Args:
        s: Singular values, (k,), HU.
        dtype: dtype of U in the store.

    Returns:
        An upper bound of the added Frobenius norm, HU.
    """
    return float(np.finfo(dtype).eps) / 2 * float(np.linalg.norm(s))
