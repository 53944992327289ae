"""A stand-in for the API server, and a manifest for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.jobs.timeouts import Timeouts
from tests.jobs.api_server_stand_in import ApiServerStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "ctbasis-svd-run-1"


@pytest.fixture
def server() -> Iterator[ApiServerStandIn]:
    with ApiServerStandIn() as running:
        yield running


@pytest.fixture
def application() -> SparkApplication:
    return SparkApplication.read().for_run(name=NAME, arguments=["--rank", "5"])


@pytest.fixture
def manifest(application: SparkApplication) -> dict[str, Any]:
    return application.to_manifest()


@pytest.fixture
def timeouts() -> Timeouts:
    """Return short timeouts where the test makes a wait end, and long ones elsewhere."""
    return Timeouts(api_server=60, quota=0.05, stopping=10)
