"""Interfaces of the results that derived series are written from.

`ctbasis.svd` and `ctbasis.patch` stand above this package, so this package does not import their stores. It declares
here the attributes and methods that it needs; `FactorStore` and `PatchStore` have them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import DTypeLike, NDArray


class SeriesColumns(Protocol):
    """The columns of one DICOM series in the matrix."""

    @property
    def SeriesInstanceUID(self) -> str:  # noqa: N802 - DICOM's keyword
        """SeriesInstanceUID of the source images."""
        ...

    @property
    def count(self) -> int:
        """Number of its columns."""
        ...

    @property
    def first(self) -> int:
        """Index of its first column."""
        ...


class FactorizationPlan(Protocol):
    """The parameters of a factorization that DerivationDescription names."""

    @property
    def engine(self) -> str:
        """Name of the engine that ran it."""
        ...

    @property
    def cols(self) -> int:
        """n, the number of slices."""
        ...

    @property
    def rank(self) -> int:
        """The rank k."""
        ...

    @property
    def oversample(self) -> int:
        """The oversampling p."""
        ...

    @property
    def power_iters(self) -> int:
        """The number of power iterations q."""
        ...

    @property
    def seed(self) -> int | None:
        """Seed of the random test matrix, None if the engine drew one."""
        ...


class Factors(Protocol):
    """Factors U, s, V of a matrix of slices, with the slices' headers; `FactorStore` is one."""

    s: NDArray[np.float64]
    V: NDArray[np.float64]

    @property
    def plan(self) -> FactorizationPlan:
        """How the matrix was factored."""
        ...

    @property
    def series(self) -> Sequence[SeriesColumns]:
        """The DICOM series in the matrix."""
        ...

    @property
    def rows(self) -> int:
        """m, the number of voxels of a slice."""
        ...

    @property
    def cols(self) -> int:
        """n, the number of slices."""
        ...

    @property
    def block_count(self) -> int:
        """Number of row blocks of U."""
        ...

    def block(self, index: int) -> slice:
        """Return the rows of block `index`."""
        ...

    def read_block(self, index: int, *, rank: int | None = None) -> NDArray[Any]:
        """Return row block `index` of U, (block rows, rank)."""
        ...

    def header(self, column: int) -> bytes:
        """Return the DICOM file of slice `column` without pixel data."""
        ...


class DenoisingPlan(Protocol):
    """The parameters of a run in patch mode; they are its instance attributes."""

    @property
    def summary(self) -> str:
        """The parameters in one phrase, for DerivationDescription."""
        ...


class DenoisedMatrix(Protocol):
    """A matrix that patch mode denoised; `PatchStore` is one."""

    @property
    def plan(self) -> DenoisingPlan:
        """How the matrix was denoised."""
        ...

    @property
    def block_count(self) -> int:
        """Number of row blocks."""
        ...

    def read_block(self, index: int, *, dtype: DTypeLike = ...) -> NDArray[Any]:
        """Return row block `index`, (block rows, n), HU."""
        ...
