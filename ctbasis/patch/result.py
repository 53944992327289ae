"""What patch mode leaves for the steps after it: the denoised matrix with the noise that was taken for the noise.

A, aside, headers, ...    as in a `MatrixStore`, A float32, in the chunks of the matrix that was denoised
sigma-N                   by series: sigma, HU, on cells of the image, (rows, columns, slices)
covariance-N              by series: covariance of the noise over sigma, by lag
textures-N, texture-N     by series: the covariances of what was removed in different places, and which a cell has
attributes                `patch`: the plan as run; `noise`: what is known of each series' noise in words
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.matrix.store import MatrixStore, array_of
from ctbasis.patch.noise import Noise
from ctbasis.patch.plan import PatchPlan

if TYPE_CHECKING:
    import zarr
    from numpy.typing import NDArray


ARRAYS = ("sigma", "covariance", "textures", "texture")
"""Arrays of a `Noise` in the store."""


class PatchStore(MatrixStore):
    """A denoised matrix that is complete, open for reading.

    Attributes:
        plan: As run.
        words: What is known of each series' noise in words and single numbers, as `noise_words` gives it.
    """

    step = "svd"

    def __init__(self, group: zarr.Group, uri: str) -> None:
        super().__init__(group, uri)
        attributes: dict[str, Any] = dict(group.attrs)
        self.plan = PatchPlan.of(attributes["patch"])
        self.words: list[dict[str, Any]] = attributes["noise"]
        self._last: tuple[int, Noise] | None = None

    def noise(self, number: int) -> Noise:
        """Return the noise of series `number`, from 0 on; the last one asked for is kept."""
        if self._last is None or self._last[0] != number:
            self._last = number, self._read_noise(number)
        return self._last[1]

    def _read_noise(self, number: int) -> Noise:
        said = self.words[number]
        arrays: dict[str, Any] = {name: np.asarray(array_of(self._group, f"{name}-{number + 1}")[:]) for name in ARRAYS}
        return Noise(**{**said, "notes": tuple(said["notes"])}, **arrays)

    def sigma_image(self, column: int) -> NDArray[np.float32]:
        """Return sigma of a slice, HU, (Rows, Columns)."""
        number = next(n for n, entry in enumerate(self.series) if column < entry.first + entry.count)
        noise, at = self.noise(number), column - self.series[number].first
        one = Noise(noise.sigma[:, :, at : at + 1], noise.covariance, noise.cells)
        return one.sigma_rows(0, self.image[0], self.image[1])[..., 0]


def noise_arrays(noises: list[Noise]) -> dict[str, NDArray[Any]]:
    """Return the arrays of the layout above."""
    return {f"{name}-{n}": getattr(noise, name) for n, noise in enumerate(noises, start=1) for name in ARRAYS}


def noise_words(noises: list[Noise]) -> list[dict[str, Any]]:
    """Return the attributes of the layout above."""
    return [
        {
            "cells": noise.cells,
            "notes": list(noise.notes),
            "scanner": noise.scanner,
            "soft": noise.soft,
            "left": noise.left,
        }
        for noise in noises
    ]
