"""A_k is the truncated SVD, and voxels that were set aside return to their places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.errors import CtbasisError
from ctbasis.matrix.slice_store import Series
from ctbasis.matrix.store import MatrixStore, MatrixWriter
from ctbasis.storage.voxels import absent
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.plan import plan_factorization
from ctbasis.svd.rank_k import low_rank_columns, restore_set_aside

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

IMAGE, N, RANK = (40, 30), 9, 6


@pytest.fixture(name="A")
def matrix_of_hu() -> NDArray[np.int16]:
    return np.random.default_rng(1).integers(-1000, 1500, (IMAGE[0] * IMAGE[1], N)).astype(np.int16)


@pytest.fixture
def basis(tmp_path: Path, A: NDArray[np.int16]) -> FactorStore:
    m = len(A)
    writer = MatrixWriter.create(str(tmp_path / "m"), image=IMAGE, cols=N, dtype=np.int16)
    writer.write(slice(0, m), slice(0, N), A, np.full_like(A, absent(np.int16)))
    writer.finish(series=[Series("1.2", 0, N)], headers=[b"x"] * N)
    matrix = MatrixStore.open(writer.uri)
    U, s, Vt = np.linalg.svd(A.astype(float), full_matrices=False)
    factors = FactorWriter.create(str(tmp_path / "f"), matrix, rank=RANK, dtype=np.float64)
    for index in range(matrix.block_count):
        factors.write_block(matrix.block(index), U[matrix.block(index), :RANK])
    plan = plan_factorization(engine="numpy", rows=m, cols=N, rank=RANK, oversample=0, power_iters=0, seed=None)
    factors.finish(s=s[:RANK], V=Vt[:RANK].T, plan=plan, matrix=matrix)
    return FactorStore.open(factors.uri)


@pytest.mark.parametrize("rank", range(1, RANK + 1))
def test_the_residual_is_the_energy_of_the_singular_values_left_out(
    basis: FactorStore, A: NDArray[np.int16], rank: int
) -> None:
    left_out = np.linalg.svd(A.astype(float), compute_uv=False)[rank:]
    residual = np.linalg.norm(A - low_rank_columns(basis, slice(None), rank))
    assert residual == pytest.approx(np.sqrt(np.sum(left_out**2)), rel=1e-10)


@pytest.mark.parametrize("selection", [slice(0, 1), slice(2, 7), slice(8, 9), np.array([7, 0, 3])])
def test_a_selection_of_columns_equals_those_columns_of_the_whole_matrix(
    basis: FactorStore, selection: slice | NDArray[np.intp]
) -> None:
    np.testing.assert_allclose(
        low_rank_columns(basis, selection, 4), low_rank_columns(basis, slice(None), 4)[:, selection], atol=1e-9
    )


def test_an_image_is_a_view_of_its_column(basis: FactorStore) -> None:
    selection = low_rank_columns(basis, slice(0, 3), 2)
    assert np.shares_memory(selection[:, 1].reshape(basis.image), selection)


@pytest.mark.parametrize("rank", [-1, 0, RANK + 1, 300])
def test_a_rank_outside_the_stored_range_is_an_error_that_names_the_stored_rank(basis: FactorStore, rank: int) -> None:
    with pytest.raises(CtbasisError, match=rf"rank {rank} .* holds {RANK} basis images"):
        low_rank_columns(basis, slice(None), rank)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_restore_set_aside_changes_only_the_voxels_that_were_set_aside(dtype: type) -> None:
    image = np.array([10.25, -3.5, 7.0], np.float32)
    restore_set_aside(image, np.array([absent(dtype), -3024, absent(dtype)], dtype))
    assert image.tolist() == [10.25, -3024.0, 7.0]
