"""A pydicom decoder plugin for JPEG baseline, extended (12 bit) and lossless, based on libjpeg-turbo 3.

libjpeg-turbo is the maintained reference implementation and decodes all four transfer syntaxes; the wheel of
`imagecodecs` (BSD) contains it. The alternatives are unsuitable: pylibjpeg-libjpeg is licensed under GPL-3.0, GDCM is
excluded, and Pillow decodes 8 bits only. The wheel is large (25 MiB, 80 MiB installed) because it contains all other
codecs too; the container image of the steps leaves them out.

A plugin provides `is_available`, `DECODER_DEPENDENCIES` and a decoding function
(https://pydicom.github.io/pydicom/stable/guides/decoding/decoder_plugins.html).
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

LABEL = "ctbasis-libjpeg-turbo"

END_OF_IMAGE = b"\xff\xd9"

TRAILER_BYTES = 64
"""Bytes at the end of a frame in which the end-of-image marker is searched; some writers add much padding."""

DECODER_DEPENDENCIES: dict[UID, tuple[str, ...]] = dict.fromkeys(
    (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1), ("imagecodecs",)
)


def is_available(uid: UID) -> bool:
    """Return whether the plugin can decode the transfer syntax `uid` in this installation."""
    return uid in DECODER_DEPENDENCIES and find_spec("imagecodecs") is not None


def decode_frame(src: bytes, runner: DecodeRunner) -> bytearray:
    """Return the decoded values of one frame, little endian, 1 or 2 bytes each.

    Raises:
        ValueError: The codestream is truncated, or its size or number of samples differs from the data set.
    """
    # Imported here because it takes a third of a second, and most series contain no JPEG.
    from imagecodecs import jpeg8_decode

    if END_OF_IMAGE not in src[-TRAILER_BYTES:]:
        # libjpeg fills missing data with grey and only prints a warning, which Python does not see.
        raise ValueError("the codestream is truncated: it has no end-of-image marker")
    values = jpeg8_decode(src)
    if values.shape != (runner.rows, runner.columns) or values.dtype.kind != "u":
        raise ValueError("the shape of the codestream differs from Rows, Columns and SamplesPerPixel")
    runner.set_option("bits_allocated", values.dtype.itemsize * 8)
    return bytearray(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())


def register() -> None:
    """Register the plugin with pydicom's decoders; repeated calls have no effect."""
    for syntax in DECODER_DEPENDENCIES:
        decoder = get_decoder(syntax)
        if LABEL not in decoder.available_plugins:
            decoder.add_plugin(LABEL, (__name__, decode_frame.__name__))
