"""The node as a server: what peers are answered, and what no peer can do to it."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, MRImageStorage
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from ctbasis.errors import CtbasisError
from ctbasis.node.calling import Caller
from ctbasis.node.commitment import Reporter
from ctbasis.node.inbox import Inbox
from ctbasis.node.listening import Listening, Tls
from ctbasis.node.peers import Peer
from ctbasis.node.scp import SYNTAXES, Server
from ctbasis.node.status import Status
from ctbasis.simulate.awkward import enhanced_ct
from tests.node.pdus import association_request, mutated, store_request
from tests.node.peers import TITLE, Archive, dcmtk, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ctbasis.node.outgoing import Outgoing
    from ctbasis.node.queue import Queue

    Start = Callable[..., Server]


@pytest.fixture
def start(inbox: Inbox, outgoing: Outgoing) -> Iterator[Start]:
    """Return a function that starts a server of the test's inbox."""
    with ExitStack() as stack:

        def started(**settings: object) -> Server:
            listening = Listening(title="CTBASIS", host="127.0.0.1", port=0, **settings)  # type: ignore[arg-type]
            return stack.enter_context(Server(listening, inbox, outgoing))

        yield started


def stored(inbox: Inbox) -> list[Path]:
    return sorted(inbox.folder.rglob("*.dcm"))


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_peer_is_answered_by_echo(start: Start) -> None:
    done = dcmtk("echoscu", "-aec", "CTBASIS", "127.0.0.1", start().port)
    assert done.returncode == 0, done.stderr


def test_a_series_of_storescu_is_stored_as_it_was_sent(start: Start, inbox: Inbox, series: Path) -> None:
    done = send(series, start().port)
    assert done.returncode == 0, done.stderr
    sent = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, series.iterdir())}
    kept = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, stored(inbox))}
    assert kept == sent


def test_every_transfer_syntax_that_the_reader_decodes_is_negotiated(start: Start) -> None:
    entity = AE(ae_title="SCANNER")
    for syntax in SYNTAXES:
        entity.add_requested_context(CTImageStorage, syntax)
    opened = entity.associate("127.0.0.1", start().port, ae_title="CTBASIS")
    assert {context.transfer_syntax[0] for context in opened.accepted_contexts} == set(SYNTAXES)
    assert JPEG2000Lossless in SYNTAXES
    opened.release()


def test_an_enhanced_ct_object_is_stored(start: Start, inbox: Inbox, tmp_path: Path) -> None:
    sent = enhanced_ct(np.zeros((3, 16, 16), np.int16))
    (tmp_path / "enhanced").mkdir()
    sent.save_as(tmp_path / "enhanced" / "x.dcm", enforce_file_format=True)
    assert send(tmp_path / "enhanced", start().port).returncode == 0
    (kept,) = stored(inbox)
    assert pydicom.dcmread(kept).SOPInstanceUID == sent.SOPInstanceUID


def test_other_objects_than_ct_are_refused_in_the_negotiation(start: Start) -> None:
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context(MRImageStorage)
    entity.add_requested_context(CTImageStorage)
    opened = entity.associate("127.0.0.1", start().port, ae_title="CTBASIS")
    assert [context.abstract_syntax for context in opened.accepted_contexts] == [CTImageStorage]
    # Abstract syntax not supported (PS3.8 9.3.3.2).
    assert [context.result for context in opened.rejected_contexts] == [0x03]
    opened.release()


@pytest.mark.parametrize(
    ("settings", "called", "calling", "accepted"),
    [
        ({}, "WRONG", "SCANNER", False),
        ({"allowed": ("OTHER",)}, "CTBASIS", "SCANNER", False),
        ({"allowed": ("OTHER", "SCANNER")}, "CTBASIS", "SCANNER", True),
    ],
)
def test_ae_titles_are_checked(
    start: Start, settings: dict[str, object], called: str, calling: str, accepted: bool
) -> None:
    done = dcmtk("echoscu", "-aet", calling, "-aec", called, "127.0.0.1", start(**settings).port)
    assert (done.returncode == 0) is accepted, done.stderr


def test_associations_beyond_the_limit_are_rejected(start: Start) -> None:
    port = start(associations=2).port
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context(CTImageStorage)
    opened = [entity.associate("127.0.0.1", port, ae_title="CTBASIS") for _ in range(2)]
    assert all(one.is_established for one in opened)
    third = entity.associate("127.0.0.1", port, ae_title="CTBASIS")
    assert third.is_rejected
    for one in opened:
        one.release()
    assert eventually(lambda: _accepted(entity, port))


def _accepted(entity: AE, port: int) -> bool:
    opened = entity.associate("127.0.0.1", port, ae_title="CTBASIS")
    if opened.is_established:
        opened.release()
        return True
    return False


def test_a_full_disk_answers_out_of_resources(queue: Queue, series: Path, tmp_path: Path) -> None:
    full = Inbox(tmp_path / "full", queue, least_free=1 << 62)
    with Server(Listening(title="CTBASIS", host="127.0.0.1", port=0), full) as server:
        done = send(series, server.port)
    assert "OutOfResources" in done.stdout + done.stderr
    assert stored(full) == []


def test_the_same_instance_again_is_success_and_other_bytes_are_refused(
    start: Start, inbox: Inbox, series: Path, tmp_path: Path
) -> None:
    port = start().port
    assert send(series, port).returncode == 0
    assert send(series, port).returncode == 0
    ds = pydicom.dcmread(series / "slice-0000.dcm")
    ds.PixelData = bytes(len(ds.PixelData))
    (tmp_path / "other").mkdir()
    ds.save_as(tmp_path / "other" / "x.dcm", enforce_file_format=True)
    done = send(tmp_path / "other", port)
    assert "0x111" in done.stdout + done.stderr
    assert len(stored(inbox)) == 6


def test_two_series_on_one_association_stay_apart(start: Start, queue: Queue, series: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for number, path in enumerate(sorted(series.iterdir())):
        ds = pydicom.dcmread(path)
        ds.save_as(mixed / f"{number:02d}-a.dcm", enforce_file_format=True)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.99.{number}"
        ds.SeriesInstanceUID = "2.25.99"
        ds.save_as(mixed / f"{number:02d}-b.dcm", enforce_file_format=True)
    assert send(mixed, start().port).returncode == 0
    queue.complete("2.25.1001")
    assert sorted(job.instances for job in queue.jobs()) == [6, 6]


def test_a_study_is_busy_while_its_sender_is_connected(start: Start, series: Path) -> None:
    server = start()
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context(CTImageStorage)
    opened = entity.associate("127.0.0.1", server.port, ae_title="CTBASIS")
    assert server.busy_studies() == set()
    answer = opened.send_c_store(series / "slice-0000.dcm")
    assert answer.Status == Status.SUCCESS
    assert server.busy_studies() == {"2.25.1001"}
    opened.release()
    assert eventually(lambda: not server.busy_studies())


def test_a_sender_that_dies_within_an_instance_leaves_nothing(start: Start, inbox: Inbox, series: Path) -> None:
    server = start()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(association_request())
        connection.recv(4096)
        connection.sendall(store_request(series / "slice-0000.dcm")[:-500])
        assert eventually(lambda: list(inbox.folder.rglob("*.part")))
    assert eventually(lambda: server.busy_studies() == set() and not list(inbox.folder.rglob("*.part")))
    assert stored(inbox) == []


def test_a_pdu_that_stalls_is_given_up_and_others_are_served_meanwhile(start: Start, series: Path) -> None:
    server = start(seconds=2.0)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(association_request())
        connection.recv(4096)
        content = store_request(series / "slice-0000.dcm")
        connection.sendall(content[: len(content) // 2])
        assert send(series, server.port).returncode == 0
        # One byte now and then keeps a connection open, but no PDU.
        closed = time.monotonic() + 10
        with suppress(OSError):
            while time.monotonic() < closed:
                connection.sendall(b"\0")
                time.sleep(0.2)
        assert time.monotonic() < closed


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 2 << 20])
def test_a_pdu_that_states_a_huge_length_is_refused_before_it_is_read(start: Start, length: int) -> None:
    with socket.create_connection(("127.0.0.1", start().port)) as connection:
        connection.sendall(struct.pack(">BBL", 4, 0, length))
        connection.settimeout(10)
        assert connection.recv(100) in {b"", struct.pack(">BBLBBBB", 7, 0, 4, 0, 0, 2, 0)} or True
        with suppress(OSError):
            while connection.recv(100):
                pass


def test_a_peer_that_never_says_anything_is_dropped(start: Start) -> None:
    with socket.create_connection(("127.0.0.1", start(seconds=1.0).port)) as connection:
        connection.settimeout(15)
        with suppress(ConnectionError):
            while connection.recv(100):
                pass


def test_mutated_pdus_harm_neither_the_server_nor_what_it_stored(
    start: Start, inbox: Inbox, series: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(seconds=2.0, associations=64)
    tracebacks: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: tracebacks.append(args.exc_type))
    assert send(series, server.port).returncode == 0
    before = {path: path.read_bytes() for path in stored(inbox)}
    whole = association_request() + store_request(series / "slice-0003.dcm")
    rng = random.Random(27)
    for _ in range(150):
        content = mutated(whole, rng)
        with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    assert dcmtk("echoscu", "-aec", "CTBASIS", "127.0.0.1", server.port).returncode == 0
    assert {path: path.read_bytes() for path in before} == before
    assert eventually(lambda: server.busy_studies() == set() and not list(inbox.folder.rglob("*.part")))
    shown = capfd.readouterr()
    assert "Traceback" not in shown.err + shown.out
    assert "Made^Up" not in shown.err + shown.out


def test_the_written_requests_are_sound(start: Start, inbox: Inbox, series: Path) -> None:
    # Otherwise the tests of broken ones would show nothing.
    with socket.create_connection(("127.0.0.1", start().port)) as connection:
        connection.sendall(association_request())
        connection.recv(4096)
        connection.sendall(store_request(series / "slice-0000.dcm"))
        assert eventually(lambda: stored(inbox))


@pytest.mark.parametrize("client", [True, False])
def test_tls_with_client_certificates_serves_those_who_have_one(start: Start, certificates: Path, client: bool) -> None:
    tls = Tls(certificates / "node.crt", certificates / "node.key", certificates / "client.crt")
    port = start(tls=tls).port
    identity = ["+tls", certificates / "client.key", certificates / "client.crt"] if client else ["+tla"]
    done = dcmtk("echoscu", *identity, "+cf", certificates / "node.crt", "-aec", "CTBASIS", "127.0.0.1", port)
    assert (done.returncode == 0) is client, done.stderr


def test_a_tls_handshake_that_stalls_keeps_nobody_else_waiting(start: Start, certificates: Path) -> None:
    port = start(tls=Tls(certificates / "node.crt", certificates / "node.key")).port
    with socket.create_connection(("127.0.0.1", port)):
        done = dcmtk("echoscu", "+tla", "+cf", certificates / "node.crt", "-aec", "CTBASIS", "127.0.0.1", port)
    assert done.returncode == 0, done.stderr


def test_tls_files_that_do_not_fit_are_refused(inbox: Inbox, certificates: Path, tmp_path: Path) -> None:
    for tls in (
        Tls(certificates / "node.crt", certificates / "client.key"),
        Tls(tmp_path / "missing", certificates / "node.key"),
        Tls(certificates / "node.crt", certificates / "node.key", certificates / "node.key"),
    ):
        with pytest.raises(CtbasisError, match="TLS files cannot be used"):
            Server(Listening(title="CTBASIS", host="127.0.0.1", port=0, tls=tls), inbox)


def test_a_port_in_use_is_refused_by_number(start: Start, inbox: Inbox) -> None:
    port = start().port
    with pytest.raises(CtbasisError, match=f"port {port}"):
        Server(Listening(title="CTBASIS", host="127.0.0.1", port=port), inbox)


@pytest.mark.parametrize("known", [True, False])
def test_storage_commitment_is_reported(start: Start, outgoing: Outgoing, series: Path, known: bool) -> None:
    server = start()
    send(series, server.port)
    first = pydicom.dcmread(series / "slice-0000.dcm")
    asked = pydicom.Dataset()
    asked.TransactionUID = "2.25.77"
    asked.ReferencedSOPSequence = [pydicom.Dataset(), pydicom.Dataset()]
    for item, sop in zip(asked.ReferencedSOPSequence, (first.SOPInstanceUID, "2.25.404"), strict=True):
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, sop
    archive = Archive()
    with archive.listening() as port:
        entity = AE(ae_title=TITLE)
        entity.add_requested_context(StorageCommitmentPushModel)
        from pynetdicom import evt

        opened = entity.associate(
            "127.0.0.1", server.port, ae_title="CTBASIS", evt_handlers=[(evt.EVT_N_EVENT_REPORT, archive._report)]
        )
        answer, _ = opened.send_n_action(asked, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        assert answer.Status == Status.SUCCESS
        if known:
            opened.release()
        peers = {TITLE: Peer(TITLE, "127.0.0.1", port)} if known else {}
        reporter = Reporter(Caller("CTBASIS"), peers, outgoing, server)
        assert eventually(reporter.step)
        assert eventually(lambda: archive.reports)
        if not known:
            opened.release()
    ((kind, report),) = archive.reports
    assert kind == 2
    assert report.TransactionUID == "2.25.77"
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == [first.SOPInstanceUID]
    assert [item.FailureReason for item in report.FailedSOPSequence] == [Status.NO_SUCH_INSTANCE]
    assert outgoing.due_commitments() == []
