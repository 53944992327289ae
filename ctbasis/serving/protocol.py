"""What the model takes and gives by the Open Inference Protocol, version 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.installed import VERSION
from ctbasis.serving.tensors import Request, encode
from ctbasis.web.errors import BadRequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.serving.model import Model, Prediction

HU, SPACING = "hu", "spacing"
DENOISED, SIGMA = "denoised", "sigma"

INPUTS = (
    {"name": HU, "datatype": "INT16", "shape": [-1, -1, -1]},
    {"name": SPACING, "datatype": "FP64", "shape": [3]},
)
OUTPUTS = (
    {"name": DENOISED, "datatype": "FP32", "shape": [-1, -1, -1]},
    {"name": SIGMA, "datatype": "FP32", "shape": [-1, -1, -1]},
)

VOLUME_DIMENSIONS = 3

EXTENSIONS = ("binary_tensor_data",)

MOST_TEXT = 2000
"""Characters of the notes in an answer at most."""


def server_metadata() -> dict[str, Any]:
    """Return the metadata of the server."""
    return {"name": "ctbasis", "version": VERSION, "extensions": list(EXTENSIONS)}


def model_metadata(model: Model) -> dict[str, Any]:
    """Return the metadata of a model: its tensors, and its bases as a property."""
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "ctbasis_patch_svd",
        "inputs": list(INPUTS),
        "outputs": list(OUTPUTS),
        "properties": {"bases": model.bases.describe()},
    }


def volume_of(request: Request) -> tuple[NDArray[np.int16], tuple[float, float, float]]:
    """Return HU and spacing of a request.

    Raises:
        BadRequestError: A tensor is missing or has another shape or datatype, or an unknown output is asked for.
    """
    unknown = [name for name in request.outputs if name not in {DENOISED, SIGMA}]
    if request.inputs.keys() != {HU, SPACING} or unknown:
        raise BadRequestError(
            "the request has other tensors than the model",
            expected=f"inputs {HU} (INT16, slices x rows x columns) and {SPACING} (FP64, 3); outputs {DENOISED} and "
            f"{SIGMA}",
            remedy="compare the request with the metadata of the model",
        )
    hu, spacing = request.inputs[HU], request.inputs[SPACING]
    if hu.dtype != np.int16 or hu.ndim != VOLUME_DIMENSIONS or not hu.size:
        raise BadRequestError(
            f"the input {HU} is of type {hu.dtype} and has {hu.ndim} dimensions and {hu.size} voxels",
            expected="INT16 with three dimensions, slices x rows x columns",
            remedy="send HU as whole numbers, one volume a request",
        )
    if spacing.shape != (3,) or not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise BadRequestError(
            f"the input {SPACING} is not three positive numbers",
            expected="the distance in mm between slices, rows and columns",
            remedy="take PixelSpacing and the distance of the slices from the DICOM headers",
        )
    first, second, third = map(float, spacing)
    return hu, (first, second, third)


def answer(model: Model, request: Request, prediction: Prediction) -> tuple[bytes, dict[str, str]]:
    """Return the body and the header fields of the answer to a request."""
    record = prediction.record
    made = {
        "model_name": model.name,
        "model_version": VERSION,
        **({"id": request.id} if request.id else {}),
        "parameters": {
            "basis": record["basis"],
            "seconds": record["seconds"],
            "choosing": record["choosing"],
            "notes": "; ".join([*filter(None, [record["reason"]]), *record["notes"]])[:MOST_TEXT],
        },
    }
    outputs = {DENOISED: prediction.denoised, SIGMA: prediction.sigma}
    asked = request.outputs or tuple(outputs)
    return encode(made, {name: outputs[name] for name in asked}, request)
