"""Images of `ctbasis bench task`: unprocessed and denoised volumes around the sites, which a killed run keeps.

Only the scored slices in the window of the sites count, so only they are kept: one file for each method, dose and
realisation in a folder, beside a description of the case and of the code. A run with the same folder makes what is
missing, and refuses images of another case or of other code.

Time is processor time of one core for a million voxels. Threads that wait in a loop count too, so on a busy machine it
is longer.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

import ctbasis
from ctbasis.bench.denoisers import NoisyVolume
from ctbasis.bench.quality_cases import power_of_covariance
from ctbasis.bench.quality_pairs import USUAL
from ctbasis.bench.task_cases import DOSES, INPUT_DOSES
from ctbasis.errors import CtbasisError
from ctbasis.storage.outputs import write_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from ctbasis.bench.denoisers import Denoiser
    from ctbasis.bench.task_cases import TaskCase

INPUT = "input"
"""Name of the unprocessed images."""

IN_LAYERS, IN_WINDOW = ("nlm", "bm3d"), ("bm4d",)
"""Peers that work slice by slice and get the scored slices only, in a window around the sites; and peers that get all
slices in that window, because they take minutes otherwise."""

LAGS = 16
"""Largest lag of the noise covariance whose spectrum BM3D and BM4D get, pixels."""

DESCRIPTION = "case.json"
"""File that describes the case and the code of the kept images."""

CODE = ("patch", "simulate", "steps/denoise.py", "bench/denoisers.py", "bench/quality_cases.py", "bench/task_cases.py")
"""Files and folders of ctbasis on which the images depend."""

PACKAGES = ("numpy", "scipy", "scikit-image", "bm3d", "bm4d")
"""Packages on which the images depend."""


@dataclass(frozen=True)
class TaskImage:
    """What a method makes of one realisation at one dose.

    Attributes:
        method: Name of the method, or `INPUT`.
        dose: Dose relative to the full one.
        hu: Scored slices in the window of the sites, HU, (slices, rows, columns).
        seconds: Processor time of one core for a million voxels; 0 for `INPUT`.
    """

    method: str
    dose: float
    hu: NDArray[np.float32]
    seconds: float


class KeptImages:
    """Images in a folder.

    Args:
        folder: Created when the first image is kept; None keeps nothing.
        case: The case.

    Raises:
        CtbasisError: The folder holds images of another case or of other code, or other files.
    """

    def __init__(self, folder: Path | None, case: TaskCase) -> None:
        self._folder = folder
        self._description = json.dumps(_description(case), indent=2) if folder else ""
        if folder is None or not folder.exists() or not any(folder.iterdir()):
            return
        known = folder / DESCRIPTION
        if not known.exists():
            raise CtbasisError(
                f"{folder} holds other files",
                expected="an empty folder, or that of a former run",
                remedy="choose another",
            )
        if known.read_bytes() != self._description.encode():
            raise CtbasisError(
                f"{folder} holds images of another case, or of other code",
                expected=f"the description of this run in {DESCRIPTION}",
                cause="options, background, packages or code have changed since",
                remedy="choose another folder for --keep",
            )

    def load(self, method: str, dose: float, realisation: int) -> TaskImage | None:
        """Return an image, None if it is not kept.

        Raises:
            CtbasisError: The file is damaged.
        """
        path = self._path(method, dose, realisation)
        if path is None or not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                return TaskImage(method, dose, kept["hu"], float(kept["seconds"]))
        except (ValueError, KeyError, OSError, BadZipFile) as error:
            raise CtbasisError(
                f"{path} cannot be read: {error}",
                expected="an image that a former run kept",
                cause="the file is damaged",
                remedy="delete it; it is made again",
            ) from error

    def keep(self, image: TaskImage, realisation: int) -> None:
        """Keep an image."""
        path = self._path(image.method, image.dose, realisation)
        if path is None:
            return
        if not path.parent.joinpath(DESCRIPTION).exists():
            write_file(path.parent / DESCRIPTION, self._description)
        content = io.BytesIO()
        np.savez(content, hu=image.hu, seconds=image.seconds)
        write_file(path, content.getvalue())

    def _path(self, method: str, dose: float, realisation: int) -> Path | None:
        name = f"{method} {dose:g} {realisation}".replace(" ", "-").replace("/", "-of-")
        return self._folder / f"{name}.npz" if self._folder else None


def _description(case: TaskCase) -> dict[str, Any]:
    """Return on what the images of a case depend, but for the realisation."""
    root = Path(ctbasis.__file__).parent
    files = [path for name in CODE for path in ([root / name] if name.endswith(".py") else (root / name).rglob("*.py"))]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files)))
    return {
        "background": case.background.name,
        "hu": hashlib.sha256(np.ascontiguousarray(case.background.hu).tobytes()).hexdigest(),
        "spacing": [float(step) for step in case.spacing],
        "tasks": [str(task) for task in case.tasks],
        "sites": [[[site.slice, site.row, site.column] for site in sites] for sites in case.sites],
        "photons": float(case.photons),
        "seed": case.seed,
        "code": code.hexdigest(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def images(
    case: TaskCase, methods: Sequence[Denoiser | None], realisation: int, kept: KeptImages
) -> Iterator[TaskImage]:
    """Yield what every method makes of a realisation, at every dose.

    One at a time: bm4d 4.2.5, which BM3D uses too, has one pool of threads, and aborts the process when two threads
    call it.

    Args:
        case: The case.
        methods: Methods, all installed; None stands for the unprocessed images, which have more doses.
        realisation: Number of the noise realisation.
        kept: Images that need not be made again; what is made is added.
    """
    volumes: dict[float, NoisyVolume] = {}
    for method in methods:
        for dose in DOSES if method else INPUT_DOSES:
            image = kept.load(method.name if method else INPUT, dose, realisation)
            if image is None:
                if dose not in volumes:
                    volumes[dose] = case.noisy(realisation, dose)[1]
                image = _made(case, method, dose, volumes[dose])
                kept.keep(image, realisation)
            yield image


def _made(case: TaskCase, method: Denoiser | None, dose: float, noisy: NoisyVolume) -> TaskImage:
    """Denoise a volume; slow peers denoise the scored slices or the window of the sites only."""
    if method is None:
        return TaskImage(INPUT, dose, noisy.hu[case.layers, *case.window], 0.0)
    setting = setting_of(method)
    start = time.process_time()
    if method.name not in {*IN_LAYERS, *IN_WINDOW}:
        voxels = noisy.hu.size
        hu = method.run(noisy, setting)[0][case.layers, *case.window]
    else:
        own = method.name in IN_LAYERS
        given = windowed(noisy, case.layers if own else list(range(len(noisy.hu))), case.window)
        voxels = given.hu.size
        hu = method.run(given, setting)[0]
        hu = hu if own else hu[case.layers]
    return TaskImage(method.name, dose, np.ascontiguousarray(hu), 1e6 * (time.process_time() - start) / voxels)


def setting_of(method: Denoiser) -> Mapping[str, Any]:
    """Return the setting of a peer without a truth, and the default of a mode of ctbasis."""
    return USUAL.get(method.name, method.settings[0])


def windowed(noisy: NoisyVolume, slices: Sequence[int], window: tuple[slice, slice]) -> NoisyVolume:
    """Return the slices in a window, with the noise power at the frequencies of the window."""
    hu = np.ascontiguousarray(noisy.hu[slices, *window])
    covariance = np.fft.fftshift(np.fft.ifft2(noisy.power).real)
    rows, columns = (edge // 2 for edge in covariance.shape)
    near = covariance[rows - LAGS : rows + LAGS, columns - LAGS : columns + LAGS]
    power = power_of_covariance(near, hu.shape[1:], noisy.sigma)
    return NoisyVolume(hu, noisy.spacing, range(len(hu)), noisy.sigma, power)
