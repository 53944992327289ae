"""Patch mode on a matrix store: every series of it denoised, and its sigma, its basis and its notes beside it.

out/matrix.zarr      the denoised matrix, of the layout of A, so that what reads a matrix reads it
out/sigma.zarr       by series: sigma on cells and the covariance of the noise
out/basis-N.zarr     by series: the basis that was learned on it, or none where one was given
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from components import stores
from components.matrix.store import AIR, MatrixStore, MatrixWriter, absent, is_absent
from components.patch.basis import HEIGHT, PatchBasis, learn
from components.patch.denoise import TAU, denoise
from components.patch.noise import CELL, Noise, estimate
from components.patch.rows import patch_shape
from components.patch.volume import StoredVolume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from components.patch.denoise import Threshold


@dataclass(frozen=True)
class PatchOutcome:
    """What the steps after it need.

    Attributes:
        matrix: URI of the denoised matrix.
        sigma: URI of the noise.
        bases: URI of each series' basis.
        notes: What is to be said to the user.
    """

    matrix: str
    sigma: str
    bases: tuple[str, ...]
    notes: tuple[str, ...]


def denoise_matrix(
    matrix_uri: str,
    out: str,
    *,
    basis_uri: str = "",
    tau: float = TAU,
    threshold: Threshold = "hard",
    wiener: bool = False,
    stride: int = 1,
    classes: int = 32,
    seed: int = 0,
) -> PatchOutcome:
    """Denoise every series of a matrix by patches.

    Memory is a few slabs of image rows of all slices, whatever the number of rows.

    Args:
        matrix_uri: A complete `MatrixStore`.
        out: Folder or `s3://bucket/prefix` that receives the stores; what is there of a former run is replaced.
        basis_uri: A `PatchBasis` learned on other series; empty to learn one on each.
        tau: See `denoise`.
        threshold: See `denoise`.
        wiener: See `denoise`.
        stride: See `denoise`.
        classes: See `learn`.
        seed: See `learn`.

    Raises:
        CtbasisError: The matrix is missing or corrupt, or the basis does not fit it.
    """
    matrix = MatrixStore.open(matrix_uri)
    out = out.rstrip("/")
    given = PatchBasis.open(basis_uri) if basis_uri else None
    noises, bases, uris, notes = [], [], [], []
    volumes = [StoredVolume(matrix, series) for series in matrix.series]
    for number, volume in enumerate(volumes, start=1):
        shape = given.shape if given else patch_shape(volume.shape, volume.spacing)
        reach = (shape[0] - 1, shape[1] - 1, shape[2] - 1)
        noise = estimate(volume, reach=reach)
        notes += [f"series {number}: {note}" for note in noise.notes]
        basis = given or learn(volume, noise, shape=shape, classes=classes, seed=seed)
        uri = basis_uri or f"{out}/basis-{number}.zarr"
        if given is None:
            basis.save(uri)
        noises.append(noise)
        bases.append(basis)
        uris.append(uri)
    _save_noise(f"{out}/sigma.zarr", noises)
    parts = zip(
        *(
            denoise(volume, noise, basis, tau=tau, threshold=threshold, wiener=wiener, stride=stride, height=HEIGHT)
            for volume, noise, basis in zip(volumes, noises, bases, strict=True)
        ),
        strict=True,
    )
    rows = (np.concatenate([hu.reshape(-1, hu.shape[2]) for _, hu in part], axis=1) for part in parts)
    _write(matrix, f"{out}/matrix.zarr", rows)
    return PatchOutcome(f"{out}/matrix.zarr", f"{out}/sigma.zarr", tuple(uris), tuple(notes))


def _write(matrix: MatrixStore, uri: str, parts: Iterator[NDArray[np.float32]]) -> None:
    """Write rows as they come, block by block, with what the matrix had set aside."""
    writer = MatrixWriter.create(uri, image=matrix.image, cols=matrix.cols, dtype=np.float32)
    held = np.empty((0, matrix.cols), np.float32)
    for index in range(matrix.block_count):
        rows = matrix.block(index)
        size = rows.stop - rows.start
        while len(held) < size:
            held = np.concatenate([held, next(parts)])
        block, held = np.maximum(held[:size], np.float32(AIR)), held[size:]
        for group in matrix.column_groups:
            writer.write(rows, group, block[:, group], _as_float(matrix.read_aside(group)[rows]))
    headers = [matrix.header(column) for column in range(matrix.cols)]
    writer.finish(series=matrix.series, headers=headers)


def _as_float(aside: NDArray[Any]) -> NDArray[np.float32]:
    return np.where(is_absent(aside), np.float32(absent(np.float32)), aside.astype(np.float32))


def _save_noise(uri: str, noises: list[Noise]) -> None:
    group = stores.open_group(uri, mode="w")
    group.attrs.update({"complete": False})
    for number, noise in enumerate(noises, start=1):
        group.create_array(f"sigma-{number}", data=noise.sigma)
        group.create_array(f"covariance-{number}", data=noise.covariance)
    cells = [noise.cells for noise in noises]
    group.attrs.update(
        {"cell": CELL, "flat_cells": cells, "notes": [n for x in noises for n in x.notes], "complete": True}
    )
