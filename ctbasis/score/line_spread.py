"""Transfer function of an edge: line-spread function, its Fourier transform, and the frequency at a given value.

    LSF(r) = dESF/dr,     T(f) = |FT[taper LSF]|(f) / |FT[taper LSF]|(0)

with the edge-spread function ESF sampled in equal steps across the edge. The taper is flat around the edge and falls to
zero at both ends, so that noise far from the edge does not count.

References:
    ICRU Report 54, "Medical imaging: the assessment of image quality", 1996 (modulation transfer function).
    S. Richard, D. B. Husarik, G. Yadava, S. N. Murphy, E. Samei, "Towards task-based assessment of CT performance:
        system and object MTF across different reconstruction algorithms", Med. Phys. 39(7), 4115-4122, 2012.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

HALF = 0.5
"""Value of a transfer function at f50."""


def transfer_function(
    edge_spread: NDArray[np.float64], step: float, pixel: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return frequencies in 1/mm up to the Nyquist frequency of the pixels, and the transfer function there.

    Args:
        edge_spread: ESF, HU, (samples,), an odd number, with the edge in the middle.
        step: mm between samples.
        pixel: mm between the pixels of the image.
    """
    samples = len(edge_spread)
    line = np.gradient(edge_spread, step)
    # The taper is flat around the edge, so that it does not narrow a wide line-spread function.
    taper = np.clip(2 - 2 * np.abs(np.linspace(-1, 1, samples)), 0, 1)
    taper = np.sin(np.pi / 2 * taper) ** 2
    length = 1 << (8 * samples).bit_length()
    spectrum = np.abs(np.fft.rfft(line * taper, length))
    f = np.fft.rfftfreq(length, step)
    # Assigning pixels to the nearest sample is a convolution with a boxcar of one step; divide by its transform.
    corrected = spectrum / np.maximum(np.abs(np.sinc(f * step)), HALF)
    within = f <= HALF / pixel
    return np.asarray(f[within], np.float64), np.asarray(corrected[within] / corrected[0], np.float64)


def frequency_at(f: NDArray[np.float64], values: NDArray[np.float64], level: float = HALF) -> float | None:
    """Return the frequency at which values first fall to `level`, by linear interpolation; None if they do not."""
    below = np.flatnonzero(values < level)
    if not below.size or below[0] == 0:
        return None
    last = int(below[0])
    fraction = (values[last - 1] - level) / (values[last - 1] - values[last])
    return float(f[last - 1] + fraction * (f[last] - f[last - 1]))
