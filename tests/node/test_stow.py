"""STOW-RS in: instances arrive as dicomweb-client and others send them, and hostile requests cost only themselves."""

from __future__ import annotations

import json
import sqlite3
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
import requests
from dicomweb_client import DICOMwebClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import MRImageStorage

from ctbasis.node.http import http_server
from ctbasis.node.listening import HttpListening
from ctbasis.node.part10 import FileStart
from ctbasis.node.status import NotStoredError, Status
from ctbasis.node.stow import Reception, Studies
from ctbasis.sources.multipart import MultipartError
from tests.node.instances import received

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ctbasis.node.inbox import Inbox
    from ctbasis.node.outgoing import Outgoing
    from ctbasis.node.queue import Queue
    from ctbasis.web.server import HttpServer

LIMIT = 1 << 20


@pytest.fixture
def studies() -> Studies:
    return Studies()


@pytest.fixture
def server(inbox: Inbox, queue: Queue, outgoing: Outgoing, studies: Studies, tmp_path: Path) -> Iterator[HttpServer]:
    listening = HttpListening(host="127.0.0.1", port=0, body_bytes=LIMIT)
    results = tmp_path / "results"
    with http_server(
        listening, inbox=inbox, queue=queue, outgoing=outgoing, studies=studies, results=results
    ) as running:
        yield running


def message(*files: bytes, boundary: str = "boundary") -> bytes:
    parts = [f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + file for file in files]
    return b"".join([*parts, f"\r\n--{boundary}--".encode()])


def kind(boundary: str = "boundary") -> str:
    return f'multipart/related; type="application/dicom"; boundary={boundary}'


def post(server: HttpServer, body: bytes, *, path: str = "", **headers: str) -> requests.Response:
    given_headers = {"Content-Type": kind(), **{name.replace("_", "-"): value for name, value in headers.items()}}
    url = f"http://127.0.0.1:{server.port}/dicom-web/studies{path}"
    return requests.post(url, data=body, headers=given_headers, timeout=20, proxies={"http": ""})


def encoded(ds: pydicom.Dataset, **changed: Any) -> bytes:
    for name, value in changed.items():
        setattr(ds, name, value)
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def failures(answer: requests.Response) -> list[int]:
    return [item.FailureReason for item in pydicom.Dataset.from_json(answer.text).FailedSOPSequence]


def stored_files(inbox: Inbox) -> int:
    return len([path for path in inbox.folder.rglob("*") if path.is_file()])


def test_dicomweb_client_stores_a_series_with_and_without_preamble(
    server: HttpServer, inbox: Inbox, queue: Queue, series: Path
) -> None:
    client = DICOMwebClient(f"http://127.0.0.1:{server.port}/dicom-web")
    sent = [pydicom.dcmread(path) for path in sorted(series.iterdir())]
    sent[0].preamble = None
    answer = client.store_instances(sent)
    assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == [
        ds.SOPInstanceUID for ds in sent
    ]
    for ds in sent:
        instance = queue.find(ds.SOPInstanceUID)
        assert instance is not None
        assert instance.sender == "127.0.0.1"
        kept = pydicom.dcmread(inbox.folder / instance.file)
        assert kept.pixel_array.tolist() == ds.pixel_array.tolist()
        assert kept.file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID
    # The whole again, now with the study in the address.
    again = client.store_instances(sent, study_instance_uid=sent[0].StudyInstanceUID)
    assert len(again.ReferencedSOPSequence) == len(sent)
    assert stored_files(inbox) == len(sent)


def test_an_instance_that_came_by_c_store_is_the_same_by_stow(server: HttpServer, inbox: Inbox, series: Path) -> None:
    path = next(series.iterdir())
    received(inbox, path)
    assert post(server, message(path.read_bytes())).status_code == 200
    other = encoded(pydicom.dcmread(path), PatientComments="other bytes")
    answer = post(server, message(other))
    assert (answer.status_code, failures(answer)) == (409, [Status.DUPLICATE_INSTANCE])
    assert stored_files(inbox) == 1


def test_a_single_file_is_a_body_as_well_and_the_answer_may_be_xml(server: HttpServer, series: Path) -> None:
    path = next(series.iterdir())
    answer = post(server, path.read_bytes(), Content_Type="application/dicom", Accept="application/dicom+xml")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/dicom+xml"
    assert f'<Value number="1">{pydicom.dcmread(path).SOPInstanceUID}</Value>' in answer.text


def test_what_is_no_ct_of_this_study_is_refused_by_its_reason(server: HttpServer, inbox: Inbox, series: Path) -> None:
    first, second, *_ = sorted(series.iterdir())
    good = first.read_bytes()
    resonance = pydicom.dcmread(second)
    resonance.SOPClassUID = resonance.file_meta.MediaStorageSOPClassUID = MRImageStorage
    liar = pydicom.dcmread(second)
    liar.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    unknown = pydicom.dcmread(second)
    unknown.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    stream = BytesIO()
    pydicom.dcmwrite(stream, liar, enforce_file_format=False)
    undecodable = encoded(pydicom.dcmread(second)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0")
    answer = post(server, message(good, encoded(resonance), stream.getvalue(), undecodable, b"no DICOM" * 100, b""))
    assert answer.status_code == 202
    assert failures(answer) == [
        Status.CLASS_NOT_SUPPORTED,
        Status.OTHER_CLASS,
        Status.SYNTAX_NOT_SUPPORTED,
        Status.CANNOT_UNDERSTAND,
        Status.CANNOT_UNDERSTAND,
    ]
    assert stored_files(inbox) == 1
    answer = post(server, message(second.read_bytes()), path="/2.25.404")
    assert (answer.status_code, failures(answer)) == (409, [Status.OTHER_CLASS])
    assert post(server, message(good), path="/no-uid").status_code == 400


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("", 415),
        ("application/json", 415),
        ("multipart/related", 400),
        (kind("other"), 400),
        (f"multipart/related; boundary={'x' * 71}", 400),
    ],
)
def test_a_body_of_another_kind_is_refused(server: HttpServer, series: Path, content_type: str, status: int) -> None:
    answer = post(server, message(next(series.iterdir()).read_bytes()), Content_Type=content_type)
    assert answer.status_code == status
    assert "the request" in answer.json()["error"]


def test_a_message_that_ends_early_keeps_what_was_whole_and_nothing_else(
    server: HttpServer, inbox: Inbox, series: Path
) -> None:
    first, second, *_ = (path.read_bytes() for path in sorted(series.iterdir()))
    answer = post(server, message(first, second)[:-500])
    assert answer.status_code == 400
    assert "ends before its last boundary" in answer.json()["error"]
    assert stored_files(inbox) == 1


def test_a_request_over_the_limit_is_refused_and_leaves_no_half_instance(
    server: HttpServer, inbox: Inbox, series: Path
) -> None:
    first = next(series.iterdir()).read_bytes()
    body = message(first, first + b"x" * LIMIT)
    for data in (body, iter([body])):
        assert post(server, data).status_code == 413  # type: ignore[arg-type]
    assert stored_files(inbox) <= 1
    assert not list((inbox.folder / "parts").iterdir())


def test_a_full_disk_is_told_with_the_time_to_try_again(
    server: HttpServer, series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("ctbasis.node.queue.Queue.record", full)
    body = message(next(series.iterdir()).read_bytes())
    answer = post(server, body)
    assert (answer.status_code, failures(answer)) == (503, [Status.OUT_OF_RESOURCES])
    assert answer.headers["Retry-After"] == "60"
    monkeypatch.undo()
    assert post(server, body).status_code == 200


def test_the_study_of_a_request_in_work_is_busy(inbox: Inbox, studies: Studies, series: Path) -> None:
    first, second, *_ = (path.read_bytes() for path in sorted(series.iterdir()))
    whole = message(first, second)
    with studies.request() as busy:
        reception = Reception(inbox, kind(), studies=busy)
        reception.feed(whole[: len(first) + 200])
        assert studies.busy() == {"2.25.1001"}
        reception.feed(whole[len(first) + 200 :])
        reception.finish()
    assert studies.busy() == set()


def test_jobs_are_listed_with_their_progress_and_their_deliveries(
    server: HttpServer, queue: Queue, series: Path, tmp_path: Path
) -> None:
    post(server, message(*(path.read_bytes() for path in series.iterdir())))
    address = f"http://127.0.0.1:{server.port}"

    def get(path: str) -> Any:
        return requests.get(address + path, timeout=20, proxies={"http": ""}).json()

    assert get("/jobs") == {"jobs": []}
    (number,) = queue.complete("2.25.1001")
    assert get(f"/jobs/{number}")["progress"] == 0
    queue.start()
    queue.report_stage(number, "denoise 1/2")
    job = get(f"/jobs/{number}")
    assert (job["state"], job["stage"], job["instances"]) == ("running", "denoise 1/2", 6)
    assert job["progress"] == pytest.approx(2 / 7)
    queue.finish(number, {"volumes": []}, [("2.25.1", tmp_path / "x.dcm")], ["A@b:1", "C@d:2"])
    job = get("/jobs?study=2.25.1001&state=done")["jobs"][0]
    assert (job["progress"], job["deliveries"]) == (1, {"waiting": 2})
    assert get("/jobs?study=2.25.404") == get("/jobs?state=failed") == get(f"/jobs?before={number}") == {"jobs": []}
    assert get("/jobs/404") == {"error": "there is no such job"}
    assert "limit" in get("/jobs?limit=0")["error"]
    for path in (f"/jobs/{10**30}", "/jobs/-1", f"/jobs?before={10**30}", "/jobs/x", "/jobs?state=over"):
        assert requests.get(address + path, timeout=20, proxies={"http": ""}).status_code == 400
    metrics = requests.get(f"{address}/metrics", timeout=20, proxies={"http": ""}).text
    assert 'ctbasis_jobs{state="done"} 1.0' in metrics
    assert "ctbasis_instances_held 6.0" in metrics
    assert "2.25.1001" not in metrics


def test_the_openapi_document_describes_every_route(server: HttpServer) -> None:
    document = requests.get(f"http://127.0.0.1:{server.port}/openapi.json", timeout=20, proxies={"http": ""}).json()
    paths = {"/dicom-web/studies", "/dicom-web/studies/{study}", "/jobs", "/jobs/{number}", "/jobs/{number}/files"}
    assert paths | {"/jobs/{number}/files/{kind}/{index}"} <= set(document["paths"])
    file = document["paths"]["/jobs/{number}/files/{kind}/{index}"]["get"]
    assert "application/dicom" in file["responses"]["200"]["content"]
    assert file["security"]
    assert "multipart/related" in json.dumps(document["paths"]["/dicom-web/studies"]["post"]["requestBody"])
    assert "progress" in document["components"]["schemas"]["JobStatus"]["properties"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_a_body_with_any_mutation_stores_or_refuses_and_leaves_nothing_behind(
    inbox: Inbox, series: Path, data: st.DataObject
) -> None:
    body = bytearray(message(*(path.read_bytes() for path in sorted(series.iterdir())[:2])))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(len(body), 900) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    reception = Reception(inbox, kind())
    size = data.draw(st.sampled_from((1, 7, 100, 10_000)))
    try:
        for start in range(0, len(body), size):
            reception.feed(bytes(body[start : start + size]))
        reception.finish()
    except MultipartError:
        pass
    finally:
        reception.close()
    assert not list((inbox.folder / "parts").iterdir())
    assert reception.answer().to_json_dict()


@given(start=st.binary(max_size=400), preamble=st.booleans())
def test_any_start_of_a_file_is_parsed_or_refused(start: bytes, preamble: bool) -> None:
    whole = (b"\0" * 128 + b"DICM" if preamble else b"") + b"\x02\x00" + start
    with suppress(NotStoredError):
        found = FileStart.parse(whole)
        assert found is None or found.size <= len(whole)


def test_endless_file_meta_information_is_refused() -> None:
    element = b"\x02\x00\x02\x01OB\0\0" + (1000).to_bytes(4, "little") + b"x" * 1000
    with pytest.raises(NotStoredError, match="does not end"):
        FileStart.parse(b"\0" * 128 + b"DICM" + element * 100)
