"""What the artifact of a basis says about it: all that one needs to know to serve it.

The values are texts, so that every version of Kubeflow's metadata store keeps them. Those of several bases are
separated by semicolons, in the order of the bases. They are written by the svd step, and hold no data of patients.
"""

from __future__ import annotations

from ctbasis.dicom.derived_series import read_header
from ctbasis.dicom.tolerance import tolerant
from ctbasis.installed import VERSION
from ctbasis.matrix.store import MatrixStore
from ctbasis.patch.bases import PatchBases, format_size
from ctbasis.printable import printable
from ctbasis.storage.schemas import VERSION as LAYOUT_VERSION

NOISE_MODEL = "estimated from the series: variance of the rays, covariance by texture"
"""The noise that a patch basis expects; ctbasis/patch/noise_fit.py estimates it from each series that is served."""


def basis_metadata(matrix_uri: str, bases_uri: str) -> dict[str, str]:
    """Return the metadata of the bases of a run in patch mode.

    Args:
        matrix_uri: The matrix that was denoised.
        bases_uri: The bases that were learned on it, or applied to it.

    Returns:
        `kind`, `version` (of ctbasis), `layout` (version of the stores), `noise_model`, `kernel` (ConvolutionKernel of
        the series), `spacing` (mm between rows, columns and slices), `patch` (its voxels) and `sha256` of each basis.

    Raises:
        CtbasisError: A store is damaged.
    """
    bases = PatchBases.open(bases_uri).bases
    return {
        "kind": "patch",
        "version": VERSION,
        "layout": str(LAYOUT_VERSION),
        "noise_model": NOISE_MODEL,
        "kernel": "; ".join(kernels(MatrixStore.open(matrix_uri))),
        "spacing": "; ".join(format_size(basis.spacing) for basis in bases),
        "patch": "; ".join(format_size(basis.shape) for basis in bases),
        "sha256": "; ".join(basis.sha256 for basis in bases),
    }


def kernels(matrix: MatrixStore) -> list[str]:
    """Return the values of ConvolutionKernel of the series of a matrix, each once; none where no header has it."""
    found = []
    for series in matrix.series:
        header = matrix.header(series.first)
        with tolerant():
            value = read_header(header).get("ConvolutionKernel", "") if header else ""
        names = [value] if isinstance(value, str) else list(value or [])
        found += [printable(" ".join(map(str, names)))]
    return [name for name in dict.fromkeys(found) if name]
