"""Factor a matrix in memory, or a stored one, with any engine: the svd step for a notebook."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.dicom.volume import Volume
from ctbasis.errors import CtbasisError
from ctbasis.matrix.slice_store import Series
from ctbasis.matrix.store import MatrixStore, MatrixWriter
from ctbasis.matrix.volumes import write_volume
from ctbasis.parameters import GlobalMode, SvdPlan
from ctbasis.steps.svd import factorize
from ctbasis.storage.working_folder import scratch_folder
from ctbasis.svd.factors import FactorStore
from ctbasis.svd.spectrum import Accuracy

if TYPE_CHECKING:
    from numpy.typing import NDArray

STORED_DTYPES = ("int16", "float32", "float64")
"""Types of numbers that a matrix store holds as they are."""


@dataclass(frozen=True, eq=False)
class Factors:
    """A truncated singular value decomposition A ~ U diag(s) V^T.

    Attributes:
        U: Left singular vectors, (m, k), float32; columns of unit length. For CT, U[:, i] is a basis image.
        s: Singular values, descending, (k,).
        V: Right singular vectors, (n, k); columns of unit length.
        accuracy: How far U diag(s) V^T is from A, with the bounds that the engine measured: `norm` is ||A||_F,
            `residual` is ||A - U diag(s) V^T||_F, `spectral_error` bounds the same in the spectral norm.
        engine: The engine that ran.
        note: How the engine computed it: method, seed.

    Examples:
        >>> import numpy as np, ctbasis
        >>> A = np.random.default_rng(0).normal(size=(200, 12))
        >>> factors = ctbasis.factor(A, rank=12)
        >>> bool(np.allclose(factors.approximation(), A, atol=1e-5))
        True
    """

    U: NDArray[np.float32]
    s: NDArray[np.float64]
    V: NDArray[np.float64]
    accuracy: Accuracy
    engine: str
    note: str

    def __repr__(self) -> str:
        m, n, k = len(self.U), len(self.V), len(self.s)
        left_out = self.accuracy.residual / self.accuracy.norm if self.accuracy.norm else 0.0
        return f"Factors({m} x {n} at rank {k} by {self.engine}, residual {left_out:.2%} of ||A||_F)"

    def approximation(self, rank: int | None = None) -> NDArray[np.float64]:
        """Return U diag(s) V^T, (m, n), of the first `rank` singular triplets; of all by default."""
        return np.asarray(self.U[:, :rank] * self.s[:rank] @ self.V[:, :rank].T)


def factor(
    matrix: NDArray[Any] | Volume | str | os.PathLike[str],
    rank: int = 50,
    *,
    engine: str = "numpy",
    oversample: int = 15,
    power_iters: int = 2,
    seed: int | None = None,
    method: str = "auto",
    memory: str = "auto",
    cluster: str = "",
    keep: str | os.PathLike[str] = "",
) -> Factors:
    """Compute a truncated singular value decomposition, A ~ U diag(s) V^T, and how accurate it is.

    Args:
        matrix: A: an array (m, n) of real, finite numbers; a volume, whose matrix has one row a voxel and one column a
            slice, in HU; or the path or URI of a matrix store that ctbasis wrote.
        rank: k, singular triplets to compute; at most min(m, n) are.
        engine: `numpy`, `mahout`, `spark`, `dask`, `ray`, or `auto`. All but numpy need their own software, see
            docs/reference/engines.md.
        oversample: Oversampling p of the randomized methods: columns of the random projection beyond k.
        power_iters: Power iterations q of the randomized methods.
        seed: Of the random projection; None draws one.
        method: Algorithm of the engines other than mahout: `exact`, `randomized`, `single-pass`; `auto` is exact up to
            4096 columns.
        memory: Memory that the engine numpy may take, such as `3GiB`; `auto` is half of what is free.
        cluster: Address of the engine's own cluster; empty for this machine.
        keep: Path or URI at which the factors stay, as a basis that `ctbasis.denoise` and `ctbasis reconstruct` take;
            empty keeps none. Workers on other machines need both `matrix` and `keep` where they reach them.

    Returns:
        The factors. U takes 4 m k bytes.

    Raises:
        CtbasisError: A has another form or holds NaN or infinity, a parameter is out of its range, the engine is
            unknown or not installed, or it failed.

    Examples:
        >>> import numpy as np, ctbasis
        >>> A = np.random.default_rng(0).normal(size=(500, 20))
        >>> factors = ctbasis.factor(A, rank=5)
        >>> factors.U.shape, factors.s.shape, factors.V.shape
        ((500, 5), (5,), (20, 5))
        >>> bool(np.allclose(factors.s, np.linalg.svd(A, compute_uv=False)[:5]))
        True
        >>> bool(factors.accuracy.residual < factors.accuracy.norm)
        True
    """
    plan = SvdPlan(
        engine=engine,
        seed=-1 if seed is None else seed,
        memory=memory,
        cluster=cluster,
        global_mode=GlobalMode(
            rank=str(rank), ranks=str(rank), oversample=oversample, power_iters=power_iters, method=method
        ),
    )
    with scratch_folder("ctbasis-factor") as scratch:
        uri = _stored_matrix(matrix, str(scratch / "matrix.zarr"))
        factors_uri = os.fspath(keep) or str(scratch / "factors.zarr")
        factorize(uri, factors_uri, plan, run=unique_run())
        store = FactorStore.open(factors_uri)
        U = np.concatenate([store.read_block(index) for index in range(store.block_count)])
    return Factors(U, store.s, store.V, Accuracy(**store.accuracy), store.plan.engine, store.plan.note)


def unique_run() -> str:
    """Return a name of a run that no other has: a Spark application is looked for by the name of its run."""
    return f"notebook-{uuid.uuid4().hex}"


def _stored_matrix(matrix: Any, uri: str) -> str:
    """Return the URI of a matrix store of `matrix`, which is written to `uri` unless it is one already."""
    if isinstance(matrix, (str, os.PathLike)):
        return os.fspath(matrix)
    if isinstance(matrix, Volume):
        return write_volume(matrix, uri).uri
    A = _checked_matrix(matrix)
    rows, columns = A.shape
    writer = MatrixWriter.create(uri, image=(rows, 1), cols=columns, dtype=A.dtype)
    for first in range(0, columns, writer.column_chunk):
        group = slice(first, min(first + writer.column_chunk, columns))
        writer.write(slice(0, rows), group, A[:, group], None)
    writer.finish(series=[Series("", 0, columns)], headers=[b""] * columns)
    return MatrixStore.open(uri).uri


def _checked_matrix(matrix: Any) -> NDArray[Any]:
    A = np.asarray(matrix)
    if A.ndim != 2 or not A.size:  # noqa: PLR2004 - rows and columns
        raise CtbasisError(
            f"a matrix of shape {A.shape}",
            expected="an array (m, n), not empty",
            remedy="make a ctbasis.Volume of an array (slices, rows, columns)" if A.ndim == 3 else "",  # noqa: PLR2004
        )
    if A.dtype.kind not in "iuf":
        raise CtbasisError(f"a matrix of dtype {A.dtype}", expected="real numbers")
    if A.dtype.kind == "f" and not np.isfinite(A).all():
        row, column = (int(index) for index in np.argwhere(~np.isfinite(A))[0])
        raise CtbasisError(
            f"the matrix holds {A[row, column]} at row {row}, column {column}", expected="finite numbers"
        )
    # The lowest int16 means "no value" in a store.
    if A.dtype.name not in STORED_DTYPES or (A.dtype.kind == "i" and A.min() == np.iinfo(A.dtype).min):
        A = A.astype(np.float64)
    return A
