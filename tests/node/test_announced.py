"""A series whose instances a scanner or an archive has listed is complete without a quiet time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    InstanceAvailabilityNotification,
    ModalityPerformedProcedureStep,
)

from ctbasis.node.announced import MOST_SERIES, Announced
from ctbasis.node.completeness import Completeness
from ctbasis.node.listening import Listening
from ctbasis.node.scp import Server
from ctbasis.node.status import Status
from tests.node.peers import TITLE, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pynetdicom.association import Association

    from ctbasis.node.inbox import Inbox
    from ctbasis.node.outgoing import Outgoing
    from ctbasis.node.queue import Queue

QUIET = 3600.0


class Peer:
    """A peer with an open association to a server that takes announcements."""

    def __init__(self, association: Association, announced: Announced, port: int) -> None:
        self.association, self.announced, self.port = association, announced, port

    def create(self, content: Dataset, sop_class: str) -> int:
        """Send an N-CREATE; return its status."""
        answer, _ = self.association.send_n_create(content, sop_class, "2.25.500")
        return int(answer.Status)

    def change(self, content: Dataset) -> int:
        """Send an N-SET of a step; return its status."""
        answer, _ = self.association.send_n_set(content, ModalityPerformedProcedureStep, "2.25.500")
        return int(answer.Status)


@pytest.fixture
def peer(inbox: Inbox, outgoing: Outgoing) -> Iterator[Peer]:
    announced = Announced()
    entity = AE(ae_title=TITLE)
    entity.add_requested_context(ModalityPerformedProcedureStep)
    entity.add_requested_context(InstanceAvailabilityNotification)
    with Server(Listening("CTBASIS", "127.0.0.1", 0), inbox, outgoing, announced) as server:
        association = entity.associate("127.0.0.1", server.port, ae_title="CTBASIS")
        assert len(association.accepted_contexts) == 2
        yield Peer(association, announced, server.port)
        association.release()


def references(folder: Path, *, more: tuple[str, ...] = ()) -> tuple[str, list[Dataset]]:
    """Return the SeriesInstanceUID of the files of a folder, and a reference to each, and to further ones."""
    read = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.iterdir())]
    items = []
    for sop in [*(str(one.SOPInstanceUID) for one in read), *more]:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, sop
        items.append(item)
    return str(read[0].SeriesInstanceUID), items


def notification(folder: Path, **more: tuple[str, ...]) -> Dataset:
    listed = Dataset()
    listed.SeriesInstanceUID, listed.ReferencedSOPSequence = references(folder, **more)
    whole = Dataset()
    whole.ReferencedSeriesSequence = [listed]
    return whole


def step(folder: Path, status: str = "COMPLETED") -> Dataset:
    performed = Dataset()
    performed.SeriesInstanceUID, performed.ReferencedImageSequence = references(folder)
    whole = Dataset()
    whole.PerformedProcedureStepStatus = status
    whole.PerformedSeriesSequence = [performed]
    return whole


def begun() -> Dataset:
    whole = Dataset()
    whole.PerformedProcedureStepStatus = "IN PROGRESS"
    return whole


def without_list() -> Dataset:
    whole = Dataset()
    whole.StudyInstanceUID = "2.25.1"
    return whole


def complete(peer: Peer, queue: Queue) -> list[int]:
    return Completeness(queue, QUIET, set, announced=peer.announced).step()


@pytest.mark.parametrize("first", ["list", "instances"])
def test_a_notification_completes_a_series_when_all_its_instances_have_arrived(
    peer: Peer, queue: Queue, series: Path, first: str
) -> None:
    for what in sorted(["list", "instances"], key=lambda one: one != first):
        assert complete(peer, queue) == []
        if what == "list":
            assert peer.create(notification(series), InstanceAvailabilityNotification) == Status.SUCCESS
        else:
            assert send(series, peer.port).returncode == 0
    assert len(complete(peer, queue)) == 1
    assert complete(peer, queue) == []


def test_a_completed_step_completes_its_series(peer: Peer, queue: Queue, series: Path) -> None:
    assert peer.create(begun(), ModalityPerformedProcedureStep) == Status.SUCCESS
    send(series, peer.port)
    assert complete(peer, queue) == []
    assert peer.change(without_list()) == Status.SUCCESS
    assert peer.change(step(series, "DISCONTINUED")) == Status.SUCCESS
    assert complete(peer, queue) == []
    assert peer.change(step(series)) == Status.SUCCESS
    assert len(complete(peer, queue)) == 1


def test_a_list_with_an_instance_that_has_not_arrived_leaves_the_quiet_time(
    peer: Peer, queue: Queue, series: Path
) -> None:
    send(series, peer.port)
    listed = notification(series, more=("2.25.404",))
    assert peer.create(listed, InstanceAvailabilityNotification) == Status.SUCCESS
    assert complete(peer, queue) == []
    assert len(Completeness(queue, 0.0, set, announced=peer.announced).step()) == 1


def test_a_list_without_uids_is_refused(peer: Peer, queue: Queue, series: Path) -> None:
    send(series, peer.port)
    broken = notification(series)
    del broken.ReferencedSeriesSequence[0].SeriesInstanceUID
    assert peer.create(broken, InstanceAvailabilityNotification) == Status.PROCESSING_FAILURE
    assert peer.create(without_list(), InstanceAvailabilityNotification) == Status.PROCESSING_FAILURE
    assert complete(peer, queue) == []


def test_lists_take_no_unbounded_memory(queue: Queue) -> None:
    announced = Announced()
    for number in range(MOST_SERIES + 5):
        announced.add({str(number): frozenset({"2.25.1"})})
    assert len(announced._lists) == MOST_SERIES
    assert "0" not in announced._lists
    announced.add({"7": frozenset()})
    assert "7" not in announced._lists
    assert announced.take_complete(queue) == []
