"""The result of patch mode as a store: the denoised matrix, and the noise that was estimated and removed.

    A, aside, headers, ...    as in a `MatrixStore`; A is float32, in the chunks of the matrix that was denoised
    sigma-N                   standard deviation of the noise of part N, HU, on cells, (rows, columns, slices)
    covariance-N              covariance of the noise divided by sigma, by lag
    textures-N, texture-N     covariances of the removed noise by texture, and the texture of each cell
    attributes                `patch`: the plan as run; `parts`: the parts of the series (ctbasis/patch/parts.py);
                              `noise`: numbers and texts about the noise of each part

Parts are numbered from 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.matrix.slice_store import checked_attributes
from ctbasis.matrix.store import MatrixStore
from ctbasis.patch.noise import Noise
from ctbasis.patch.parts import Part
from ctbasis.patch.plan import PatchPlan
from ctbasis.storage.schemas import DENOISED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.storage.array_store import ArrayStore


ARRAYS = {
    "sigma": "sigma",
    "covariance": "covariance",
    "textures": "texture_covariances",
    "texture": "texture_map",
}
"""Names of arrays in the store, and the attributes of `Noise` that they hold."""

ATTRIBUTES = {
    "cells": "quiet_cells",
    "notes": "notes",
    "scanner": "scanner",
    "soft": "soft_tissue_sigma",
    "left": "noise_floor",
}
"""Keys of the store's attribute `noise`, and the attributes of `Noise` that they hold."""


@dataclass(frozen=True)
class NoiseSummary:
    """Attributes of a `Noise` that are not arrays; see there.

    Attributes:
        scanner: Properties of the scan that were fitted to the noise, as text for the user; may be empty.
        soft_tissue_sigma: Median of sigma in soft tissue, HU.
        noise_floor: Fraction of the noise variance that is flat in frequency and that denoising keeps.
    """

    scanner: str
    soft_tissue_sigma: float
    noise_floor: float


class PatchStore(MatrixStore):
    """A complete denoised matrix, open for reading.

    Attributes:
        plan: The plan as run.
        noise_summaries: Numbers and texts about the noise of every part, which need no arrays to be read.
        parts: The parts of the series that were denoised on their own, in the order of the columns.
    """

    schemas = (DENOISED,)

    def __init__(self, store: ArrayStore) -> None:
        super().__init__(store)
        attributes = store.attributes
        with checked_attributes(store):
            self.plan = PatchPlan.from_attributes(attributes["patch"])
            self._noise_attributes: list[dict[str, Any]] = [dict(entry) for entry in attributes["noise"]]
            self.noise_summaries = [
                NoiseSummary(
                    scanner=str(entry["scanner"]),
                    soft_tissue_sigma=float(entry["soft"]),
                    noise_floor=float(entry["left"]),
                )
                for entry in self._noise_attributes
            ]
            self.parts = [Part.from_attributes(entry) for entry in attributes["parts"]]
            if not len(self._noise_attributes) == len(self.parts) == len(self.plan.bases):
                raise ValueError("there is not one noise and one basis for each part")
            firsts = np.cumsum([0, *(part.slices.count for part in self.parts)]).tolist()
            if [*(part.slices.first for part in self.parts), self.cols] != firsts:
                raise ValueError(f"the parts do not cover the {self.cols} columns")
        self._last: tuple[int, Noise] | None = None

    def noise(self, number: int) -> Noise:
        """Return the noise of part `number`, counted from 0. The most recent one is cached."""
        if self._last is None or self._last[0] != number:
            self._last = number, self._read_noise(number)
        return self._last[1]

    def _read_noise(self, number: int) -> Noise:
        values = {ATTRIBUTES[key]: value for key, value in self._noise_attributes[number].items()}
        arrays: dict[str, Any] = {
            attribute: self._store.array(f"{name}-{number + 1}").read() for name, attribute in ARRAYS.items()
        }
        with checked_attributes(self._store):
            return Noise(**{**values, "notes": tuple(map(str, values["notes"]))}, **arrays)

    def part_of(self, column: int) -> int:
        """Return the index in `parts` of the part that holds a column of A."""
        return next(n for n, part in enumerate(self.parts) if column < part.slices.first + part.slices.count)

    def sigma_image(self, column: int) -> NDArray[np.float32]:
        """Return sigma of the slice in column `column` of A, HU, (Rows, Columns)."""
        number = self.part_of(column)
        noise, at = self.noise(number), column - self.parts[number].slices.first
        one = Noise(noise.sigma[:, :, at : at + 1], noise.covariance, noise.quiet_cells)
        return one.sigma_rows(0, self.image[0], self.image[1])[..., 0]


def noise_arrays(noises: list[Noise]) -> dict[str, NDArray[Any]]:
    """Return the noise arrays of the store by name."""
    return {
        f"{name}-{number}": getattr(noise, attribute)
        for number, noise in enumerate(noises, start=1)
        for name, attribute in ARRAYS.items()
    }


def noise_attributes(noises: list[Noise]) -> list[dict[str, Any]]:
    """Return the attribute `noise` of the store, fit for JSON: one entry per part."""
    attributes = [{key: getattr(noise, attribute) for key, attribute in ATTRIBUTES.items()} for noise in noises]
    return [{**entry, "notes": list(entry["notes"])} for entry in attributes]
