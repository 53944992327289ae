"""The small factors s and V of a factorization, and the report on their accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Accuracy:
    """The a-posteriori error report of one factorization A ~ U diag(s) V^T.

    Attributes:
        norm: ||A||_F, HU.
        residual: ||A - U diag(s) V^T||_F, HU.
        residual_by: How the residual was computed.
        rounding: Upper bound of what rounding U to its dtype on disk adds to the residual, HU.
        spectral_error: Upper bound of ||A - U diag(s) V^T||_2, HU.
        spectral_by: How this bound was computed.
        failure: Probability that the bounds from random vectors do not hold; 0 if no bound is random.
        basis_error: Upper bound of ||U^T U - I||_2, for U as stored.
        weights_error: ||V^T V - I||_2.
        ratio: sigma_k / sigma_1 of the computed singular values.
        valid_to: Smallest sigma_k / sigma_1 at which the method guarantees accurate right singular vectors.
        passes: Number of passes over A.
        bytes_read: Bytes of A read from the store.
        bytes_shuffled: Bytes sent between processes: operands to workers, and results from workers or between them;
            None if another library moved them.
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
    """The small factors of A ~ U diag(s) V^T.

    Attributes:
        s: Singular values in descending order, (k,), HU.
        V: Right singular vectors, (n, k); the signs of the columns match the stored U.
        note: One sentence for the report on how the engine computed them (method or kernels, seed).
        accuracy: The error report.
    """

    s: NDArray[np.float64]
    V: NDArray[np.float64]
    note: str = ""
    accuracy: Accuracy | None = None
