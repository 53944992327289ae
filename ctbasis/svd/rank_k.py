"""A_k = U_k diag(s_k) V_k^T, the best rank-k approximation that the factors contain, a few columns at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.storage.voxels import is_absent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.svd.factors import FactorStore

Columns: TypeAlias = "slice | NDArray[np.intp]"


def check_rank(rank: int, basis: FactorStore) -> None:
    """Check that the factors in `basis` can give a rank-`rank` approximation.

    Raises:
        CtbasisError: `rank` is below 1 or above the rank that is stored.
    """
    if not 1 <= rank <= basis.rank:
        raise CtbasisError(
            f"rank {rank} is out of the range of the basis at {basis.uri}, which holds {basis.rank} basis images",
            expected=f"a whole number from 1 to {basis.rank}",
            cause=f"the svd step was run with rank {basis.plan.rank_asked}" if rank > basis.rank else "",
            remedy=f"choose a rank up to {basis.rank}, or run the svd step again with a larger one",
        )


def low_rank_columns(basis: FactorStore, columns: Columns, rank: int) -> NDArray[Any]:
    """Return columns of A_k.

    The function reads U once, block by block, with one matrix product per block; besides the result, one block of U is
    in memory. Reading U takes the same time for one column as for dozens, so ask for a column group at a time.

    Args:
        basis: The factors.
        columns: Which columns of A, a slice or indices.
        rank: k.

    Returns:
        HU, (m, columns), in the dtype of U; float32 is accurate to about 1e-3 HU. Each column is contiguous in memory
        (Fortran order), so `result[:, j].reshape(basis.image)` is an image without a copy.

    Raises:
        CtbasisError: `rank` is not in 1 ... `basis.rank`, or a block of U is missing or corrupt.
    """
    check_rank(rank, basis)
    dtype = basis.read_block(0, rank=rank).dtype
    weights = (basis.V[columns, :rank] * basis.s[:rank]).astype(dtype)
    images = np.empty((len(weights), basis.rows), dtype)
    for index in range(basis.block_count):
        # A_k^T = (V_k diag(s_k)) U_k^T: the transpose, because a column of A_k is to be contiguous.
        np.matmul(weights, basis.read_block(index, rank=rank).T, out=images[:, basis.block(index)])
    return images.T


def restore_set_aside(image_hu: NDArray[Any], aside: NDArray[Any]) -> None:
    """Write the HU of excluded voxels (padding, air around the patient) back, in place.

    Args:
        image_hu: HU, any shape.
        aside: From `SliceArrays.read_aside`, same shape; where it is `absent`, `image_hu` keeps its value.
    """
    np.copyto(image_hu, aside, where=~is_absent(aside), casting="same_kind")
