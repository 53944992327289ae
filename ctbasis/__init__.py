"""Low-dose CT denoised by a distributed stochastic SVD: the public interface for a notebook.

    >>> import ctbasis
    >>> phantom = ctbasis.chest_phantom(slices=2, rows=64, columns=64)
    >>> noisy = ctbasis.simulate_dose(phantom, photons=2e4)
    >>> denoised = ctbasis.denoise(noisy, mode="global", rank=1)
    >>> denoised.hu.shape
    (2, 64, 64)

docs/reference/python.md describes the names below and promises that they stay. Every other name is internal. The names
are imported when they are first used (PEP 562), so that `import ctbasis` takes milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# For type checkers alone; at run time `__getattr__` imports from the same modules. This module stands above every room
# but the command line, and no room imports a name from it, so these imports make no circle.
if TYPE_CHECKING:
    from ctbasis.dicom.series_writer import write_series
    from ctbasis.dicom.volume import Volume
    from ctbasis.errors import CtbasisError
    from ctbasis.matrix.read import read, read_all
    from ctbasis.patch.estimate import NoiseEstimate, estimate_noise
    from ctbasis.score.score import score_image
    from ctbasis.simulate.volume import chest_phantom, simulate_dose
    from ctbasis.steps.denoise import Denoised, denoise
    from ctbasis.steps.factor import Factors, factor

    __version__: str

_MODULES = {
    "CtbasisError": "errors",
    "Denoised": "steps.denoise",
    "Factors": "steps.factor",
    "NoiseEstimate": "patch.estimate",
    "Volume": "dicom.volume",
    "chest_phantom": "simulate.volume",
    "denoise": "steps.denoise",
    "estimate_noise": "patch.estimate",
    "factor": "steps.factor",
    "read": "matrix.read",
    "read_all": "matrix.read",
    "score_image": "score.score",
    "simulate_dose": "simulate.volume",
    "write_series": "dicom.series_writer",
}
"""The module of each public name."""

__all__ = [
    "CtbasisError",
    "Denoised",
    "Factors",
    "NoiseEstimate",
    "Volume",
    "__version__",
    "chest_phantom",
    "denoise",
    "estimate_noise",
    "factor",
    "read",
    "read_all",
    "score_image",
    "simulate_dose",
    "write_series",
]

# Type checkers must not see `__getattr__`: they would accept any name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        import importlib

        if name == "__version__":
            from importlib.metadata import version

            return version("ctbasis")
        if name not in _MODULES:
            raise AttributeError(f"module 'ctbasis' has no attribute {name!r}")
        found = getattr(importlib.import_module(f"ctbasis.{_MODULES[name]}"), name)
        # The next use finds the name without this function.
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted(__all__)
