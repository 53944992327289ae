"""Sharpness of an edge: edge-spread function, line-spread function and modulation transfer function (MTF).

The edge is the boundary of skin and air, which every CT image has. It is located in the truth: the outline of the
largest body at LEVEL, wherever it has tissue TISSUE_DEEP mm inside and air AIR_FAR mm outside. Every pixel near the
outline has a signed distance r to it, in fractions of a pixel, so pixels of all directions together sample the edge in
steps of STEP pixels:

    ESF(r) = mean HU of the pixels at r,     LSF = dESF/dr,     MTF(f) = |FT[taper LSF]|(f) / |FT[taper LSF]|(0)

f50 is the frequency at which the MTF falls to one half. Skin over fat is no ideal edge, and the truth itself has a
limited sharpness, so the transfer of an image relative to the truth is also given:

    T(f) = MTF_image(f) / MTF_truth(f)

A Gaussian blur of sigma mm has T(f) = exp(-2 pi^2 sigma^2 f^2), which is one half at f = sqrt(ln 2 / 2) / (pi sigma).
A nonlinear method has no single MTF: this is its transfer at a strong edge, at the noise of this image.

References:
    S. Richard, D. B. Husarik, G. Yadava, S. N. Murphy, E. Samei, "Towards task-based assessment of CT performance:
        system and object MTF across different reconstruction algorithms", Med. Phys. 39(7), 4115-4122, 2012.
    J. Sanders, L. Hurwitz, E. Samei, "Patient-specific quantification of image quality: an automated method for
        measuring spatial resolution in clinical CT images", Med. Phys. 43(10), 5330-5338, 2016 (skin-air edges).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import binary_fill_holes, gaussian_filter1d, label, map_coordinates
from scipy.spatial import KDTree
from skimage.measure import find_contours

from ctbasis.score.line_spread import frequency_at, transfer_function

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = -500.0
"""HU halfway between air and tissue."""

REACH = 8.0
"""Distance in mm on both sides of the outline that is measured."""

STEP = 0.1
"""Distance between samples of the edge-spread function, in pixels."""

TISSUE_DEEP, TISSUE_LEAST = (2.5, 4.0, 5.5), -250.0
"""Distances in mm inside the outline, and the smallest HU there."""

AIR_FAR, AIR_MOST = (2.5, 4.0, 6.0), -900.0
"""Distances in mm outside the outline, and the largest HU there, which excludes clothes and the table."""

FEWEST = 4.0
"""Smallest mean number of pixels per sample for which an MTF is given."""

ALONG = 4.0
"""Standard deviation, in points, of the smoothing along the outline. The unsmoothed outline follows the noise of the
pixels that define it, and the distances of these pixels would depend on their values."""


class EdgeSpread:
    """Edge-spread function of the skin in a truth and in other images, accumulated slice by slice.

    Args:
        pixel_spacing: mm between rows and between columns.
        names: Names of the images, such as truth and image; the outline is located in the first.
    """

    def __init__(self, pixel_spacing: tuple[float, float], names: tuple[str, ...] = ("truth", "image")) -> None:
        self.pixel_spacing, self.names = pixel_spacing, names
        self.step = STEP * min(pixel_spacing)
        self.samples = 2 * int(REACH / self.step) + 1
        self._count = np.zeros(self.samples)
        self._total = np.zeros((len(names), self.samples))

    def add(self, *images: NDArray[Any]) -> None:
        """Add a slice of every image, HU, in the order of `names`."""
        edge = skin(np.asarray(images[0], np.float64), self.pixel_spacing)
        if edge is None:
            return
        rows, columns, distance = edge
        sample = np.rint(distance / self.step).astype(np.intp) + self.samples // 2
        inside = (sample >= 0) & (sample < self.samples)
        sample, rows, columns = sample[inside], rows[inside], columns[inside]
        self._count += np.bincount(sample, minlength=self.samples)
        self._total += [
            np.bincount(sample, np.asarray(image, np.float64)[rows, columns], minlength=self.samples)
            for image in images
        ]

    @property
    def measured(self) -> bool:
        """Whether enough pixels were measured for an MTF."""
        return bool(self._count.mean() >= FEWEST and self._count.min() > 0)

    @property
    def distance(self) -> NDArray[np.float64]:
        """Signed distance of the samples from the outline, mm, positive inside, (samples,)."""
        return np.asarray((np.arange(self.samples) - self.samples // 2) * self.step, np.float64)

    def edge_spread(self, name: str) -> NDArray[np.float64]:
        """Return the ESF of an image, HU, (samples,); NaN for samples without a pixel."""
        total = self._total[self.names.index(name)]
        return np.asarray(np.divide(total, self._count, out=np.full(self.samples, np.nan), where=self._count > 0))

    def mtf(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return frequencies in 1/mm up to the Nyquist frequency of the pixels, and the MTF at these frequencies."""
        return transfer_function(self.edge_spread(name), self.step, min(self.pixel_spacing))

    def f50(self, name: str) -> float | None:
        """Return the frequency at which the MTF falls to one half, 1/mm; None if it is not measured or stays above."""
        return frequency_at(*self.mtf(name)) if self.measured else None

    def transfer50(self, name: str) -> float | None:
        """Return the frequency at which the MTF of `name` relative to that of the truth falls to one half, 1/mm."""
        if not self.measured:
            return None
        f, truth = self.mtf(self.names[0])
        _, image = self.mtf(name)
        # At frequencies where the MTF of the truth is near zero, the ratio is meaningless.
        known = np.minimum.accumulate(truth) > 0.1  # noqa: PLR2004 - a tenth
        return frequency_at(f[known], image[known] / truth[known])

    def to_dict(self) -> dict[str, Any]:
        """Return f50 of all images, and transfer50 of all but the first, as values for JSON."""
        values: dict[str, Any] = {"edge_pixels": int(self._count.sum())}
        for name in self.names:
            values[name] = {"f50": self.f50(name)}
            if name != self.names[0]:
                values[name]["transfer50"] = self.transfer50(name)
        return values


def skin(
    truth: NDArray[np.float64], pixel_spacing: tuple[float, float]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]] | None:
    """Return rows, columns and signed distances of the pixels near the skin; None if there is no skin.

    Distances are in mm, positive inside.

    Args:
        truth: HU, (rows, columns).
        pixel_spacing: mm between rows and between columns.
    """
    outline = _outline(truth)
    if outline is None:
        return None
    scale = np.asarray(pixel_spacing)
    places = gaussian_filter1d(outline * scale, ALONG, axis=0, mode="wrap")
    # The tangent of the outline, and a normal that may point inside or outside.
    along = np.gradient(places, axis=0)
    normal = np.stack([along[:, 1], -along[:, 0]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)

    def at(mm: float) -> NDArray[np.float64]:
        coordinates = ((places + mm * normal) / scale).T
        return np.asarray(map_coordinates(truth, coordinates, order=1, mode="constant", cval=-1000.0))

    if np.mean(at(TISSUE_DEEP[0])) < np.mean(at(-TISSUE_DEEP[0])):
        normal = -normal
    valid = np.all([at(mm) > TISSUE_LEAST for mm in TISSUE_DEEP], axis=0)
    valid &= np.all([at(-mm) < AIR_MOST for mm in AIR_FAR], axis=0)
    if not valid.any():
        return None
    return _near(places, normal, valid, truth.shape, pixel_spacing)


def _outline(truth: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the closed outline of the largest body with lungs filled, (points, 2), in rows and columns."""
    parts, count = label(truth > LEVEL)
    if not count:
        return None
    largest = int(np.argmax(np.bincount(parts.ravel())[1:])) + 1
    body = binary_fill_holes(parts == largest)
    # Set air inside the body to tissue and everything outside to air, so that only the outer edge is left.
    image = np.where(body, np.maximum(truth, LEVEL + 1), np.minimum(truth, LEVEL - 1))
    contours = find_contours(np.pad(image, 1, constant_values=-1000.0), LEVEL)
    return np.asarray(max(contours, key=len)[:-1] - 1) if contours else None


def _near(
    places: NDArray[np.float64],
    normal: NDArray[np.float64],
    valid: NDArray[np.bool_],
    shape: tuple[int, ...],
    pixel_spacing: tuple[float, float],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return the pixels whose nearest point of the outline is valid, with their distances along its normal."""
    y, x = (np.arange(edge) * step for edge, step in zip(shape, pixel_spacing, strict=True))
    pixels = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
    away, nearest = KDTree(places).query(pixels, distance_upper_bound=REACH)
    chosen = np.flatnonzero(np.isfinite(away))
    chosen = chosen[valid[nearest[chosen]]]
    # The distance is taken along the normal, because neighbouring points are a pixel apart.
    offset = pixels[chosen] - places[nearest[chosen]]
    distance = np.einsum("ij,ij->i", offset, normal[nearest[chosen]])
    rows, columns = np.divmod(chosen, shape[1])
    return rows, columns, distance
