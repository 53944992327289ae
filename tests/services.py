"""Fixtures for services: a real S3 server with its environment variables, and one Spark session."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctbasis.demo.s3server import S3Server
from ctbasis.svd.engines.mahout_bridge import REQUIRED_CONF

if TYPE_CHECKING:
    from collections.abc import Iterator


JAR = Path(__file__).parents[1] / "images" / "spark" / "mahout" / "target" / "ctbasis-mahout.jar"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Return a running SeaweedFS that accepts signed requests only."""
    with S3Server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def aws(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Set the AWS_* variables to the server and remove all other AWS configuration."""
    remove_aws_configuration(monkeypatch)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the AWS configuration of this machine."""
    remove_aws_configuration(monkeypatch)


def remove_aws_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def prefix(aws: S3Server, request: pytest.FixtureRequest) -> str:
    """Return an S3 prefix on the server, as `s3://bucket/prefix`, that no other test uses."""
    client = aws.client()
    if "stores" not in {entry["Name"] for entry in client.list_buckets().get("Buckets", [])}:
        client.create_bucket(Bucket="stores")
    return f"s3://stores/{abs(hash(request.node.nodeid)):x}"


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a location for stores: a folder, and in a second run of the test a prefix on a real S3 server."""
    return str(tmp_path) if request.param == "folder" else str(request.getfixturevalue("prefix"))


@pytest.fixture(scope="session")
def spark_application() -> Iterator[None]:
    """Start the one Spark session of this process, with the settings of Mahout, whose tests use it too."""
    with running_spark():
        yield


@contextmanager
def running_spark() -> Iterator[None]:
    """Run a Spark session with the settings of Mahout."""
    if not JAR.exists():
        pytest.fail(f"{JAR.name} is absent; `make setup` builds it")
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    settings = {
        **REQUIRED_CONF,
        "spark.jars": str(JAR),
        "spark.driver.memory": "1g",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }
    builder = SparkSession.builder.master("local[2]")
    for key, value in settings.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    try:
        yield
    finally:
        session.stop()
