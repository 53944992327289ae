"""Lossless compression of the written images, by encoders of pydicom that are maintained."""

from __future__ import annotations

from contextlib import nullcontext
from threading import Lock
from typing import TYPE_CHECKING

from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from ctbasis.choices import COMPRESSIONS, UNCOMPRESSED
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SYNTAXES = {
    "rle": (RLELossless, "pylibjpeg"),
    "jpeg-ls": (JPEGLSLossless, "pyjpegls"),
    "jpeg2000": (JPEG2000Lossless, "pylibjpeg"),
}
"""Transfer syntax and pydicom plugin by name. HTJ2K is read but not written: there is no maintained encoder."""

MIN_JPEG2000_SIZE = 32
"""Smallest Rows and Columns for five decomposition levels; OpenJPEG fails below and corrupts its memory."""


_ENCODER_LOCK = Lock()
"""pylibjpeg-openjpeg 2.6 crashes if two encoders run concurrently: it calls Python, which lets another thread run."""


def check_compression(name: str, image: tuple[int, int]) -> None:
    """Check that a compression exists and supports images of the given size.

    Args:
        name: One of `COMPRESSIONS`.
        image: Rows and Columns.

    Raises:
        CtbasisError: The name is unknown, or the images are too small.
    """
    if name not in COMPRESSIONS:
        raise CtbasisError(
            f"the parameter compress is {name!r}",
            expected=f"one of {', '.join(COMPRESSIONS)}",
            remedy="correct the parameter compress",
        )
    if name == "jpeg2000" and min(image) < MIN_JPEG2000_SIZE:
        raise CtbasisError(
            f"images of {image[0]} x {image[1]} are too small for jpeg2000",
            expected=f"at least {MIN_JPEG2000_SIZE} Rows and Columns",
            cause="the encoder OpenJPEG fails for smaller images",
            remedy="choose jpeg-ls or rle",
        )


def compress(dataset: Dataset, name: str) -> None:
    """Encode PixelData of `dataset`, which is Explicit VR Little Endian, in place; SOPInstanceUID is kept."""
    if name != UNCOMPRESSED:
        syntax, plugin = SYNTAXES[name]
        with _ENCODER_LOCK if name == "jpeg2000" else nullcontext():
            dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
