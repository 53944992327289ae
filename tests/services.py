"""A real S3 server, and the environment that points at it; one Spark session."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctbasis.demo.s3server import S3Server
from ctbasis.svd.engines.mahout import REQUIRED_CONF

if TYPE_CHECKING:
    from collections.abc import Iterator


JAR = Path(__file__).parents[1] / "images" / "spark" / "mahout" / "target" / "ctbasis-mahout.jar"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Return a running SeaweedFS that only takes signed requests."""
    with S3Server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def aws(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Point the AWS_* variables at the server, and nothing else."""
    forget_aws(monkeypatch)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no AWS configuration of this machine in sight."""
    forget_aws(monkeypatch)


def forget_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def prefix(aws: S3Server, request: pytest.FixtureRequest) -> str:
    """Return a prefix on the server that the test has for itself, as `s3://bucket/prefix`."""
    client = aws.client()
    if "stores" not in {entry["Name"] for entry in client.list_buckets().get("Buckets", [])}:
        client.create_bucket(Bucket="stores")
    return f"s3://stores/{abs(hash(request.node.nodeid)):x}"


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where stores may be put, once a folder and once a prefix on a real S3 server."""
    return str(tmp_path) if request.param == "folder" else str(request.getfixturevalue("prefix"))


@pytest.fixture(scope="session")
def spark_application() -> Iterator[None]:
    """Start Spark once, with Mahout's settings too: a process has one session, and Mahout's tests may get this one."""
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
    yield
    session.stop()
