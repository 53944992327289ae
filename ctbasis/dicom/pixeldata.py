"""Locating the stored values of a frame in its file, and reading them, with one decoder per transfer syntax."""

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
from ctbasis.dicom.resource_limits import MAX_EXPANSION, MAX_INFLATED_BYTES, MIN_COMPRESSED_LIMIT
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
"""pydicom plugin for each transfer syntax. There is exactly one, so that the values of a file do not depend on other
installed packages, and a damaged file is not passed to further decoders."""

SIZE_PARSERS = {
    **dict.fromkeys((JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), jpeg_2000_size),
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1), jpeg_size),
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), jpeg_size),
}
"""Functions that read the image size from a codestream; RLE does not contain it."""

WITHOUT_SIGN = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1}
"""Syntaxes whose codestreams do not define a sign; PixelRepresentation does."""

NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian}

UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_DATA = (0x7FE0, 0x0010)
ITEM = b"\xfe\xff\x00\xe0"
END_OF_SEQUENCE = b"\xfe\xff\xdd\xe0"
EMPTY_OFFSET_TABLE = ITEM + bytes(4)

MAX_FRAGMENTS = 1 << 20
"""Fragments of a PixelData element: 64 for each of `MAX_FRAMES` frames."""

MAX_CODESTREAM_HEADER_BYTES = 1 << 17
"""Bytes of a frame in which its size is searched; comments and tables may precede it."""

READ_BYTES = 1 << 20


@dataclass(frozen=True)
class StoredValues:
    """Location of the stored values of one frame.

    Attributes:
        start: Offset of the first byte; in the inflated data set if the file is deflated.
        end: Offset after the last byte.
        syntax: Transfer syntax UID of compressed values; empty for uncompressed ones.
        dtype: dtype of uncompressed values in the file.
        deflated: Whether the data set is deflated.
    """

    start: int
    end: int
    syntax: str = ""
    dtype: str = ""
    deflated: bool = False

    @property
    def in_place(self) -> bool:
        """Whether the file contains the values uncompressed and not deflated."""
        return not self.syntax and not self.deflated


def inflated(stream: BinaryIO, start: int) -> bytes:
    """Inflate the data set of a deflated file.

    Args:
        stream: The file.
        start: Offset of the data set.

    Raises:
        UnusableFileError: It cannot be inflated, or is larger than `MAX_INFLATED_BYTES`.
    """
    stream.seek(start)
    inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    pieces, size = [], 0
    try:
        while not inflate.eof:
            data = inflate.unconsumed_tail or stream.read(READ_BYTES)
            if not data:
                raise UnusableFileError("truncated: its deflated data set is incomplete", broken=True)
            pieces.append(inflate.decompress(data, READ_BYTES))
            size += len(pieces[-1])
            if size > MAX_INFLATED_BYTES:
                raise UnusableFileError(
                    f"its deflated data set is larger than {MAX_INFLATED_BYTES >> 20} MiB", broken=True
                )
    except zlib.error as error:
        raise UnusableFileError("its deflated data set cannot be inflated", broken=True) from error
    return b"".join(pieces)


def locate_frames(
    ds: FileDataset, stream: BinaryIO, end: int, pixels: Pixels, frames: int
) -> tuple[list[StoredValues], tuple[str, ...]]:
    """Locate the stored values of all frames, and refuse a truncated file.

    Args:
        ds: The data set before PixelData.
        stream: The file, or the inflated data set.
        end: Offset of the PixelData element in `stream`.
        pixels: Pixel format.
        frames: Number of frames.

    Returns:
        The location for each frame, and the deviations that were tolerated, as text for the user.

    Raises:
        UnusableFileError: PixelData is absent, truncated, inconsistent with the header, or in an unsupported encoding.
    """
    implicit, little = ds.original_encoding
    vr, length, value = _pixel_data(stream, end, implicit=bool(implicit), little=bool(little))
    transfer_syntax = ds.file_meta.get("TransferSyntaxUID")
    syntax = UID(transfer_syntax) if transfer_syntax else None
    size = int(ds.Rows) * int(ds.Columns) * (pixels.BitsAllocated // 8)
    if syntax is not None and syntax not in NATIVE:
        return _compressed(
            ds, _Fragments(stream, value) if length == UNDEFINED_LENGTH else None, syntax, size, frames
        ), ()
    if length == UNDEFINED_LENGTH:
        raise UnusableFileError("PixelData is encapsulated, but TransferSyntaxUID is uncompressed", broken=True)
    if not little and pixels.BitsAllocated == 8 and vr == b"OW":  # noqa: PLR2004 - bits of a byte
        raise UnusableFileError("8-bit values in big-endian words are not supported", broken=True)
    available = min(length, stream.seek(0, io.SEEK_END) - value)
    if available < frames * size:
        raise UnusableFileError(f"truncated: PixelData has {max(available, 0)} of {frames * size} bytes", broken=True)
    excess = length - frames * size
    if excess >= size:
        # Rows, Columns or BitsAllocated are probably wrong, so the values would not form the correct image.
        raise UnusableFileError(
            f"PixelData has {length} bytes, Rows, Columns and BitsAllocated describe {frames * size}", broken=True
        )
    dtype = f"{'<' if little else '>'}{'i' if pixels.PixelRepresentation else 'u'}{pixels.BitsAllocated // 8}"
    deflated = syntax == DeflatedExplicitVRLittleEndian
    locations = [
        StoredValues(value + frame * size, value + (frame + 1) * size, dtype=dtype, deflated=deflated)
        for frame in range(frames)
    ]
    return locations, ((f"{excess} bytes after the pixels, ignored",) if excess > 1 else ())


def _pixel_data(stream: BinaryIO, end: int, *, implicit: bool, little: bool) -> tuple[bytes, int, int]:
    """Return the VR, the length and the offset of the value of PixelData, whose tag is at `end`."""
    stream.seek(end)
    tag = stream.read(12)
    if len(tag) < 12 or struct.unpack("<HH" if little else ">HH", tag[:4]) != PIXEL_DATA:  # noqa: PLR2004 - bytes read
        raise UnusableFileError("PixelData is absent", broken=True)
    vr = b"OW" if implicit else tag[4:6]
    if vr not in {b"OW", b"OB", b"UN"}:
        raise UnusableFileError("PixelData has an invalid value representation", broken=True)
    length = struct.unpack("<I" if little else ">I", tag[4:8] if implicit else tag[8:12])[0]
    return vr, length, end + (8 if implicit else 12)


def _compressed(
    ds: FileDataset, fragments: _Fragments | None, syntax: UID, size: int, frames: int
) -> list[StoredValues]:
    if syntax not in DECODERS:
        name = syntax.name if syntax.name != str(syntax) else "an unknown UID"
        raise UnusableFileError(f"no decoder supports its TransferSyntaxUID ({name})", broken=True)
    if fragments is None:
        raise UnusableFileError("PixelData is not encapsulated, but TransferSyntaxUID is compressed", broken=True)
    parts = _frame_ranges(fragments, ds, frames)
    for start, stop in parts:
        if stop - start > MAX_EXPANSION * size + MIN_COMPRESSED_LIMIT:
            raise UnusableFileError(f"a frame of {size} bytes takes {stop - start} bytes compressed", broken=True)
    return [StoredValues(start, stop, syntax=str(syntax)) for start, stop in parts]


def read_frame(path: Path, stored: StoredValues, *, rows: int, columns: int, pixels: Pixels) -> NDArray[Any]:
    """Return the stored values of one frame, (Rows, Columns).

    Args:
        path: The file.
        stored: Location of the values.
        rows: Rows.
        columns: Columns.
        pixels: Pixel format.

    Raises:
        ValueError: They cannot be decoded. The message contains no content of the file.
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
        raise ValueError("truncated after its header had been read")
    return values.reshape(rows, columns)


def meta_end(stream: BinaryIO) -> int:
    """Return the offset of the data set in a deflated DICOM file (Part 10), which follows group 0002.

    Raises:
        UnusableFileError: FileMetaInformationGroupLength is absent. The data set cannot be located without it.
    """
    stream.seek(128)
    head = stream.read(16)
    if head[:12] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        raise UnusableFileError("deflated, and FileMetaInformationGroupLength is absent", broken=True)
    return 144 + int(struct.unpack("<I", head[12:16])[0])


def _decoded(path: Path, stored: StoredValues, rows: int, columns: int, pixels: Pixels) -> NDArray[Any]:
    with path.open("rb") as stream:
        stream.seek(stored.start)
        fragments = stream.read(stored.end - stored.start)
    syntax = UID(stored.syntax)
    _check_size(_codestream_start(fragments), syntax, (rows, columns, 1))
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
        raise ValueError(
            f"decoding its PixelData ({syntax.name}) takes more memory than any valid file should"
        ) from error
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Decoders raise various exceptions (a panic in Rust is not an Exception), and some quote bytes of the file.
        raise ValueError(f"its PixelData ({syntax.name}) cannot be decoded ({type(error).__name__})") from error
    if values.shape != (rows, columns) or values.dtype.kind not in "iu":
        raise ValueError(f"its PixelData decodes to {values.dtype} of shape {values.shape}, expected {(rows, columns)}")
    return _with_sign(values, pixels) if syntax in WITHOUT_SIGN else values


def _codestream_start(fragments: bytes) -> bytes:
    """Return the beginning of a frame's codestream, whose header may extend over several fragments."""
    start, position = b"", 0
    while position + 8 <= len(fragments) and len(start) < MAX_CODESTREAM_HEADER_BYTES:
        size = struct.unpack("<I", fragments[position + 4 : position + 8])[0]
        start += fragments[position + 8 : position + 8 + min(size, MAX_CODESTREAM_HEADER_BYTES)]
        position += 8 + size
    return start


def _check_size(codestream: bytes, syntax: UID, expected: tuple[int, int, int]) -> None:
    """Compare the size that a codestream states with (Rows, Columns, samples) of the header."""
    if syntax not in SIZE_PARSERS:
        return
    stated = SIZE_PARSERS[syntax](codestream)
    if stated is None:
        raise ValueError(f"its PixelData ({syntax.name}) cannot be decoded (no image size)")
    if stated != expected:
        raise ValueError(
            f"its PixelData ({syntax.name}) is {stated[0]} x {stated[1]} with {stated[2]} samples per pixel, "
            f"Rows and Columns are {expected[0]} and {expected[1]}"
        )


def _with_sign(values: NDArray[Any], pixels: Pixels) -> NDArray[Any]:
    """Extend the sign of values decoded from a codestream of BitsStored bits that does not define a sign."""
    unused = 8 * values.dtype.itemsize - pixels.BitsStored
    if not pixels.PixelRepresentation or unused <= 0 or values.min() < 0 or int(values.max()) >> pixels.BitsStored:
        return values
    return (values << unused) >> unused


class _Fragments:
    """The fragments of encapsulated PixelData (PS3.5 A.4), located by their item headers; all must be complete."""

    def __init__(self, stream: BinaryIO, value: int) -> None:
        size = stream.seek(0, io.SEEK_END)
        self.starts: list[int] = []
        position = value
        while True:
            stream.seek(position)
            header = stream.read(8)
            if len(header) == 8 and header[:4] == END_OF_SEQUENCE:  # noqa: PLR2004 - tag and length
                break
            if position == size and self.starts:
                # The last fragment is complete and only the delimiter is missing, so nothing is lost.
                break
            if len(header) < 8 or header[:4] != ITEM:  # noqa: PLR2004
                raise UnusableFileError("truncated or damaged: PixelData has an invalid fragment", broken=True)
            position += 8 + struct.unpack("<I", header[4:])[0]
            if position > size:
                raise UnusableFileError("truncated: a fragment of PixelData is incomplete", broken=True)
            self.starts.append(position)
            if len(self.starts) > MAX_FRAGMENTS:
                raise UnusableFileError(f"PixelData has more than {MAX_FRAGMENTS} fragments", broken=True)
        if len(self.starts) < 2:  # noqa: PLR2004 - the offset table and one fragment
            raise UnusableFileError("PixelData is empty", broken=True)
        # Each position is the end of an item, and therefore the start of the next one.
        self.end = self.starts.pop()
        stream.seek(value + 8)
        self.table = stream.read(self.starts[0] - value - 8)


def _frame_ranges(fragments: _Fragments, ds: FileDataset, frames: int) -> list[tuple[int, int]]:
    """Return the start and the end of the fragments of each frame."""
    starts = fragments.starts
    if frames == 1:
        return [(starts[0], fragments.end)]
    extended = ds.get("ExtendedOffsetTable")
    if extended:
        offsets = struct.unpack(f"<{len(extended) // 8}Q", extended[: len(extended) // 8 * 8])
    elif fragments.table:
        offsets = struct.unpack(f"<{len(fragments.table) // 4}I", fragments.table[: len(fragments.table) // 4 * 4])
    elif len(starts) == frames:
        offsets = tuple(start - starts[0] for start in starts)
    else:
        raise UnusableFileError(f"{len(starts)} fragments of {frames} frames, and no offset table", broken=True)
    begins = [starts[0] + offset for offset in offsets]
    if len(begins) != frames or begins != sorted(set(begins)) or not set(begins) <= set(starts):
        raise UnusableFileError("the offset table of PixelData contradicts its fragments", broken=True)
    return list(zip(begins, [*begins[1:], fragments.end], strict=True))
