"""Where the stored values of a frame lie in its file, and reading them: in place, or through one decoder a syntax."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from ctbasis.dicom import jpeg
from ctbasis.dicom.codestream import jpeg_2000_size, jpeg_size
from ctbasis.dicom.limits import EXPANSION, EXPANSION_FLOOR, LARGEST_INFLATED
from ctbasis.dicom.set_aside import UnusableFileError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import FileDataset

    from ctbasis.dicom.hounsfield import Pixels

jpeg.register()

DECODERS = {
    RLELossless: "pylibjpeg",
    JPEGBaseline8Bit: jpeg.LABEL,
    JPEGExtended12Bit: jpeg.LABEL,
    JPEGLossless: jpeg.LABEL,
    JPEGLosslessSV1: jpeg.LABEL,
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    HTJ2K: "pylibjpeg",
}
"""The plugin of pydicom that decodes a transfer syntax. One each: what a file gives must not depend on what else is
installed, and a damaged file is not tried on until some decoder takes it."""

SIZES = {
    **dict.fromkeys((JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), jpeg_2000_size),
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1), jpeg_size),
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), jpeg_size),
}
"""What tells the size that a codestream states; RLE states none."""

UNSIGNED = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1}
"""Syntaxes whose codestreams hold bits, and leave to PixelRepresentation whether they are signed."""

NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian}

UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_DATA = (0x7FE0, 0x0010)
ITEM = b"\xfe\xff\x00\xe0"
END_OF_SEQUENCE = b"\xfe\xff\xdd\xe0"
EMPTY_OFFSET_TABLE = ITEM + bytes(4)

MOST_FRAGMENTS = 1 << 20
"""Fragments of one element: 64 for each of the most frames."""

LARGEST_CODESTREAM_HEADER = 1 << 17
"""Bytes of a frame to look for its size in: comments and tables come before it."""

PIECE = 1 << 20


@dataclass(frozen=True)
class StoredValues:
    """Where the values of one frame are.

    Attributes:
        start: Bytes before them; of the inflated file where it is deflated.
        end: Bytes before what follows.
        syntax: Transfer syntax whose decoder they need; empty where they are not compressed.
        dtype: Of a value in the file, where they are not compressed.
        deflated: Whether the file has to be inflated first.
    """

    start: int
    end: int
    syntax: str = ""
    dtype: str = ""
    deflated: bool = False

    @property
    def in_place(self) -> bool:
        """Whether the file holds the values just as they are."""
        return not self.syntax and not self.deflated


def inflated(stream: BinaryIO, start: int) -> bytes:
    """Return the data set that `stream` holds deflated from `start` on.

    Raises:
        UnusableFileError: It does not inflate, or to more than `LARGEST_INFLATED`.
    """
    stream.seek(start)
    inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    pieces, size = [], 0
    try:
        while not inflate.eof:
            piece = inflate.unconsumed_tail or stream.read(PIECE)
            if not piece:
                raise UnusableFileError("truncated: its deflated data set breaks off", broken=True)
            pieces.append(inflate.decompress(piece, PIECE))
            size += len(pieces[-1])
            if size > LARGEST_INFLATED:
                raise UnusableFileError(
                    f"its deflated data set is larger than {LARGEST_INFLATED >> 20} MiB", broken=True
                )
    except zlib.error as error:
        raise UnusableFileError("its deflated data set does not inflate", broken=True) from error
    return b"".join(pieces)


def locate(
    ds: FileDataset, stream: BinaryIO, end: int, pixels: Pixels, frames: int
) -> tuple[list[StoredValues], tuple[str, ...]]:
    """Find the values of every frame, and refuse a file that breaks off before their end.

    Args:
        ds: The data set before PixelData.
        stream: The file, or what it inflates to.
        end: Where in it PixelData begins.
        pixels: What the values mean.
        frames: Their number.

    Returns:
        Those of each frame, and what was tolerated, in words for the user.

    Raises:
        UnusableFileError: There are no values, not all of them, or in a form that no decoder here takes.
    """
    implicit, little = ds.original_encoding
    vr, length, value = _pixel_data(stream, end, implicit=bool(implicit), little=bool(little))
    given = ds.file_meta.get("TransferSyntaxUID")
    syntax = UID(given) if given else None
    size = int(ds.Rows) * int(ds.Columns) * (pixels.BitsAllocated // 8)
    if syntax is not None and syntax not in NATIVE:
        return _compressed(
            ds, _Capsules(stream, value) if length == UNDEFINED_LENGTH else None, syntax, size, frames
        ), ()
    if length == UNDEFINED_LENGTH:
        raise UnusableFileError("PixelData is encapsulated, in a transfer syntax that has no capsules", broken=True)
    if not little and pixels.BitsAllocated == 8 and vr == b"OW":  # noqa: PLR2004 - bits of a byte
        raise UnusableFileError("8 bit values in big endian words, which are not read", broken=True)
    there = min(length, stream.seek(0, io.SEEK_END) - value)
    if there < frames * size:
        raise UnusableFileError(f"truncated: PixelData has {max(there, 0)} of {frames * size} bytes", broken=True)
    excess = length - frames * size
    if excess >= size:
        # Most likely Rows, Columns or BitsAllocated are wrong, and what would be read is no image.
        raise UnusableFileError(
            f"PixelData has {length} bytes, {frames * size} make the image that the header says", broken=True
        )
    dtype = f"{'<' if little else '>'}{'i' if pixels.PixelRepresentation else 'u'}{pixels.BitsAllocated // 8}"
    deflated = syntax == DeflatedExplicitVRLittleEndian
    found = [
        StoredValues(value + frame * size, value + (frame + 1) * size, dtype=dtype, deflated=deflated)
        for frame in range(frames)
    ]
    return found, ((f"{excess} bytes behind the pixels, ignored",) if excess > 1 else ())


def _pixel_data(stream: BinaryIO, end: int, *, implicit: bool, little: bool) -> tuple[bytes, int, int]:
    """Return VR, length and place of the value of PixelData, whose tag is at `end`."""
    stream.seek(end)
    tag = stream.read(12)
    if len(tag) < 12 or struct.unpack("<HH" if little else ">HH", tag[:4]) != PIXEL_DATA:  # noqa: PLR2004 - a whole head
        raise UnusableFileError("it holds no PixelData", broken=True)
    vr = b"OW" if implicit else tag[4:6]
    if vr not in {b"OW", b"OB", b"UN"}:
        raise UnusableFileError("PixelData is of no VR that holds pixels", broken=True)
    length = struct.unpack("<I" if little else ">I", tag[4:8] if implicit else tag[8:12])[0]
    return vr, length, end + (8 if implicit else 12)


def _compressed(ds: FileDataset, capsules: _Capsules | None, syntax: UID, size: int, frames: int) -> list[StoredValues]:
    if syntax not in DECODERS:
        name = syntax.name if syntax.name != str(syntax) else "an unknown one"
        raise UnusableFileError(f"no decoder reads its transfer syntax ({name})", broken=True)
    if capsules is None:
        raise UnusableFileError("PixelData is not encapsulated, in a transfer syntax that compresses", broken=True)
    parts = _frames(capsules, ds, frames)
    for start, stop in parts:
        if stop - start > EXPANSION * size + EXPANSION_FLOOR:
            raise UnusableFileError(f"a frame of {size} bytes takes {stop - start} compressed", broken=True)
    return [StoredValues(start, stop, syntax=str(syntax)) for start, stop in parts]


def read_frame(path: Path, stored: StoredValues, *, rows: int, columns: int, pixels: Pixels) -> NDArray[Any]:
    """Return the stored values of one frame, (Rows, Columns).

    Raises:
        ValueError: They do not decode; the message holds nothing of the file's content.
        OSError: The file cannot be read.
    """
    if stored.syntax:
        return _decoded(path, stored, rows, columns, pixels)
    count = rows * columns
    if stored.in_place:
        values = np.fromfile(path, stored.dtype, count, offset=stored.start)
    else:
        with path.open("rb") as stream:
            whole = inflated(stream, meta_end(stream))
        values = np.frombuffer(whole[stored.start : stored.end], stored.dtype)
    if values.size != count:
        raise ValueError("truncated while it was being read")
    return values.reshape(rows, columns)


def meta_end(stream: BinaryIO) -> int:
    """Return where the data set of a DICOM file (Part 10) begins: behind group 0002, of the length that it states.

    Raises:
        UnusableFileError: It does not state it; a deflated data set begins nowhere else that could be found.
    """
    stream.seek(128)
    head = stream.read(16)
    if head[:12] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        raise UnusableFileError("deflated, and its meta information does not say where that begins", broken=True)
    return 144 + int(struct.unpack("<I", head[12:16])[0])


def _decoded(path: Path, stored: StoredValues, rows: int, columns: int, pixels: Pixels) -> NDArray[Any]:
    with path.open("rb") as stream:
        stream.seek(stored.start)
        fragments = stream.read(stored.end - stored.start)
    syntax = UID(stored.syntax)
    _refuse_other_size(_joined(fragments), syntax, (rows, columns, 1))
    options: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": pixels.BitsAllocated,
        "bits_stored": pixels.BitsStored,
        "pixel_representation": pixels.PixelRepresentation,
        "pixel_keyword": "PixelData",
    }
    try:
        values: NDArray[Any] = get_decoder(syntax).as_array(
            EMPTY_OFFSET_TABLE + fragments, index=0, raw=True, decoding_plugin=DECODERS[syntax], **options
        )[0]
    except MemoryError as error:
        raise ValueError(f"its pixels ({syntax.name}) take more memory to decode than any file should") from error
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Decoders raise what they like (a panic in Rust is no Exception), and some quote bytes of the file.
        raise ValueError(f"its pixels ({syntax.name}) do not decode ({type(error).__name__})") from error
    if values.shape != (rows, columns) or values.dtype.kind not in "iu":
        raise ValueError(f"its pixels decode to {values.dtype} of shape {values.shape}, not {(rows, columns)}")
    return _with_sign(values, pixels) if syntax in UNSIGNED else values


def _joined(fragments: bytes) -> bytes:
    """Return the beginning of a frame's codestream, whose header may be spread over fragments."""
    joined, at = b"", 0
    while at + 8 <= len(fragments) and len(joined) < LARGEST_CODESTREAM_HEADER:
        size = struct.unpack("<I", fragments[at + 4 : at + 8])[0]
        joined += fragments[at + 8 : at + 8 + min(size, LARGEST_CODESTREAM_HEADER)]
        at += 8 + size
    return joined


def _refuse_other_size(frame: bytes, syntax: UID, said: tuple[int, int, int]) -> None:
    if syntax not in SIZES:
        return
    stated = SIZES[syntax](frame)
    if stated is None:
        raise ValueError(f"its pixels ({syntax.name}) do not decode (no image size)")
    if stated != said:
        raise ValueError(
            f"its pixels ({syntax.name}) are {stated[0]} x {stated[1]} of {stated[2]} samples, "
            f"the header says {said[0]} x {said[1]}"
        )


def _with_sign(values: NDArray[Any], pixels: Pixels) -> NDArray[Any]:
    """Extend the sign of values that a codestream of BitsStored bits, which knows no sign, brought without it."""
    unused = 8 * values.dtype.itemsize - pixels.BitsStored
    if not pixels.PixelRepresentation or unused <= 0 or values.min() < 0 or int(values.max()) >> pixels.BitsStored:
        return values
    return (values << unused) >> unused


class _Capsules:
    """The fragments of encapsulated PixelData (PS3.5 A.4) by their headers alone; every one has to be there whole."""

    def __init__(self, stream: BinaryIO, value: int) -> None:
        size = stream.seek(0, io.SEEK_END)
        self.starts: list[int] = []
        at = value
        while True:
            stream.seek(at)
            header = stream.read(8)
            if len(header) == 8 and header[:4] == END_OF_SEQUENCE:  # noqa: PLR2004 - tag and length
                break
            if at == size and self.starts:
                # The last fragment is whole, only the delimiter behind it is missing: nothing is lost.
                break
            if len(header) < 8 or header[:4] != ITEM:  # noqa: PLR2004
                raise UnusableFileError("truncated or damaged: a fragment of PixelData is none", broken=True)
            at += 8 + struct.unpack("<I", header[4:])[0]
            if at > size:
                raise UnusableFileError("truncated: PixelData breaks off within a fragment", broken=True)
            self.starts.append(at)
            if len(self.starts) > MOST_FRAGMENTS:
                raise UnusableFileError(f"PixelData has more than {MOST_FRAGMENTS} fragments", broken=True)
        if len(self.starts) < 2:  # noqa: PLR2004 - the offset table and one fragment
            raise UnusableFileError("PixelData is empty", broken=True)
        self.end = self.starts.pop()
        stream.seek(value + 8)
        self.table = stream.read(self.starts[0] - value - 8)


def _frames(capsules: _Capsules, ds: FileDataset, frames: int) -> list[tuple[int, int]]:
    """Return where each frame's fragments begin and end."""
    starts = capsules.starts
    if frames == 1:
        return [(starts[0], capsules.end)]
    extended = ds.get("ExtendedOffsetTable")
    if extended:
        offsets = struct.unpack(f"<{len(extended) // 8}Q", extended[: len(extended) // 8 * 8])
    elif capsules.table:
        offsets = struct.unpack(f"<{len(capsules.table) // 4}I", capsules.table[: len(capsules.table) // 4 * 4])
    elif len(starts) == frames:
        offsets = tuple(start - starts[0] for start in starts)
    else:
        raise UnusableFileError(f"{len(starts)} fragments of {frames} frames, and no offset table", broken=True)
    begins = [starts[0] + offset for offset in offsets]
    if len(begins) != frames or begins != sorted(set(begins)) or not set(begins) <= set(starts):
        raise UnusableFileError("the offset table of PixelData contradicts its fragments", broken=True)
    return list(zip(begins, [*begins[1:], capsules.end], strict=True))
