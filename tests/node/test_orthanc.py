"""The node and `ctbasis pull` with Orthanc as the archive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pydicom
import pytest
from click.testing import CliRunner

from ctbasis.cli import main
from ctbasis.demo.ports import free_ports
from tests.node import orthanc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.node.orthanc import Orthanc


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc.running(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def pull(archive: Orthanc, out: Path, *options: str) -> tuple[int, str]:
    line = ["pull", "--from", str(archive.peer), "--study", "2.25.1001", "--out", str(out), "--host", "127.0.0.1"]
    result = CliRunner().invoke(main, [*line, *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_a_study_is_pulled_as_the_archive_has_it(archive: Orthanc, series: Path, tmp_path: Path) -> None:
    archive.add(series)
    (port,) = free_ports(1)
    archive.put_modality("CTBASIS", port)
    code, output = pull(archive, tmp_path / "out", "--port", str(port))
    assert code == 0, output
    assert "6 instances of 1 series" in output
    sent = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, series.iterdir())}
    pulled = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, (tmp_path / "out").rglob("*.dcm"))}
    assert {sop: ds.pixel_array.tolist() for sop, ds in pulled.items()} == {
        sop: ds.pixel_array.tolist() for sop, ds in sent.items()
    }
    # A former result is replaced, and nothing else is.
    assert pull(archive, tmp_path / "out", "--port", str(port))[0] == 0


def test_an_archive_that_knows_another_address_is_named_with_the_remedy(
    archive: Orthanc, series: Path, tmp_path: Path
) -> None:
    archive.add(series)
    wrong, port = free_ports(2)
    archive.put_modality("CTBASIS", wrong)
    code, output = pull(archive, tmp_path / "out", "--port", str(port))
    assert code == 2
    assert "did not send a series" in output
    assert f"port {port}" in output
    assert not (tmp_path / "out").exists()


def test_a_study_that_the_archive_has_not_is_refused(archive: Orthanc, tmp_path: Path) -> None:
    line = ["pull", "--from", str(archive.peer), "--study", "2.25.404", "--out", str(tmp_path / "out"), "--port", "0"]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 2
    assert "has no CT series of this study" in result.output


def test_a_wrong_title_of_the_archive_is_told(archive: Orthanc, tmp_path: Path) -> None:
    line = ["pull", "--from", f"WRONG@127.0.0.1:{archive.peer.port}", "--study", "2.25.404", "--port", "0"]
    result = CliRunner().invoke(main, [*line, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "rejected the association" in result.output
