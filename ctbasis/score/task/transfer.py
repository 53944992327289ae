"""Task-based transfer function (TTF): the sharpness of the edge of disc inserts, by contrast, averaged over slices.

A nonlinear method has no single MTF: how sharp an edge stays depends on its contrast and on the noise. The TTF is
therefore measured at the edge of discs of known contrast c, at the noise of the image. With r the distance of a pixel
from the centre of a disc of radius R, and f the part of the pixel that the disc covers,

    d      = image - (truth - c f)                    the insert as the image shows it, without its background
    ESF(x) = mean of d over all pixels with R - r = x,      LSF = dESF/dx
    TTF(f) = |FT[taper LSF]|(f) / |FT[taper LSF]|(0)
    contrast recovery = (mean of d inside - mean of d outside) / c

Pixels of all directions and slices sample the edge in steps of STEP pixels. Because the background is subtracted, discs
in a phantom and discs drawn into a patient are measured alike. The TTF includes the aperture of the pixel; it is 1 at
frequency 0 by definition, and the recovered contrast stands beside it. The edge of a disc is curved: for a blur of
standard deviation s, f50 is wrong by about (s / R)^2 / 2, so discs below LEAST_DIAMETER are not measured.

References:
    E. Samei et al., "Performance evaluation of computed tomography systems: summary of AAPM Task Group 233", Med. Phys.
        46(11), e735-e756, 2019.
    S. Richard, D. B. Husarik, G. Yadava, S. N. Murphy, E. Samei, "Towards task-based assessment of CT performance:
        system and object MTF across different reconstruction algorithms", Med. Phys. 39(7), 4115-4122, 2012.
    ICRU Report 54, "Medical imaging: the assessment of image quality", 1996.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.score.line_spread import frequency_at, transfer_function
from ctbasis.simulate.inserts import disc_coverage

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from ctbasis.simulate.inserts import Insert

STEP = 0.1
"""Distance between samples of the edge-spread function, in pixels."""

REACH = 4.5
"""Distance in mm on both sides of the edge that is measured, at most; no more than SHARE of the radius."""

SHARE = 0.9
"""Part of the radius of the smallest disc that is measured on both sides of the edge."""

LEAST_DIAMETER = 8.0
"""Diameter in mm of the smallest disc that is measured."""

FEWEST = 2.0
"""Smallest mean number of pixels per sample for which a TTF is given."""

TENTH = 0.1
"""Value of the TTF at f10."""

PLATEAU = 0.6
"""Pixels farther than this part of the reach from the edge count as inside or outside for the contrast."""


class TaskTransfer:
    """Edge-spread function of the inserts of one contrast, accumulated slice by slice.

    Args:
        inserts: Discs of one contrast; ellipses and those below LEAST_DIAMETER are ignored.
        pixel_spacing: mm between rows and between columns.
    """

    def __init__(self, inserts: Sequence[Insert], pixel_spacing: tuple[float, float]) -> None:
        self.inserts = [one for one in inserts if one.diameter_mm >= LEAST_DIAMETER and one.aspect == 1]
        self.contrast = inserts[0].contrast_hu if inserts else 0.0
        self.pixel_spacing = pixel_spacing
        radius = min((insert.diameter_mm / 2 for insert in self.inserts), default=0.0)
        self.step = STEP * min(pixel_spacing)
        self.samples = 2 * int(min(REACH, SHARE * radius) / self.step) + 1
        self._count, self._total = np.zeros(self.samples), np.zeros(self.samples)

    def add(self, z: int, truth: NDArray[Any], image: NDArray[Any], *, shown: Collection[Insert] | None = None) -> None:
        """Add a slice.

        Args:
            z: Index of the slice.
            truth: Truth, which holds the inserts, HU, (rows, columns).
            image: Image, HU, (rows, columns).
            shown: The inserts that this truth holds; by default all.
        """
        shape = (truth.shape[0], truth.shape[1])
        error = np.asarray(image, np.float64) - truth
        dy, dx = self.pixel_spacing
        for insert in self.inserts:
            if not insert.crosses(z) or (shown is not None and insert not in shown):
                continue
            covered = disc_coverage(insert, shape, self.pixel_spacing)
            if covered is None:
                continue
            signal = np.zeros(shape)
            signal[covered[0]] = insert.contrast_hu * covered[1]
            reach = insert.diameter_mm / 2 + self.samples // 2 * self.step
            rows, columns = (
                np.arange(max(0, int(place - reach / mm)), min(edge, int(place + reach / mm) + 2))
                for place, mm, edge in ((insert.row, dy, shape[0]), (insert.column, dx, shape[1]))
            )
            window = np.ix_(rows, columns)
            distance = np.hypot((rows[:, None] - insert.row) * dy, (columns - insert.column) * dx)
            sample = np.rint((insert.diameter_mm / 2 - distance) / self.step).astype(np.intp) + self.samples // 2
            inside = (sample >= 0) & (sample < self.samples)
            self._count += np.bincount(sample[inside], minlength=self.samples)
            values = (error + signal)[window][inside]
            self._total += np.bincount(sample[inside], values, minlength=self.samples)

    @classmethod
    def of_parts(cls, parts: Sequence[TaskTransfer]) -> TaskTransfer:
        """Return an accumulator of all slices of `parts`, at least one, which have the same inserts."""
        whole = cls(parts[0].inserts, parts[0].pixel_spacing)
        for part in parts:
            whole._include(part)
        return whole

    def _include(self, part: TaskTransfer) -> None:
        self._count += part._count
        self._total += part._total

    @property
    def measured(self) -> bool:
        """Whether enough pixels were measured for a TTF."""
        return bool(self.samples > 1 and self._count.mean() >= FEWEST and (self._count > 0).mean() > SHARE)

    @property
    def distance(self) -> NDArray[np.float64]:
        """Signed distance of the samples from the edge, mm, positive inside the disc, (samples,)."""
        return np.asarray((np.arange(self.samples) - self.samples // 2) * self.step, np.float64)

    @property
    def edge_spread(self) -> NDArray[np.float64]:
        """ESF, HU, (samples,); samples without a pixel are interpolated. Zeros if nothing was measured."""
        known = self._count > 0
        if not known.any():
            return np.zeros(self.samples)
        return np.interp(self.distance, self.distance[known], self._total[known] / self._count[known])

    @property
    def recovered(self) -> float | None:
        """Contrast recovery; None if nothing was measured."""
        if not self.measured:
            return None
        far = PLATEAU * self.distance[-1]
        inside, outside = (
            self._total[chosen].sum() / self._count[chosen].sum()
            for chosen in (self.distance > far, self.distance < -far)
        )
        return float((inside - outside) / self.contrast)

    def ttf(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return frequencies in 1/mm up to the Nyquist frequency of the pixels, and the TTF."""
        return transfer_function(self.edge_spread, self.step, min(self.pixel_spacing))

    def to_dict(self) -> dict[str, Any]:
        """Return contrast_hu, count (of discs), recovered, f50 and f10 in 1/mm; None where nothing is measured."""
        f50, f10 = (frequency_at(*self.ttf(), level) if self.measured else None for level in (0.5, TENTH))
        numbers = {"contrast_hu": self.contrast, "count": len(self.inserts), "recovered": self.recovered}
        return {**numbers, "f50": f50, "f10": f10}


def transfers_by_contrast(inserts: Sequence[Insert], pixel_spacing: tuple[float, float]) -> list[TaskTransfer]:
    """Return an accumulator for the inserts of every contrast, from the lowest contrast to the highest."""
    contrasts = sorted({insert.contrast_hu for insert in inserts})
    return [
        TaskTransfer([insert for insert in inserts if insert.contrast_hu == contrast], pixel_spacing)
        for contrast in contrasts
    ]
