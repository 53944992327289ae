"""The pixels of a result: slices are decoded when they are first shown, and all of them in the background."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.dicom.hounsfield import to_hounsfield
from ctbasis.dicom.instance import read_values
from ctbasis.errors import CtbasisError
from ctbasis.viewer.result import POSITION_TOLERANCE, read_slice

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctbasis.dicom.instance import Slice
    from ctbasis.viewer.result import Pane, Result

PLANES = ("axial", "coronal", "sagittal")
"""Planes by their names for a series of transverse slices: slices, and planes through rows and through columns."""

FRACTIONAL_STEP = 0.25
"""HU between neighbouring values of an image whose HU are not whole numbers; 16 bits then hold -8192 to 8191 HU."""

LIMITS = np.iinfo(np.int16)

LETTERS = (("L", "R"), ("P", "A"), ("H", "F"))
"""Where the axes x, y and z of the patient point to, and the opposite directions (PS3.3 C.7.6.1.1.1)."""


class Images:
    """The volumes of a result as 16-bit numbers: a value times its pane's step is in HU.

    Memory is 2 bytes a voxel and pane: 470 MB for 300 slices of 512 x 512 before, after and noise.

    Args:
        result: The result.

    Attributes:
        result: The result.
        shape: Slices, rows and columns.
        steps: HU between neighbouring values, by pane.

    Raises:
        CtbasisError: The first slice of a pane cannot be read.
    """

    def __init__(self, result: Result) -> None:
        self.result = result
        first = {pane.name: read_slice(pane.folder, pane.places[0]) for pane in result.panes}
        self.shape = (len(result.positions), first["before"].Rows, first["before"].Columns)
        self.steps = {name: _step(name, entry) for name, entry in first.items()}
        self._voxels = {name: np.zeros(self.shape, np.int16) for name in first}
        self._known = np.zeros(self.shape[0], np.bool_)
        self._locks = [threading.Lock() for _ in range(self.shape[0])]

    @property
    def decoded(self) -> int:
        """Number of slices that are in memory."""
        return int(np.count_nonzero(self._known))

    def count(self, plane: str) -> int:
        """Return the number of images in a plane."""
        return self.shape[PLANES.index(plane)]

    def images(self, plane: str, index: int) -> list[NDArray[np.int16]]:
        """Return one image of every pane, in the order of the result; head up where the plane is no slice.

        Args:
            plane: One of PLANES. Planes across the slices wait until all of them are decoded.
            index: Number of the image, from 0.

        Raises:
            CtbasisError: A file is missing, damaged, or not the one that was denoised.
        """
        if plane == PLANES[0]:
            self._decode(index)
            return [voxels[index] for voxels in self._voxels.values()]
        self.decode_all()
        across = (slice(None, None, -1), index) if plane == PLANES[1] else (slice(None, None, -1), slice(None), index)
        return [voxels[across] for voxels in self._voxels.values()]

    def decode_all(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Decode all slices, from the middle outwards, until `stopped` returns True.

        Raises:
            CtbasisError: See `images`.
        """
        middle = self.shape[0] // 2
        for index in sorted(range(self.shape[0]), key=lambda one: abs(one - middle)):
            if stopped():
                return
            self._decode(index)

    def edges(self, plane: str) -> tuple[str, str]:
        """Return the letters of the patient's sides at the left and the upper edge of a plane."""
        rightwards, downwards = np.reshape(self.result.orientation, (2, 3))
        along = np.cross(rightwards, downwards)
        right, down = {
            PLANES[0]: (rightwards, downwards),
            PLANES[1]: (rightwards, -along),
            PLANES[2]: (downwards, -along),
        }[plane]
        return _letter(-right), _letter(-down)

    def _decode(self, index: int) -> None:
        with self._locks[index]:
            if self._known[index]:
                return
            entries = [(pane, read_slice(pane.folder, pane.places[index])) for pane in self.result.panes]
            self._check(index, [entry for _, entry in entries])
            for pane, entry in entries:
                self._voxels[pane.name][index] = self._decoded(pane, entry)
            self._known[index] = True

    def _check(self, index: int, entries: list[Slice]) -> None:
        place = np.asarray(entries[0].ImagePositionPatient)
        for entry in entries:
            distance = float(np.abs(np.asarray(entry.ImagePositionPatient) - place).max())
            if (entry.Rows, entry.Columns) != self.shape[1:] or distance > POSITION_TOLERANCE:
                raise CtbasisError(
                    f"slice {index + 1} of the source is not the one that was denoised: it has {entries[0].Rows} x "
                    f"{entries[0].Columns} voxels, and lies {distance:.3g} mm from the denoised one",
                    expected="the same size and position",
                    cause="--source names another series, or its files were changed",
                    remedy="name the folder that was the source of the run",
                )

    def _decoded(self, pane: Pane, entry: Slice) -> NDArray[np.int16]:
        hu = np.empty((entry.Rows, entry.Columns), np.float32)
        try:
            to_hounsfield(read_values(pane.folder, entry), entry.pixels, hu)
        except (OSError, ValueError) as error:
            raise CtbasisError(
                f"the pixels of a slice of {pane.folder} cannot be decoded ({type(error).__name__})",
                expected="the files as they were when the series was denoised",
                cause="a file was damaged since then",
                remedy="name the unchanged source, or denoise it again",
            ) from error
        scaled: NDArray[Any] = np.clip(np.rint(hu / self.steps[pane.name]), LIMITS.min, LIMITS.max)
        return scaled.astype(np.int16)


def _step(name: str, first: Slice) -> float:
    """Return the HU between neighbouring values of a pane, from its first slice."""
    if name == "sigma":
        return abs(first.pixels.RescaleSlope)
    return 1.0 if first.pixels.whole else FRACTIONAL_STEP


def _letter(direction: NDArray[np.float64]) -> str:
    """Return the letter of the patient's side that a direction points to."""
    axis = int(np.abs(direction).argmax())
    return LETTERS[axis][0 if direction[axis] > 0 else 1]
