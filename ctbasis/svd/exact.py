"""The exact SVD of a tall A, or of its sketch A Z: by the Gram matrix where that is right, else by QR.

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

from ctbasis.errors import CtbasisError
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
from ctbasis.svd.basis import fixed_signs
from ctbasis.svd.factor_passes import Residual, WriteU
from ctbasis.svd.passes import Gram, Triangle
from ctbasis.svd.spectrum import Accuracy, Spectrum

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctbasis.svd.factors import FactorWriter
    from ctbasis.svd.passes import Parts, Pass
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.workers import Workers

GRAM_RATIO = 1e-3
"""sigma_k / sigma_1 down to which the Gram matrix gives sigma_k and U to 1e-9."""

ZERO = 4.0
"""A singular value below so many times n eps sigma_1 is not told from zero by any backward stable method."""

MEASURED = "one more pass over A and U"

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
        X: (n, j) and T: (j, j) or None: U = A X T, of the sketch where there is one: (l + r, j).
        error: Absolute error of s.
        valid_to: sigma_k / sigma_1 down to which the method holds.
        name: Of the method, for the note.
    """

    s: NDArray[np.float64]
    V: NDArray[np.float64]
    X: NDArray[np.float64]
    T: NDArray[np.float64] | None
    error: float
    valid_to: float
    name: str


def factorize_exact(workers: Workers, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor A and keep k triplets; p, q and seed have no effect on them.

    Raises:
        CtbasisError: A holds NaN or Inf, or U does not come out orthonormal.
    """
    k, rng = plan.rank, np.random.default_rng([0 if plan.seed is None else plan.seed, 1])
    (G,) = workers.run(Gram())
    small, energy = small_svd(G, workers.run, k), float(np.trace(G))
    s, dtype = small.s[:k], factors.dtype
    probes = make_probes(rng.standard_normal((len(small.V), PROBES)), s, small.V, rng)
    squares, gram = workers.run(WriteU(small.X, small.T, k, probes, factors.uri, dtype))
    left = Left(energy, float(np.sum(small.s[k:] ** 2)), "the singular values left out")
    residual, by = left.residual, left.by
    if residual is None:
        (residual, by), spectral, gram = measured(workers, Residual(small.V * s, probes, factors.uri))
    else:
        check_agreement(residual, squares, rounding(s, dtype))
        following = float(small.s[k]) if k < len(small.s) else 0.0
        spectral = min(residual, following) + small.error, "sigma_(k+1), and the error of the method", 0.0
    basis = basis_error(gram, probes.basis, factors.uri)
    accuracy = accounted(
        workers, s, small.V, energy, (residual, by), spectral, basis=basis, dtype=dtype, valid_to=small.valid_to
    )
    return Spectrum(s=s, V=small.V, note=small.name, accuracy=accuracy)


def measured(
    workers: Workers, asked: Residual
) -> tuple[tuple[float, str], tuple[float, str, float], NDArray[np.float64]]:
    """Return residual and spectral bound as `accounted` takes them, and U^T U Omega_k, by one more pass."""
    squared, _, normal, gram = workers.run(asked)
    spectral = normal_norm_bound(normal), "random vectors under its normal matrix", FAILURE
    return (float(np.sqrt(squared)), MEASURED), spectral, gram


def accounted(
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
    """Return the report of factors of an A of this `energy`, with what the workers spent on them.

    Args:
        workers: Of the run.
        s: (k,).
        V: (n, k).
        energy: ||A||_F^2.
        residual: ||A - U diag(s) V^T||_F, and how it was found.
        spectral: Bound of ||A - U diag(s) V^T||_2, how it was found, and the probability that it fails.
        basis: Bound of ||U^T U - I||_2.
        dtype: Of U as stored.
        valid_to: sigma_k / sigma_1 down to which the method promises right singular values.
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
    more: int = 0,
) -> Small:
    """Find s, V, and what makes U.

    Args:
        G: A^T A, or (A Z)^T (A Z), (l, l).
        run: Runs a pass over A, or over its sketch.
        k: Triplets wanted.
        Z: (n, l) with orthonormal columns, l at least k, where there is a sketch.
        more: Columns that the sketch has beyond A Z.
    """
    squared, W = np.linalg.eigh(G)
    s, W = np.sqrt(np.maximum(squared[::-1], 0)), W[:, ::-1][:, :k]
    width = len(s)
    if s[0] > 0 and s[k - 1] >= GRAM_RATIO * s[0]:
        W, V = _signed(W, Z)
        error = float(ZERO * width * EPS * s[0] / (s[k - 1] / s[0]))
        return Small(
            s, V, _padded(W / s[:k], more), None, error, GRAM_RATIO, f"exact by the Gram matrix, {width} x {width}"
        )
    if s[0] > 0:
        (R,) = run(Triangle())
        # The leading block is the R of the leading columns.
        _, s, Wt = np.linalg.svd(R[:width, :width])
        s, W = np.pad(s, (0, width - len(s))), Wt.T[:, :k]
    floor = ZERO * width * EPS
    s[s <= floor * s[0]] = 0
    found = min(k, int(np.count_nonzero(s)))
    W, V = _signed(W, Z)
    X, T = _padded(W[:, :found] / s[:found], more), None
    if found:
        (H,) = run(Gram(X))
        T = np.linalg.inv(np.linalg.cholesky(H)).T
    zeros = f"; {k - found} of the {k} singular values are zero" if found < k else ""
    name = f"exact by tall-skinny QR, for sigma_k / sigma_1 is below {GRAM_RATIO:g}{zeros}"
    return Small(s, V, X, T, float(floor * s[0]), floor, name)


def _signed(W: NDArray[np.float64], Z: NDArray[np.float64] | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return singular vectors of A Z and of A, with the signs that the latter are given."""
    V = W if Z is None else Z @ W
    signs = fixed_signs(V)
    return W * signs, V * signs


def _padded(X: NDArray[np.float64], more: int) -> NDArray[np.float64]:
    return np.pad(X, ((0, more), (0, 0)))


@dataclass(frozen=True)
class Left:
    """What the factors leave out of A.

    Attributes:
        energy: ||A||_F^2.
        tail: The part of it that is left out.
        how: It was found.
    """

    energy: float
    tail: float
    how: str

    @property
    def residual(self) -> float | None:
        """||A - U diag(s) V^T||_F where the energy says it to correct digits, else None."""
        if self.energy == 0:
            return 0.0
        return None if self.tail < IDENTITY_DIGITS * self.energy else float(np.sqrt(self.tail))

    @property
    def by(self) -> str:
        """How it was found."""
        return "A is zero" if self.energy == 0 else self.how


def check_agreement(residual: float, squares: NDArray[np.float64], rounding_error: float) -> None:
    """Refuse factors whose residual on random vectors is not what the energy says.

    Raises:
        CtbasisError: They differ by more than chance.
    """
    # The sum over r probes is ||E||_F^2 times at most a chi-square: r (1 + 8) is passed with a probability below 1e-9.
    measured = float(np.sqrt(np.mean(squares)))
    if measured > 3 * np.hypot(residual, rounding_error) + rounding_error:
        raise CtbasisError(
            f"the factors' residual is {measured:.3e} on random vectors where the energy of A says {residual:.3e}",
            expected="both alike",
            cause="the matrix changed between two passes, or a worker's memory or disk is faulty",
            remedy="run the step again",
        )
