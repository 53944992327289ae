"""The randomized SVD of an A with many columns: a subspace that holds its leading directions, then the exact SVD in it.

Subspace iteration on the side of the columns (HMT, algorithm 4.4, applied to A^T): Z spans n x l, and one pass over
the row blocks gives A^T (A Z), which is orthonormalised in float64 before the next, as it must be: without that, and
in float32, sigma_50 has been seen 70 times too small. So a power iteration costs one pass, where the two-sided
algorithm 4.4 takes two. q + 1 iterations make an exponent of 2q + 2, at least the 2q + 1 of HMT's scheme at the same
q: the error is that of their theorem 10.6 for A^T, or better. Directions below sqrt(eps) = 1e-8 of sigma_1 drown in
rounding. The pass after them leaves A Z beside the factors, l of n columns, and whatever the SVD of that takes is
asked of it and not of A.

The single pass, for data that can be read once, takes Y = A Omega and A^T Y together. As whole rows pass by, Q^T A =
R^-T (A^T Y)^T is exact, where the sketches of HMT 5.5 and Tropp, Yurtsever, Udell, Cevher (SIAM J. Matrix Anal.
38(4), 2017), made for arbitrary linear updates, have to solve for it with a second random matrix and lose by that.
Its error is HMT's at q = 0, so it projects onto 2k + p + 1 columns instead of k + p; Y waits beside the factors till
U is made of it. (Compare Yu, Gu, Li, Liu, Li, Single-pass PCA of large high-dimensional data, IJCAI 2017.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.svd.accuracy import (
    EPS,
    FAILURE,
    PROBES,
    basis_error,
    make_probes,
    norm_bound,
    normal_norm_bound,
    rounding,
)
from ctbasis.svd.basis import complete_basis, fixed_signs
from ctbasis.svd.exact import (
    IDENTITY,
    IDENTITY_DIGITS,
    ZERO,
    Left,
    accounted,
    check_agreement,
    measured,
    small_svd,
)
from ctbasis.svd.factor_passes import Residual, Sketch, Sketched, WriteU
from ctbasis.svd.passes import Normal
from ctbasis.svd.spectrum import Spectrum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.svd.factors import FactorWriter
    from ctbasis.svd.passes import Parts, Pass
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.workers import Workers

SPECTRAL = "sigma_(k+1) within the span, and random vectors outside of it under the normal matrix"

RANDOM_RATIO = 1e-7
"""sigma / sigma_1 down to which subspace iteration on A^T A finds a direction: sqrt(eps), and a digit."""

SKETCH_RATIO = 1e-4
"""sigma / sigma_1 of A Omega below which a direction of the sketch is dropped: the Gram matrix of Y squares it."""


def factorize_randomized(workers: Workers, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor A by q + 2 passes: q + 1 power iterations, and one that leaves A Z, whose exact SVD needs no more of A.

    Z may leave out directions that A has, so the spectral error is in two parts: with E_1 = A (I - Z Z^T), which random
    vectors bound, and E_2 = A Z (I - W_k W_k^T), ||E_2||_2 = sigma_(k+1) of A Z, on orthogonal spaces,

        ||A - U diag(s) V^T||_2^2 = ||E_1 + E_2 Z^T||_2^2 <= ||E_1||_2^2 + ||E_2||_2^2.

    Raises:
        CtbasisError: A holds NaN or Inf, or U does not come out orthonormal.
    """
    seed, k = drawn(plan), plan.rank
    width = k + plan.oversample
    Z = np.linalg.qr(np.random.default_rng(seed).standard_normal((plan.cols, width)))[0]
    for _ in range(plan.power_iters + 1):
        (W,) = workers.run(Normal(Z))
        Z = np.linalg.qr(W)[0]
    rng = np.random.default_rng([seed, 1])
    Omega = rng.standard_normal((plan.cols, PROBES))
    along = Z.T @ Omega

    def of_sketch(work: Pass) -> Parts:
        return workers.run(Sketched(work, factors.uri))

    factors.create_sketch(width + PROBES)
    try:
        H, W, squared = workers.run(Sketch(np.hstack([Z, Omega - Z @ along]), factors.uri, back=width))
        energy = float(squared)
        small = small_svd(H[:width, :width], of_sketch, k, Z=Z, more=PROBES)
        s = small.s[:k]
        probes = make_probes(Omega, s, small.V, rng)
        # A Omega is of the sketch's columns too.
        asked = replace(probes, columns=np.vstack([along, np.eye(PROBES)]))
        squares, gram = of_sketch(WriteU(small.X, small.T, k, asked, factors.uri, factors.dtype))
    finally:
        factors.drop_sketch()
    left = Left(energy, energy - float(np.sum(s**2)), IDENTITY)
    residual, by = left.residual, left.by
    if residual is None:
        (residual, by), spectral, gram = measured(workers, Residual(small.V * s, probes, factors.uri))
    else:
        check_agreement(residual, squares, rounding(s, factors.dtype))
        inside = float(small.s[k]) if k < len(small.s) else 0.0
        outside = normal_norm_bound(W - Z @ (Z.T @ W))
        spectral = float(np.hypot(inside, outside)) + small.error, SPECTRAL, FAILURE
        if spectral[0] >= residual:
            spectral = residual + small.error, "the Frobenius norm of the residual", 0.0
    note = (
        f"randomized, {plan.power_iters + 1} orthonormalised power iterations on {width} directions, seed {seed}; "
        f"in their span {small.name}"
    )
    basis, valid_to = basis_error(gram, probes.basis, factors.uri), max(RANDOM_RATIO, small.valid_to)
    accuracy = accounted(
        workers, s, small.V, energy, (residual, by), spectral, basis=basis, dtype=factors.dtype, valid_to=valid_to
    )
    return Spectrum(s=s, V=small.V, note=note, accuracy=accuracy)


def factorize_single_pass(workers: Workers, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor A by one pass over it, and one over its sketch.

    Raises:
        CtbasisError: A holds NaN or Inf.
    """
    seed, k = drawn(plan), plan.rank
    width = min(2 * k + plan.oversample + 1, plan.rows, plan.cols)
    # The last columns are held out: they are probes of what the others made.
    Omega = np.random.default_rng(seed).standard_normal((plan.cols, width + PROBES))
    factors.create_sketch(width + PROBES)
    H, W, energy = workers.run(Sketch(Omega, factors.uri))
    squared, P = np.linalg.eigh(H[:width, :width])
    keep = squared > SKETCH_RATIO**2 * squared[-1]
    whiten = P[:, keep] / np.sqrt(squared[keep])
    B = whiten.T @ W[:, :width].T
    W_small, s, Vt = np.linalg.svd(B, full_matrices=False)
    found = min(k, len(s))
    s, V = np.pad(s[:found], (0, k - found)), complete_basis(Vt[:found].T, k)
    signs = fixed_signs(V)
    V = V * signs
    X = whiten @ (W_small[:, :found] * signs[:found])
    probes = make_probes(Omega[:, width:], s, V, np.random.default_rng([seed, 1]))
    # A times them is what the sketch has beyond A Omega.
    asked = replace(probes, columns=np.eye(width + PROBES)[:, width:])
    finish = WriteU(np.pad(X, ((0, PROBES), (0, 0))), None, k, asked, factors.uri, factors.dtype)
    try:
        squares, gram = workers.run(Sketched(finish, factors.uri))
    finally:
        factors.drop_sketch()
    residual, residual_by = _left(float(energy), s, squares)
    error = ZERO * width * EPS * float(s[0]) / SKETCH_RATIO
    bound, by, failure = norm_bound(np.sqrt(squares)[None, :]), "random vectors held out of the sketch", FAILURE
    if residual <= bound and residual_by == IDENTITY:
        bound, by, failure = residual + error, "the Frobenius norm of the residual", 0.0
    basis = basis_error(gram, probes.basis, factors.uri)
    accuracy = accounted(
        workers,
        s,
        V,
        float(energy),
        (residual, residual_by),
        (bound, by, failure),
        basis=basis,
        dtype=factors.dtype,
        valid_to=SKETCH_RATIO,
    )
    note = f"single pass, {width} directions and no power iteration, seed {seed}"
    return Spectrum(s=s, V=V, note=note, accuracy=accuracy)


def _left(energy: float, s: NDArray[np.float64], squares: NDArray[np.float64]) -> tuple[float, str]:
    """Return ||A - U diag(s) V^T||_F: by the energy where that has correct digits, for there is no further pass."""
    left = energy - float(np.sum(s**2))
    if left > IDENTITY_DIGITS * energy:
        return float(np.sqrt(left)), IDENTITY
    return float(np.sqrt(np.mean(squares))), "an estimate by random vectors held out of the sketch"


def drawn(plan: Plan) -> int:
    """Return the seed of the plan, or one drawn now; the note names it, so that the run can be had again."""
    if plan.seed is not None:
        if plan.seed < 0:
            raise CtbasisError(f"seed is {plan.seed}", expected="a whole number, at least 0")
        return plan.seed
    return int(np.random.SeedSequence().generate_state(1)[0])
