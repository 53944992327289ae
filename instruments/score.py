"""Score a DICOM series against its clean copy."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import CtbasisError
from components.matrix.ingest import ingest
from components.matrix.store import MatrixStore
from components.reconstruct.rank_k import restore
from components.report.quality import compare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def score(truth: Path, image: Path) -> dict[str, Any]:
    """Compare the series in two folders, read and ordered as the pipeline does.

    Args:
        truth: Folder of the clean series.
        image: Folder of the series to score, of the same geometry.

    Returns:
        What `components.report.quality.Quality` holds: RMSE in HU, PSNR, SSIM, with their windows.

    Raises:
        CtbasisError: A folder holds no CT series, or the two differ in their number or size of slices.
    """
    with tempfile.TemporaryDirectory(prefix="ctbasis-score-") as scratch:
        stores = []
        for name, folder in (("truth", truth), ("image", image)):
            uri = str(Path(scratch) / f"{name}.zarr")
            ingest(folder, uri, Path(scratch) / f"{name}.json")
            stores.append(MatrixStore.open(uri))
        shapes = [(store.cols, *store.image) for store in stores]
        if shapes[0] != shapes[1]:
            raise CtbasisError(
                f"the truth has {shapes[0]} slices, rows and columns, the image {shapes[1]}",
                expected="two series of the same geometry",
                cause="they are not copies of one scan, or a folder holds a further series",
            )
        return compare(*(_images(store) for store in stores)).to_dict()


def _images(store: MatrixStore) -> Iterator[NDArray[Any]]:
    for group in store.column_groups:
        hu = store.read_columns(group)
        restore(hu, store.read_aside(group))
        for column in hu.T:
            yield column.reshape(store.image)
