"""A real Orthanc as the archive of a node, with its DICOM server."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import requests

from ctbasis.demo.ports import HOST, free_ports
from ctbasis.node.peers import Peer
from tests.repositories import Process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TITLE = "ORTHANC"


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc.

    Attributes:
        endpoint: Address of its REST interface.
        peer: Its DICOM server.
    """

    endpoint: str
    peer: Peer

    def get(self, path: str) -> Any:
        """Return the JSON that a GET gives."""
        answer = requests.get(self.endpoint + path, timeout=30, proxies={"http": ""})
        answer.raise_for_status()
        return answer.json()

    def put_modality(self, title: str, port: int) -> None:
        """Register an AE title on this machine, to which C-MOVE may send."""
        answer = requests.put(
            f"{self.endpoint}/modalities/{title.lower()}", json=[title, HOST, port], timeout=30, proxies={"http": ""}
        )
        answer.raise_for_status()

    def add(self, folder: Path) -> None:
        """Store the files of a folder."""
        for path in folder.rglob("*.dcm"):
            answer = requests.post(
                f"{self.endpoint}/instances", data=path.read_bytes(), timeout=30, proxies={"http": ""}
            )
            answer.raise_for_status()


def program() -> str:
    """Return the path of Orthanc; skip the test if it is not installed."""
    found = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip("Orthanc is not installed; .ci/repositories installs it")
    return found


@contextmanager
def running(folder: Path) -> Iterator[Orthanc]:
    """Run an Orthanc whose data is in a folder."""
    (dicom_port,) = free_ports(1)
    executable = program()

    def command(port: int) -> list[str]:
        settings = {
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "HttpPort": port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": TITLE,
            "DicomPort": dicom_port,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowMove": True,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        return [executable, str(folder / "orthanc.json")]

    with Process(command, "/system", folder / "log") as process:
        yield Orthanc(process.endpoint, Peer(TITLE, HOST, dicom_port))
