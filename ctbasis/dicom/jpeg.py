"""JPEG baseline, extended (12 bit) and lossless for pydicom: a plugin of its decoders over libjpeg-turbo 3.

Why this one: libjpeg-turbo is the maintained reference and decodes all four syntaxes, and `imagecodecs` (BSD) brings
it as a wheel. pylibjpeg-libjpeg is GPL-3.0, GDCM is not to be used, and Pillow decodes 8 bits alone. The wheel is
large (25 MiB, 80 MiB installed), for it brings every other codec too; the image of the steps leaves those out.

pydicom asks a plugin for `is_available`, `DECODER_DEPENDENCIES` and one function
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

TRAILER = 64
"""Bytes at the end of a frame among which the end of image is looked for: some writers pad generously."""

DECODER_DEPENDENCIES: dict[UID, tuple[str, ...]] = dict.fromkeys(
    (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1), ("imagecodecs",)
)


def is_available(uid: UID) -> bool:
    """Tell whether the plugin decodes transfer syntax `uid` here."""
    return uid in DECODER_DEPENDENCIES and find_spec("imagecodecs") is not None


def decode_frame(src: bytes, runner: DecodeRunner) -> bytearray:
    """Return the decoded values of one encoded frame, little endian, in 1 or 2 bytes each.

    Raises:
        ValueError: The codestream breaks off, or is of another size or number of samples than the data set says.
    """
    # Imported late: it takes a third of a second, and most series hold no JPEG.
    from imagecodecs import jpeg8_decode

    if END_OF_IMAGE not in src[-TRAILER:]:
        # libjpeg fills what is missing with grey and says so only in a warning that does not reach Python.
        raise ValueError("the codestream breaks off before its end of image")
    values = jpeg8_decode(src)
    if values.shape != (runner.rows, runner.columns) or values.dtype.kind != "u":
        raise ValueError("the codestream is of another shape than the data set says")
    runner.set_option("bits_allocated", values.dtype.itemsize * 8)
    return bytearray(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())


def register() -> None:
    """Offer the plugin to pydicom's decoders of these syntaxes; again does no harm."""
    for syntax in DECODER_DEPENDENCIES:
        decoder = get_decoder(syntax)
        if LABEL not in decoder.available_plugins:
            decoder.add_plugin(LABEL, (__name__, decode_frame.__name__))
