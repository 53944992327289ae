"""De-identification of headers by PS3.15 Annex E: what is removed, kept and replaced."""

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
from tests.dicom.deidentify.identity import AGE, DATE, FAMILY, MARK, ROOT, plant, sentinels_in, table_rows, value_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import FileDataset

    WriteSeries = Callable[..., list[Path]]

PSEUDONYMS = Pseudonyms(b"a salt of no secrecy")


def deidentification(retain: str = "", pseudonyms: Pseudonyms = PSEUDONYMS) -> Deidentification:
    return Deidentification(Profile(parse_retain(retain)), pseudonyms)


def header(dataset: FileDataset) -> bytes:
    if "PixelData" in dataset:
        del dataset.PixelData
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def deidentified(dataset: FileDataset, how: Deidentification | None = None) -> Dataset:
    return pydicom.dcmread(BytesIO((how or deidentification()).header(header(dataset))))


@pytest.fixture
def plain(write_series: WriteSeries, volume: NDArray[np.int16], tmp_path: Path) -> FileDataset:
    return pydicom.dcmread(write_series(tmp_path / "plain", volume[:1])[0])


@pytest.fixture
def planted(write_series: WriteSeries, volume: NDArray[np.int16], tmp_path: Path) -> FileDataset:
    return pydicom.dcmread(write_series(tmp_path / "planted", volume[:1], edit=plant)[0])


def test_no_attribute_of_the_table_keeps_its_value(planted: FileDataset) -> None:
    before = header(planted)
    # The search finds the sentinels in the original header.
    assert {MARK.encode(), ROOT.encode(), DATE.encode(), AGE.encode(), FAMILY.encode()} <= {*sentinels_in(before)}
    assert list(sentinels_in(deidentification().header(before))) == []


def test_sentinels_are_set_in_hundreds_of_attributes(planted: FileDataset) -> None:
    rows = [row for row in table_rows() if value_of(row) is not None]
    assert len(rows) > 580
    assert all(row.tag in planted for row in rows)


@pytest.mark.parametrize("retain", ["", *OPTIONS, "modified-dates,clean-descriptors,patient-characteristics"])
def test_every_attribute_that_the_table_removes_is_removed(planted: FileDataset, retain: str) -> None:
    profile = Profile(parse_retain(retain))
    image = deidentified(planted, deidentification(retain))
    for element in image:
        action = profile.action(element.tag, ct_image.types().get(element.tag, "3"))
        assert action is None or action.value != "X", element.keyword


def test_the_attributes_of_the_image_are_kept(planted: FileDataset) -> None:
    image = deidentified(planted)
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


def test_the_header_states_the_method_of_deidentification(plain: FileDataset) -> None:
    image = deidentified(plain, deidentification("modified-dates,uids"))
    assert image.PatientIdentityRemoved == "YES"
    assert "PS3.15" in image.DeidentificationMethod[0]
    codes = {(item.CodeValue, item.CodingSchemeDesignator) for item in image.DeidentificationMethodCodeSequence}
    assert codes == {("113100", "DCM"), ("113107", "DCM"), ("113110", "DCM")}
    assert image.LongitudinalTemporalInformationModified == "MODIFIED"
    assert deidentified(plain).LongitudinalTemporalInformationModified == "REMOVED"
    assert deidentified(plain, deidentification("full-dates")).LongitudinalTemporalInformationModified == "UNMODIFIED"


def test_earlier_deidentification_is_kept_as_standard_codes_only(plain: FileDataset) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113101", "DCM", "Clean Pixel Data Option"
    other = Dataset()
    other.CodeValue, other.CodingSchemeDesignator, other.CodeMeaning = "1", "99CTP", "by John Doe"
    plain.DeidentificationMethod = "by John Doe"
    plain.DeidentificationMethodCodeSequence = Sequence([code, other])
    image = deidentified(plain)
    assert [item.CodeValue for item in image.DeidentificationMethodCodeSequence] == ["113101", "113100"]
    assert b"Doe" not in header(image)


@pytest.mark.parametrize("value", ["YES", "yes "])
def test_burned_in_annotation_is_refused(plain: FileDataset, value: str) -> None:
    with config.disable_value_validation():
        plain.BurnedInAnnotation = value
    with pytest.raises(IdentifyingError, match="BurnedInAnnotation"):
        deidentified(plain)


@pytest.mark.parametrize("value", ["NO", None])
def test_burned_in_annotation_is_neither_added_nor_changed(plain: FileDataset, value: str | None) -> None:
    if value:
        plain.BurnedInAnnotation = value
    assert deidentified(plain).get("BurnedInAnnotation") == value


def test_a_uid_has_the_same_pseudonym_everywhere_and_standard_uids_are_kept(plain: FileDataset) -> None:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = plain.SOPClassUID, plain.SOPInstanceUID
    plain.ReferencedImageSequence = Sequence([reference])
    image = deidentified(plain)
    (referenced,) = image.ReferencedImageSequence
    assert referenced.ReferencedSOPInstanceUID == image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID
    assert referenced.ReferencedSOPClassUID == plain.SOPClassUID
    assert image.SOPInstanceUID != plain.SOPInstanceUID
    assert image.SOPInstanceUID.is_valid
    assert image.FrameOfReferenceUID == deidentification().uid(plain.FrameOfReferenceUID)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def test_codes_are_kept_as_the_dictionary_has_them_and_others_are_removed(plain: FileDataset) -> None:
    plain.ContrastBolusAgentSequence = Sequence(
        [
            code("44588005", "SCT", "Iodine for Mrs. Doe"),
            code("T-D3000", "SRT", "Doe"),
            code("44588005", "99SITE", "Iodine"),
            code("DOE-1", "SCT", "Doe"),
            code("DOE-2", "L", "Doe"),
        ]
    )
    kept = deidentified(plain).ContrastBolusAgentSequence
    assert [(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning) for item in kept] == [
        ("44588005", "SCT", "Iodine"),
        ("51185008", "SCT", "Thoracic structure (body structure)"),
    ]
    plain.ContrastBolusAgentSequence = Sequence([code("DOE-1", "99SITE", "Doe")])
    assert "ContrastBolusAgentSequence" not in deidentified(plain)


def test_pseudonyms_are_equal_for_equal_salts_only(plain: FileDataset) -> None:
    other = deidentification(pseudonyms=Pseudonyms(b"another salt of no secrecy"))
    assert header(deidentified(plain)) == header(deidentified(plain))
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "PatientID", "PatientName"):
        assert deidentified(plain)[keyword].value != deidentified(plain, other)[keyword].value


def test_each_patient_has_one_distinct_pseudonym(plain: FileDataset) -> None:
    first = deidentified(plain).PatientID
    plain.SOPInstanceUID = "1.2.3"
    assert deidentified(plain).PatientID == first
    plain.PatientID = "another"
    assert deidentified(plain).PatientID != first


def test_all_dates_of_a_patient_are_shifted_by_the_same_number_of_days(plain: FileDataset) -> None:
    plain.StudyDate, plain.AcquisitionDateTime, plain.AcquisitionDate = "20200301", "20200303101500.5", "20200303"
    image = deidentified(plain, deidentification("modified-dates"))
    study, acquired = image.StudyDate, image.AcquisitionDate
    assert study < "20200301"
    assert np.datetime64(f"{acquired[:4]}-{acquired[4:6]}-{acquired[6:]}") - np.datetime64(
        f"{study[:4]}-{study[4:6]}-{study[6:]}"
    ) == np.timedelta64(2, "D")
    assert image.AcquisitionDateTime == f"{acquired}101500.5"


@pytest.mark.parametrize("date", ["2020", "sometime", "00000000", "20201399"])
def test_an_invalid_date_is_removed_instead_of_shifted(plain: FileDataset, date: str) -> None:
    with config.disable_value_validation():
        plain.add_new("AcquisitionDate", "DA", date)
    assert date not in str(deidentified(plain, deidentification("modified-dates")).get("AcquisitionDate", ""))


def test_dates_are_removed_without_the_option(plain: FileDataset) -> None:
    image = deidentified(plain)
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
def test_an_option_retains_its_attributes_which_are_removed_otherwise(
    plain: FileDataset, retain: str, keyword: str, value: str
) -> None:
    setattr(plain, keyword, value)
    assert deidentified(plain, deidentification(retain))[keyword].value == value
    assert value not in str(deidentified(plain).get(keyword, ""))


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("Thorax 1.0 B30f", "Thorax 1.0 B30f"),
        ("CHEST w contrast, Mrs. Smith 1953", "CHEST contrast"),
        ("CT Chest^ROUTINE (Adult) for Dr. Lee 3mm", "CT 3mm"),
        ("Doe 4711", ""),
        # Words that are also names.
        ("SHARP Small Wall", ""),
        ("Lung Single", ""),
        ("CT Thorax SHARP Small Wall", "CT Thorax"),
        ("CT B53 1953", "CT"),
    ],
)
def test_only_radiological_terms_of_a_description_are_kept(plain: FileDataset, description: str, expected: str) -> None:
    plain.SeriesDescription = description
    assert deidentified(plain, deidentification("clean-descriptors")).SeriesDescription == expected
    assert not deidentified(plain).get("SeriesDescription")


def test_a_description_repeats_no_word_of_a_name_or_an_identifier_of_its_header(plain: FileDataset) -> None:
    physician = Dataset()
    physician.PersonIdentificationCodeSequence = Sequence([code("1", "99SITE", "x")])
    physician.PersonName = "Pulmonary^Contrast"
    plain.PatientName, plain.PatientID, plain.InstitutionName = "Lung^Native", "routine-7", "Cardiac Center"
    plain.ReferringPhysicianName = "Chest^Thick"
    plain.ReferringPhysicianIdentificationSequence = Sequence([physician])
    plain.SeriesDescription = "CT Thorax lung native cardiac chest thick pulmonary axial"
    assert deidentified(plain, deidentification("clean-descriptors")).SeriesDescription == "CT Thorax axial"


def test_a_uid_that_only_begins_like_one_of_the_standard_is_replaced(plain: FileDataset) -> None:
    plain.FrameOfReferenceUID = "1.2.840.10008.1.4.1.1"
    assert deidentified(plain).FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"
    plain.FrameOfReferenceUID = "1.2.840.10008.1.4.1.1.19530713"
    assert deidentified(plain).FrameOfReferenceUID.startswith("2.25.")


@pytest.mark.parametrize("retain", ["full-dates", "modified-dates"])
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("AcquisitionDate", "20200303Doe"),
        ("AcquisitionTime", "101500Doe"),
        ("AcquisitionTime", "256161"),
        ("AcquisitionDateTime", "20200303101500Doe"),
        ("AcquisitionDateTime", "20200303101500+Doe"),
        ("AcquisitionDateTime", "20200303101500+9999"),
        ("TimezoneOffsetFromUTC", "+01Doe"),
    ],
)
def test_what_stands_behind_a_date_is_never_kept(plain: FileDataset, retain: str, keyword: str, value: str) -> None:
    with config.disable_value_validation():
        setattr(plain, keyword, value)
        assert not deidentified(plain, deidentification(retain)).get(keyword)


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("StudyDate", "2020.03.03", "20200303"),
        ("StudyTime", "10:15:00.25", "101500.25"),
        ("StudyTime", "1015", "1015"),
        ("AcquisitionDateTime", "20200303101500.5-0730", "20200303101500.5-0730"),
        ("AcquisitionDateTime", "202003", "202003"),
        ("TimezoneOffsetFromUTC", "-0730", "-0730"),
    ],
)
def test_dates_and_times_are_parsed_whole_and_written_again(
    plain: FileDataset, keyword: str, value: str, expected: str
) -> None:
    with config.disable_value_validation():
        setattr(plain, keyword, value)
    assert deidentified(plain, deidentification("full-dates"))[keyword].value == expected


def test_text_that_no_list_has_is_removed_and_defined_terms_stay(plain: FileDataset) -> None:
    plain.ConvolutionKernel, plain.Manufacturer, plain.BodyPartExamined = "B30f", "SIEMENS", "CHEST"
    plain.ManufacturerModelName, plain.FilterType, plain.PositionReferenceIndicator = "Doe", "Doe", "Doe"
    plain.WindowCenter, plain.WindowWidth, plain.WindowCenterWidthExplanation = [40, -600], [400, 1500], ["Doe", "LUNG"]
    plain.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "DOE", "CT_SOM5 SPI"]
    image = deidentified(plain)
    assert (image.ConvolutionKernel, image.Manufacturer, image.BodyPartExamined) == ("B30f", "SIEMENS", "CHEST")
    assert (image.WindowCenter, image.WindowWidth) == ([40, -600], [400, 1500])
    assert image.ImageType == ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]
    assert image["PositionReferenceIndicator"].is_empty
    assert "FilterType" not in image
    assert b"oe" not in header(image)
    plain.ConvolutionKernel, plain.Manufacturer, plain.BodyPartExamined = "Doe", "Dr. Doe", "DOE"
    image = deidentified(plain)
    assert image["Manufacturer"].is_empty
    assert {"ConvolutionKernel", "BodyPartExamined"} & set(image.dir()) == set()


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("ConvolutionKernel", "Doe"), ("AcquisitionNumber", "Doe"), ("ImageType", "ORIGINAL\\DOE"), ("StackID", "Doe")],
)
def test_traits_with_text_become_tokens(keyword: str, value: str) -> None:
    assert deidentification().trait(keyword, value).startswith("#")


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
def test_a_name_in_any_character_set_is_replaced_completely(plain: FileDataset, charset: Any, name: str) -> None:
    plain.SpecificCharacterSet, plain.PatientName = charset, name
    original = header(plain)
    raw = plain["PatientName"]
    image = deidentified(plain)
    assert str(image.PatientName).startswith("CTB-")
    encoded = pydicom.charset.convert_encodings(charset if isinstance(charset, list) else [charset])
    groups = [group for part in str(raw.value).split("=") for group in part.split("^")]
    written = deidentification().header(original)
    for group in groups:
        for codec in encoded:
            try:
                needle = group.encode(codec)
            except UnicodeEncodeError:
                continue
            assert needle not in written


def test_the_error_for_an_unreadable_header_contains_no_values() -> None:
    with pytest.raises(IdentifyingError) as refused:
        deidentification().header(b"\0" * 128 + b"DICM" + b"\x08\x00\x18\x00UIZQXJKVW")
    assert MARK not in str(refused.value)


def test_traits_are_kept_or_replaced_by_tokens() -> None:
    assert deidentification().trait("ConvolutionKernel", "B30f") == "B30f"
    assert deidentification().trait("AcquisitionNumber", "2") == "2"
    token = deidentification().trait("AcquisitionTime", "101500")
    assert (
        token
        == deidentification().trait("FrameAcquisitionDateTime", "101500")
        != deidentification().trait("AcquisitionTime", "101501")
    )
    assert "101500" not in token


@pytest.mark.parametrize("retain", ["dates", "uids,names", "full-dates,modified-dates"])
def test_unknown_and_contradictory_options_are_refused(retain: str) -> None:
    with pytest.raises(CtbasisError, match="retain"):
        parse_retain(retain)


def test_a_salt_from_the_environment_is_not_shown_and_must_be_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SALT, "a secret of this hospital")
    given = Deidentification.of()
    assert "hospital" not in f"{given} {given!r} {given.describe()}"
    assert given.uid("1.2.3") == Deidentification.of().uid("1.2.3")
    monkeypatch.setenv(SALT, "short")
    with pytest.raises(CtbasisError, match="16"):
        Deidentification.of()


def test_every_run_without_a_given_salt_has_another_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SALT, raising=False)
    first, second = Deidentification.of(), Deidentification.of()
    assert first.uid("1.2.3") != second.uid("1.2.3")
    assert first.describe()["salt"] == "random, for this run only"


def test_the_table_equals_that_of_another_implementation() -> None:
    """Compare with the table of KitwareMedical, which was made from the standard independently."""
    selector = pytest.importorskip(
        "dicomanonymizer.dicomfields_selector", reason="dicom-anonymizer is a development package and not installed"
    )
    reference = selector.dicom_anonymization_database_selector("dicomfields_2026c")
    rows = {row.tag for row in table_rows()}
    for category, tags in reference.items():
        if category == "ALL_TAGS":
            continue
        letters = category.removesuffix("_TAGS").replace("_STAR", "*").replace("_", "/")
        for tag in (tag for tag in tags if len(tag) == 2 and tag[0] > 7):
            assert (tag[0] << 16) + tag[1] in rows
            assert _basic((tag[0] << 16) + tag[1]) == letters


def _basic(tag: int) -> str:
    from ctbasis.dicom.deidentify.profile import rows

    return rows()[tag]["basic"]
