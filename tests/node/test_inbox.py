"""Received instances: on the disk before they are acknowledged, once each, and refused with the right status."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from ctbasis.node.inbox import Inbox
from ctbasis.node.status import NotStoredError, Status
from tests.node.instances import received

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctbasis.node.queue import Queue


def files(inbox: Inbox) -> list[Path]:
    return [path for path in inbox.folder.rglob("*") if path.is_file()]


def edited(series: Path, path: Path, edit: Callable[[Any], None]) -> Path:
    ds = pydicom.dcmread(series / "slice-0000.dcm")
    edit(ds)
    ds.save_as(path, enforce_file_format=True)
    return path


def refusal(inbox: Inbox, path: Path, **settings: Any) -> Status:
    with pytest.raises(NotStoredError) as refused:
        received(inbox, path, **settings)
    assert files(inbox) == []
    return refused.value.status


def test_an_instance_is_a_dicom_file_that_is_recorded(inbox: Inbox, queue: Queue, series: Path) -> None:
    sent = series / "slice-0000.dcm"
    instance = received(inbox, sent)
    kept = inbox.folder / instance.file
    assert pydicom.dcmread(kept) == pydicom.dcmread(sent)
    assert queue.find(instance.sop) == instance
    assert instance.size == kept.stat().st_size
    assert files(inbox) == [kept]


def test_no_name_of_a_file_is_text_from_outside(inbox: Inbox, series: Path) -> None:
    instance = received(inbox, series / "slice-0000.dcm")
    assert instance.sop not in instance.file
    assert set(instance.file) <= set("0123456789abcdef/-.dcm")


def test_the_same_bytes_twice_are_one_instance(inbox: Inbox, queue: Queue, series: Path) -> None:
    first, second = (received(inbox, series / "slice-0000.dcm") for _ in range(2))
    assert first == second
    assert len(files(inbox)) == 1
    assert len(queue.complete(first.study)) == 1


def test_other_bytes_under_one_sop_instance_uid_are_refused(inbox: Inbox, series: Path, tmp_path: Path) -> None:
    first = received(inbox, series / "slice-0000.dcm")
    other = edited(series, tmp_path / "other.dcm", lambda ds: setattr(ds, "PixelData", bytes(len(ds.PixelData))))
    content = (inbox.folder / first.file).read_bytes()
    with pytest.raises(NotStoredError) as refused:
        received(inbox, other)
    assert refused.value.status is Status.DUPLICATE_INSTANCE
    assert files(inbox) == [inbox.folder / first.file]
    assert (inbox.folder / first.file).read_bytes() == content


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_every_encoding_is_taken(inbox: Inbox, series: Path, tmp_path: Path, syntax: str) -> None:
    def encode(ds: Any) -> None:
        ds.file_meta.TransferSyntaxUID = syntax

    instance = received(inbox, edited(series, tmp_path / "encoded.dcm", encode))
    assert pydicom.dcmread(inbox.folder / instance.file).file_meta.TransferSyntaxUID == syntax


def test_an_object_that_is_no_ct_or_contradicts_its_request_is_refused(
    inbox: Inbox, series: Path, tmp_path: Path
) -> None:
    mr = edited(series, tmp_path / "mr.dcm", lambda ds: setattr(ds, "SOPClassUID", MRImageStorage))
    assert refusal(inbox, mr) is Status.OTHER_CLASS
    assert refusal(inbox, series / "slice-0000.dcm", sop="2.25.9") is Status.OTHER_CLASS
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        without = edited(series, tmp_path / "without.dcm", lambda ds, keyword=keyword: delattr(ds, keyword))
        assert refusal(inbox, without) is Status.OTHER_CLASS


def test_bytes_that_are_no_data_set_are_refused(inbox: Inbox, series: Path) -> None:
    header = pydicom.dcmread(series / "slice-0000.dcm")
    spool = inbox.open_spool(b"", header.file_meta.TransferSyntaxUID)
    spool.write(b"\xff" * 5000)
    with pytest.raises(NotStoredError) as refused:
        inbox.keep(spool, sop_class=header.SOPClassUID, sop=header.SOPInstanceUID, sender="X")
    assert refused.value.status is Status.CANNOT_UNDERSTAND
    assert files(inbox) == []


def test_a_full_disk_refuses_and_stores_nothing(queue: Queue, series: Path, tmp_path: Path) -> None:
    full = Inbox(tmp_path / "full", queue, least_free=1 << 62)
    assert refusal(full, series / "slice-0000.dcm") is Status.OUT_OF_RESOURCES
    assert queue.pending_studies() == {}


def test_a_disk_that_fails_while_an_instance_is_written_refuses(inbox: Inbox, queue: Queue, series: Path) -> None:
    header = pydicom.dcmread(series / "slice-0000.dcm")
    spool = inbox.open_spool(b"", header.file_meta.TransferSyntaxUID)
    assert spool._file is not None
    spool._file.close()
    # The device on which every write fails for want of space.
    spool._file = open("/dev/full", "wb", buffering=0)  # noqa: PTH123, SIM115 - a device
    spool.write(b"x" * 10_000)
    with pytest.raises(NotStoredError) as refused:
        inbox.keep(spool, sop_class=header.SOPClassUID, sop=header.SOPInstanceUID, sender="X")
    assert refused.value.status is Status.OUT_OF_RESOURCES
    assert "No space left" in refused.value.comment
    assert files(inbox) == []
    assert queue.pending_studies() == {}


def test_what_a_killed_node_left_unacknowledged_is_removed(inbox: Inbox, series: Path) -> None:
    kept = received(inbox, series / "slice-0000.dcm")
    left = inbox.open_spool(b"", "1.2.840.10008.1.2")
    left.write(b"half")
    (inbox.folder / kept.file).with_name("unrecorded.dcm").write_bytes(b"whole")
    assert inbox.remove_remains() == 2
    assert files(inbox) == [inbox.folder / kept.file]
    left.discard()


def test_expired_files_and_their_folder_are_removed(inbox: Inbox, series: Path) -> None:
    kept = received(inbox, series / "slice-0000.dcm")
    inbox.remove([kept.file])
    assert files(inbox) == []
    assert not (inbox.folder / kept.file).parent.exists()


def test_the_digest_is_that_of_syntax_and_data_set(inbox: Inbox, series: Path) -> None:
    instance = received(inbox, series / "slice-0000.dcm")
    assert len(instance.digest) == len(hashlib.sha256().hexdigest())
