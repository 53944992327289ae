"""Fixtures of the tests that use the stand-in for a Kubeflow server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kfp.client import Client

from ctbasis.kubeflow import follow
from ctbasis.kubeflow.server import connect
from ctbasis.kubeflow.submit import start
from tests.kubeflow.kfp_stand_in import ARGUMENTS, KfpStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the Kubeflow settings of this machine, and poll without waiting."""
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "kfp" / "context.json"))
    monkeypatch.setattr(follow, "FIRST_POLL_SECONDS", 0.01)
    for name in (
        *("CTBASIS_KFP_HOST", "CTBASIS_KFP_NAMESPACE", "CTBASIS_KFP_TOKEN"),
        "KF_PIPELINES_SA_TOKEN_PATH",
        *("KF_PIPELINES_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID"),
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[KfpStandIn]:
    """Return a single-user stand-in that requires no token."""
    with KfpStandIn() as stand_in:
        yield stand_in


@pytest.fixture
def finished(server: KfpStandIn) -> tuple[KfpStandIn, Client, str]:
    """Return a stand-in, its client and the id of a run that succeeded."""
    client = connect(server.url)
    run_id = start(client, arguments=ARGUMENTS)
    follow.wait_for(client, run_id, report=lambda _: None)
    return server, client, run_id
