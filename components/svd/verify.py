"""The a-posteriori report of factors that another library made: one pass over A and U, which trusts nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from components.svd.accuracy import (
    EPS,
    FAILURE,
    Accuracy,
    basis_error,
    make_probes,
    normal_norm_bound,
    rounding,
    weights_error,
)
from components.svd.passes import Residual

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.svd.factors import FactorWriter
    from components.svd.workers import Workers


def verified(
    workers: Workers,
    factors: FactorWriter,
    s: NDArray[np.float64],
    V: NDArray[np.float64],
    *,
    passes: int,
    valid_to: float,
) -> Accuracy:
    """Report on factors whose U is written.

    Args:
        workers: On A.
        factors: With U.
        s: (k,).
        V: (n, k).
        passes: Over A that the factorization took.
        valid_to: sigma_k / sigma_1 down to which its method promises right singular values.

    Raises:
        CtbasisError: U is not orthonormal, or a block of A or U is missing.
    """
    # Its own vectors: none that the factors could have been made to fit.
    probes = make_probes(np.random.default_rng(), s, V)
    squared, energy, normal, gram = workers.run(Residual(V * s, probes, factors.uri))
    residual = float(np.sqrt(squared))
    bound = normal_norm_bound(normal) + len(V) * EPS * float(s[0])
    by, failure = "random vectors under the residual's normal matrix", FAILURE
    if residual <= bound:
        bound, by, failure = residual, "the Frobenius norm of the residual", 0.0
    return Accuracy(
        norm=float(np.sqrt(energy)),
        residual=residual,
        residual_by="one more pass over A and U",
        rounding=rounding(s, factors.dtype),
        spectral_error=bound,
        spectral_by=by,
        failure=failure,
        basis_error=basis_error(gram, probes.basis, factors.uri),
        weights_error=weights_error(V),
        ratio=float(s[-1] / s[0]) if s[0] > 0 else 0.0,
        valid_to=valid_to,
        passes=passes + workers.passes,
        bytes_read=(passes + workers.passes) * workers.bytes_read // max(1, workers.passes),
        bytes_shuffled=None,
    )
