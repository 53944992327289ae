"""Orthonormal bases: completed where singular values are zero, and with signs that are the same in every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def complete_basis(Q: NDArray[np.float64], columns: int) -> NDArray[np.float64]:
    """Return Q with orthonormal columns added, orthogonal to its own, up to `columns`.

    Q may be some rows of a taller matrix with orthonormal columns: with zeros in the other rows, what is added is
    orthogonal to all of it.

    Raises:
        CtbasisError: Q has too few rows for so many columns.
    """
    rows, present = Q.shape
    if present == columns:
        return Q
    if rows < columns:
        raise CtbasisError(
            f"only {present} of {columns} singular values stand out from zero, and a row block has {rows} rows",
            expected=f"at least {columns} rows a block to complete the basis in",
            remedy=f"ask for rank {max(1, present)}",
        )
    more = np.random.default_rng(0).standard_normal((rows, columns - present))
    # Householder's QR: its columns are orthonormal, and the first ones span those of Q, whatever Q's rank is.
    return np.hstack([Q, np.linalg.qr(np.hstack([Q, more]))[0][:, present:]])


def fixed_signs(V: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sign for each column of V that makes its largest entry positive: equal runs, equal factors."""
    largest = V[np.abs(V).argmax(axis=0), np.arange(V.shape[1])]
    return np.where(largest < 0, -1.0, 1.0)
