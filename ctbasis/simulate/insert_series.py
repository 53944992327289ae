"""The phantom with inserts as a DICOM CT series, and the list of its inserts beside it: `ctbasis simulate-inserts`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.simulate.inserts import INSERTS, insert_phantom, write_inserts
from ctbasis.simulate.phantom import Phantom, check_phantom, write_slices
from ctbasis.storage.outputs import Nothing, refuse_foreign, replaced

if TYPE_CHECKING:
    from pathlib import Path


def write_insert_phantom(folder: Path, *, slices: int = 32, size: int = 256, spacing: float = 2.5) -> dict[str, Any]:
    """Make the phantom and write its series and inserts.json.

    Args:
        folder: New folder; after an error it does not exist.
        slices: Number of slices.
        size: Rows and columns.
        spacing: mm between slices.

    Returns:
        slices, size, spacing (mm between slices, rows and columns) and inserts: diameter_mm and contrast_hu of each.

    Raises:
        CtbasisError: `folder` exists and is not empty, or there is no such phantom (`insert_phantom`).
    """
    refuse_foreign(folder, Nothing())
    check_phantom(slices, size, size, spacing=spacing)
    made = insert_phantom(slices, size, spacing=spacing)
    pixels = made.spacing[1:]
    phantom = Phantom(np.round(made.hu).astype(np.int16), spacing, pixels, (), seed=0, kind="insert")
    with replaced([folder], ours=Nothing()) as (part,):
        part.mkdir()
        write_slices(phantom, part)
        write_inserts(made.inserts, part / INSERTS)
    kinds = [{"diameter_mm": one.diameter_mm, "contrast_hu": one.contrast_hu} for one in made.inserts]
    return {"slices": slices, "size": size, "spacing": list(made.spacing), "inserts": kinds}
