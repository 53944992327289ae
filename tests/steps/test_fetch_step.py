"""The fetch step waits for a server that is away, where nothing starts the step again: on Kubeflow."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import CtbasisError, UnreachableError
from ctbasis.jobs.pod import POD_NAME
from ctbasis.parameters import SourcePlan
from ctbasis.sources import retries
from ctbasis.steps import fetch as step
from ctbasis.storage import s3

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.demo.s3server import S3Server

ENDPOINT = "AWS_ENDPOINT_URL"


@pytest.fixture
def source(aws: S3Server, tmp_path: Path) -> str:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.dcm").write_bytes(b"content")
    aws.put_folder(tmp_path / "images", "s3://images/patience")
    return "s3://images/patience"


@pytest.fixture
def nobody() -> str:
    """Return an address at which nothing answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the waits of the step, which take no time here."""
    made: list[float] = []
    monkeypatch.setattr(step, "time", SimpleNamespace(sleep=made.append))
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    monkeypatch.setattr(retries, "LISTING_ATTEMPTS", 1)
    monkeypatch.setattr(s3, "REQUEST_ATTEMPTS", 1)
    monkeypatch.setenv(POD_NAME, "run-1-fetch")
    return made


def run(source: str, tmp_path: Path) -> step.StepResult:
    return step.run_step(SourcePlan(source, ""), tmp_path / "workspace", deidentify=False)


def test_on_kubeflow_the_step_survives_a_server_that_is_away(
    source: str, nobody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there, waits = os.environ[ENDPOINT], []
    monkeypatch.setenv(ENDPOINT, nobody)
    monkeypatch.setenv(POD_NAME, "run-1-fetch")

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            os.environ[ENDPOINT] = there

    monkeypatch.setattr(step, "time", SimpleNamespace(sleep=wait))
    monkeypatch.setattr(s3, "REQUEST_ATTEMPTS", 1)
    run(source, tmp_path)
    assert waits == [5, 10]
    assert (tmp_path / "workspace" / "source" / "a.dcm").read_bytes() == b"content"
    assert "waiting 5 s of at most 600 s for the server" in capsys.readouterr().err


def test_the_step_waits_no_longer_than_its_patience(
    source: str, nobody: str, waits: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT, nobody)
    with pytest.raises(UnreachableError, match="does not answer"):
        run(source, tmp_path)
    assert sum(waits) == step.PATIENCE_SECONDS
    assert max(waits) == step.LONGEST_WAIT_SECONDS


def test_on_this_machine_a_wrong_address_is_refused_at_once(
    source: str, nobody: str, waits: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(POD_NAME)
    monkeypatch.setenv(ENDPOINT, nobody)
    with pytest.raises(UnreachableError, match="does not answer"):
        run(source, tmp_path)
    assert waits == []


def test_a_source_that_is_refused_is_not_waited_for(source: str, waits: list[float], tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="there is no bucket"):
        run(source.replace("images", "no-such-bucket"), tmp_path)
    assert waits == []
