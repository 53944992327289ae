"""The exact SVD on one machine by a blocked QR, in two passes over A: the engine that needs nothing but NumPy.

Each row block A_b = Q_b R_b; the stacked R_b = Z R; R = W diag(s) V^T. Then A = U diag(s) V^T with U_b = Q_b Z_b W
(Demmel, Grigori, Hoemmen, Langou, Communication-optimal parallel and sequential QR, SIAM J. Sci. Comput. 34(1), 2012).
Orthogonal transformations alone: small singular values keep their digits and U is orthonormal at any rank of A, which a
Gram matrix cannot promise. Q_b is computed twice instead of kept: memory is one block and the stacked R_b.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from components.errors import CtbasisError
from components.progress import progress
from components.svd.engines import Spectrum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.matrix.store import MatrixStore
    from components.svd.factors import FactorWriter
    from components.svd.plan import Plan


def factorize(matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor `matrix` exactly and keep `plan.rank` triplets; `oversample`, `power_iters` and `seed` have no effect.

    Raises:
        CtbasisError: The matrix holds NaN or Inf.
    """
    blocks = range(matrix.block_count)
    R = [np.linalg.qr(_finite(matrix, index), mode="r") for index in progress(blocks, "svd: R", unit="block")]
    Z, R_all = np.linalg.qr(np.vstack(R))
    W, s, Vt = np.linalg.svd(R_all, full_matrices=False)
    signs = _signs(Vt)
    small = Z @ (W * signs)[:, : plan.rank]
    edges = np.cumsum([0, *(len(block) for block in R)])
    for index in progress(blocks, "svd: U", unit="block"):
        Q, _ = np.linalg.qr(_finite(matrix, index))
        factors.write_block(matrix.block(index), Q @ small[edges[index] : edges[index + 1]])
    V = (Vt * signs[:, None])[: plan.rank].T
    return Spectrum(
        s=s[: plan.rank],
        V=V,
        note="exact blocked QR; oversample, power_iters and seed have no effect on an exact method",
    )


def _finite(matrix: MatrixStore, index: int) -> NDArray[np.float64]:
    block = matrix.read_block(index)
    if not np.isfinite(block).all():
        raise CtbasisError(f"matrix {matrix.uri}: NaN or Inf in row block {index}", expected="finite HU")
    return block


def _signs(Vt: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sign for each row of V^T that makes its largest entry positive: equal runs, equal factors."""
    signs: NDArray[np.float64] = np.sign(Vt[np.arange(len(Vt)), np.abs(Vt).argmax(axis=1)])
    return signs
