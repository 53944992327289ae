"""A matrix on the basis of other slices: its projection, as factors like any others, and what the basis cannot hold.

With U from another run, W = U^T A and the SVD W = P S V^T, the projection U U^T A has the factors U P, S, V. What is
left, ||A - U U^T A||_F, is anatomy and noise that no slice of that run had: slices of other patients share little more
than air, a body and its blur, and the report says so.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.svd.basis import fixed_signs
from ctbasis.svd.engines.numpy import Threads, thread_bytes
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.passes import Sum, add, pieces
from ctbasis.svd.plan import plan_factorization
from ctbasis.svd.verify import question, report

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctbasis.matrix.store import MatrixStore
    from ctbasis.svd.passes import Parts

WORSE = 1.5
"""Share of a matrix that a basis leaves out, over that of the slices it was made of, from which it does not fit."""

VALID_TO = 1e-7
"""sigma_k / sigma_1 down to which singular values of U^T A are right: U is float32."""


@dataclass(frozen=True)
class Weigh:
    """U^T A and ||A||_F^2.

    Attributes:
        basis_uri: Where U is.
        what: Its name.
    """

    basis_uri: str
    what: str = "projection"
    reads: bool = True
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:
        """Return U[rows]^T A[rows], (k, n), and the energy, ()."""
        U = self._basis.read_back(rows)
        W, energy = Sum(U.shape[1], A.shape[1]), np.zeros(())
        first = 0
        for piece in pieces(A):
            W.add_product(np.asarray(U[first : first + len(piece)], np.float64).T, piece)
            energy += np.vdot(piece, piece)
            first += len(piece)
        return W.total, energy

    @cached_property
    def _basis(self) -> FactorWriter:
        return FactorWriter(self.basis_uri, mode="r")


@dataclass(frozen=True)
class Turn:
    """U P, written block by block.

    Attributes:
        basis_uri: Where U is.
        P: (k, j).
        factors_uri: Where U P goes.
        what: Its name.
    """

    basis_uri: str
    P: NDArray[np.float64]
    factors_uri: str
    what: str = "basis of the projection"
    reads: bool = False
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - A is not read
        """Write U[rows] P and return nothing."""
        self._factors.write_block(rows, np.asarray(self._basis.read_back(rows), np.float64) @ self.P)
        return (np.zeros(()),)

    @cached_property
    def _basis(self) -> FactorWriter:
        return FactorWriter(self.basis_uri, mode="r")

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
    """Write the factors of the projection of `matrix` on `basis`, by threads of this process.

    Args:
        matrix: A.
        basis: U, of other slices of the same image size.
        factors_uri: Where the factors go; replaced.
        rank: k, at most the basis's and n.
        noise_norm: Function that estimates ||N||_F, HU, of the noise in a matrix; it is called once the basis is known
            to fit.

    Raises:
        CtbasisError: The images differ in size or pixel spacing, or a block is missing.
    """
    theirs, ours = basis.series[0].pixel_spacing, matrix.series[0].pixel_spacing
    if basis.image != matrix.image:
        raise CtbasisError(
            f"the basis at {basis.uri} is of images of {basis.image[0]} x {basis.image[1]}, the series of "
            f"{matrix.image[0]} x {matrix.image[1]}",
            expected="the same size",
            remedy="leave --basis out, or use --mode patch, whose basis knows no image size",
        )
    plan = plan_factorization(
        engine="numpy", rows=matrix.rows, cols=matrix.cols, rank=rank, oversample=0, power_iters=0, seed=None
    )
    threads = Threads(matrix, memory=0, each=thread_bytes(matrix, plan) + 12 * matrix.block_rows * basis.rank)
    W, energy = threads.run(Weigh(basis.uri))
    P, s, Vt = np.linalg.svd(W, full_matrices=False)
    k = min(rank, len(s))
    V = Vt[:k].T
    signs = fixed_signs(V)
    factors = FactorWriter.create(factors_uri, matrix, rank=k)
    threads.run(Turn(basis.uri, P[:, :k] * signs, factors_uri))
    V = V * signs
    asked = question(s[:k], V, factors_uri, seed=0)
    answers = threads.run(asked)
    accuracy = report(
        asked,
        answers,
        s=s[:k],
        V=V,
        dtype=factors.dtype,
        passes=threads.passes,
        bytes_read=threads.bytes_read,
        valid_to=VALID_TO,
    )
    lost = float(np.sqrt(max(0.0, 1 - float(np.sum(s**2)) / max(float(energy), 1e-300))))
    noise = min(lost, noise_norm(matrix) / max(float(np.sqrt(energy)), 1e-300))
    own = basis.accuracy["residual"] / basis.accuracy["norm"] if basis.accuracy.get("norm") else None
    note = f"projected on {basis.rank} basis images of {basis.cols} slices of another run, which leave out {lost:.2%}"
    sys.stderr.write(f"svd: {note} of ||A||_F\n")
    described = {**vars(plan), "rank": k, "note": note}
    factors.finish(s=s[:k], V=V, plan=type(plan)(**described), matrix=matrix, accuracy=accuracy)
    unlike = bool(np.max(np.abs(np.array(theirs) / np.array(ours) - 1)) > 0.01)  # noqa: PLR2004 - a percent
    factors.tell_projection(
        {
            "basis_rank": basis.rank,
            "basis_slices": basis.cols,
            "lost": lost,
            "noise": noise,
            "own": own,
            "unlike_pixels": unlike,
        }
    )
    return FactorStore.open(factors_uri)
