"""Connections to peers are encrypted where a destination says so; peers without a valid certificate get nothing."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from ctbasis.cli import main
from ctbasis.errors import CtbasisError
from ctbasis.node.calling import Caller
from ctbasis.node.listening import Listening, Tls
from ctbasis.node.scp import Server
from tests.node.peers import REFUSED_CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ctbasis.node.inbox import Inbox

pytestmark = REFUSED_CONNECTIONS


@pytest.fixture
def port(inbox: Inbox, certificates: Path) -> Iterator[int]:
    """Return the port of a node that demands certificates."""
    tls = Tls(certificates / "node.crt", certificates / "node.key", certificates / "client.crt")
    with Server(Listening("CTBASIS", "127.0.0.1", 0, tls=tls), inbox) as server:
        yield server.port


def push(series: Path, destination: str, *options: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["push", str(series), "--to", destination, *map(str, options)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_a_series_is_pushed_over_tls(port: int, inbox: Inbox, series: Path, certificates: Path) -> None:
    own = ["--tls-cert", certificates / "client.crt", "--tls-key", certificates / "client.key"]
    code, output = push(series, f"dicom+tls://CTBASIS@localhost:{port}", "--peer-ca", certificates / "node.crt", *own)
    assert code == 0, output
    assert len(list(inbox.folder.glob("*/*.dcm"))) == 6


@pytest.mark.parametrize("fault", ["no authority", "no certificate", "another name", "no tls"])
def test_a_peer_that_cannot_be_trusted_or_does_not_trust_gets_nothing(
    port: int, inbox: Inbox, series: Path, certificates: Path, fault: str
) -> None:
    own = ["--tls-cert", certificates / "client.crt", "--tls-key", certificates / "client.key"]
    authority = ["--peer-ca", certificates / "node.crt"]
    peer = f"dicom+tls://CTBASIS@localhost:{port}"
    if fault == "no authority":
        authority = []
    elif fault == "no certificate":
        own = []
    elif fault == "another name":
        peer = f"dicom+tls://CTBASIS@127.0.0.2:{port}"
    else:
        peer = f"CTBASIS@localhost:{port}"
    code, output = push(series, peer, *authority, *own)
    assert code == 2, output
    assert "does not answer" in output
    assert not list(inbox.folder.glob("*/*.dcm"))
    # The sockets that pynetdicom leaves, see REFUSED_CONNECTIONS, are those of this test.
    gc.collect()


def test_files_that_are_no_certificates_are_refused(tmp_path: Path, certificates: Path) -> None:
    with pytest.raises(CtbasisError, match="--peer-ca"):
        Caller.of("CTBASIS", authority=certificates / "node.key")
    with pytest.raises(CtbasisError, match="--peer-ca"):
        Caller.of("CTBASIS", authority=tmp_path / "missing")
    with pytest.raises(CtbasisError, match="TLS files"):
        Caller.of("CTBASIS", own=Tls(certificates / "node.crt", certificates / "client.key"))
