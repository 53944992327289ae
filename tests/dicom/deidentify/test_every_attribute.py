"""Sentinels in every attribute of the dictionary, in every sequence, at three depths: none survives."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR, keyword_for_tag

from ctbasis.dicom import ct_image
from ctbasis.dicom.deidentify.allow_list import DEVICE_NAMES
from ctbasis.dicom.deidentify.deidentification import Deidentification
from ctbasis.dicom.deidentify.profile import OPTIONS, Profile, parse_retain, rows
from ctbasis.dicom.deidentify.pseudonyms import Pseudonyms
from ctbasis.dicom.tolerance import tolerant
from ctbasis.matrix.ingest import ingest
from tests.dicom.deidentify.dictionary import (
    NUMBER,
    SENTINELS,
    STANDARD_ROOT,
    attributes,
    filled,
    planted,
    sentinel,
)
from tests.dicom.deidentify.identity import DATE, MARK, TEXT, TIME, leaks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pydicom.dataset import Dataset, FileDataset

    WriteSeries = Callable[..., list[Path]]

DATES = ("full-dates", "modified-dates")


def deidentified(headers: list[bytes], retain: str = "") -> Iterator[bytes]:
    how = Deidentification(Profile(parse_retain(retain)), Pseudonyms(b"a salt of no secrecy"))
    return map(how.header, headers)


@pytest.fixture(scope="module")
def image(write_series: WriteSeries, tmp_path_factory: pytest.TempPathFactory) -> FileDataset:
    image = pydicom.dcmread(
        write_series(tmp_path_factory.mktemp("image"), np.zeros((1, 4, 4), np.int16))[0], stop_before_pixels=True
    )
    image.SpecificCharacterSet = "ISO_IR 192"
    return image


def headers_of(image: FileDataset, *, valid: bool) -> list[bytes]:
    headers = []
    with tolerant():
        for header in planted(image, valid=valid):
            out = BytesIO()
            header.save_as(out, enforce_file_format=True)
            headers.append(out.getvalue())
    return headers


@pytest.fixture(scope="module")
def valid(image: FileDataset) -> list[bytes]:
    """Return headers whose sentinels follow the grammar of their VR."""
    return headers_of(image, valid=True)


@pytest.fixture(scope="module")
def invalid(image: FileDataset) -> list[bytes]:
    """Return headers with text in place of numbers, and behind dates, times, ages and UIDs."""
    return headers_of(image, valid=False)


def found(content: bytes) -> set[bytes]:
    return {mark for mark in (*SENTINELS, NUMBER.encode()) if mark.lower() in content.lower()}


def test_hundreds_of_thousands_of_sentinels_are_planted(valid: list[bytes], invalid: list[bytes]) -> None:
    assert len(attributes()) > 4000
    assert sum(header.lower().count(MARK.lower().encode()) for header in [*valid, *invalid]) > 500_000
    assert found(valid[0]) == {*SENTINELS, NUMBER.encode()}


def test_no_sentinel_survives(valid: list[bytes], invalid: list[bytes]) -> None:
    for header in deidentified([*valid, *invalid]):
        assert found(header) == set()
    # The search would find a sentinel: the image itself is still there.
    assert b"CT" in header


def test_the_image_survives(image: FileDataset, valid: list[bytes]) -> None:
    for header in deidentified(valid[1:4]):
        cleaned = pydicom.dcmread(BytesIO(header))
        for keyword in (
            "SOPClassUID", "Modality", "ImageType", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient",
            "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "RescaleType", "BitsStored",
            "SliceThickness", "SeriesNumber", "InstanceNumber", "PhotometricInterpretation", "PixelRepresentation",
        ):  # fmt: skip
            assert cleaned[keyword].value == image[keyword].value


def promised(retain: str) -> dict[str, str]:
    """Return keyword and VR of the attributes of a CT image that the option promises to retain."""
    column = OPTIONS[retain].column
    tags = [tag for tag, row in rows().items() if row[column] == "K" and tag in ct_image.types()]
    kept = {keyword_for_tag(tag): dictionary_VR(tag) for tag in tags}
    if retain == "device-identity":
        kept |= {keyword: dictionary_VR(keyword) for keyword in DEVICE_NAMES}
    return {keyword: vr for keyword, vr in kept.items() if vr != "SQ"}


@pytest.mark.parametrize(
    "retain", [option for option in OPTIONS if option not in {"modified-dates", "clean-descriptors"}]
)
def test_an_option_retains_what_it_promises_and_nothing_else(valid: list[bytes], retain: str) -> None:
    kept = promised(retain)
    assert kept
    known = {attribute.keyword: attribute for attribute in attributes()}
    for number, header in enumerate(deidentified(valid, retain)):
        cleaned = pydicom.dcmread(BytesIO(header))
        for element in cleaned:
            if element.keyword in kept and number == 0:
                continue
            assert uids_only(found(str(element).encode()), retain) == set(), element
        if number == 0:
            for keyword, vr in kept.items():
                if vr == "SH" and keyword == "TimezoneOffsetFromUTC":
                    continue
                if vr == "US":
                    continue
                if vr == "CS" and len(sentinel(known[keyword], valid=True)) > 16:
                    continue
                assert raw(cleaned, keyword) == sentinel(known[keyword], valid=True).rstrip(), keyword


def uids_only(marks: set[bytes], retain: str) -> set[bytes]:
    """Return the sentinels that no option allows: with `uids`, UIDs stay wherever a reference is kept."""
    return marks - {STANDARD_ROOT.encode()} if retain == "uids" else marks


def raw(dataset: Dataset, keyword: str) -> bytes:
    return str(dataset[keyword].value).encode()


@pytest.mark.parametrize("retain", OPTIONS)
def test_text_in_place_of_numbers_dates_and_uids_is_retained_by_no_option(invalid: list[bytes], retain: str) -> None:
    texts = {keyword for keyword, vr in promised(retain).items() if vr in {"LO", "SH", "ST", "LT"}}
    for header in deidentified(invalid, retain):
        cleaned = pydicom.dcmread(BytesIO(header))
        for element in cleaned:
            assert element.keyword in texts or found(str(element).encode()) == set(), element


def test_modified_dates_keeps_times_of_day_and_no_date(valid: list[bytes]) -> None:
    headers = list(deidentified(valid, "modified-dates"))
    cleaned = pydicom.dcmread(BytesIO(headers[0]))
    assert cleaned.StudyTime == TIME
    assert cleaned.StudyDate == cleaned.AcquisitionDate != DATE
    assert cleaned.AcquisitionDateTime == f"{cleaned.StudyDate}{TIME}+0100"
    for header in headers:
        assert found(header) <= {TIME.encode()}


def test_clean_descriptors_keeps_no_sentinel(valid: list[bytes], invalid: list[bytes]) -> None:
    for header in deidentified([*valid[:2], *invalid[:2]], "clean-descriptors"):
        assert found(header) == set()


def test_no_sentinel_reaches_the_store_the_report_or_the_log(
    write_series: WriteSeries, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [entry for entry in attributes() if entry.vr in {*TEXT, "PN", "UI"} - {"UR"}]

    def edit(dataset: FileDataset, index: int) -> None:
        dataset.update({tag: value for tag, value in filled(texts, valid=True).items() if tag not in dataset})
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = f"{STANDARD_ROOT}.1", f"{STANDARD_ROOT}.2.{index + 1}"
        dataset.PatientID = dataset.SeriesDescription = f"{MARK}1"
        dataset.BurnedInAnnotation = "NO"

    with tolerant():
        write_series(tmp_path / "source", np.zeros((3, 8, 8), np.int16), edit=edit)
    how = Deidentification(Profile(parse_retain("clean-descriptors")), Pseudonyms(b"a salt of no secrecy"))
    (tmp_path / "out").mkdir()
    ingest(tmp_path / "source", str(tmp_path / "out" / "A.zarr"), tmp_path / "out" / "qc.json", deidentification=how)
    assert found((tmp_path / "source" / "slice-0000.dcm").read_bytes()) == {MARK.encode(), STANDARD_ROOT.encode()}
    assert leaks(tmp_path / "out") == []
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert found(written + capsys.readouterr().err.encode()) == set()
    assert "slice-0000.dcm" in (tmp_path / "out" / "qc.json").read_text()
