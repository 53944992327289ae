"""The node with a DICOMweb archive, Orthanc, and `ctbasis push` and `pull` with it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
import requests
from click.testing import CliRunner
from dicomweb_client import DICOMwebClient
from requests.auth import HTTPBasicAuth

from ctbasis.cli import main
from ctbasis.demo.ports import free_ports
from ctbasis.errors import CtbasisError
from ctbasis.node.listening import HttpListening
from ctbasis.node.peers import Peer, WebPeer, parse_destination
from ctbasis.node.queue import JobState
from ctbasis.node.task import REFUSE
from tests.node.nodes import SECONDS, ended
from tests.node.web_archive import WebArchive
from tests.repositories import SECRET, Dicomweb, use
from tests.scans import SLICES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import WriteSeries
    from tests.node.nodes import StartNode
    from tests.repositories import Process

TOKEN = "a-token-of-the-test"  # noqa: S105 - an invented token


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the credentials of Orthanc."""
    use(monkeypatch, {"DICOMWEB_USERNAME": Dicomweb.user[0], "DICOMWEB_PASSWORD": Dicomweb.user[1]})


def peer(endpoint: str) -> WebPeer:
    return WebPeer(f"dicomweb+{endpoint}/dicom-web")


def client(orthanc: Process) -> DICOMwebClient:
    session = requests.Session()
    session.trust_env = False
    session.auth = HTTPBasicAuth(*Dicomweb.user)
    return DICOMwebClient(f"{orthanc.endpoint}/dicom-web", session=session)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert SECRET not in result.output
    return result.exit_code, result.output


def test_a_series_sent_by_dicomweb_client_comes_back_denoised_in_orthanc(
    start_node: StartNode, orthanc: Process, scan: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    series, basis = scan
    http = HttpListening(host="127.0.0.1", port=0, token=TOKEN)
    node = start_node(bases=(str(basis),), destinations=(peer(orthanc.endpoint),), unfit=REFUSE, http=http)
    assert node.web is not None
    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = f"Bearer {TOKEN}"
    sent = [pydicom.dcmread(path) for path in series.iterdir()]
    DICOMwebClient(f"http://127.0.0.1:{node.web.port}/dicom-web", session=session).store_instances(sent)
    (job,) = ended(node)
    assert job.state is JobState.DONE, job.record
    (volume,) = job.record["volumes"]
    found = client(orthanc).retrieve_series(sent[0].StudyInstanceUID, volume["SeriesInstanceUID"])
    assert len(found) == SLICES
    for ds in found:
        assert f"Basis {volume['basis']}." in ds.DerivationDescription
    status = session.get(f"http://127.0.0.1:{node.web.port}/jobs/{job.id}", timeout=20).json()
    assert (status["state"], status["progress"], status["deliveries"]) == ("done", 1, {"sent": SLICES})
    log = capfd.readouterr().err
    assert sent[0].StudyInstanceUID not in log
    assert SECRET not in log
    code, listed = run("jobs", "--state", node.settings.state)
    assert code == 0
    assert listed.splitlines()[1].split()[3:] == ["done", "-", str(SLICES), str(SLICES), "0", "0", volume["basis"]]


def test_an_archive_that_is_down_refuses_or_loses_answers_gets_everything_once_in_the_end(
    start_node: StartNode, orthanc: Process, scan: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctbasis.node.deliver.pause", lambda _: 0.5)
    monkeypatch.setattr("ctbasis.node.outgoing.pause", lambda _: 0.5)
    (port,) = free_ports(1)
    destination = peer(f"http://127.0.0.1:{port}")
    # It is down now.
    http = HttpListening(host="127.0.0.1", port=0)
    node = start_node(bases=(str(scan[1]),), destinations=(destination,), http=http)
    assert node.web is not None
    node_peer = f"dicomweb+http://127.0.0.1:{node.web.port}/dicom-web"
    code, output = run("push", scan[0], "--to", node_peer)
    assert code == 0, output
    deadline = time.monotonic() + SECONDS
    while node.outgoing.counts() != {"waiting": SLICES}:
        # An instance that got no answer is in doubt.
        if node.outgoing.counts() == {"waiting": SLICES - 1, "sending": 1}:
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    archive = WebArchive(orthanc.endpoint, port)
    archive.refuse = (409, 0x0110)
    with archive:
        while sum(archive.requests.values()) < 2 * SLICES:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert node.outgoing.counts().get("sent", 0) == 0
        with archive.lock:
            archive.requests.clear()
            archive.lose, archive.refuse = 2, None
        ended(node)
    assert len(archive.stored) == SLICES
    assert archive.stored == dict.fromkeys(archive.stored, 1)


def test_a_study_is_pushed_and_pulled_byte_for_byte(
    orthanc: Process, write_series: WriteSeries, volume: Any, tmp_path: Path
) -> None:
    study = pydicom.uid.generate_uid()
    files = write_series(tmp_path / "sent", volume, StudyInstanceUID=study)
    (tmp_path / "sent" / "notes.txt").write_text("no DICOM")
    to = peer(orthanc.endpoint)
    code, output = run("push", tmp_path / "sent", "--to", to)
    assert code == 0, output
    assert f"{to}: {len(files)} instances; 1 other files\n" in output
    code, output = run("pull", "--from", to, "--study", study, "--out", tmp_path / "pulled")
    assert code == 0, output
    assert f"{len(files)} instances of 1 series" in output
    pulled = sorted(path.read_bytes() for path in (tmp_path / "pulled" / "series-01").iterdir())
    assert pulled == sorted(path.read_bytes() for path in files)


def test_a_server_that_denies_access_or_is_none_is_told(
    orthanc: Process, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMWEB_PASSWORD", "wrong")
    for verb in (["push", series, "--to"], ["pull", "--study", "2.25.1001", "--out", tmp_path / "out", "--from"]):
        code, output = run(*verb, peer(orthanc.endpoint))
        assert code == 2
        assert "denies access (401)" in output
    (port,) = free_ports(1)
    code, output = run("push", series, "--to", f"dicomweb+http://127.0.0.1:{port}/dicom-web")
    assert code == 2
    assert "no answer" in output
    code, output = run("push", tmp_path, "--to", peer(orthanc.endpoint))
    assert code == 2
    assert "holds no DICOM file among 0 files" in output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A@b:1", Peer("A", "b", 1)),
        ("dicom+tls://A@b:1", Peer("A", "b", 1, tls=True)),
        ("dicomweb+https://b/dicom-web/", WebPeer("dicomweb+https://b/dicom-web")),
        ("DICOMWEB+HTTP://b:8042/x", WebPeer("dicomweb+http://b:8042/x")),
        ("dicom+tls://A", None),
        ("https://b/dicom-web", None),
        ("dicomweb+https://user:secret@b/x", None),
        ("dicomweb+https://", None),
    ],
)
def test_a_destination_is_a_node_or_a_dicomweb_server(text: str, expected: Peer | WebPeer | None) -> None:
    if expected is not None:
        assert parse_destination(text, what="--forward") == expected
        assert parse_destination(str(expected), what="--forward") == expected
        return
    with pytest.raises(CtbasisError) as caught:
        parse_destination(text, what="--forward")
    assert "secret" not in str(caught.value)
