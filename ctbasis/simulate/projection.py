"""Parallel-beam projection and filtered back-projection of axial slices, many slices at once.

The slices are the last axis of all arrays, so that the inner loop runs over neighbours in memory and is vectorised: all
slices of a batch have the same geometry, and an interpolation weight is computed once for all of them.

    image       (rows, columns, slices)  attenuation mu, 1/mm
    projection  (views, bins, slices)    line integrals of mu, dimensionless

References:
    P. M. Joseph, "An improved algorithm for reprojecting rays through pixel images", IEEE Transactions on Medical
        Imaging 1(3), 192-196, 1982.
    A. C. Kak and M. Slaney, "Principles of Computerized Tomographic Imaging", IEEE Press, 1988, chapter 3.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, get_args

import numba
import numpy as np

from ctbasis.simulate.kernels import parallel_kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kernel: TypeAlias = Literal["hann", "cosine", "shepp-logan", "ram-lak"]
"""Reconstruction kernels from soft to sharp, named by the window of the ramp filter (Kak and Slaney, section 3.3)."""

KERNELS: tuple[Kernel, ...] = get_args(Kernel)

TILE = 8
"""Rows that one thread back-projects together, so that the bins of a view and the tile stay in the core's cache."""


@dataclass(frozen=True)
class ParallelBeam:
    """A parallel-beam scan over half a turn around the centre of the image.

    Attributes:
        image: Rows and columns.
        pixel_spacing: mm between rows and between columns.
        views: Number of angles, evenly spaced over 180 degrees.
    """

    image: tuple[int, int]
    pixel_spacing: tuple[float, float]
    views: int

    @classmethod
    def around(cls, image: tuple[int, int], pixel_spacing: tuple[float, float], views: int | None = None) -> Self:
        """Return a scan with the geometry of an image.

        Args:
            image: Rows and columns.
            pixel_spacing: mm between rows and between columns.
            views: Number of angles; by default pi/2 times the number of columns, which samples the rim of the image as
                finely as the columns do (Kak and Slaney, section 3.3). The cost is proportional to it.
        """
        return cls(image, pixel_spacing, views or math.ceil(math.pi / 2 * max(image)))

    @property
    def pitch(self) -> float:
        """Distance between detector bins, mm: the pixel spacing."""
        return min(self.pixel_spacing)

    @property
    def bins(self) -> int:
        """Number of detector bins, odd; they extend beyond both ends of the image's diagonal."""
        diagonal = math.hypot(*(edge * step for edge, step in zip(self.image, self.pixel_spacing, strict=True)))
        return 2 * math.ceil(diagonal / 2 / self.pitch) + 3

    @property
    def angles(self) -> NDArray[np.float64]:
        """Angle between the detector axis of each view and the rows, radians, (views,)."""
        return np.arange(self.views, dtype=np.float64) * (np.pi / self.views)

    @property
    def positions(self) -> NDArray[np.float64]:
        """Distance of each bin from the centre, mm, (bins,)."""
        return (np.arange(self.bins, dtype=np.float64) - (self.bins - 1) / 2) * self.pitch


def project(image: NDArray[np.float32], beam: ParallelBeam) -> NDArray[np.float32]:
    """Compute the line integrals of `image` by Joseph's method, (views, bins, slices).

    Args:
        image: mu in 1/mm, (rows, columns, slices).
        beam: Geometry of the projection.

    Raises:
        ValueError: The image does not have the size of the beam's geometry.
    """
    rows, columns, slices = image.shape
    if (rows, columns) != beam.image:
        raise ValueError(f"the image is {rows} x {columns}, the beam is for {beam.image[0]} x {beam.image[1]}")
    out = np.zeros((beam.views, beam.bins, slices), np.float32)
    dy, dx = beam.pixel_spacing
    _project(np.ascontiguousarray(image, np.float32), out, np.cos(beam.angles), np.sin(beam.angles), dy, dx, beam.pitch)
    return out


def reconstruct(
    projections: NDArray[np.float32], beam: ParallelBeam, *, kernel: Kernel = "hann"
) -> NDArray[np.float32]:
    """Compute the filtered back-projection, 1/mm, (rows, columns, slices).

    Args:
        projections: Line integrals, (views, bins, slices).
        beam: Geometry of the projection.
        kernel: Window of the ramp filter; a sharper kernel passes more and finer noise.

    Raises:
        ValueError: The projections do not have the views and bins of the beam's geometry.
    """
    if projections.shape[:2] != (beam.views, beam.bins):
        raise ValueError(f"projections of shape {projections.shape}, the beam has {beam.views} views, {beam.bins} bins")
    out = np.zeros((*beam.image, projections.shape[2]), np.float32)
    dy, dx = beam.pixel_spacing
    filtered = filter_projections(projections, beam, kernel=kernel)
    _back_project(filtered, out, np.cos(beam.angles), np.sin(beam.angles), dy, dx, beam.pitch)
    return out


def filter_projections(
    projections: NDArray[np.float32], beam: ParallelBeam, *, kernel: Kernel = "hann"
) -> NDArray[np.float32]:
    """Convolve every view with the windowed ramp filter, 1/mm, (views, bins, slices)."""
    # Zero padding to twice the bins makes the circular convolution a linear one.
    length = 1 << (2 * beam.bins - 1).bit_length()
    response = ramp(length, beam.pitch, kernel).astype(np.float32)[:, None]
    filtered = np.empty(projections.shape, np.float32)

    def convolve(view: int) -> None:
        spectrum = np.fft.rfft(projections[view], length, axis=0)
        filtered[view] = np.fft.irfft(spectrum * response, length, axis=0)[: beam.bins]

    # NumPy's transforms release the interpreter's lock.
    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        list(pool.map(convolve, range(len(projections))))
    return filtered


def ramp(length: int, pitch: float, kernel: Kernel = "hann") -> NDArray[np.float64]:
    """Return the frequency response of the windowed ramp filter for a real FFT of `length`, (length / 2 + 1,), 1/mm.

    The response is the Fourier transform of the band-limited kernel (Kak and Slaney, equation 61). |f| itself would
    shift the reconstruction by a constant.
    """
    n = np.fft.fftfreq(length, 1 / length)
    impulse = np.zeros(length)
    impulse[0] = 1 / (4 * pitch**2)
    odd = n % 2 == 1
    impulse[odd] = -1 / (np.pi * n[odd] * pitch) ** 2
    f = np.asarray(np.fft.rfftfreq(length), np.float64)
    return np.asarray(np.fft.rfft(impulse).real * pitch * window(f, kernel), np.float64)


def window(f: NDArray[np.float64], kernel: Kernel) -> NDArray[np.float64]:
    """Return the window of the ramp filter at frequencies `f` in cycles per bin, at most 1/2 (the Nyquist frequency).

    hann (1 + cos 2 pi f) / 2, cosine cos pi f, shepp-logan sin(pi f) / (pi f), ram-lak 1.
    """
    if kernel == "hann":
        return np.asarray(0.5 * (1 + np.cos(2 * np.pi * f)))
    if kernel == "cosine":
        return np.asarray(np.cos(np.pi * f))
    return np.sinc(f) if kernel == "shepp-logan" else np.ones_like(f)


@parallel_kernel
def _project(
    image: NDArray[np.float32],
    out: NDArray[np.float32],
    cosines: NDArray[np.float64],
    sines: NDArray[np.float64],
    dy: float,
    dx: float,
    pitch: float,
) -> None:
    rows, columns, slices = image.shape
    bins = out.shape[1]
    for view in numba.prange(len(cosines)):
        c, s = cosines[view], sines[view]
        # A ray is x c + y s = t. Step along the axis that is nearer to the ray, and interpolate across it.
        along_rows = dy * abs(s) <= dx * abs(c)
        steps, across = (rows, columns) if along_rows else (columns, rows)
        length = np.float32(dy / abs(c) if along_rows else dx / abs(s))
        for step in range(steps):
            if along_rows:
                start = -(step - (rows - 1) / 2) * dy * s / c / dx
                slope = pitch / c / dx
            else:
                start = -(step - (columns - 1) / 2) * dx * c / s / dy
                slope = pitch / s / dy
            start += (across - 1) / 2 - (bins - 1) / 2 * slope
            for k in range(bins):
                place = start + k * slope
                first = int(np.floor(place))
                if first < -1 or first >= across:
                    continue
                after = np.float32(place - first) * length
                before = length - after
                if first >= 0:
                    for z in range(slices):
                        value = image[step, first, z] if along_rows else image[first, step, z]
                        out[view, k, z] += before * value
                if first + 1 < across:
                    for z in range(slices):
                        value = image[step, first + 1, z] if along_rows else image[first + 1, step, z]
                        out[view, k, z] += after * value


@parallel_kernel
def _back_project(
    filtered: NDArray[np.float32],
    out: NDArray[np.float32],
    cosines: NDArray[np.float64],
    sines: NDArray[np.float64],
    dy: float,
    dx: float,
    pitch: float,
) -> None:
    rows, columns, slices = out.shape
    views, bins, _ = filtered.shape
    scale = np.float32(np.pi / views)
    for tile in numba.prange((rows + TILE - 1) // TILE):
        for view in range(views):
            c, s = cosines[view] / pitch, sines[view] / pitch
            for row in range(tile * TILE, min(rows, (tile + 1) * TILE)):
                start = (row - (rows - 1) / 2) * dy * s - (columns - 1) / 2 * dx * c + (bins - 1) / 2
                for column in range(columns):
                    place = start + column * dx * c
                    first = int(place)
                    after = np.float32(place - first) * scale
                    before = scale - after
                    for z in range(slices):
                        out[row, column, z] += before * filtered[view, first, z] + after * filtered[view, first + 1, z]
