"""The a-posteriori report of factors that another library made: one pass over A and U, which trusts nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctbasis.svd.accuracy import (
    EPS,
    FAILURE,
    PROBES,
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


STREAM = 2
"""Of random numbers: no engine draws from it."""


def question(s: NDArray[np.float64], V: NDArray[np.float64], factors_uri: str, *, seed: int) -> Residual:
    """Return the pass over A and U that finds how wrong the factors at `factors_uri` are, s (k,) and V (n, k).

    Its random vectors are of a stream of their own, so that the factors cannot have been made to fit them, and of the
    run's `seed`, so that a run that is repeated reports the same.
    """
    rng = np.random.default_rng([seed, STREAM])
    return Residual(V * s, make_probes(rng.standard_normal((len(V), PROBES)), s, V, rng), factors_uri)


def report(
    asked: Residual,
    found: Parts,
    *,
    s: NDArray[np.float64],
    V: NDArray[np.float64],
    dtype: str,
    passes: int,
    bytes_read: int,
    valid_to: float,
) -> Accuracy:
    """Report on factors whose U is written.

    Args:
        asked: The pass.
        found: What it made of all row blocks.
        s: (k,).
        V: (n, k).
        dtype: Of U as stored.
        passes: Over A, this one too.
        bytes_read: Of A, from the store.
        valid_to: sigma_k / sigma_1 down to which the method of the factors promises right singular values.

    Raises:
        CtbasisError: U is not orthonormal.
    """
    squared, energy, normal, gram = found
    residual = float(np.sqrt(squared))
    bound = normal_norm_bound(normal) + len(V) * EPS * float(s[0])
    by, failure = "random vectors under the residual's normal matrix", FAILURE
    if residual <= bound:
        bound, by, failure = residual, "the Frobenius norm of the residual", 0.0
    return Accuracy(
        norm=float(np.sqrt(energy)),
        residual=residual,
        residual_by="one more pass over A and U",
        rounding=rounding(s, dtype),
        spectral_error=bound,
        spectral_by=by,
        failure=failure,
        basis_error=basis_error(gram, asked.probes.basis, asked.factors_uri),
        weights_error=weights_error(V),
        ratio=float(s[-1] / s[0]) if s[0] > 0 else 0.0,
        valid_to=valid_to,
        passes=passes,
        bytes_read=bytes_read,
        bytes_shuffled=None,
    )
