"""A small CT slice in every form of DICOM file that is read: the corpus of the fuzzer and of the tests of reading."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
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

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

PATIENT = "Made^Up"
"""PatientName of every file; no message about a file may contain it."""

STUDY, SERIES, FRAME_OF_REFERENCE = (f"2.25.{number}" for number in (11, 12, 13))

NATIVE = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}
"""Transfer syntaxes without compression, by the name of the form."""

LOSSLESS = {
    "RLE": RLELossless,
    "JPEG lossless": JPEGLossless,
    "JPEG lossless SV1": JPEGLosslessSV1,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000 lossless": JPEG2000Lossless,
    "HTJ2K lossless": HTJ2KLossless,
    "HTJ2K lossless RPCL": HTJ2KLosslessRPCL,
}
"""Transfer syntaxes with lossless compression."""

LOSSY = {
    "JPEG baseline": JPEGBaseline8Bit,
    "JPEG extended": JPEGExtended12Bit,
    "JPEG-LS near": JPEGLSNearLossless,
    "JPEG 2000": JPEG2000,
    "HTJ2K": HTJ2K,
}
"""Transfer syntaxes with lossy compression."""


def stored_values(frames: int = 1, rows: int = 48, columns: int = 40, *, bits: int = 12) -> NDArray[np.uint16]:
    """Return stored values of a smooth image with noise, below 2^bits, (frames, rows, columns)."""
    rng = np.random.default_rng(bits)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    image = np.where(x**2 + y**2 < 1, 0.3 + 0.1 * np.cos(3 * x + y), 0.02)
    noisy = [image + 0.01 * z + rng.normal(0, 0.005, image.shape) for z in range(frames)]
    return np.clip(np.round(np.asarray(noisy) * (1 << bits)), 0, (1 << bits) - 1).astype(np.uint16)


def ct_image(values: NDArray[Any], syntax: str = ExplicitVRLittleEndian, *, instance: int = 1, **tags: Any) -> Dataset:
    """Return a CT image of `values`, (rows, columns); `tags` override attributes by keyword.

    Without `tags` the stored values are unsigned, with 12 bits.
    """
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"2.25.{100 + instance}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = STUDY, SERIES, FRAME_OF_REFERENCE
    ds.Modality, ds.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.PatientName, ds.PatientID = PATIENT, PATIENT
    ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = 1, instance, 1
    ds.KVP, ds.ConvolutionKernel = 120, "B30f"
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-10, -10, 2.5 * instance]
    ds.PixelSpacing, ds.SliceThickness = [0.7, 0.7], 2.5
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
    ds.ReferencedImageSequence = Sequence([_reference()])
    _describe_pixels(ds, values)
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    _set_pixels(ds, [values], syntax)
    return ds


def enhanced_ct(values: NDArray[Any], syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """Return an enhanced CT object of `values`, (frames, rows, columns), with its geometry in functional groups."""
    ds = ct_image(values[0], ExplicitVRLittleEndian)
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.SOPClassUID, ds.NumberOfFrames = EnhancedCTImageStorage, len(values)
    shared = Dataset()
    shared.PixelMeasuresSequence = [_moved(ds, "PixelSpacing", "SliceThickness")]
    shared.PlaneOrientationSequence = [_moved(ds, "ImageOrientationPatient")]
    shared.PixelValueTransformationSequence = [_moved(ds, "RescaleSlope", "RescaleIntercept", "RescaleType")]
    shared.CTReconstructionSequence = [_moved(ds, "ConvolutionKernel")]
    shared.CTXRayDetailsSequence = [_moved(ds, "KVP")]
    ds.SharedFunctionalGroupsSequence = [shared]
    del ds.ImagePositionPatient, ds.AcquisitionNumber, ds.InstanceNumber
    ds.PerFrameFunctionalGroupsSequence = [_frame_groups(number) for number in range(1, len(values) + 1)]
    _set_pixels(ds, list(values), syntax)
    return ds


def to_bytes(ds: Dataset) -> bytes:
    """Return the data set as a DICOM file (Part 10)."""
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def without_preamble(ds: Dataset) -> bytes:
    """Return the data set without preamble and file meta information, as old archives store it."""
    out = io.BytesIO()
    bare = Dataset()
    bare.update(ds)
    bare.save_as(out, implicit_vr=True, little_endian=True)
    return out.getvalue()


def forms() -> dict[str, bytes]:
    """Return files by the name of their form: every transfer syntax, a file without preamble, multi-frame files."""
    image, frames = stored_values()[0], stored_values(3)
    made = {name: to_bytes(ct_image(image, syntax)) for name, syntax in {**NATIVE, **LOSSLESS}.items()}
    made |= {
        name: to_bytes(ct_image(image >> 4 if syntax == JPEGBaseline8Bit else image, syntax))
        for name, syntax in LOSSY.items()
    }
    made["no preamble"] = without_preamble(ct_image(image))
    made["enhanced"] = to_bytes(enhanced_ct(frames))
    made["enhanced RLE"] = to_bytes(enhanced_ct(frames, RLELossless))
    made["enhanced JPEG-LS"] = to_bytes(enhanced_ct(frames, JPEGLSLossless))
    return made


def _reference() -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, "2.25.14"
    return item


def _moved(ds: Dataset, *keywords: str) -> Dataset:
    item = Dataset()
    for keyword in keywords:
        item[keyword] = ds[keyword]
        delattr(ds, keyword)
    return item


def _frame_groups(number: int) -> Dataset:
    groups, position, content, kind = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = [-10, -10, 2.5 * number]
    content.FrameAcquisitionNumber, content.StackID, content.InStackPositionNumber = 1, "1", number
    kind.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    groups.PlanePositionSequence, groups.FrameContentSequence = [position], [content]
    groups.CTImageFrameTypeSequence = [kind]
    return groups


def _describe_pixels(ds: Dataset, values: NDArray[Any]) -> None:
    ds.Rows, ds.Columns = values.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    small = ds.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = (8, 8, 7) if small else (16, 12, 11)
    ds.PixelRepresentation = int(values.dtype.kind == "i")


def _set_pixels(ds: Dataset, frames: list[NDArray[Any]], syntax: str) -> None:
    if syntax in NATIVE.values():
        big = syntax == ExplicitVRBigEndian
        joined = b"".join((frame.byteswap() if big else frame).tobytes() for frame in frames)
        ds.add_new("PixelData", "OW", joined)
    else:
        ds.add_new("PixelData", "OB", encapsulate([_encoded(frame, syntax) for frame in frames]))
        ds["PixelData"].is_undefined_length = True


def _encoded(frame: NDArray[Any], syntax: str) -> bytes:
    import imagecodecs

    frame = np.ascontiguousarray(frame)
    encoders: dict[str, Callable[[], Any]] = {
        RLELossless: lambda: _rle(frame),
        JPEGBaseline8Bit: lambda: imagecodecs.jpeg8_encode(frame.astype(np.uint8), level=98),
        JPEGExtended12Bit: lambda: imagecodecs.jpeg8_encode(frame, level=98, bitspersample=12),
        JPEGLossless: lambda: imagecodecs.jpeg8_encode(frame, lossless=True, predictor=4, bitspersample=12),
        JPEGLosslessSV1: lambda: imagecodecs.jpeg8_encode(frame, lossless=True, predictor=1, bitspersample=12),
        JPEGLSLossless: lambda: imagecodecs.jpegls_encode(frame),
        JPEGLSNearLossless: lambda: imagecodecs.jpegls_encode(frame, level=2),
        JPEG2000Lossless: lambda: imagecodecs.jpeg2k_encode(frame, codecformat="j2k", reversible=True),
        JPEG2000: lambda: imagecodecs.jpeg2k_encode(frame, codecformat="j2k", level=90),
        HTJ2KLossless: lambda: imagecodecs.htj2k_encode(frame),
        HTJ2KLosslessRPCL: lambda: imagecodecs.htj2k_encode(frame, tlm=True),
        HTJ2K: lambda: imagecodecs.htj2k_encode(frame),
    }
    return bytes(encoders[syntax]())


def _rle(frame: NDArray[Any]) -> bytes:
    from rle.utils import encode_array

    rows, columns = frame.shape
    described = {"rows": rows, "columns": columns, "samples_per_pixel": 1, "number_of_frames": 1}
    return bytes(next(encode_array(frame, bits_allocated=8 * frame.dtype.itemsize, **described)))
