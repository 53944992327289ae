"""The randomized SVD of a matrix with many columns: find a subspace of leading directions, then an exact SVD in it.

Subspace iteration on the row space (HMT algorithm 4.4, applied to A^T). Z is an n x l basis. One pass over the row
blocks gives A^T (A Z), which is orthonormalized in float64 before the next pass. This orthonormalization is necessary:
without it, and in float32, sigma_50 came out 70 times too small. A power iteration costs one pass, whereas the
two-sided algorithm 4.4 needs two. The q + 1 iterations give an exponent of 2q + 2, at least the 2q + 1 of HMT's scheme
at the same q, so the error is that of their theorem 10.6 for A^T, or smaller. Directions below sqrt(eps) = 1e-8 of
sigma_1 are lost in rounding. The next pass stores the sketch A Z, l columns instead of n, beside the factors; the SVD
of the sketch then reads the sketch and not A.

The single-pass method is for data that can be read only once. It computes Y = A Omega and A^T Y in the same pass. Since
whole rows pass by, Q^T A = R^-T (A^T Y)^T is exact. The sketches of HMT 5.5 and Tropp, Yurtsever, Udell, Cevher (SIAM
J. Matrix Anal. 38(4), 2017), made for arbitrary linear updates, need a second random matrix and a least-squares
solution instead, and lose accuracy by it. The error of the single pass is HMT's at q = 0; to reduce it, the method
projects onto 2k + p + 1 columns instead of k + p. Y is stored beside the factors until U is computed from it. (Compare
Yu, Gu, Li, Liu, Li, Single-pass PCA of large high-dimensional data, IJCAI 2017.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.svd.accuracy import (
    EPS,
    FAILURE_PROBABILITY,
    PROBE_COUNT,
    basis_error,
    make_probes,
    norm_bound,
    normal_norm_bound,
    rounding,
)
from ctbasis.svd.basis import complete_basis, fixed_signs
from ctbasis.svd.exact import (
    ENERGY_RESIDUAL,
    MIN_ENERGY_SHARE,
    ZERO_FACTOR,
    Remainder,
    check_agreement,
    error_report,
    measure_residual,
    small_svd,
)
from ctbasis.svd.factor_passes import OnSketch, Residual, WriteSketch, WriteU
from ctbasis.svd.passes import PowerIteration
from ctbasis.svd.spectrum import Spectrum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.svd.factors import FactorWriter
    from ctbasis.svd.passes import Parts, Pass
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.workers import Workers

SPECTRAL_BY_SPAN = "sigma_(k+1) within the span, and random vectors outside of it under the normal matrix"

RANDOM_RATIO = 1e-7
"""Smallest sigma / sigma_1 of a direction that subspace iteration on A^T A finds: sqrt(eps), and one digit more."""

SKETCH_RATIO = 1e-4
"""Smallest sigma / sigma_1 of A Omega at which a direction of the sketch is kept: the Gram matrix of Y squares it."""


def factorize_randomized(workers: Workers, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Compute the SVD of A in q + 2 passes: q + 1 power iterations, and one pass that stores the sketch A Z.

    Z may miss directions that A has, so the spectral error has two parts. E_1 = A (I - Z Z^T) is bounded by random
    vectors, and E_2 = A Z (I - W_k W_k^T) has ||E_2||_2 = sigma_(k+1) of A Z. They act on orthogonal spaces, so

        ||A - U diag(s) V^T||_2^2 = ||E_1 + E_2 Z^T||_2^2 <= ||E_1||_2^2 + ||E_2||_2^2.

    Raises:
        CtbasisError: A contains NaN or Inf, or U does not come out orthonormal.
    """
    seed, k = resolve_seed(plan), plan.rank
    width = k + plan.oversample
    Z = np.linalg.qr(np.random.default_rng(seed).standard_normal((plan.cols, width)))[0]
    for _ in range(plan.power_iters + 1):
        (W,) = workers.run(PowerIteration(Z))
        Z = np.linalg.qr(W)[0]
    rng = np.random.default_rng([seed, 1])
    Omega = rng.standard_normal((plan.cols, PROBE_COUNT))
    Omega_in_span = Z.T @ Omega

    def run_on_sketch(work: Pass) -> Parts:
        return workers.run(OnSketch(work, factors.uri))

    factors.create_sketch(width + PROBE_COUNT)
    try:
        test_matrix = np.hstack([Z, Omega - Z @ Omega_in_span])
        H, W, squared = workers.run(WriteSketch(test_matrix, factors.uri, first_back_projected=width))
        energy = float(squared)
        small = small_svd(H[:width, :width], run_on_sketch, k, Z=Z, probe_columns=PROBE_COUNT)
        s = small.s[:k]
        probes = make_probes(Omega, s, small.V, rng)
        # A Omega is a combination of the columns of the sketch.
        sketch_probes = replace(probes, columns=np.vstack([Omega_in_span, np.eye(PROBE_COUNT)]))
        squares, gram = run_on_sketch(WriteU(small.X, small.T, k, sketch_probes, factors.uri, factors.dtype))
    finally:
        factors.drop_sketch()
    remainder = Remainder(energy, energy - float(np.sum(s**2)), ENERGY_RESIDUAL)
    residual, residual_by = remainder.residual, remainder.residual_by
    if residual is None:
        (residual, residual_by), spectral, gram = measure_residual(workers, Residual(small.V * s, probes, factors.uri))
    else:
        check_agreement(residual, squares, rounding(s, factors.dtype))
        inside = float(small.s[k]) if k < len(small.s) else 0.0
        outside = normal_norm_bound(W - Z @ (Z.T @ W))
        spectral = float(np.hypot(inside, outside)) + small.error, SPECTRAL_BY_SPAN, FAILURE_PROBABILITY
        if spectral[0] >= residual:
            spectral = residual + small.error, "the Frobenius norm of the residual", 0.0
    note = (
        f"randomized, {plan.power_iters + 1} orthonormalised power iterations on {width} directions, seed {seed}; "
        f"in their span {small.method}"
    )
    basis, valid_to = basis_error(gram, probes.basis, factors.uri), max(RANDOM_RATIO, small.valid_to)
    accuracy = error_report(
        workers,
        s,
        small.V,
        energy,
        (residual, residual_by),
        spectral,
        basis=basis,
        dtype=factors.dtype,
        valid_to=valid_to,
    )
    return Spectrum(s=s, V=small.V, note=note, accuracy=accuracy)


def factorize_single_pass(workers: Workers, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Compute the SVD of A by one pass over A and one over its sketch.

    Raises:
        CtbasisError: A contains NaN or Inf, or U does not come out orthonormal.
    """
    seed, k = resolve_seed(plan), plan.rank
    width = min(2 * k + plan.oversample + 1, plan.rows, plan.cols)
    # The last columns are held out of the projection, and serve as random vectors for its errors.
    Omega = np.random.default_rng(seed).standard_normal((plan.cols, width + PROBE_COUNT))
    factors.create_sketch(width + PROBE_COUNT)
    H, W, energy = workers.run(WriteSketch(Omega, factors.uri))
    squared, P = np.linalg.eigh(H[:width, :width])
    keep = squared > SKETCH_RATIO**2 * squared[-1]
    whiten = P[:, keep] / np.sqrt(squared[keep])
    B = whiten.T @ W[:, :width].T
    W_small, s, Vt = np.linalg.svd(B, full_matrices=False)
    nonzero = min(k, len(s))
    s, V = np.pad(s[:nonzero], (0, k - nonzero)), complete_basis(Vt[:nonzero].T, k)
    signs = fixed_signs(V)
    V = V * signs
    X = whiten @ (W_small[:, :nonzero] * signs[:nonzero])
    probes = make_probes(Omega[:, width:], s, V, np.random.default_rng([seed, 1]))
    # A times the held-out columns is the last part of the sketch.
    sketch_probes = replace(probes, columns=np.eye(width + PROBE_COUNT)[:, width:])
    write_u = WriteU(np.pad(X, ((0, PROBE_COUNT), (0, 0))), None, k, sketch_probes, factors.uri, factors.dtype)
    try:
        squares, gram = workers.run(OnSketch(write_u, factors.uri))
    finally:
        factors.drop_sketch()
    residual, residual_by = _single_pass_residual(float(energy), s, squares)
    error = ZERO_FACTOR * width * EPS * float(s[0]) / SKETCH_RATIO
    bound, bound_by = norm_bound(np.sqrt(squares)[None, :]), "random vectors held out of the sketch"
    failure = FAILURE_PROBABILITY
    if residual <= bound and residual_by == ENERGY_RESIDUAL:
        bound, bound_by, failure = residual + error, "the Frobenius norm of the residual", 0.0
    basis = basis_error(gram, probes.basis, factors.uri)
    accuracy = error_report(
        workers,
        s,
        V,
        float(energy),
        (residual, residual_by),
        (bound, bound_by, failure),
        basis=basis,
        dtype=factors.dtype,
        valid_to=SKETCH_RATIO,
    )
    note = f"single pass, {width} directions and no power iteration, seed {seed}"
    return Spectrum(s=s, V=V, note=note, accuracy=accuracy)


def _single_pass_residual(energy: float, s: NDArray[np.float64], squares: NDArray[np.float64]) -> tuple[float, str]:
    """Return ||A - U diag(s) V^T||_F and how it was computed.

    The energy identity gives it where that has correct digits; otherwise it is estimated, since A is not read again.
    """
    left_out = energy - float(np.sum(s**2))
    if left_out > MIN_ENERGY_SHARE * energy:
        return float(np.sqrt(left_out)), ENERGY_RESIDUAL
    return float(np.sqrt(np.mean(squares))), "an estimate by random vectors held out of the sketch"


def resolve_seed(plan: Plan) -> int:
    """Return the plan's seed, or a random one if it has none; the note names it, so that the run can be repeated.

    Raises:
        CtbasisError: The seed is negative.
    """
    if plan.seed is not None:
        if plan.seed < 0:
            raise CtbasisError(f"seed is {plan.seed}", expected="a whole number, at least 0")
        return plan.seed
    return int(np.random.SeedSequence().generate_state(1)[0])
