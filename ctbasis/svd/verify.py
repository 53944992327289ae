"""The error report of factors that another library computed: one pass over A and U, which assumes nothing of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctbasis.svd.accuracy import (
    EPS,
    FAILURE_PROBABILITY,
    PROBE_COUNT,
    basis_error,
    make_probes,
    normal_norm_bound,
    rounding,
    weights_error,
)
from ctbasis.svd.factor_passes import Residual
from ctbasis.svd.spectrum import Accuracy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.svd.passes import Parts


RANDOM_STREAM = 2
"""Stream of random numbers for the check; no engine draws from it."""


def residual_pass(s: NDArray[np.float64], V: NDArray[np.float64], factors_uri: str, *, seed: int) -> Residual:
    """Return the pass over A and U that measures the errors of stored factors.

    Its random vectors come from a stream of their own, so the factors cannot have been fitted to them. They depend on
    the seed of the run, so a repeated run gives the same report.

    Args:
        s: Singular values, (k,).
        V: Right singular vectors, (n, k).
        factors_uri: URI of the store that holds U.
        seed: Seed of the run.
    """
    rng = np.random.default_rng([seed, RANDOM_STREAM])
    return Residual(V * s, make_probes(rng.standard_normal((len(V), PROBE_COUNT)), s, V, rng), factors_uri)


def accuracy_of(
    check: Residual,
    parts: Parts,
    *,
    s: NDArray[np.float64],
    V: NDArray[np.float64],
    dtype: str,
    passes: int,
    bytes_read: int,
    valid_to: float,
) -> Accuracy:
    """Return the error report of stored factors.

    Args:
        check: The pass, from `residual_pass`.
        parts: Its result for all row blocks.
        s: Singular values, (k,).
        V: Right singular vectors, (n, k).
        dtype: dtype of U in the store.
        passes: Number of passes over A, including this one.
        bytes_read: Bytes of A read from the store.
        valid_to: Smallest sigma_k / sigma_1 at which the method guarantees accurate right singular vectors.

    Raises:
        CtbasisError: U is not orthonormal.
    """
    squared, energy, normal, gram = parts
    residual = float(np.sqrt(squared))
    bound = normal_norm_bound(normal) + len(V) * EPS * float(s[0])
    bound_by, failure = "random vectors under the residual's normal matrix", FAILURE_PROBABILITY
    if residual <= bound:
        bound, bound_by, failure = residual, "the Frobenius norm of the residual", 0.0
    return Accuracy(
        norm=float(np.sqrt(energy)),
        residual=residual,
        residual_by="one more pass over A and U",
        rounding=rounding(s, dtype),
        spectral_error=bound,
        spectral_by=bound_by,
        failure=failure,
        basis_error=basis_error(gram, check.probes.basis, check.factors_uri),
        weights_error=weights_error(V),
        ratio=float(s[-1] / s[0]) if s[0] > 0 else 0.0,
        valid_to=valid_to,
        passes=passes,
        bytes_read=bytes_read,
        bytes_shuffled=None,
    )
