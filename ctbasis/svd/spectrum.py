"""The small factors s and V of a factorization, and the report on their accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Accuracy:
    """The a-posteriori report of one factorization.

    Attributes:
        norm: ||A||_F.
        residual: ||A - U diag(s) V^T||_F.
        residual_by: How it was found.
        rounding: What the dtype of U on disk adds to it at most.
        spectral_error: Bound of ||A - U diag(s) V^T||_2.
        spectral_by: How it was found.
        failure: Probability that the bounds by random vectors do not hold; 0 where none is random.
        basis_error: Bound of ||U^T U - I||_2, of U as stored.
        weights_error: ||V^T V - I||_2.
        ratio: sigma_k / sigma_1 as found.
        valid_to: sigma_k / sigma_1 down to which the method promises right singular values.
        passes: Over A.
        bytes_read: Of A, from the store.
        bytes_shuffled: Between processes: operands sent to workers and results that came back or were merged;
            None where another library moved them.
    """

    norm: float
    residual: float
    residual_by: str
    rounding: float
    spectral_error: float
    spectral_by: str
    failure: float
    basis_error: float
    weights_error: float
    ratio: float
    valid_to: float
    passes: int
    bytes_read: int
    bytes_shuffled: int | None


@dataclass(frozen=True)
class Spectrum:
    """The small factors.

    Attributes:
        s: Singular values, descending, (k,).
        V: Right singular vectors, (n, k); column signs agree with the U that was written.
        note: One sentence on how the engine went about it (kernels, seed), for the report.
        accuracy: How wrong the factors may be.
    """

    s: NDArray[np.float64]
    V: NDArray[np.float64]
    note: str = ""
    accuracy: Accuracy | None = None
