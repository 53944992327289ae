"""How the arrays of a store encode voxel values: the HU of excluded voxels in A, and the value that means "no value".

The matrix A holds HU as measured, and `AIR` where a voxel is excluded (ctbasis/dicom/excluded_voxels.py). The HU of
excluded voxels are kept in a second array, `aside`, which holds `absent` wherever A itself holds the voxel's value.
Both arrays use `absent` as fill value, and A never contains it, so a reader notices a missing chunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

AIR = -1000.0
"""HU of air, which A holds where a voxel is excluded. Noise takes single voxels of the body below it."""


def absent(dtype: DTypeLike) -> float:
    """Return the value that means "no value here" in arrays of `dtype`: the lowest integer, or NaN.

    A chunk that was never written reads as this value, and A never contains it.
    """
    kind = np.dtype(dtype)
    return float(np.iinfo(kind).min) if kind.kind == "i" else float("nan")


def is_absent(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a mask of `values`' shape that is True where a value equals `absent` of its dtype."""
    missing: NDArray[np.bool_] = np.isnan(values) if values.dtype.kind == "f" else values == absent(values.dtype)
    return missing


def holds_absent(values: NDArray[Any]) -> bool:
    """Return whether any value equals `absent` of its dtype."""
    # One reduction without a mask: `absent` is the lowest integer, and NaN propagates through min.
    return values.size > 0 and bool(is_absent(values.min()))
