"""Fixtures of the tests that talk to the stand-in of a Kubeflow server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kfp.client import Client

from ctbasis.kubeflow import submit
from tests.kubeflow.kfp_stand_in import KfpStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep this machine's own Kubeflow settings out, and do not wait for a server that is here."""
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "kfp" / "context.json"))
    monkeypatch.setattr(submit, "FIRST_POLL_SECONDS", 0.01)
    for name in (
        *("CTBASIS_KFP_HOST", "CTBASIS_KFP_NAMESPACE", "CTBASIS_KFP_TOKEN"),
        *("KF_PIPELINES_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[KfpStandIn]:
    """Return a stand-in that asks for no token and has one user."""
    with KfpStandIn() as stand_in:
        yield stand_in
