"""What a table of many runs shows of one: its noise before and after denoising, and a thumbnail."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

from ctbasis.report.noise_level import noise_levels
from ctbasis.report.survey import representative_slice, series_of
from ctbasis.report.thumbnail import thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ctbasis.matrix.slice_store import Series


def overview(
    before: NDArray[np.float32], after: NDArray[np.float32], columns: NDArray[np.intp], series: Sequence[Series]
) -> dict[str, Any]:
    """Return `noise_before_hu`, `noise_after_hu` and `thumbnail` (WebP in base64), entries of metrics.json.

    Args:
        before: Sampled slices in HU, (slices, Rows, Columns).
        after: The same slices after denoising.
        columns: Their columns in the matrix.
        series: Series of the matrix.
    """
    spacings = [series[series_of(series, int(column))].pixel_spacing for column in columns]
    shown = representative_slice(before)
    picture = thumbnail(before[shown], after[shown], spacings[shown])
    return {**noise_levels(before, after, spacings), "thumbnail": b64encode(picture).decode()}
