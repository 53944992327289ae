"""The exact SVD of a tall matrix A, or of its sketch A Z: by the Gram matrix where that is accurate, otherwise by QR.

    sigma_k / sigma_1     method                                        passes
    above 1e-3            G = A^T A = V S^2 V^T, U = A V / S            2
    down to 4 n eps       A = Q R by tall-skinny QR, R = W S V^T,       4, the first of them for the Gram matrix
                          Y = A V / S, Y^T Y = L L^T, U = Y L^-T
    below                 zero; U is completed to an orthonormal basis

One more pass over A and U follows where the residual is so small that the energy identity has no correct digits of it.

The Gram matrix squares the condition number. The relative error of sigma_i, and the error of the orthonormality of U,
are about eps (sigma_1/sigma_i)^2, so the Gram matrix is used only where both are below 1e-9. The eigenvalues of the
Gram matrix itself show which row of the table applies.

R has the singular values of A to eps sigma_1. The columns of Y = A V / S, however, have errors of eps
sigma_1/sigma_i in directions that are not orthogonal to the other columns; at sigma_i/sigma_1 = 1e-12 these errors are
1e-4. Cholesky of Y^T Y, in descending order of sigma, removes them and changes A by eps sigma_1 only, because each
column is corrected by the columns of larger sigma: R_2 S = L^T S differs from S by
(L^T - I)_ij sigma_j ~ eps sigma_1 (i < j). The reverse order, or the symmetric square root, would mix small directions
into large ones. (This is preconditioned Cholesky QR; compare Fukaya, Kannan, Nakatsukasa, Yamamoto, Yanagisawa, Shifted
Cholesky QR, SIAM J. Sci. Comput. 42(1), 2020.) Y is not stored; it is computed a second time by the same products. The
last pass checks U^T U and raises an error if it is not the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.errors import CtbasisError
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
from ctbasis.svd.basis import fixed_signs
from ctbasis.svd.factor_passes import Residual, WriteU
from ctbasis.svd.passes import Gram, TriangularFactor
from ctbasis.svd.spectrum import Accuracy, Spectrum

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctbasis.svd.factors import FactorWriter
    from ctbasis.svd.passes import Parts, Pass
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.workers import Workers

GRAM_RATIO = 1e-3
"""Smallest sigma_k / sigma_1 at which the Gram matrix gives sigma_k and U to 1e-9."""

ZERO_FACTOR = 4.0
"""A singular value below this factor times n eps sigma_1 cannot be distinguished from zero by any backward stable
method."""

MEASURED_RESIDUAL = "one more pass over A and U"

ENERGY_RESIDUAL = "||A||_F^2 less the energy of what was kept"
"""How the residual is computed where U and V are orthonormal and U diag(s) V^T is a projection of A."""

MIN_ENERGY_SHARE = 1e-10
"""Smallest share of ||A||_F^2 in the residual at which the energy identity has correct digits."""


@dataclass(frozen=True)
class SmallSVD:
    """The SVD of a small matrix (Gram matrix or R), from which U is computed by one more pass over A.

    Attributes:
        s: All computed singular values in descending order; values that cannot be distinguished from zero are 0.
        V: Right singular vectors, (n, k).
        X: (n, j). U = A X T, with the sketch in place of A if there is one; then X is (l + r, j).
        T: (j, j), or None for the identity.
        error: Absolute error of s.
        valid_to: Smallest sigma_k / sigma_1 at which the method is accurate.
        method: Description of the method, for the note.
    """

    s: NDArray[np.float64]
    V: NDArray[np.float64]
    X: NDArray[np.float64]
    T: NDArray[np.float64] | None
    error: float
    valid_to: float
    method: str


def factorize_exact(workers: Workers, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Compute the SVD of A exactly and keep k triplets; p, q and the seed have no effect on them.

    Raises:
        CtbasisError: A contains NaN or Inf, or U does not come out orthonormal.
    """
    k, rng = plan.rank, np.random.default_rng([0 if plan.seed is None else plan.seed, 1])
    (G,) = workers.run(Gram())
    small, energy = small_svd(G, workers.run, k), float(np.trace(G))
    s, dtype = small.s[:k], factors.dtype
    probes = make_probes(rng.standard_normal((len(small.V), PROBE_COUNT)), s, small.V, rng)
    squares, gram = workers.run(WriteU(small.X, small.T, k, probes, factors.uri, dtype))
    remainder = Remainder(energy, float(np.sum(small.s[k:] ** 2)), "the singular values left out")
    residual, residual_by = remainder.residual, remainder.residual_by
    if residual is None:
        (residual, residual_by), spectral, gram = measure_residual(workers, Residual(small.V * s, probes, factors.uri))
    else:
        check_agreement(residual, squares, rounding(s, dtype))
        next_sigma = float(small.s[k]) if k < len(small.s) else 0.0
        spectral = min(residual, next_sigma) + small.error, "sigma_(k+1), and the error of the method", 0.0
    basis = basis_error(gram, probes.basis, factors.uri)
    accuracy = error_report(
        workers,
        s,
        small.V,
        energy,
        (residual, residual_by),
        spectral,
        basis=basis,
        dtype=dtype,
        valid_to=small.valid_to,
    )
    return Spectrum(s=s, V=small.V, note=small.method, accuracy=accuracy)


def measure_residual(
    workers: Workers, work: Residual
) -> tuple[tuple[float, str], tuple[float, str, float], NDArray[np.float64]]:
    """Measure the residual by one more pass over A and U.

    Returns:
        The residual and the spectral bound, each as `error_report` takes it, and U^T U `probes.basis`.
    """
    squared, _, normal, gram = workers.run(work)
    spectral = normal_norm_bound(normal), "random vectors under its normal matrix", FAILURE_PROBABILITY
    return (float(np.sqrt(squared)), MEASURED_RESIDUAL), spectral, gram


def error_report(
    workers: Workers,
    s: NDArray[np.float64],
    V: NDArray[np.float64],
    energy: float,
    residual: tuple[float, str],
    spectral: tuple[float, str, float],
    *,
    basis: float,
    dtype: str,
    valid_to: float,
) -> Accuracy:
    """Return the error report of factors, with the passes and bytes that the workers needed.

    Args:
        workers: The workers that computed the factors.
        s: Singular values, (k,).
        V: Right singular vectors, (n, k).
        energy: ||A||_F^2.
        residual: ||A - U diag(s) V^T||_F, and how it was computed.
        spectral: Upper bound of ||A - U diag(s) V^T||_2, how it was computed, and the probability that it fails.
        basis: Upper bound of ||U^T U - I||_2.
        dtype: dtype of U in the store.
        valid_to: Smallest sigma_k / sigma_1 at which the method guarantees accurate right singular vectors.
    """
    return Accuracy(
        norm=float(np.sqrt(energy)),
        residual=residual[0],
        residual_by=residual[1],
        rounding=rounding(s, dtype),
        spectral_error=spectral[0],
        spectral_by=spectral[1],
        failure=spectral[2],
        basis_error=basis,
        weights_error=weights_error(V),
        ratio=float(s[-1] / s[0]) if s[0] > 0 else 0.0,
        valid_to=valid_to,
        passes=workers.passes,
        bytes_read=workers.bytes_read,
        bytes_shuffled=workers.bytes_shuffled,
    )


def small_svd(
    G: NDArray[np.float64],
    run: Callable[[Pass], Parts],
    k: int,
    *,
    Z: NDArray[np.float64] | None = None,
    probe_columns: int = 0,
) -> SmallSVD:
    """Compute s, V, and the matrices X and T that give U.

    Args:
        G: A^T A, or (A Z)^T (A Z), (l, l).
        run: Runs a pass over A, or over its sketch.
        k: Number of singular triplets to keep.
        Z: The sketch's test matrix, (n, l) with orthonormal columns and l >= k; None if there is no sketch.
        probe_columns: Number of columns of the sketch after those of A Z; X has zeros for them.
    """
    squared, W = np.linalg.eigh(G)
    s, W = np.sqrt(np.maximum(squared[::-1], 0)), W[:, ::-1][:, :k]
    width = len(s)
    if s[0] > 0 and s[k - 1] >= GRAM_RATIO * s[0]:
        W, V = _with_fixed_signs(W, Z)
        error = float(ZERO_FACTOR * width * EPS * s[0] / (s[k - 1] / s[0]))
        X = _append_zero_rows(W / s[:k], probe_columns)
        return SmallSVD(s, V, X, None, error, GRAM_RATIO, f"exact by the Gram matrix, {width} x {width}")
    if s[0] > 0:
        (R,) = run(TriangularFactor())
        # The leading block of R is the factor R of the leading columns.
        _, s, Wt = np.linalg.svd(R[:width, :width])
        s, W = np.pad(s, (0, width - len(s))), Wt.T[:, :k]
    floor = ZERO_FACTOR * width * EPS
    s[s <= floor * s[0]] = 0
    nonzero = min(k, int(np.count_nonzero(s)))
    W, V = _with_fixed_signs(W, Z)
    X, T = _append_zero_rows(W[:, :nonzero] / s[:nonzero], probe_columns), None
    if nonzero:
        (H,) = run(Gram(X))
        T = np.linalg.inv(np.linalg.cholesky(H)).T
    zeros = f"; {k - nonzero} of the {k} singular values are zero" if nonzero < k else ""
    method = f"exact by tall-skinny QR, for sigma_k / sigma_1 is below {GRAM_RATIO:g}{zeros}"
    return SmallSVD(s, V, X, T, float(floor * s[0]), floor, method)


def _with_fixed_signs(
    W: NDArray[np.float64], Z: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the right singular vectors of A Z and of A, with the signs that `fixed_signs` gives the latter."""
    V = W if Z is None else Z @ W
    signs = fixed_signs(V)
    return W * signs, V * signs


def _append_zero_rows(X: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    return np.pad(X, ((0, rows), (0, 0)))


@dataclass(frozen=True)
class Remainder:
    """The part of A that the factors leave out, from the energy identity.

    Attributes:
        energy: ||A||_F^2.
        left_out: The part of this energy that the factors leave out.
        left_out_by: How this part was computed.
    """

    energy: float
    left_out: float
    left_out_by: str

    @property
    def residual(self) -> float | None:
        """||A - U diag(s) V^T||_F, or None where the energy identity has no correct digits of it."""
        if self.energy == 0:
            return 0.0
        return None if self.left_out < MIN_ENERGY_SHARE * self.energy else float(np.sqrt(self.left_out))

    @property
    def residual_by(self) -> str:
        """How the residual was computed."""
        return "A is zero" if self.energy == 0 else self.left_out_by


def check_agreement(residual: float, squares: NDArray[np.float64], rounding_error: float) -> None:
    """Check that the residual on random vectors agrees with the residual from the energy identity.

    Args:
        residual: From the energy identity.
        squares: Squared norms of the residual times each random vector, (r,).
        rounding_error: What rounding U adds to the residual at most.

    Raises:
        CtbasisError: The two differ by more than chance explains.
    """
    # The sum over r probes is ||E||_F^2 times a chi-square variable or less: the probability that it exceeds r (1 + 8)
    # is below 1e-9.
    measured = float(np.sqrt(np.mean(squares)))
    if measured > 3 * np.hypot(residual, rounding_error) + rounding_error:
        raise CtbasisError(
            f"the residual of the factors is {measured:.3e} on random vectors, and {residual:.3e} by the energy of A",
            expected="two equal values",
            cause="the matrix changed between two passes, or a worker's memory or disk is faulty",
            remedy="run the step again",
        )
