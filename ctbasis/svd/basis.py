"""Orthonormal bases: completing one where singular values are zero, and a sign convention for singular vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def complete_basis(Q: NDArray[np.float64], columns: int) -> NDArray[np.float64]:
    """Append orthonormal columns to Q, orthogonal to the columns of Q, until it has `columns` columns.

    Q may be a block of rows of a taller matrix with orthonormal columns. The appended columns are then orthogonal to
    the columns of the whole matrix, if they are extended by zeros in all other rows.

    Args:
        Q: (rows, j) with j <= `columns`.
        columns: Number of columns of the result.

    Returns:
        (rows, columns).

    Raises:
        CtbasisError: Q has fewer rows than `columns`.
    """
    rows, present = Q.shape
    if present == columns:
        return Q
    if rows < columns:
        raise CtbasisError(
            f"only {present} of {columns} singular values are distinguishable from zero, and a row block has "
            f"{rows} rows",
            expected=f"at least {columns} rows in a block, to complete the basis in it",
            remedy=f"ask for rank {max(1, present)}",
        )
    random = np.random.default_rng(0).standard_normal((rows, columns - present))
    # Householder QR gives orthonormal columns whatever the rank of Q is, and the first ones span the columns of Q.
    return np.hstack([Q, np.linalg.qr(np.hstack([Q, random]))[0][:, present:]])


def fixed_signs(V: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each column of V, (n, k), the sign that makes its largest entry positive, (k,).

    Singular vectors are unique up to a common sign of u_i and v_i; with this convention equal runs give equal factors.
    """
    largest = V[np.abs(V).argmax(axis=0), np.arange(V.shape[1])]
    return np.where(largest < 0, -1.0, 1.0)
