"""DICOMweb: queries of Orthanc, credentials, and answers that are no results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pydicom.uid import generate_uid

from ctbasis.errors import CtbasisError
from ctbasis.sources import dicomweb
from ctbasis.sources.dicomweb import LEVELS, DicomwebSource
from ctbasis.sources.fetch import fetch
from tests.conftest import smooth_volume
from tests.repositories import SECRET, Dicomweb, Process, use
from tests.sources.interposed import Handler, Interposed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import WriteSeries


@pytest.fixture
def archive(orthanc: Process, write_series: WriteSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dicomweb:
    """Return an archive with two studies of one patient: two CT series and one of MR, of 3 slices each."""
    repository = Dicomweb(tmp_path, orthanc)
    use(monkeypatch, repository.environment(orthanc.endpoint))
    patient = f"P-{abs(hash(tmp_path))}"
    for number, (study, modality) in enumerate(((1, "CT"), (1, "MR"), (2, "CT"))):
        tags = {"StudyInstanceUID": f"2.25.{abs(hash(tmp_path))}.{study}", "PatientID": patient, "Modality": modality}
        for path in write_series(tmp_path / str(number), smooth_volume(slices=3), **tags):
            repository.put(f"{number}/{path.name}", path.read_bytes())
    repository.patient, repository.base = patient, f"dicomweb+{orthanc.endpoint}/dicom-web"  # type: ignore[attr-defined]
    repository.study = f"2.25.{abs(hash(tmp_path))}.1"  # type: ignore[attr-defined]
    return repository


def keys(uri: str) -> list[str]:
    return [entry.key for entry in DicomwebSource(uri, 1).objects()]


def test_a_query_selects_by_the_attributes_of_each_level(archive: Dicomweb) -> None:
    of_patient = f"{archive.base}?PatientID={archive.patient}"
    assert len(keys(of_patient)) == 9
    assert len(keys(f"{of_patient}&Modality=CT")) == 6
    assert len(keys(f"{archive.base}?StudyInstanceUID={archive.study}")) == 6
    one = keys(f"{archive.base}?StudyInstanceUID={archive.study}&Modality=CT")
    assert len(one) == 3
    study, series, instance = one[0].removesuffix(".dcm").split("/")
    of_series = f"{archive.base}?StudyInstanceUID={study}&SeriesInstanceUID={series}"
    assert keys(of_series) == one
    assert keys(f"{of_series}&SOPInstanceUID={instance}") == one[:1]
    assert keys(f"{archive.base}?StudyInstanceUID={generate_uid()}") == []


def test_results_of_several_pages_are_all_listed_and_in_the_same_order(
    archive: Dicomweb, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{archive.base}?PatientID={archive.patient}"
    at_once = keys(uri)
    for page in (1, 2, 3, 4):
        monkeypatch.setattr(dicomweb, "PAGE", page)
        assert keys(uri) == at_once
    assert at_once == sorted(at_once)


@pytest.mark.parametrize(
    "variables",
    [{}, {"DICOMWEB_USERNAME": "reader", "DICOMWEB_PASSWORD": f"{SECRET}x"}, {"DICOMWEB_TOKEN": f"{SECRET}y"}],
)
def test_missing_and_wrong_credentials_are_told_without_repeating_them(
    archive: Dicomweb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    use(monkeypatch, variables)
    with pytest.raises(CtbasisError, match="denies access") as caught:
        fetch(f"{archive.base}?PatientID={archive.patient}", tmp_path / "out")
    assert SECRET not in f"{caught.value!r}{caught.value.__cause__!r}"
    assert ("are not set" in str(caught.value)) == (not variables)
    assert archive.patient not in str(caught.value)


def test_a_password_may_come_from_netrc(archive: Dicomweb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, {})
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login reader password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert len(keys(f"{archive.base}?PatientID={archive.patient}")) == 9


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (f"Patient={SECRET}", "that it may not have"),
        (f"StudyInstanceUID={SECRET}", "no valid StudyInstanceUID"),
        ("StudyInstanceUID=../../instances", "no valid StudyInstanceUID"),
        ("SeriesInstanceUID=1.2.3", "without StudyInstanceUID"),
        (SECRET, "that it may not have"),
    ],
)
def test_a_query_that_is_none_is_refused_without_repeating_it(query: str, words: str) -> None:
    with pytest.raises(CtbasisError) as caught:
        DicomwebSource(f"dicomweb+https://host/dicom-web?{query}", 1)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "uri", [f"dicomweb+https://user:{SECRET}@host/x", "dicomweb+https://", "dicomweb+https://host:0"]
)
def test_an_address_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(CtbasisError) as caught:
        DicomwebSource(uri, 1)
    assert SECRET not in str(caught.value)


def result(tag: str, uid: object) -> dict[str, object]:
    return {tag: {"vr": "UI", "Value": [uid]}}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"a": 1}, "not a list of data sets"),
        ([{}], "not a list of data sets"),
        ([result("0020000E", "../../etc")], "is not a UID"),
        ([result("0020000E", "1.2?x=1")], "is not a UID"),
        ([result("0020000E", None)], "is not a UID"),
        ("[" * 100_000, "not a list of data sets"),
    ],
)
@pytest.mark.usefixtures("no_aws")
def test_an_identifier_that_is_none_is_refused(answer: object, words: str, tmp_path: Path) -> None:
    body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()

    def answered(handler: Handler) -> bool:
        handler.answer(200, body, Content_Type="application/dicom+json")
        return True

    with Interposed("http://127.0.0.1:1", to_listing=answered) as server, pytest.raises(CtbasisError, match=words):
        fetch(f"dicomweb+{server.url}/dicom-web?StudyInstanceUID=1.2.3", tmp_path / "out")


@pytest.mark.usefixtures("no_aws")
def test_a_server_that_ignores_the_offset_does_not_list_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "PAGE", 2)
    body = json.dumps([result("0020000E", "1.1"), result("0020000E", "1.2")]).encode()

    def answered(handler: Handler) -> bool:
        handler.answer(200, body)
        return True

    with Interposed("http://127.0.0.1:1", to_listing=answered) as server:
        source = DicomwebSource(f"dicomweb+{server.url}/dicom-web?StudyInstanceUID=1.2.3", 1)
        with pytest.raises(CtbasisError, match="ignores the offset"):
            list(source.objects())


def test_every_attribute_has_a_level_of_the_search() -> None:
    assert set(LEVELS.values()) == {"studies", "series", "instances"}
