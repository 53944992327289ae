"""Lossless compression of what is written: transfer syntaxes whose encoder pydicom knows and somebody maintains."""

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
"""Transfer syntax and pydicom's plugin by name. HTJ2K is read and not written: no maintained encoder is to be had."""

SMALLEST_JPEG2000 = 32
"""Rows and columns from which OpenJPEG's five decompositions work; below, it fails and leaves its memory damaged."""


_ONE_AT_A_TIME = Lock()
"""pylibjpeg-openjpeg 2.6 writes through Python, which lets another thread in, and two encoders at once crash."""


def check(name: str, image: tuple[int, int]) -> None:
    """Refuse a compression that is not in `COMPRESSIONS`, or that cannot be had for images of (Rows, Columns) `image`.

    Raises:
        CtbasisError: It cannot.
    """
    if name not in COMPRESSIONS:
        raise CtbasisError(f"compress is {name!r}", expected=f"one of {', '.join(COMPRESSIONS)}")
    if name == "jpeg2000" and min(image) < SMALLEST_JPEG2000:
        raise CtbasisError(
            f"images of {image[0]} x {image[1]} are too small for jpeg2000",
            expected=f"{SMALLEST_JPEG2000} rows and columns at least",
            remedy="choose jpeg-ls or rle",
        )


def compress(dataset: Dataset, name: str) -> None:
    """Encode the pixels of `dataset`, Explicit VR Little Endian, in place; nothing else of it changes."""
    if name != UNCOMPRESSED:
        syntax, plugin = SYNTAXES[name]
        with _ONE_AT_A_TIME if name == "jpeg2000" else nullcontext():
            dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
