"""Headers through PS3.15 Annex E: what goes, what stays, what takes its place."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from ctbasis.dicom import ct_image
from ctbasis.dicom.deidentify.deidentification import Deidentification, IdentifyingError
from ctbasis.dicom.deidentify.profile import OPTIONS, Profile, parse_retain
from ctbasis.dicom.deidentify.pseudonyms import SALT, Pseudonyms
from ctbasis.errors import CtbasisError
from tests.dicom.deidentify.identity import AGE, DATE, FAMILY, MARK, ROOT, listed, plant, sentinels_in, value_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import FileDataset

    WriteSeries = Callable[..., list[Path]]

PSEUDONYMS = Pseudonyms(b"a salt of no secrecy")


def by(retain: str = "", pseudonyms: Pseudonyms = PSEUDONYMS) -> Deidentification:
    return Deidentification(Profile(parse_retain(retain)), pseudonyms)


def header(dataset: FileDataset) -> bytes:
    if "PixelData" in dataset:
        del dataset.PixelData
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def through(dataset: FileDataset, deidentification: Deidentification | None = None) -> Dataset:
    return pydicom.dcmread(BytesIO((deidentification or by()).header(header(dataset))))


@pytest.fixture
def plain(write_series: WriteSeries, volume: NDArray[np.int16], tmp_path: Path) -> FileDataset:
    return pydicom.dcmread(write_series(tmp_path / "plain", volume[:1])[0])


@pytest.fixture
def planted(write_series: WriteSeries, volume: NDArray[np.int16], tmp_path: Path) -> FileDataset:
    return pydicom.dcmread(write_series(tmp_path / "planted", volume[:1], edit=plant)[0])


def test_no_attribute_of_the_table_survives_with_its_value(planted: FileDataset) -> None:
    before = header(planted)
    # The search finds what is there: all but names of files and other encodings of the name.
    assert {MARK.encode(), ROOT.encode(), DATE.encode(), AGE.encode(), FAMILY.encode()} <= {*sentinels_in(before)}
    assert list(sentinels_in(by().header(before))) == []


def test_the_sentinels_are_in_hundreds_of_attributes(planted: FileDataset) -> None:
    rows = [row for row in listed() if value_of(row) is not None]
    assert len(rows) > 580
    assert all(row.tag in planted for row in rows)


@pytest.mark.parametrize("retain", ["", *OPTIONS, "modified-dates,clean-descriptors,patient-characteristics"])
def test_numbers_too_go_where_the_table_says_so(planted: FileDataset, retain: str) -> None:
    profile = Profile(parse_retain(retain))
    image = through(planted, by(retain))
    for element in image:
        action = profile.action(element.tag, ct_image.types().get(element.tag, "3"))
        assert action is None or action.value != "X", element.keyword


def test_what_makes_it_an_image_stays(planted: FileDataset) -> None:
    image = through(planted)
    for keyword in (
        "Rows",
        "Columns",
        "PixelSpacing",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "RescaleSlope",
        "RescaleIntercept",
        "BitsStored",
        "ImageType",
        "Modality",
        "SOPClassUID",
    ):
        assert image[keyword].value == planted[keyword].value


def test_it_says_that_and_how_it_was_de_identified(plain: FileDataset) -> None:
    image = through(plain, by("modified-dates,uids"))
    assert image.PatientIdentityRemoved == "YES"
    assert "PS3.15" in image.DeidentificationMethod[0]
    codes = {(item.CodeValue, item.CodingSchemeDesignator) for item in image.DeidentificationMethodCodeSequence}
    assert codes == {("113100", "DCM"), ("113107", "DCM"), ("113110", "DCM")}
    assert image.LongitudinalTemporalInformationModified == "MODIFIED"
    assert through(plain).LongitudinalTemporalInformationModified == "REMOVED"
    assert through(plain, by("full-dates")).LongitudinalTemporalInformationModified == "UNMODIFIED"


def test_what_was_done_to_it_before_stays_said_by_its_codes_alone(plain: FileDataset) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113101", "DCM", "Clean Pixel Data Option"
    other = Dataset()
    other.CodeValue, other.CodingSchemeDesignator, other.CodeMeaning = "1", "99CTP", "by John Doe"
    plain.DeidentificationMethod = "by John Doe"
    plain.DeidentificationMethodCodeSequence = Sequence([code, other])
    image = through(plain)
    assert [item.CodeValue for item in image.DeidentificationMethodCodeSequence] == ["113101", "113100"]
    assert b"Doe" not in header(image)


@pytest.mark.parametrize("said", ["YES", "yes "])
def test_pixels_that_may_name_the_patient_are_refused(plain: FileDataset, said: str) -> None:
    with config.disable_value_validation():
        plain.BurnedInAnnotation = said
    with pytest.raises(IdentifyingError, match="BurnedInAnnotation"):
        through(plain)


@pytest.mark.parametrize("said", ["NO", None])
def test_nothing_is_said_of_burned_in_annotation_that_the_source_did_not_say(
    plain: FileDataset, said: str | None
) -> None:
    if said:
        plain.BurnedInAnnotation = said
    assert through(plain).get("BurnedInAnnotation") == said


def test_a_uid_has_one_pseudonym_wherever_it_stands_and_the_standard_s_own_stay(plain: FileDataset) -> None:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = plain.SOPClassUID, plain.SOPInstanceUID
    plain.ReferencedImageSequence = Sequence([reference])
    image = through(plain)
    (referenced,) = image.ReferencedImageSequence
    assert referenced.ReferencedSOPInstanceUID == image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID
    assert referenced.ReferencedSOPClassUID == plain.SOPClassUID
    assert image.SOPInstanceUID != plain.SOPInstanceUID
    assert image.SOPInstanceUID.is_valid
    assert image.FrameOfReferenceUID == by().uid(plain.FrameOfReferenceUID)


def test_codes_of_a_site_s_own_say_nothing_any_more_and_published_ones_stay(plain: FileDataset) -> None:
    def code(value: str, scheme: str, meaning: str) -> Dataset:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
        return item

    plain.ContrastBolusAgentSequence = Sequence(
        [code("44588005", "SCT", "Iodine"), code("DOE-1", "99SITE", "for Doe"), code("DOE-2", "L", "for Doe")]
    )
    published, *own = through(plain).ContrastBolusAgentSequence
    assert (published.CodeValue, published.CodeMeaning) == ("44588005", "Iodine")
    assert "doe" not in str(own).lower()
    assert own[0].CodeValue != own[1].CodeValue


def test_another_salt_gives_other_pseudonyms_and_the_same_one_the_same(plain: FileDataset) -> None:
    other = by(pseudonyms=Pseudonyms(b"another salt of no secrecy"))
    assert header(through(plain)) == header(through(plain))
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "PatientID", "PatientName"):
        assert through(plain)[keyword].value != through(plain, other)[keyword].value


def test_patients_stay_apart_and_each_stays_one(plain: FileDataset) -> None:
    first = through(plain).PatientID
    plain.SOPInstanceUID = "1.2.3"
    assert through(plain).PatientID == first
    plain.PatientID = "another"
    assert through(plain).PatientID != first


def test_every_date_of_a_patient_moves_by_the_same_days_and_intervals_stay(plain: FileDataset) -> None:
    plain.StudyDate, plain.AcquisitionDateTime, plain.AcquisitionDate = "20200301", "20200303101500.5", "20200303"
    image = through(plain, by("modified-dates"))
    study, acquired = image.StudyDate, image.AcquisitionDate
    assert study < "20200301"
    assert np.datetime64(f"{acquired[:4]}-{acquired[4:6]}-{acquired[6:]}") - np.datetime64(
        f"{study[:4]}-{study[4:6]}-{study[6:]}"
    ) == np.timedelta64(2, "D")
    assert image.AcquisitionDateTime == f"{acquired}101500.5"


@pytest.mark.parametrize("date", ["2020", "sometime", "00000000", "20201399"])
def test_a_date_that_is_none_is_not_moved_but_removed(plain: FileDataset, date: str) -> None:
    with config.disable_value_validation():
        plain.add_new("AcquisitionDate", "DA", date)
    assert date not in str(through(plain, by("modified-dates")).get("AcquisitionDate", ""))


def test_dates_without_the_option_are_gone(plain: FileDataset) -> None:
    image = through(plain)
    assert not image.StudyDate
    assert "AcquisitionDate" not in image


@pytest.mark.parametrize(
    ("retain", "keyword", "value"),
    [
        ("patient-characteristics", "PatientAge", AGE),
        ("patient-characteristics", "PatientSex", "F"),
        ("device-identity", "StationName", "CT-7"),
        ("device-identity", "DeviceSerialNumber", "4711"),
        ("institution-identity", "InstitutionName", "General"),
        ("full-dates", "StudyDate", DATE),
        ("uids", "StudyInstanceUID", ROOT),
    ],
)
def test_an_option_retains_what_it_names_and_without_it_that_is_gone(
    plain: FileDataset, retain: str, keyword: str, value: str
) -> None:
    setattr(plain, keyword, value)
    assert through(plain, by(retain))[keyword].value == value
    assert value not in str(through(plain).get(keyword, ""))


@pytest.mark.parametrize(
    ("description", "cleaned"),
    [
        ("Thorax 1.0 B30f", "Thorax 1.0 B30f"),
        ("CHEST w contrast, Mrs. Smith 1953", "CHEST contrast"),
        ("CT Chest^ROUTINE (Adult) for Dr. Lee 3mm", "CT 3mm"),
        ("Doe 4711", ""),
    ],
)
def test_of_a_description_only_words_of_the_trade_stay(plain: FileDataset, description: str, cleaned: str) -> None:
    plain.SeriesDescription = description
    assert through(plain, by("clean-descriptors")).SeriesDescription == cleaned
    assert not through(plain).get("SeriesDescription")


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 192", f"Wang^{FAMILY}"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO_IR 100", "Äneas^Rüdiger"),
    ],
)
def test_a_name_in_any_character_set_is_replaced_whole(plain: FileDataset, charset: Any, name: str) -> None:
    plain.SpecificCharacterSet, plain.PatientName = charset, name
    original = header(plain)
    raw = plain["PatientName"]
    image = through(plain)
    assert str(image.PatientName).startswith("CTB-")
    encoded = pydicom.charset.convert_encodings(charset if isinstance(charset, list) else [charset])
    groups = [group for part in str(raw.value).split("=") for group in part.split("^")]
    written = by().header(original)
    for group in groups:
        for codec in encoded:
            try:
                needle = group.encode(codec)
            except UnicodeEncodeError:
                continue
            assert needle not in written


def test_a_header_that_breaks_the_parser_is_refused_without_its_content() -> None:
    with pytest.raises(IdentifyingError) as refused:
        by().header(b"\0" * 128 + b"DICM" + b"\x08\x00\x18\x00UIZQXJKVW")
    assert MARK not in str(refused.value)


def test_what_tells_slices_apart_tells_nothing_else() -> None:
    assert by().trait("ConvolutionKernel", "B30f") == "B30f"
    assert by().trait("AcquisitionNumber", "2") == "2"
    token = by().trait("AcquisitionTime", "101500")
    assert token == by().trait("FrameAcquisitionDateTime", "101500") != by().trait("AcquisitionTime", "101501")
    assert "101500" not in token


@pytest.mark.parametrize("retain", ["dates", "uids,names", "full-dates,modified-dates"])
def test_options_that_are_none_or_contradict_each_other_are_refused(retain: str) -> None:
    with pytest.raises(CtbasisError, match="retain"):
        parse_retain(retain)


def test_a_salt_from_the_environment_is_secret_and_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SALT, "a secret of this hospital")
    given = Deidentification.of()
    assert "hospital" not in f"{given} {given!r} {given.describe()}"
    assert given.uid("1.2.3") == Deidentification.of().uid("1.2.3")
    monkeypatch.setenv(SALT, "short")
    with pytest.raises(CtbasisError, match="16"):
        Deidentification.of()


def test_without_a_salt_every_run_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SALT, raising=False)
    first, second = Deidentification.of(), Deidentification.of()
    assert first.uid("1.2.3") != second.uid("1.2.3")
    assert first.describe()["salt"] == "random, of this run alone"


def test_the_table_is_that_of_another_implementation() -> None:
    """Compare with KitwareMedical's, made from the standard apart from ours."""
    selector = pytest.importorskip(
        "dicomanonymizer.dicomfields_selector", reason="dicom-anonymizer is a development package and not installed"
    )
    theirs = selector.dicom_anonymization_database_selector("dicomfields_2026c")
    rows = {row.tag for row in listed()}
    for category, tags in theirs.items():
        if category == "ALL_TAGS":
            continue
        letters = category.removesuffix("_TAGS").replace("_STAR", "*").replace("_", "/")
        for tag in (tag for tag in tags if len(tag) == 2 and tag[0] > 7):
            assert (tag[0] << 16) + tag[1] in rows
            assert _basic((tag[0] << 16) + tag[1]) == letters


def _basic(tag: int) -> str:
    from ctbasis.dicom.deidentify.profile import rows

    return rows()[tag]["basic"]
