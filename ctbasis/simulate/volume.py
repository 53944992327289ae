"""Volumes in memory for a notebook: the chest phantom, and a volume as it would be at a lower dose."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.dicom.derived_series import read_header
from ctbasis.dicom.excluded_voxels import excluded_voxels
from ctbasis.dicom.hounsfield import Pixels
from ctbasis.dicom.tolerance import tolerant
from ctbasis.errors import CtbasisError
from ctbasis.matrix.read import load, read
from ctbasis.progress import progress
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.low_dose_series import BATCH, OUTSIDE, derivations_of
from ctbasis.simulate.phantom import write_chest
from ctbasis.simulate.projection import ParallelBeam
from ctbasis.storage.voxels import AIR
from ctbasis.storage.working_folder import scratch_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.dicom.derived_series import Derivation
    from ctbasis.dicom.volume import Volume
    from ctbasis.matrix.read import ImageLike
    from ctbasis.simulate.projection import Kernel


def chest_phantom(
    slices: int = 301,
    rows: int = 256,
    columns: int = 256,
    *,
    spacing: float = 1.0,
    seed: int = 0,
    structured: bool = False,
) -> Volume:
    """Make a chest phantom: a synthetic chest without noise, whose HU are known.

    Args:
        slices: Number of slices. Fewer than 301 / `spacing` show the middle of the chest.
        rows: Number of rows.
        columns: Number of columns; the larger of rows and columns spans 384 mm.
        spacing: Distance between slices in mm.
        seed: Of vessels, airways, nodules and texture; the other organs are the same in every phantom.
        structured: Give the soft tissue structure of low contrast, as a patient's has: chambers of the heart, vessels
            in the liver, strands in muscle and fat, and texture. Without it, soft tissue is nearly uniform.

    Returns:
        The phantom with DICOM headers, as `ctbasis.read` returns it from files. Outside the circular field of view it
        is padding.

    Raises:
        CtbasisError: There is no slice, fewer than 8 rows or columns, or the spacing is not positive.

    Examples:
        >>> import ctbasis
        >>> ctbasis.chest_phantom(slices=3, rows=32, columns=32, spacing=5.0)
        Volume(3 x 32 x 32 int16 HU, spacing 5 x 12 x 12 mm)
    """
    with scratch_folder("ctbasis-phantom") as scratch:
        folder = scratch / "phantom"
        size = {"slices": slices, "rows": rows, "columns": columns}
        write_chest(folder, **size, spacing=spacing, seed=seed, structured=structured)
        return read(folder)


def simulate_dose(
    image: ImageLike,
    photons: float = 6e4,
    *,
    spacing: tuple[float, float, float] | None = None,
    electronic: float = 10.0,
    views: int | None = None,
    seed: int = 0,
    modulation: float = 0.0,
    bow_tie: float = 0.0,
    kernel: Kernel = "hann",
) -> Volume:
    """Return a CT volume as it would be at a lower dose: with noise that is inserted in its projections.

    The noise has the texture, the streaks and the correlation between voxels of a scan with a parallel beam of one
    energy. The volume keeps the noise that it has already.

    Args:
        image: A volume, an array of HU (slices, rows, columns), a DataArray, or the folder or URI of a series.
        photons: I0, photons that each detector bin counts in each view without a patient. Noise in HU falls with its
            square root.
        spacing: Distance in mm between slices, rows and columns; an array needs it.
        electronic: Standard deviation of the read-out noise, in photons.
        views: Angles over the half turn, by default pi/2 times the columns. Noise falls with the square root.
        seed: Of the noise. Equal seeds give equal noise.
        modulation: Strength of the tube-current modulation: 0 constant current, 1 the same noise in every view.
        bow_tie: Radius in mm of the water cylinder that a bow-tie filter evens out; 0 for no filter.
        kernel: Reconstruction kernel, from soft to sharp: `hann`, `cosine`, `shepp-logan` or `ram-lak`.

    Returns:
        The noisy volume, HU float32; padding stays as it is.

    Raises:
        CtbasisError: A setting is out of its range, or `image` is no volume or cannot be read.

    Examples:
        >>> import ctbasis
        >>> phantom = ctbasis.chest_phantom(slices=2, rows=64, columns=64)
        >>> low, lower = (ctbasis.simulate_dose(phantom, photons) for photons in (4e5, 1e5))
        >>> noise, more_noise = ((volume.hu - phantom.hu)[~phantom.set_aside].std() for volume in (low, lower))
        >>> bool(1.8 < more_noise / noise < 2.2)
        True
    """
    dose = Dose(photons, electronic, seed, modulation=modulation, bow_tie=bow_tie, kernel=kernel)
    if views is not None and views < 1:
        raise CtbasisError(f"views is {views}", expected="a whole number, at least 1")
    volume = load(image, spacing)
    beam = ParallelBeam.around(volume.shape[1:], volume.spacing[1:], views)
    outside = _no_measurement(volume)
    hu = volume.hu.astype(np.float32)
    for first in progress(range(0, len(hu), BATCH), "low dose", unit="batch"):
        batch = slice(first, first + BATCH)
        attenuating = np.where(outside[batch], np.float32(AIR), hu[batch])
        noise = image_noise(attenuating, beam, dose, first=first)
        np.add(hu[batch], noise, out=hu[batch], where=~outside[batch])
    excluded = [excluded_voxels(image, volume.spacing[1:], padded) for image, padded in zip(hu, outside, strict=True)]
    noisy = replace(volume, hu=hu, set_aside=np.stack(excluded))
    return replace(noisy, derivation=_derivation(volume, noisy, dose, beam))


def _no_measurement(volume: Volume) -> NDArray[np.bool_]:
    """Return where the volume is padding: as its headers declare it, or far below air; (slices, rows, columns)."""
    outside = volume.set_aside & (volume.hu < OUTSIDE)
    with tolerant():
        for index, header in enumerate(volume.headers):
            pixels = Pixels.of(read_header(header))
            if pixels.padding is not None:
                low, high = sorted(pixels.hounsfield(value) for value in pixels.padding)
                outside[index] |= (volume.hu[index] >= low) & (volume.hu[index] <= high)
    return outside


def _derivation(volume: Volume, noisy: Volume, dose: Dose, beam: ParallelBeam) -> Derivation:
    derivation, _ = derivations_of(dose, beam, ())
    fingerprint = f"{derivation.fingerprint} {noisy.fingerprint()}"
    return replace(derivation, fingerprint=fingerprint).after(volume.derivation)
