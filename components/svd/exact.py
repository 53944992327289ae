"""The exact SVD of a tall A, or of A Z for an orthonormal Z: by the Gram matrix where that is right, else by QR.

    sigma_k / sigma_1     method                                        passes
    above 1e-3            G = A^T A = V S^2 V^T, U = A V / S            2
    down to 4 n eps       A = Q R by tall-skinny QR, R = W S V^T,       4, the first of them the Gram matrix
                          Y = A V / S, Y^T Y = L L^T, U = Y L^-T
    below                 zero; U is completed to an orthonormal basis

and one pass more, over A and U, where so little is left out that the energy identity cannot tell the residual.

The Gram matrix squares the condition number: sigma_i has a relative error of about eps (sigma_1/sigma_i)^2, and so
has the orthonormality of U, so it is held to where both are below 1e-9. Its own eigenvalues tell which row of the
table it is.

R has the singular values of A to eps sigma_1, but the columns of Y = A V / S have errors of eps sigma_1/sigma_i, of
which nothing is orthogonal to the other columns' space in particular: at 1e-12 they are 1e-4. Cholesky of Y^T Y, in
descending order of sigma, takes them out and changes A by eps sigma_1 only, for each column is corrected by those of
larger sigma: R_2 S = L^T S differs from S by (L^T - I)_ij sigma_j ~ eps sigma_1 (i < j). In the other order, or with
the symmetric square root, small directions would be mixed into large ones. (Preconditioned Cholesky QR; compare
Fukaya, Kannan, Nakatsukasa, Yamamoto, Yanagisawa, Shifted Cholesky QR, SIAM J. Sci. Comput. 42(1), 2020.) Y is
computed twice, by the same products, instead of kept: the last pass checks U^T U and refuses it where it is not the
identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from components.errors import CtbasisError
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
from components.svd.basis import fixed_signs
from components.svd.engines import Spectrum
from components.svd.passes import Gram, Residual, Triangle, WriteU

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.svd.factors import FactorWriter
    from components.svd.plan import Plan
    from components.svd.workers import Workers

GRAM_RATIO = 1e-3
"""sigma_k / sigma_1 down to which the Gram matrix gives sigma_k and U to 1e-9."""

ZERO = 4.0
"""A singular value below so many times n eps sigma_1 is not told from zero by any backward stable method."""

IDENTITY = "||A||_F^2 less the energy of what was kept"
"""How the residual is found where U and V are orthonormal and U diag(s) V^T is a projection of A."""

IDENTITY_DIGITS = 1e-10
"""Share of ||A||_F^2 in the residual from which the energy identity has correct digits."""


@dataclass(frozen=True)
class Small:
    """What the small matrices told.

    Attributes:
        s: All singular values found, descending; of zeros as many as stand for them.
        V: (n, k) right singular vectors.
        X: (n, j) and T: (j, j) or None: U = A X T.
        energy: ||A||_F^2.
        error: Absolute error of s.
        valid_to: sigma_k / sigma_1 down to which the method holds.
        name: Of the method, for the note.
    """

    s: NDArray[np.float64]
    V: NDArray[np.float64]
    X: NDArray[np.float64]
    T: NDArray[np.float64] | None
    energy: float
    error: float
    valid_to: float
    name: str


def factorize_exact(
    workers: Workers,
    factors: FactorWriter,
    plan: Plan,
    *,
    Z: NDArray[np.float64] | None = None,
    valid_to: float = 0.0,
    note: str = "",
) -> Spectrum:
    """Factor A, or its part A Z Z^T, and keep k triplets.

    Args:
        workers: On A.
        factors: Where U goes.
        plan: k; p, q and seed have no effect here.
        Z: (n, l) with orthonormal columns, l at least k; None for all of A.
        valid_to: sigma / sigma_1 down to which Z holds A's directions.
        note: What found Z.

    Raises:
        CtbasisError: A holds NaN or Inf, or U does not come out orthonormal.
    """
    small = _small(workers, plan.rank, Z)
    k, rng = plan.rank, np.random.default_rng([0 if plan.seed is None else plan.seed, 1])
    s = small.s[:k]
    probes = make_probes(rng, s, small.V)
    dtype = factors.dtype
    squares, normal, gram = workers.run(WriteU(small.X, small.T, k, probes, factors.uri, dtype))
    residual, by = _residual(small, k, whole=Z is None)
    if residual is None:
        squared, _, normal, gram = workers.run(Residual(small.V * s, probes, factors.uri))
        residual, by = float(np.sqrt(squared)), "one more pass over A and U"
        spectral, spectral_by, failure = normal_norm_bound(normal), "random vectors under its normal matrix", FAILURE
    else:
        _agree(residual, squares, rounding(s, dtype))
        spectral, spectral_by, failure = _spectral(small, k, normal, residual, whole=Z is None)
    accuracy = Accuracy(
        norm=float(np.sqrt(small.energy)),
        residual=residual,
        residual_by=by,
        rounding=rounding(s, dtype),
        spectral_error=spectral,
        spectral_by=spectral_by,
        failure=failure,
        basis_error=basis_error(gram, probes.basis, factors.uri),
        weights_error=weights_error(small.V),
        ratio=float(s[-1] / s[0]) if s[0] > 0 else 0.0,
        valid_to=max(valid_to, small.valid_to),
        passes=workers.passes,
        bytes_read=workers.bytes_read,
        bytes_shuffled=workers.bytes_shuffled,
    )
    return Spectrum(s=s, V=small.V, note=f"{note}{small.name}", accuracy=accuracy)


def _small(workers: Workers, k: int, Z: NDArray[np.float64] | None) -> Small:
    """Find s, V, and what makes U of A."""
    G, energy = workers.run(Gram(Z))
    squared, W = np.linalg.eigh(G)
    s, W = np.sqrt(np.maximum(squared[::-1], 0)), W[:, ::-1]
    width = len(s)
    if s[0] > 0 and s[k - 1] >= GRAM_RATIO * s[0]:
        W = W * fixed_signs(W if Z is None else Z @ W)
        V = W[:, :k] if Z is None else Z @ W[:, :k]
        error = float(ZERO * width * EPS * s[0] / (s[k - 1] / s[0]))
        name = f"exact by the Gram matrix, {width} x {width}"
        return Small(s, V, V / s[:k], None, float(energy), error, GRAM_RATIO, name)
    if s[0] > 0:
        (R,) = workers.run(Triangle(Z))
        _, s, Wt = np.linalg.svd(R)
        s, W = np.pad(s, (0, width - len(s))), Wt.T
    floor = ZERO * width * EPS
    s[s <= floor * s[0]] = 0
    found = min(k, int(np.count_nonzero(s)))
    W = W * fixed_signs(W if Z is None else Z @ W)
    V = W[:, :k] if Z is None else Z @ W[:, :k]
    X, T = V[:, :found] / s[:found], None
    if found:
        H, _ = workers.run(Gram(X))
        T = np.linalg.inv(np.linalg.cholesky(H)).T
    zeros = f"; {k - found} of the {k} singular values are zero" if found < k else ""
    name = f"exact by tall-skinny QR, for sigma_k / sigma_1 is below {GRAM_RATIO:g}{zeros}"
    return Small(s, V, X, T, float(energy), float(floor * s[0]), floor, name)


def _residual(small: Small, k: int, *, whole: bool) -> tuple[float | None, str]:
    """Return ||A - U diag(s) V^T||_F where the energy says it to correct digits, else None."""
    tail = float(np.sum(small.s[k:] ** 2)) if whole else small.energy - float(np.sum(small.s[:k] ** 2))
    if small.energy == 0:
        return 0.0, "A is zero"
    if tail < IDENTITY_DIGITS * small.energy:
        return None, ""
    by = "the singular values left out" if whole else IDENTITY
    return float(np.sqrt(tail)), by


def _agree(residual: float, squares: NDArray[np.float64], rounding_error: float) -> None:
    """Refuse factors whose residual on random vectors is not what the energy says."""
    # The sum over r probes is ||E||_F^2 times at most a chi-square: r (1 + 8) is passed with a probability below 1e-9.
    measured = float(np.sqrt(np.mean(squares)))
    if measured > 3 * np.hypot(residual, rounding_error) + rounding_error:
        raise CtbasisError(
            f"the factors' residual is {measured:.3e} on random vectors where the energy of A says {residual:.3e}",
            expected="both alike",
            cause="the matrix changed between two passes, or a worker's memory or disk is faulty",
            remedy="run the step again",
        )


def _spectral(
    small: Small, k: int, normal: NDArray[np.float64], residual: float, *, whole: bool
) -> tuple[float, str, float]:
    """Return a bound of ||A - U diag(s) V^T||_2, how it was found, and the probability that it fails."""
    if whole:
        following = float(small.s[k]) if k < len(small.s) else 0.0
        return min(residual, following) + small.error, "sigma_(k+1), and the error of the method", 0.0
    outside = normal - small.V @ (small.V.T @ normal)
    bound = normal_norm_bound(outside) + small.error
    if bound < residual:
        return bound, "random vectors under the residual's normal matrix", FAILURE
    return residual + small.error, "the Frobenius norm of the residual", 0.0
