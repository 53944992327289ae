"""How sharp an edge is: edge-spread function, line-spread function and modulation transfer function (MTF).

The edge is the patient's skin against air, which every CT has, found in the truth: the outline of the largest body at
LEVEL, where it has tissue TISSUE_DEEP mm inside and air AIR_FAR mm outside. Every pixel near it has a signed distance r
to the outline, finer than the pixels, so pixels of all directions together sample the edge at steps of STEP pixels:

    ESF(r) = mean HU of the pixels at r,     LSF = dESF/dr,     MTF(f) = |FT[taper LSF]|(f) / |FT[taper LSF]|(0)

and f50 is where the MTF falls to one half. Skin over fat is no ideal edge, and a truth has a sharpness of its own, so
the image's transfer is also given against the truth's:

    T(f) = MTF_image(f) / MTF_truth(f)

A Gaussian blur of sigma mm has T(f) = exp(-2 pi^2 sigma^2 f^2), which is one half at f = sqrt(ln 2 / 2) / (pi sigma).
A nonlinear method has no one MTF: this is its transfer at a strong edge under the noise that there is.

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

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = -500.0
"""HU half way between air and tissue."""

REACH = 8.0
"""mm on both sides of the outline."""

STEP = 0.1
"""Pixels between the samples of the edge-spread function."""

TISSUE_DEEP, TISSUE_LEAST = (2.5, 4.0, 5.5), -250.0
"""mm inside the outline at which there has to be at least so many HU."""

AIR_FAR, AIR_MOST = (2.5, 4.0, 6.0), -900.0
"""mm outside the outline at which there has to be at most so many HU: no clothes, no table."""

FEWEST = 4.0
"""Pixels that each sample needs on average, without which no MTF is given."""

ALONG = 4.0
"""Points of the outline over which it is smoothed: as found, it leans to the pixels that it was found from, and their
distances from it would depend on their values."""

HALF = 0.5


class EdgeSpread:
    """The skin's edge-spread function in a truth and in images of it, slice by slice.

    Args:
        pixel_spacing: mm between rows and between columns.
        names: What is measured beside each other, such as truth and image; the first is where the outline is found.
    """

    def __init__(self, pixel_spacing: tuple[float, float], names: tuple[str, ...] = ("truth", "image")) -> None:
        self.pixel_spacing, self.names = pixel_spacing, names
        self.step = STEP * min(pixel_spacing)
        self.samples = 2 * int(REACH / self.step) + 1
        self._count = np.zeros(self.samples)
        self._total = np.zeros((len(names), self.samples))

    def add(self, *images: NDArray[Any]) -> None:
        """Take a slice of each of `names`, HU."""
        found = skin(np.asarray(images[0], np.float64), self.pixel_spacing)
        if found is None:
            return
        rows, columns, distance = found
        place = np.rint(distance / self.step).astype(np.intp) + self.samples // 2
        inside = (place >= 0) & (place < self.samples)
        place, rows, columns = place[inside], rows[inside], columns[inside]
        self._count += np.bincount(place, minlength=self.samples)
        self._total += [
            np.bincount(place, np.asarray(image, np.float64)[rows, columns], minlength=self.samples) for image in images
        ]

    @property
    def measured(self) -> bool:
        """Whether there was edge enough."""
        return bool(self._count.mean() >= FEWEST and self._count.min() > 0)

    @property
    def distance(self) -> NDArray[np.float64]:
        """Distance from the outline, mm, inside positive, (samples,)."""
        return np.asarray((np.arange(self.samples) - self.samples // 2) * self.step, np.float64)

    def edge_spread(self, name: str) -> NDArray[np.float64]:
        """ESF, HU, (samples,); NaN where no pixel was."""
        total = self._total[self.names.index(name)]
        return np.asarray(np.divide(total, self._count, out=np.full(self.samples, np.nan), where=self._count > 0))

    def mtf(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return frequencies, 1/mm, up to the pixels' Nyquist frequency, and the MTF there."""
        line = np.gradient(self.edge_spread(name), self.step)
        # Flat around the edge, so that a wide line-spread is not narrowed; down to zero at the ends.
        taper = np.clip(2 - 2 * np.abs(self.distance) / REACH, 0, 1)
        taper = np.sin(np.pi / 2 * taper) ** 2
        length = 1 << (8 * self.samples).bit_length()
        spectrum = np.abs(np.fft.rfft(line * taper, length))
        f = np.fft.rfftfreq(length, self.step)
        # Pixels count towards the nearest sample: a boxcar of one step, undone.
        own = spectrum / np.maximum(np.abs(np.sinc(f * self.step)), HALF)
        within = f <= HALF / min(self.pixel_spacing)
        return np.asarray(f[within], np.float64), np.asarray(own[within] / own[0], np.float64)

    def f50(self, name: str) -> float | None:
        """Return where the MTF falls to one half, 1/mm; None where it was not measured or does not fall so far."""
        return _falls_to_half(*self.mtf(name)) if self.measured else None

    def transfer50(self, name: str) -> float | None:
        """Return where the MTF of `name` over the truth's falls to one half, 1/mm."""
        if not self.measured:
            return None
        f, truth = self.mtf(self.names[0])
        _, image = self.mtf(name)
        # Where the truth itself has next to nothing, a ratio says nothing.
        known = np.minimum.accumulate(truth) > 0.1  # noqa: PLR2004 - a tenth
        return _falls_to_half(f[known], image[known] / truth[known])

    def to_dict(self) -> dict[str, Any]:
        """Return f50 of each, and of images the transfer's, fit for JSON."""
        found: dict[str, Any] = {"edge_pixels": int(self._count.sum())}
        for name in self.names:
            found[name] = {"f50": self.f50(name)}
            if name != self.names[0]:
                found[name]["transfer50"] = self.transfer50(name)
        return found


def _falls_to_half(f: NDArray[np.float64], values: NDArray[np.float64]) -> float | None:
    below = np.flatnonzero(values < HALF)
    if not below.size or below[0] == 0:
        return None
    last = int(below[0])
    share = (values[last - 1] - HALF) / (values[last - 1] - values[last])
    return float(f[last - 1] + share * (f[last] - f[last - 1]))


def skin(
    truth: NDArray[np.float64], pixel_spacing: tuple[float, float]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]] | None:
    """Return rows, columns and signed distances in mm, inside positive, of the pixels near the skin; None without skin.

    Args:
        truth: HU, (rows, columns).
        pixel_spacing: mm between rows and between columns.
    """
    outline = _outline(truth)
    if outline is None:
        return None
    scale = np.asarray(pixel_spacing)
    places = gaussian_filter1d(outline * scale, ALONG, axis=0, mode="wrap")
    # The direction along the outline, and the normal to the left or right of it.
    along = np.gradient(places, axis=0)
    normal = np.stack([along[:, 1], -along[:, 0]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)

    def at(mm: float) -> NDArray[np.float64]:
        where = ((places + mm * normal) / scale).T
        return np.asarray(map_coordinates(truth, where, order=1, mode="constant", cval=-1000.0))

    if np.mean(at(TISSUE_DEEP[0])) < np.mean(at(-TISSUE_DEEP[0])):
        normal = -normal
    good = np.all([at(mm) > TISSUE_LEAST for mm in TISSUE_DEEP], axis=0)
    good &= np.all([at(-mm) < AIR_MOST for mm in AIR_FAR], axis=0)
    if not good.any():
        return None
    return _near(places, normal, good, truth.shape, pixel_spacing)


def _outline(truth: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the outline of the largest body, lungs filled, as (points, 2) in rows and columns, closed."""
    parts, count = label(truth > LEVEL)
    if not count:
        return None
    largest = int(np.argmax(np.bincount(parts.ravel())[1:])) + 1
    body = binary_fill_holes(parts == largest)
    # Air within the body is no edge of it, and what lies around is another body.
    image = np.where(body, np.maximum(truth, LEVEL + 1), np.minimum(truth, LEVEL - 1))
    contours = find_contours(np.pad(image, 1, constant_values=-1000.0), LEVEL)
    return np.asarray(max(contours, key=len)[:-1] - 1) if contours else None


def _near(
    places: NDArray[np.float64],
    normal: NDArray[np.float64],
    good: NDArray[np.bool_],
    shape: tuple[int, ...],
    pixel_spacing: tuple[float, float],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return the pixels whose nearest point of the outline is a good one, with their distances along its normal."""
    y, x = (np.arange(edge) * step for edge, step in zip(shape, pixel_spacing, strict=True))
    pixels = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
    away, nearest = KDTree(places).query(pixels, distance_upper_bound=REACH)
    chosen = np.flatnonzero(np.isfinite(away))
    chosen = chosen[good[nearest[chosen]]]
    # Along the normal, not to the nearest point: points are a pixel apart.
    offset = pixels[chosen] - places[nearest[chosen]]
    distance = np.einsum("ij,ij->i", offset, normal[nearest[chosen]])
    rows, columns = np.divmod(chosen, shape[1])
    return rows, columns, distance
