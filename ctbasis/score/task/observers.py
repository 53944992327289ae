"""Model observers: detectability d' and AUC of a task, from images or from transfer function and noise power.

A task asks which of two patterns, whose difference is s, is in an image g with noise of covariance K. A linear observer
decides by t = sum of w g, and

    d'  = (mean of t with the one - mean of t with the other) / standard deviation of t
    AUC = Phi(d' / sqrt 2)                                 if t is Gaussian: the percentage correct in forced choice

    ideal (prewhitening)       w = K^-1 s          d'^2 = s^T K^-1 s
    non-prewhitening (NPW)     w = s               d'   = |s|^2 / sqrt(s^T K s)
    with eye filter E (NPWE)   W = E^2 S           see `npwe`
    channelized Hotelling      w = U K_v^-1 dv     d'^2 = dv^T K_v^-1 dv,   v = U^T g,  K_v = U^T K U,  dv = U^T s

In white noise of standard deviation sigma all of them without eye filter have d' = |s| / sigma.

From N images, the estimate dv^T K_v^-1 dv is too large, more so with more channels p. Hotelling's T^2 of Gaussian
outputs is distributed as F: with nu degrees of freedom of K_v and covariance kappa K_v of dv,

    (nu - p + 1) / (p nu) dv^T K_v^-1 dv / kappa  ~  F'(p, nu - p + 1; d'^2 / kappa)

from which follow the unbiased estimate of d'^2 and exact confidence intervals (Wunderlich et al.).

References:
    H. H. Barrett, K. J. Myers, "Foundations of Image Science", Wiley, 2004, chapter 13.
    ICRU Report 54, "Medical imaging: the assessment of image quality", 1996.
    A. Wunderlich, F. Noo, B. D. Gallas, M. E. Heilbrun, "Exact confidence intervals for channelized Hotelling observer
        performance in image quality studies", IEEE Trans. Med. Imaging 34(2), 453-464, 2015.
    S. Richard, J. H. Siewerdsen, "Comparison of model and human observer performance for detection and discrimination
        tasks using dual-energy x-ray images", Med. Phys. 35(11), 5043-5053, 2008 (NPWE).
    Y. Zhang, B. T. Pham, M. P. Eckstein, "Evaluation of internal noise methods for Hotelling observer models", Med.
        Phys. 34(8), 3312-3322, 2007 (internal noise in proportion to the decision variable).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.optimize import brentq
from scipy.special import ncfdtr, ndtr
from scipy.stats import rankdata

from ctbasis.errors import CtbasisError
from ctbasis.score.task.channels import eye_filter, frequencies

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.score.task.channels import Eye

CONFIDENCE = 0.95
"""Probability with which an interval holds the true value."""


@dataclass(frozen=True)
class Detectability:
    """Performance of an observer in a task.

    Attributes:
        d_prime: Unbiased estimate of d'; 0 if the estimate of its square is negative.
        low: Lower end of the exact interval of d'.
        high: Upper end.
        images: Number of images, both kinds together.
    """

    d_prime: float
    low: float
    high: float
    images: int

    @property
    def auc(self) -> float:
        """AUC of a Gaussian decision variable, Phi(d' / sqrt 2)."""
        return auc_of(self.d_prime)

    def to_dict(self) -> dict[str, Any]:
        """Return d_prime and auc with their intervals, and the number of images."""
        interval = {"d_prime": self.d_prime, "d_prime_low": self.low, "d_prime_high": self.high}
        return {
            **interval,
            "auc": self.auc,
            "auc_low": auc_of(self.low),
            "auc_high": auc_of(self.high),
            "images": self.images,
        }


def auc_of(d_prime: float) -> float:
    """Return Phi(d' / sqrt 2)."""
    return float(ndtr(d_prime / math.sqrt(2)))


def hotelling(
    one: NDArray[np.float64],
    other: NDArray[np.float64],
    *,
    places: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None,
    internal_noise: float = 0.0,
    confidence: float = CONFIDENCE,
) -> Detectability:
    """Estimate d' of the Hotelling observer from channel outputs, without bias and with an exact interval.

    A single output, such as that of a fixed template, is the case of one channel.

    Args:
        one: Channel outputs of independent images with the one pattern, (images, channels).
        other: The same with the other pattern, such as none.
        places: For every image of `one` and of `other`, the number of the background that it shows. The observer
            knows the backgrounds: means are taken for every background, and d' is that of the mean difference. By
            default all images show the same background.
        internal_noise: Standard deviation of the observer's own noise over that of t due to the image; d' is divided
            by sqrt(1 + internal_noise^2).
        confidence: Probability with which the interval holds d'.

    Raises:
        CtbasisError: There are too few images for the channels, a background lacks one of the patterns, or the outputs
            do not vary.
    """
    squared, p, nu, kappa = Backgrounds.of(one, other, places).mahalanobis()
    scale = math.sqrt(1 + internal_noise**2)
    low, high = _interval(float(squared[0]), p, int(nu[0]), float(kappa[0]), confidence)
    d_prime = float(_unbiased(squared, p, nu, kappa)[0])
    return Detectability(d_prime / scale, low / scale, high / scale, len(one) + len(other))


@dataclass(frozen=True)
class Backgrounds:
    """Means and scatter of channel outputs by background, from which d' of any sample of backgrounds follows.

    Attributes:
        step: Mean outputs with the one pattern minus those with the other, (backgrounds, channels).
        scatter: Sums of squares and products about the means, (backgrounds, channels, channels).
        images: Number of images, (backgrounds,).
        kappa: Covariance of `step` over that of an image, (backgrounds,).
    """

    step: NDArray[np.float64]
    scatter: NDArray[np.float64]
    images: NDArray[np.intp]
    kappa: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        one: NDArray[np.float64],
        other: NDArray[np.float64],
        places: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None,
    ) -> Self:
        """Return the statistics of channel outputs; arguments and errors are those of `hotelling`."""
        v = (np.atleast_2d(np.asarray(one, np.float64)), np.atleast_2d(np.asarray(other, np.float64)))
        shown = places or (np.zeros(len(v[0]), np.intp), np.zeros(len(v[1]), np.intp))
        known = np.unique(shown[0])
        if not np.array_equal(known, np.unique(shown[1])):
            raise CtbasisError("a background is shown with one of the patterns only", expected="both at every place")
        count, p = len(known), v[0].shape[1]
        means, scatter = [], np.zeros((count, p, p))
        images, kappa = np.zeros(count, np.intp), np.zeros(count)
        for outputs, background in zip(v, shown, strict=True):
            index = np.searchsorted(known, background)
            number = np.bincount(index, minlength=count)
            total = np.zeros((count, p))
            np.add.at(total, index, outputs)
            means.append(total / number[:, None])
            rest = outputs - means[-1][index]
            np.add.at(scatter, index, rest[:, :, None] * rest[:, None, :])
            images += number
            kappa += 1 / number
        return cls(means[0] - means[1], scatter, images, kappa)

    def d_prime(self, samples: NDArray[np.intp] | None = None) -> NDArray[np.float64]:
        """Return the estimate of `hotelling` for samples of backgrounds, (samples,).

        Args:
            samples: Numbers of the backgrounds in every sample, which may repeat, (samples, drawn); by default all
                backgrounds once.
        """
        return _unbiased(*self.mahalanobis(samples))

    def mahalanobis(
        self, samples: NDArray[np.intp] | None = None
    ) -> tuple[NDArray[np.float64], int, NDArray[np.float64], NDArray[np.float64]]:
        """Return dv^T K_v^-1 dv, p, nu and kappa; all but p have a value for every sample."""
        count, p = self.step.shape
        weights = np.ones((1, count))
        if samples is not None:
            weights = np.stack([np.bincount(sample, minlength=count) for sample in samples]).astype(np.float64)
        drawn = weights.sum(axis=1)
        nu = weights @ self.images - 2 * drawn
        if nu.min() - p - 1 <= 0:
            raise CtbasisError(
                f"{self.images.sum()} images of {count} backgrounds are too few for {p} channels",
                expected=f"at least {2 * count + p + 2}",
                remedy="simulate more noise, or choose fewer channels",
            )
        dv = weights @ self.step / drawn[:, None]
        K = np.tensordot(weights, self.scatter, axes=1) / nu[:, None, None]
        try:
            squared = np.einsum("bi,bi->b", dv, np.linalg.solve(K, dv[..., None])[..., 0])
        except np.linalg.LinAlgError:
            squared = np.full(len(dv), np.nan)
        if not (np.isfinite(squared).all() and (squared >= 0).all()):
            raise CtbasisError("the outputs of the channels do not vary independently", expected="images with noise")
        return squared, p, nu, weights @ self.kappa / drawn**2


def _unbiased(
    squared: NDArray[np.float64], p: int, nu: NDArray[np.float64], kappa: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return d' without bias: E dv^T K_v^-1 dv = nu / (nu - p - 1) (d'^2 + p kappa)."""
    return np.sqrt(np.maximum(0.0, squared * (nu - p - 1) / nu - p * kappa))


def _interval(squared: float, p: int, nu: int, kappa: float, confidence: float) -> tuple[float, float]:
    """Return the ends of the exact interval of d'."""
    rest = nu - p + 1
    F = rest / (p * nu) * squared / kappa

    def end(probability: float) -> float:
        """Return the d' for which a smaller F has this probability; 0 if it is less probable for every d'."""
        if ncfdtr(p, rest, 0.0, F) < probability:
            return 0.0
        most = 4 * p * F + 100
        while ncfdtr(p, rest, most, F) > probability:
            most *= 2
        root = brentq(lambda noncentral: ncfdtr(p, rest, noncentral, F) - probability, 0.0, most)
        return math.sqrt(kappa * float(root))

    tail = (1 - confidence) / 2
    return end(1 - tail), end(tail)


def rank_auc(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the probability that a decision variable of `one` exceeds one of `other` (Wilcoxon, Mann, Whitney)."""
    ranks = rankdata(np.concatenate([one, other]))[: len(one)]
    return float((ranks.sum() - len(one) * (len(one) + 1) / 2) / (len(one) * len(other)))


def held_out_auc(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the AUC of the Hotelling template of one half of the images on the other half, mean of both ways.

    It assumes no distribution. It is lower than the AUC of the true template, because one of few images is noisy.

    Args:
        one: Channel outputs with the one pattern, (images, channels).
        other: The same with the other pattern.
    """
    halves = [(outputs[::2], outputs[1::2]) for outputs in (one, other)]
    values = []
    for half in (0, 1):
        trained = [outputs[half] for outputs in halves]
        tested = [outputs[1 - half] for outputs in halves]
        K = sum(np.atleast_2d(np.cov(outputs.T)) for outputs in trained)
        w = np.linalg.lstsq(np.asarray(K), trained[0].mean(axis=0) - trained[1].mean(axis=0))[0]
        values.append(rank_auc(tested[0] @ w, tested[1] @ w))
    return float(np.mean(values))


def ideal(difference: NDArray[np.float64], power: NDArray[np.float64]) -> float:
    """Return d' of the ideal observer in stationary Gaussian noise.

    Args:
        difference: s, HU, (rows, columns).
        power: Noise power over the frequencies of an FFT, HU^2 per pixel (its mean is the variance), (rows, columns).
    """
    spectrum = np.abs(np.fft.fft2(difference)) ** 2
    return math.sqrt(float((spectrum / power).mean()))


def channelized(channels: NDArray[np.float64], difference: NDArray[np.float64], power: NDArray[np.float64]) -> float:
    """Return the true d' of the channelized Hotelling observer in stationary noise; arguments as those of `ideal`."""
    U = channels.reshape(len(channels), -1)
    colored = np.fft.ifft2(np.fft.fft2(channels, axes=(1, 2)) * power, axes=(1, 2)).real
    K = U @ colored.reshape(U.shape).T
    dv = U @ difference.reshape(-1)
    return math.sqrt(float(dv @ np.linalg.lstsq(K, dv)[0]))


def npwe(
    difference: NDArray[np.float64],
    pixel_spacing: tuple[float, float],
    *,
    ttf: NDArray[np.float64] | float = 1.0,
    nps: NDArray[np.float64],
    eye: Eye = "burgess",
    zoom: float = 1.0,
    internal_noise: float = 0.0,
) -> float:
    """Return d' of the non-prewhitening observer with eye filter, from transfer function and noise power.

    With the task function W, the Fourier transform of the difference of the patterns before blurring,

        d'^2 = [ integral |W|^2 TTF^2 E^2 ]^2  /  integral |W|^2 TTF^2 E^4 NPS          over u and v

    Args:
        difference: The difference of the patterns, HU, (rows, columns), without blur.
        pixel_spacing: mm between rows and between columns.
        ttf: TTF at the frequencies of an FFT of `difference` (`on_grid`); multiply by the recovered contrast.
        nps: NPS at the same frequencies, HU^2 mm^2.
        eye: Eye filter; `none` gives the NPW observer.
        zoom: Size on the display over size in the patient.
        internal_noise: As in `hotelling`.
    """
    dy, dx = pixel_spacing
    rows, columns = difference.shape
    W = dy * dx * np.fft.fft2(difference)
    E = eye_filter(frequencies((rows, columns), pixel_spacing), eye, zoom=zoom)
    seen = np.abs(W) ** 2 * np.square(ttf) * E**2
    area = 1 / (rows * dy * columns * dx)
    signal, noise = float(seen.sum()) * area, float((seen * E**2 * nps).sum()) * area
    return signal / math.sqrt(noise * (1 + internal_noise**2)) if noise > 0 else 0.0


def npwe_template(
    difference: NDArray[np.float64], pixel_spacing: tuple[float, float], eye: Eye = "burgess", *, zoom: float = 1.0
) -> NDArray[np.float64]:
    """Return the template E^2 S of the NPWE observer as a single channel, (1, rows, columns)."""
    rows, columns = difference.shape
    E = eye_filter(frequencies((rows, columns), pixel_spacing), eye, zoom=zoom)
    return np.fft.ifft2(np.fft.fft2(difference) * E**2).real[None]


def on_grid(
    f: NDArray[np.float64], values: NDArray[np.float64], shape: tuple[int, int], pixel_spacing: tuple[float, float]
) -> NDArray[np.float64]:
    """Return a radial curve at the frequencies of a two-dimensional FFT, (rows, columns).

    Below the first and above the last frequency of the curve, its end values are used.
    """
    return np.asarray(np.interp(frequencies(shape, pixel_spacing), f, values))
