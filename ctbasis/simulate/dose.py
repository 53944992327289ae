"""Noise of a lower dose, inserted where noise arises in a scan: in the projections.

    p        = line integrals of the series' attenuation mu
    N        = I0 m(view) b(bin)                 photons sent: tube-current modulation m, bow-tie filter b
    p_noisy  = -log(max(Poisson(N exp(-p)) + N(0, sigma_e), 1) / N)
    noisy    = series + FBP(p_noisy - p)

Only the noise passes through the reconstruction. The anatomy therefore stays as sharp as it was, and the noise has the
texture, the streaks along dense rays and the correlation between voxels that noise has in a scan. The series keeps the
noise that it already has, so the result has a lower dose than the source, and its absolute dose is not known. The beam
is parallel and monoenergetic; the signal of an energy-integrating detector is counted in photons.

References:
    L. Yu, M. Shiung, D. Jondal, C. H. McCollough, "Development and validation of a practical lower-dose-simulation tool
        for optimizing computed tomography scan protocols", J. Comput. Assist. Tomogr. 36(4), 477-487, 2012.
    S. Zabic, Q. Wang, T. Morton, K. M. Brown, "A low dose simulation tool for CT systems with energy integrating
        detectors", Med. Phys. 40(3), 031102, 2013.
    D. Zeng et al., "A simple low-dose x-ray CT simulation from high-dose scan", IEEE Trans. Nucl. Sci. 62(5),
        2226-2233, 2015.
    J. Leuschner, M. Schmidt, D. O. Baguer, P. Maass, "LoDoPaB-CT, a benchmark dataset for low-dose computed tomography
        reconstruction", Scientific Data 8, 109, 2021.
    M. Gies, W. A. Kalender, H. Wolf, C. Suess, M. T. Madsen, "Dose reduction in CT by anatomically adapted tube current
        modulation. I. Simulation studies", Med. Phys. 26(11), 2235-2247, 1999.
    N. Mail, D. J. Moseley, J. H. Siewerdsen, D. A. Jaffray, "The influence of bowtie filtration on cone-beam CT image
        quality", Med. Phys. 36(1), 22-32, 2009.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.simulate.projection import KERNELS, ParallelBeam, project, reconstruct

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.simulate.projection import Kernel

MU_WATER = 0.02
"""Attenuation coefficient of water at CT's effective energy of about 65 keV, 1/mm."""

LEAST_PHOTONS = 1.0
"""Photons sent by a detector element at least; far fewer leave no measurement to reconstruct."""

MOST_ELECTRONIC, MOST_BOW_TIE = 1e6, 1000.0
"""Largest read-out noise in photons and largest radius in mm; far larger ones overflow floats."""

MOST_PHOTONS = 1e15
"""Largest number of photons whose Poisson draw is still exact; its noise is far below the step of stored values."""

REFERENCE_PATH = 6.0
"""Line integral of the longest ray at which modulation leaves the tube current unchanged: 300 mm of water."""

CURRENT_LIMITS = (0.2, 5.0)
"""Smallest and largest factor by which modulation changes the tube current."""

BOW_TIE_LEAST = 0.05
"""Fraction of the photons that the thickest part of a bow-tie filter lets through."""


@dataclass(frozen=True)
class Dose:
    """A simulated dose, with the settings of tube, filter, detector and reconstruction.

    Attributes:
        photons: I0, photons that each detector bin counts in each view without a patient; the same for all bins and
            views. The noise in HU is inversely proportional to its square root.
        electronic: sigma_e, standard deviation of the read-out noise in photons. It matters where few photons arrive.
        seed: Seed of the noise. The noise of slice i depends on (seed, i) only, not on how slices are batched.
        modulation: Strength of tube-current modulation, 0 (constant current) to 1. The current of a view follows its
            longest ray, I0 exp(modulation (max p - REFERENCE_PATH)) within CURRENT_LIMITS, both along the patient and
            around the patient. 1 gives every view the same noise, 0.5 the least noise for its dose (Gies et al.).
        bow_tie: Radius in mm of the water cylinder, centred on the image, that a bow-tie filter compensates; 0 for no
            filter. The filter lets fewer photons through away from the centre, at least the fraction BOW_TIE_LEAST, so
            the noise is higher there.
        kernel: Window of the ramp filter in the reconstruction; a sharper kernel gives more and finer noise.

    Raises:
        CtbasisError: `photons` is not positive, `electronic`, `bow_tie` or `seed` is negative, `modulation` is outside
            0 to 1, one is not finite, or there is no such kernel.
    """

    photons: float
    electronic: float = 10.0
    seed: int = 0
    modulation: float = 0.0
    bow_tie: float = 0.0
    kernel: Kernel = "hann"

    def __post_init__(self) -> None:
        if not LEAST_PHOTONS <= self.photons <= MOST_PHOTONS:
            raise CtbasisError(
                f"photons is {self.photons}", expected=f"from {LEAST_PHOTONS:g} to {MOST_PHOTONS:g}, such as 6e4"
            )
        if not 0 <= self.electronic <= MOST_ELECTRONIC:
            raise CtbasisError(f"electronic is {self.electronic}", expected=f"photons, from 0 to {MOST_ELECTRONIC:g}")
        if self.seed < 0:
            raise CtbasisError(f"seed is {self.seed}", expected="a whole number, at least 0")
        if not 0 <= self.modulation <= 1:
            raise CtbasisError(f"modulation is {self.modulation}", expected="from 0 (constant current) to 1")
        if not 0 <= self.bow_tie <= MOST_BOW_TIE:
            raise CtbasisError(
                f"bow_tie is {self.bow_tie}", expected=f"a radius in mm, from 0 to {MOST_BOW_TIE:g}, such as 160"
            )
        if self.kernel not in KERNELS:
            raise CtbasisError(f"kernel is {self.kernel}", expected=f"one of {', '.join(KERNELS)}")


def photons_sent(p: NDArray[np.floating[Any]], beam: ParallelBeam, dose: Dose) -> NDArray[np.float64]:
    """Compute N, the photons that each bin of a slice would count in each view without a patient.

    Args:
        p: Line integrals of one slice, (views, bins); tube-current modulation follows them.
        beam: Geometry of the projection.
        dose: I0, modulation and bow-tie filter.

    Returns:
        An array that broadcasts to (views, bins).
    """
    sent = np.full((1, 1), float(dose.photons))
    if dose.modulation:
        longest = np.asarray(p, np.float64).max(axis=1, keepdims=True)
        sent = sent * np.clip(np.exp(dose.modulation * (longest - REFERENCE_PATH)), *CURRENT_LIMITS)
    if dose.bow_tie:
        # The filter is as thick as the cylinder's diameter minus the chord of the ray through the cylinder.
        chord = 2 * np.sqrt(np.maximum(dose.bow_tie**2 - beam.positions**2, 0.0))
        sent = sent * np.maximum(np.exp(-MU_WATER * (2 * dose.bow_tie - chord)), BOW_TIE_LEAST)
    return sent


def projection_noise(
    p: NDArray[np.floating[Any]],
    dose: Dose,
    rng: np.random.Generator,
    sent: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Draw p_noisy - p, an array of the shape of `p`.

    The variance is exp(p) / N + (sigma_e exp(p) / N)^2 to first order in the noise.

    Args:
        p: Line integrals.
        dose: I0 and sigma_e.
        rng: Random number generator.
        sent: N, an array that broadcasts to the shape of `p`; by default I0 everywhere.
    """
    expected = np.asarray(p, np.float64)
    N = dose.photons if sent is None else sent
    counts = rng.poisson(N * np.exp(-expected)) + rng.normal(0.0, dose.electronic, expected.shape)
    # Counts below 1 have no usable logarithm; they are set to one photon, as in LoDoPaB-CT.
    return np.asarray(-np.log(np.maximum(counts, 1.0) / N) - expected)


def image_noise(
    hu: NDArray[np.floating[Any]], beam: ParallelBeam, dose: Dose, *, first: int = 0
) -> NDArray[np.float32]:
    """Draw the noise that `dose` adds to slices: HU, (slices, rows, columns).

    Args:
        hu: The slices, HU, (slices, rows, columns); values below -1000 count as air.
        beam: Geometry of the projection.
        dose: The dose.
        first: Index of the first slice in its series; the noise is seeded by this index.
    """
    attenuation = np.maximum(1.0 + np.moveaxis(hu, 0, -1) / np.float32(1000.0), 0.0) * np.float32(MU_WATER)
    p = project(attenuation.astype(np.float32), beam)

    def draw(index: int) -> None:
        rng = np.random.default_rng(np.random.SeedSequence([dose.seed, first + index]))
        p[..., index] = projection_noise(p[..., index], dose, rng, photons_sent(p[..., index], beam, dose))

    # NumPy's generators release the interpreter's lock.
    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        list(pool.map(draw, range(len(hu))))
    noise = reconstruct(p, beam, kernel=dose.kernel)
    return np.ascontiguousarray(np.moveaxis(noise, -1, 0)) * np.float32(1000.0 / MU_WATER)
