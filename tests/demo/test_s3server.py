"""The S3 server of the demo and the tests is a real one, protects its keys and removes its files."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from ctbasis.demo.ports import HOST
from ctbasis.demo.s3server import S3Server
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server(anonymous=True) as running:
        yield running


def unsigned(server: S3Server) -> Any:
    return boto3.client(
        "s3", endpoint_url=server.endpoint, region_name="us-east-1", config=Config(signature_version=UNSIGNED)
    )


def test_uploaded_files_are_listed_and_read_back_byte_for_byte(server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    contents = {"a.dcm": os.urandom(9_000_000), "deep/b.dcm": b"small", "empty": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert server.put_folder(tmp_path, "s3://chest/phantom/") == 3
    client = server.client()
    listed = client.list_objects_v2(Bucket="chest", Prefix="phantom/")["Contents"]
    assert sorted(entry["Key"] for entry in listed) == [f"phantom/{name}" for name in sorted(contents)]
    for name, content in contents.items():
        assert client.get_object(Bucket="chest", Key=f"phantom/{name}")["Body"].read() == content


def test_a_folder_can_be_uploaded_twice(server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    server.put_folder(tmp_path, "s3://twice")
    (tmp_path / "a").write_bytes(b"two")
    server.put_folder(tmp_path, "s3://twice")
    assert server.client().get_object(Bucket="twice", Key="a")["Body"].read() == b"two"


def test_the_environment_has_everything_that_boto3_needs(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    client = boto3.session.Session().client("s3")
    client.create_bucket(Bucket="by-environment")
    assert "by-environment" in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}


def test_an_anonymous_server_lets_everyone_read_and_no_one_write(server: S3Server) -> None:
    server.client().create_bucket(Bucket="open-data")
    server.client().put_object(Bucket="open-data", Key="a", Body=b"x")
    client = unsigned(server)
    assert client.get_object(Bucket="open-data", Key="a")["Body"].read() == b"x"
    assert client.list_objects_v2(Bucket="open-data")["KeyCount"] == 1
    with pytest.raises(ClientError, match="AccessDenied"):
        client.put_object(Bucket="open-data", Key="b", Body=b"x")


def test_wrong_keys_are_refused(server: S3Server) -> None:
    wrong = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key="not-the-secret",  # noqa: S106 - wrong on purpose
    )
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        wrong.list_buckets()


def test_only_the_owner_can_read_the_key_file_and_the_log_holds_no_key(server: S3Server) -> None:
    assert stat.S_IMODE((server.folder / "identities.json").stat().st_mode) == 0o600
    log = server.log.read_text()
    assert log
    assert server.secret_key not in log
    assert server.access_key not in log


def test_by_default_an_unsigned_request_is_refused_and_the_server_removes_its_files() -> None:
    with S3Server() as server:
        folder = server.folder
        port = int(server.endpoint.rpartition(":")[2])
        server.client().create_bucket(Bucket="closed")
        with pytest.raises(ClientError, match="AccessDenied"):
            unsigned(server).list_objects_v2(Bucket="closed")
    assert not folder.exists()
    with socket.socket() as probe:
        assert probe.connect_ex((HOST, port)) != 0


def test_a_uri_without_a_bucket_and_an_empty_folder_are_refused(server: S3Server, tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="holds no file"):
        server.put_folder(tmp_path, "s3://chest")
    (tmp_path / "a").write_bytes(b"x")
    for uri in ("s3://", "chest/phantom", "https://chest"):
        with pytest.raises(CtbasisError, match="names no bucket"):
            server.put_folder(tmp_path, uri)


def test_the_error_for_a_missing_binary_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CtbasisError, match=r"`weed` is missing[\s\S]*remedy"), S3Server():
        pass


def test_the_error_of_a_server_that_cannot_start_holds_the_end_of_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "weed"
    broken.write_text("#!/bin/sh\necho no space left on device\nexit 1\n")
    broken.chmod(0o700)
    monkeypatch.setattr("ctbasis.demo.s3server.weed_binary", lambda: broken)
    with pytest.raises(CtbasisError, match="no space left on device"), S3Server(tmp_path / "kept"):
        pass


def test_a_given_folder_keeps_its_objects_for_the_next_server(tmp_path: Path) -> None:
    with S3Server(tmp_path) as first:
        first.client().create_bucket(Bucket="lasting")
        first.client().put_object(Bucket="lasting", Key="a", Body=b"x" * 100_000)
    with S3Server(tmp_path) as second:
        assert second.access_key != first.access_key
        assert second.client().get_object(Bucket="lasting", Key="a")["Body"].read() == b"x" * 100_000
