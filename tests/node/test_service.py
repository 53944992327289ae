"""The node as a whole: what is sent to it comes back denoised, once, whatever happens in between."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import numpy as np
import pydicom
import pytest

import ctbasis
from ctbasis.errors import CtbasisError
from ctbasis.node.peers import Peer
from ctbasis.node.queue import JobState
from ctbasis.node.task import REFUSE
from tests.node.nodes import SECONDS, ended
from tests.node.peers import REFUSED_CONNECTIONS, TITLE, Archive, send
from tests.scans import SLICES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.node.nodes import StartNode


@pytest.fixture
def archive() -> Iterator[tuple[Archive, Peer]]:
    destination = Archive()
    with destination.listening() as port:
        yield destination, Peer(TITLE, "127.0.0.1", port)


def test_a_series_comes_back_denoised_by_the_stored_basis(
    start_node: StartNode, archive: tuple[Archive, Peer], scan: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    received, peer = archive
    series, basis = scan
    node = start_node(bases=(str(basis),), destinations=(peer,), unfit=REFUSE)
    assert send(series, node.server.port).returncode == 0
    (job,) = ended(node)
    assert job.state is JobState.DONE, job.record
    (volume,) = job.record["volumes"]
    assert received.requests == dict.fromkeys(received.stored, 1)
    assert len(received.stored) == SLICES
    for ds in received.stored.values():
        assert f"Basis {volume['basis']}." in ds.DerivationDescription
        assert "a stored basis" in ds.DerivationDescription
        assert ds.SeriesInstanceUID == volume["SeriesInstanceUID"]
    source = pydicom.dcmread(next(series.iterdir()))
    assert {ds.StudyInstanceUID for ds in received.stored.values()} == {source.StudyInstanceUID}
    # The numbers are those of the library.
    expected = ctbasis.denoise(ctbasis.read(series), basis=basis).hu
    written = ctbasis.read(next((node.settings.state / "results").glob("*/volume-1"))).hu
    assert np.abs(written - expected).max() <= 0.5 + 1e-3
    log = capfd.readouterr().err
    assert f"job {job.id}: denoised" in log
    for private in (str(source.PatientName), str(source.PatientID), source.StudyInstanceUID, "Traceback"):
        assert not private or private not in log


def test_a_series_that_no_basis_fits_is_learned_on_or_refused(
    start_node: StartNode, archive: tuple[Archive, Peer], scan: tuple[Path, Path], tmp_path: Path
) -> None:
    received, peer = archive
    series, basis = scan
    thick = tmp_path / "thick"
    thick.mkdir()
    for path in series.iterdir():
        ds = pydicom.dcmread(path)
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient, ds.SliceThickness = [x, y, 4 * z], 4 * float(ds.SliceThickness)
        ds.save_as(thick / path.name, enforce_file_format=True)
    refusing = start_node(bases=(str(basis),), destinations=(peer,), unfit=REFUSE)
    send(thick, refusing.server.port)
    (job,) = ended(refusing)
    assert job.state is JobState.REFUSED
    assert "no stored basis fits" in job.record["found"]
    assert str(tmp_path) not in job.record["found"]
    assert received.requests == {}


def test_a_node_without_bases_learns_and_says_so(
    start_node: StartNode, archive: tuple[Archive, Peer], scan: tuple[Path, Path]
) -> None:
    received, peer = archive
    node = start_node(destinations=(peer,))
    send(scan[0], node.server.port)
    (job,) = ended(node)
    assert job.record["volumes"][0]["basis"] == "learned on the series"
    assert all("Basis learned on this series" in ds.DerivationDescription for ds in received.stored.values())


def test_half_a_series_fails_or_is_denoised_and_the_whole_follows(
    start_node: StartNode, archive: tuple[Archive, Peer], scan: tuple[Path, Path], tmp_path: Path
) -> None:
    received, peer = archive
    series, basis = scan
    halves = [tmp_path / "first", tmp_path / "second"]
    for number, path in enumerate(sorted(series.iterdir())):
        half = halves[number >= SLICES // 2]
        half.mkdir(exist_ok=True)
        (half / path.name).write_bytes(path.read_bytes())
    node = start_node(bases=(str(basis),), destinations=(peer,))
    send(halves[0], node.server.port)
    ended(node)
    send(halves[1], node.server.port)
    first, second = ended(node, 2)
    assert (first.instances, second.instances) == (SLICES // 2, SLICES)
    assert second.record["volumes"][0]["slices"] == SLICES
    assert set(received.requests.values()) == {1}


@REFUSED_CONNECTIONS
def test_a_destination_that_is_down_refuses_or_drops_gets_everything_once_in_the_end(
    start_node: StartNode, scan: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctbasis.node.deliver.pause", lambda _: 0.5)
    monkeypatch.setattr("ctbasis.node.outgoing.pause", lambda _: 0.5)
    received = Archive()
    with received.listening() as port:
        peer = Peer(TITLE, "127.0.0.1", port)
    # It is down now.
    node = start_node(bases=(str(scan[1]),), destinations=(peer,))
    send(scan[0], node.server.port)
    deadline = time.monotonic() + SECONDS
    while node.outgoing.counts() != {"waiting": SLICES}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    received.status = 0xA700
    with received.listening(port):
        while sum(received.requests.values()) < 2 * SLICES:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert node.outgoing.counts().get("sent", 0) == 0
        # Then it stores two instances, and the third without an answer.
        received.requests.clear()
        received.lose_after = 2
        received.status = 0
        ended(node)
    assert len(received.stored) == SLICES
    assert received.requests == dict.fromkeys(received.stored, 1)


def test_a_series_that_cannot_be_read_fails_with_the_reason_and_the_next_is_denoised(
    start_node: StartNode, archive: tuple[Archive, Peer], scan: tuple[Path, Path], tmp_path: Path
) -> None:
    received, peer = archive
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in scan[0].iterdir():
        ds = pydicom.dcmread(path)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.5", "2.25.6"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.{abs(hash(path.name))}"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        ds.save_as(broken / path.name, enforce_file_format=True)
    node = start_node(bases=(str(scan[1]),), destinations=(peer,))
    send(broken, node.server.port)
    (failed,) = ended(node)
    assert failed.state is JobState.FAILED
    assert "CT image" in failed.record["found"]
    send(scan[0], node.server.port)
    _, done = ended(node, 2)
    assert done.state is JobState.DONE
    assert len(received.stored) == SLICES


@pytest.mark.parametrize("damage", ["truncated", "of another version", "missing"])
def test_a_basis_that_cannot_be_used_is_refused_at_the_start(
    start_node: StartNode, scan: tuple[Path, Path], tmp_path: Path, damage: str
) -> None:
    basis = tmp_path / "basis"
    if damage != "missing":
        shutil.copytree(scan[1], basis)
        chunks = [path for path in basis.rglob("*") if path.is_file() and path.name != "zarr.json"]
        if damage == "truncated":
            largest = max(chunks, key=lambda path: path.stat().st_size)
            largest.write_bytes(largest.read_bytes()[:-100])
        else:
            root = basis / "zarr.json"
            root.write_text(root.read_text().replace('"version":', '"version": 99, "former":'))
    with pytest.raises(CtbasisError):
        start_node(bases=(str(basis),))


def test_a_second_node_on_the_same_folder_is_refused(start_node: StartNode) -> None:
    start_node()
    with pytest.raises(CtbasisError, match="is being written by"):
        start_node()
