"""The projection of a matrix onto the basis of other slices, stored as factors, with a report of what it leaves out.

Let U be the basis of another run, W = U^T A and W = P S V^T its SVD. The projection U U^T A then has the factors U P,
S, V. The remainder ||A - U U^T A||_F is anatomy and noise that no slice of the other run contained. Slices of different
patients share little more than air, a body and its blurred outline, and the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.printable import say
from ctbasis.svd.basis import fixed_signs
from ctbasis.svd.engines.numpy import ThreadWorkers, thread_bytes
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.passes import ProductSum, add, panels
from ctbasis.svd.plan import plan_factorization
from ctbasis.svd.verify import accuracy_of, residual_pass

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctbasis.matrix.store import MatrixStore
    from ctbasis.svd.passes import Parts

MISFIT_RATIO = 1.5
"""A basis does not fit a matrix if the share it leaves out exceeds this multiple of what it leaves out of its own
slices."""

VALID_TO = 1e-7
"""Smallest sigma_k / sigma_1 at which the singular values of U^T A are accurate: U is float32."""


@dataclass(frozen=True)
class ProjectOntoBasis:
    """U^T A and ||A||_F^2.

    Attributes:
        basis_uri: URI of the factor store that holds U.
        name: See `Pass`.
        reads: See `Pass`.
    """

    basis_uri: str
    name: str = "projection"
    reads: bool = True
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:
        """Return U[rows]^T A[rows], (k, n), and the squared norm of the block, ()."""
        U = self._basis.read_back(rows)
        W, energy = ProductSum(U.shape[1], A.shape[1]), np.zeros(())
        first = 0
        for panel in panels(A):
            W.add_product(np.asarray(U[first : first + len(panel)], np.float64).T, panel)
            energy += np.vdot(panel, panel)
            first += len(panel)
        return W.total, energy

    @cached_property
    def _basis(self) -> FactorWriter:
        return FactorWriter(self.basis_uri)


@dataclass(frozen=True)
class WriteRotatedU:
    """U P, written block by block.

    Attributes:
        basis_uri: URI of the factor store that holds U.
        P: (k, j).
        factors_uri: URI of the factor store that receives U P.
        name: See `Pass`.
        reads: See `Pass`.
    """

    basis_uri: str
    P: NDArray[np.float64]
    factors_uri: str
    name: str = "basis of the projection"
    reads: bool = False
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - A is not read
        """Write U[rows] P; the result is a zero, since a pass returns arrays."""
        self._factors.write_block(rows, np.asarray(self._basis.read_back(rows), np.float64) @ self.P)
        return (np.zeros(()),)

    @cached_property
    def _basis(self) -> FactorWriter:
        return FactorWriter(self.basis_uri)

    @cached_property
    def _factors(self) -> FactorWriter:
        return FactorWriter(self.factors_uri)


def project_matrix(
    matrix: MatrixStore,
    basis: FactorStore,
    factors_uri: str,
    *,
    rank: int,
    noise_norm: Callable[[MatrixStore], float],
) -> FactorStore:
    """Write the factors of the projection of `matrix` onto `basis`, with threads of this process.

    Args:
        matrix: A.
        basis: U, computed from other slices of the same image size.
        factors_uri: URI of the new factor store; an existing one is replaced.
        rank: k, at most the rank of the basis and n.
        noise_norm: Function that estimates ||N||_F, HU, of the noise in a matrix. It is called only if the basis fits.

    Raises:
        CtbasisError: The images differ in size, or a block is missing.
    """
    if basis.image != matrix.image:
        raise CtbasisError(
            f"the basis at {basis.uri} is of images of {basis.image[0]} x {basis.image[1]}, the series of "
            f"{matrix.image[0]} x {matrix.image[1]}",
            expected="images of the same size",
            remedy="omit --basis, or use --mode patch, whose basis does not depend on the image size",
        )
    plan = plan_factorization(
        engine="numpy", rows=matrix.rows, cols=matrix.cols, rank=rank, oversample=0, power_iters=0, seed=None
    )
    workers = ThreadWorkers(
        matrix, memory=0, bytes_per_thread=thread_bytes(matrix, plan) + 12 * matrix.block_rows * basis.rank
    )
    W, energy = workers.run(ProjectOntoBasis(basis.uri))
    P, s, Vt = np.linalg.svd(W, full_matrices=False)
    k = min(rank, len(s))
    V = Vt[:k].T
    signs = fixed_signs(V)
    factors = FactorWriter.create(factors_uri, matrix, rank=k)
    workers.run(WriteRotatedU(basis.uri, P[:, :k] * signs, factors_uri))
    V = V * signs
    check = residual_pass(s[:k], V, factors_uri, seed=0)
    parts = workers.run(check)
    accuracy = accuracy_of(
        check,
        parts,
        s=s[:k],
        V=V,
        dtype=factors.dtype,
        passes=workers.passes,
        bytes_read=workers.bytes_read,
        valid_to=VALID_TO,
    )
    lost = float(np.sqrt(max(0.0, 1 - float(np.sum(s**2)) / max(float(energy), 1e-300))))
    noise = min(lost, noise_norm(matrix) / max(float(np.sqrt(energy)), 1e-300))
    own = basis.accuracy["residual"] / basis.accuracy["norm"] if basis.accuracy.get("norm") else None
    note = f"projected on {basis.rank} basis images of {basis.cols} slices of another run, which leave out {lost:.2%}"
    say(f"svd: {note} of ||A||_F")
    described = {**vars(plan), "rank": k, "note": note}
    factors.finish(s=s[:k], V=V, plan=type(plan)(**described), matrix=matrix, accuracy=accuracy)
    basis_spacing, spacing = basis.series[0].pixel_spacing, matrix.series[0].pixel_spacing
    differs = bool(np.max(np.abs(np.array(basis_spacing) / np.array(spacing) - 1)) > 0.01)  # noqa: PLR2004 - 1 percent
    factors.record_projection(
        {
            "basis_rank": basis.rank,
            "basis_slices": basis.cols,
            "lost": lost,
            "noise": noise,
            "own": own,
            "unlike_pixels": differs,
        }
    )
    return FactorStore.open(factors_uri)
