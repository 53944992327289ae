"""Channels of a channelized observer, and the eye filter of a non-prewhitening one.

A channel is a pattern u of edge x edge pixels; the output of an image g is v = sum of u g. Channels reduce the
thousands of pixels of an image to a few numbers whose covariance can be estimated from some hundred images.

    Laguerre-Gauss  u_n(r) = sqrt(2) / a  exp(-pi r^2 / a^2)  L_n(2 pi r^2 / a^2)
    DoG             U_j(f) = exp(-(f / (Q s_j))^2 / 2) - exp(-(f / s_j)^2 / 2),     s_j = s_0 alpha^j
    Gabor           u(x, y) = exp(-4 ln 2 (x^2 + y^2) / w^2)  cos(2 pi f_c (x cos t + y sin t) + b)

Laguerre-Gauss channels are a complete orthonormal set of rotationally symmetric patterns: with enough of them the
observer approaches the ideal linear one for symmetric signals in symmetric noise. DoG and Gabor channels are models of
human vision; only Gabor channels have a direction, which the discrimination of shapes needs.

References:
    B. D. Gallas, H. H. Barrett, "Validating the use of channels to estimate the ideal linear observer", J. Opt. Soc.
        Am. A 20(9), 1725-1738, 2003 (Laguerre-Gauss).
    C. K. Abbey, H. H. Barrett, "Human- and model-observer performance in ramp-spectrum noise: effects of regularization
        and object variability", J. Opt. Soc. Am. A 18(3), 473-488, 2001 (dense difference of Gaussians).
    L. Yu, S. Leng, L. Chen, J. M. Kofler, R. E. Carter, C. H. McCollough, "Prediction of human observer performance in
        a 2-alternative forced choice low-contrast detection task using channelized Hotelling observer", Med. Phys.
        40(4), 041908, 2013 (Gabor).
    A. E. Burgess, "Statistically defined backgrounds: performance of a modified nonprewhitening observer model", J.
        Opt. Soc. Am. A 11(4), 1237-1242, 1994 (eye filter).
    R. S. Saunders, E. Samei, "A method for modifying the image quality parameters of digital radiographic images", Med.
        Phys. 30(11), 3006-3017, 2003; O. Christianson et al., "An improved index of image quality for task-based
        performance of CT iterative reconstruction across three commercial implementations", Radiology 275(3), 725-734,
        2015 (eye filter with the viewing conditions of CT).
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from scipy.special import eval_laguerre

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Eye: TypeAlias = Literal["burgess", "saunders", "none"]
"""Eye filters; `none` gives the non-prewhitening observer without an eye."""

DOG_FIRST, DOG_RATIO, DOG_WIDTH, DOG_COUNT = 0.005, 1.4, 1.67, 10
"""s_0 in cycles per pixel, alpha, Q and number of the dense difference-of-Gaussians channels (Abbey and Barrett)."""

GABOR_BANDS = ((1 / 64, 1 / 32), (1 / 32, 1 / 16), (1 / 16, 1 / 8), (1 / 8, 1 / 4))
"""Passbands of the Gabor channels in cycles per pixel (Yu et al.)."""

GABOR_ORIENTATIONS, GABOR_PHASES = 5, (0.0, math.pi / 2)
"""Number of directions, and phases b in radians (Yu et al.)."""

BURGESS_PEAK, BURGESS_POWER = 4.0, 1.3
"""Frequency of the maximum of Burgess' filter in cycles per degree, and its exponent."""

SAUNDERS = (1.5, 0.98, 0.68)
"""a_1, a_2, a_3 of the filter |rho^a_1 exp(-a_2 rho^a_3)|^2."""

VIEWING_DISTANCE = 500.0
"""Distance in mm between eye and display."""


def laguerre_gauss(edge: int, width: float, count: int = 10) -> NDArray[np.float64]:
    """Return Laguerre-Gauss channels, (count, edge, edge), orthonormal if the image is much wider than `width`.

    Args:
        edge: Rows and columns.
        width: a in pixels; about one and a half to three times the radius of the signal.
        count: Number of channels. More approach the ideal observer and need more images.

    Raises:
        CtbasisError: An argument is not positive.
    """
    _check(edge, width=width, count=count)
    x = _centred(edge)
    squared = (x[:, None] ** 2 + x**2) / width**2
    envelope = math.sqrt(2) / width * np.exp(-math.pi * squared)
    return np.stack([envelope * eval_laguerre(n, 2 * math.pi * squared) for n in range(count)])


def difference_of_gaussians(edge: int) -> NDArray[np.float64]:
    """Return the dense difference-of-Gaussians channels, (DOG_COUNT, edge, edge).

    Raises:
        CtbasisError: `edge` is not positive.
    """
    _check(edge)
    f = np.fft.fftfreq(edge)
    squared = f[:, None] ** 2 + f**2
    # A phase moves the centre of the patterns to the centre of the image.
    shift = np.exp(-1j * math.pi * (edge - 1) * (f[:, None] + f))
    channels = []
    for j in range(DOG_COUNT):
        s = DOG_FIRST * DOG_RATIO**j
        response = np.exp(-squared / (2 * (DOG_WIDTH * s) ** 2)) - np.exp(-squared / (2 * s**2))
        channels.append(np.fft.ifft2(response * shift).real)
    return np.stack(channels)


def gabor(
    edge: int, orientations: int = GABOR_ORIENTATIONS, phases: tuple[float, ...] = GABOR_PHASES
) -> NDArray[np.float64]:
    """Return Gabor channels, (bands x orientations x phases, edge, edge).

    Args:
        edge: Rows and columns. Bands whose envelope is wider than the image are left out.
        orientations: Number of directions.
        phases: b in radians; with 0 alone, all channels are symmetric about the centre.

    Raises:
        CtbasisError: An argument is not positive, or the image is smaller than every band.
    """
    _check(edge, orientations=orientations, phases=len(phases))
    x = _centred(edge)
    channels = []
    for (low, high), k, phase in product(GABOR_BANDS, range(orientations), phases):
        # The width at half maximum of the envelope gives the passband its width.
        w = 4 * math.log(2) / (math.pi * (high - low))
        if w > edge:
            continue
        angle = math.pi * k / orientations
        along = x * math.cos(angle) + x[:, None] * math.sin(angle)
        envelope = np.exp(-4 * math.log(2) * (x[:, None] ** 2 + x**2) / w**2)
        channels.append(envelope * np.cos(2 * math.pi * (low + high) / 2 * along + phase))
    if not channels:
        raise CtbasisError(
            f"images of {edge} pixels are smaller than every Gabor channel", expected="at least 8 pixels"
        )
    return np.stack(channels)


def eye_filter(
    f: NDArray[np.float64], eye: Eye = "burgess", *, distance: float = VIEWING_DISTANCE, zoom: float = 1.0
) -> NDArray[np.float64]:
    """Return the response of the eye, of the shape of `f`, 1 at its maximum; all 1 for `none`.

        burgess   E = rho^1.3 exp(-c rho^2), with its maximum at 4 cycles per degree
        saunders  E = |rho^1.5 exp(-0.98 rho^0.68)|^2

    Args:
        f: Frequencies in the image, 1/mm of the patient.
        eye: The filter.
        distance: Distance between eye and display, mm.
        zoom: Size on the display over size in the patient.

    Raises:
        CtbasisError: The filter is unknown, or a distance is not positive.
    """
    if eye not in {"burgess", "saunders", "none"} or not (distance > 0 and zoom > 0):
        raise CtbasisError(
            f"the eye filter {eye} at {distance} mm with zoom {zoom}",
            expected="burgess, saunders or none, and positive numbers",
        )
    if eye == "none":
        return np.ones_like(f)
    rho = np.abs(f) * distance * math.pi / 180 / zoom
    if eye == "burgess":
        c = BURGESS_POWER / (2 * BURGESS_PEAK**2)
        return np.asarray((rho / BURGESS_PEAK) ** BURGESS_POWER * np.exp(c * (BURGESS_PEAK**2 - rho**2)))
    power, rate, exponent = SAUNDERS
    top = (power / (rate * exponent)) ** (1 / exponent)
    return np.asarray(((rho / top) ** power * np.exp(rate * (top**exponent - rho**exponent))) ** 2)


def frequencies(shape: tuple[int, int], pixel_spacing: tuple[float, float]) -> NDArray[np.float64]:
    """Return the magnitude of the frequency, 1/mm, of every bin of a two-dimensional FFT, (rows, columns)."""
    v, u = (np.fft.fftfreq(edge, step) for edge, step in zip(shape, pixel_spacing, strict=True))
    return np.asarray(np.hypot(v[:, None], u))


def outputs(images: NDArray[np.floating], channels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return channel outputs, (images, channels), of images of (images, edge, edge)."""
    return np.asarray(np.tensordot(np.asarray(images, np.float64), channels, axes=((1, 2), (1, 2))))


def _centred(edge: int) -> NDArray[np.float64]:
    return np.arange(edge, dtype=np.float64) - (edge - 1) / 2


def _check(edge: int, **positive: float) -> None:
    for name, value in {"edge": edge, **positive}.items():
        if not value > 0:
            raise CtbasisError(f"{name} of the channels is {value}", expected="a number above 0")
