"""Real image repositories on the loopback interface, one class a kind of source, for the tests of all sources.

A new source joins these tests by its class and its row in `REPOSITORIES`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self
from urllib.parse import quote
from xml.sax.saxutils import escape

import pytest
import requests

from ctbasis.demo.ports import HOST, free_ports
from ctbasis.demo.s3server import S3Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SERVERS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctbasis" / "servers"
"""Where .ci/repositories installs the servers that are no packages of the system."""

READY_SECONDS = 60.0

SECRET = "c2VjcmV0LXRoYXQtbm9ib2R5LW1heS1zZWU"  # noqa: S105 - an invented key, which must appear in no message and no file


class Repository(Protocol):
    """A server with objects.

    Attributes:
        endpoint: Address of the server, `http://127.0.0.1:PORT`.
        names_are_free: Whether an object may have any name; an archive names instances itself.
        expired: Status and text by which the service refuses a token that has expired, as its documentation has it.
        renews: Words of the message about it, which name the variable or the command that gives a new token.
    """

    endpoint: str
    names_are_free: bool
    expired: tuple[int, str]
    renews: str

    def put(self, name: str, content: bytes) -> None:
        """Store an object under `prefix`."""
        ...

    def delete(self, name: str) -> None:
        """Delete an object."""
        ...

    def uri(self) -> str:
        """Return the URI of all objects."""
        ...

    def in_listing(self, name: str) -> str:
        """Return a name as the service writes it in a listing."""
        ...

    def environment(self, endpoint: str) -> dict[str, str]:
        """Return the variables with which the source finds the server at `endpoint`, or a proxy in front of it."""
        ...


def servers(name: str) -> Path:
    """Return the path of a server's program below SERVERS, or skip the test."""
    found = sorted(SERVERS.glob(name))
    if not found:
        pytest.skip(f"{Path(name).name} is not installed; .ci/repositories installs it")
    return found[-1]


class Process:
    """A server process that runs within its `with` block, with a free port."""

    def __init__(self, command: Callable[[int], list[str]], ready: str, log: Path) -> None:
        (port,) = free_ports(1)
        self.endpoint = f"http://{HOST}:{port}"
        self._command = command(port)
        self._ready = f"{self.endpoint}{ready}"
        self._log = log

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(requests.RequestException):
                if requests.get(self._ready, timeout=5, proxies={"http": ""}).status_code < 500:
                    return self
            time.sleep(0.1)
        self.__exit__()
        raise RuntimeError(f"{self._command[0]} does not answer: {self._log.read_text(errors='replace')[-2000:]}")

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class S3:
    """SeaweedFS."""

    names_are_free = True
    expired = (400, "<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>m</Message></Error>")
    renews = "AWS_SESSION_TOKEN"

    def __init__(self, folder: Path, server: S3Server) -> None:
        self._server, self.endpoint, self._prefix = server, server.endpoint, folder.name
        self._client = server.client()
        with contextlib.suppress(self._client.exceptions.ClientError):
            self._client.create_bucket(Bucket="repository")

    def put(self, name: str, content: bytes) -> None:
        self._client.put_object(Bucket="repository", Key=f"{self._prefix}/{name}", Body=content)

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket="repository", Key=f"{self._prefix}/{name}")

    def uri(self) -> str:
        return f"s3://repository/{self._prefix}"

    def in_listing(self, name: str) -> str:
        return quote(name)

    def environment(self, endpoint: str) -> dict[str, str]:
        return {**self._server.environment(), "AWS_ENDPOINT_URL": endpoint}


class Gcs:
    """fake-gcs-server."""

    names_are_free = True
    expired = (401, '{"error": {"code": 401, "message": "Invalid Credentials"}}')
    renews = "gcloud auth application-default login"

    def __init__(self, folder: Path, server: Process) -> None:
        self.endpoint, self._prefix = server.endpoint, folder.name
        self._send("POST", "/storage/v1/b?project=p", json={"name": "repository"})

    def put(self, name: str, content: bytes) -> None:
        target = quote(f"{self._prefix}/{name}", safe="")
        self._send("POST", f"/upload/storage/v1/b/repository/o?uploadType=media&name={target}", data=content)

    def delete(self, name: str) -> None:
        self._send("DELETE", f"/storage/v1/b/repository/o/{quote(f'{self._prefix}/{name}', safe='')}")

    def uri(self) -> str:
        return f"gs://repository/{self._prefix}"

    def in_listing(self, name: str) -> str:
        return json.dumps(name)[1:-1]

    def environment(self, endpoint: str) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": endpoint}

    def _send(self, method: str, path: str, **named: Any) -> None:
        answer = requests.request(method, self.endpoint + path, timeout=30, proxies={"http": ""}, **named)
        assert answer.status_code in {200, 204, 409}, answer.text


class Azure:
    """Azurite."""

    names_are_free = True
    expired = (
        403,
        (
            "<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code><AuthenticationErrorDetail>Signature not "
            "valid in the specified time frame: Start [x] - Expiry [y]</AuthenticationErrorDetail></Error>"
        ),
    )
    renews = "AZURE_STORAGE_SAS_TOKEN"
    account = "devstoreaccount1"
    # The published key of every Azurite.
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def __init__(self, folder: Path, server: Process) -> None:
        from azure.core.exceptions import ResourceExistsError
        from azure.storage.blob import ContainerClient

        self.endpoint, self._prefix = server.endpoint, folder.name
        text = self.environment(self.endpoint)["AZURE_STORAGE_CONNECTION_STRING"]
        self._client = ContainerClient.from_connection_string(text, "repository")
        with contextlib.suppress(ResourceExistsError):
            self._client.create_container()

    def put(self, name: str, content: bytes) -> None:
        self._client.upload_blob(f"{self._prefix}/{name}", content, overwrite=True)

    def delete(self, name: str) -> None:
        self._client.delete_blob(f"{self._prefix}/{name}")

    def uri(self) -> str:
        return f"az://repository/{self._prefix}"

    def in_listing(self, name: str) -> str:
        return escape(name)

    def environment(self, endpoint: str) -> dict[str, str]:
        parts = {"AccountName": self.account, "AccountKey": self.key, "BlobEndpoint": f"{endpoint}/{self.account}"}
        text = ";".join(f"{name}={value}" for name, value in {"DefaultEndpointsProtocol": "http", **parts}.items())
        return {"AZURE_STORAGE_CONNECTION_STRING": text}


class Manifest:
    """SeaweedFS as a web server: objects that anybody may read, and a manifest of their URLs."""

    names_are_free = True
    expired = (
        403,
        "<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
    )
    renews = "have a new manifest made"

    def __init__(self, folder: Path, server: S3Server) -> None:
        self._server, self.endpoint, self._prefix = server, server.endpoint, folder.name
        self._names: list[str] = []
        self._client = server.client()
        with contextlib.suppress(self._client.exceptions.ClientError):
            self._client.create_bucket(Bucket="public")

    def put(self, name: str, content: bytes) -> None:
        self._client.put_object(Bucket="public", Key=f"{self._prefix}/{name}", Body=content)
        self._names = sorted({*self._names, name})
        self._write()

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket="public", Key=f"{self._prefix}/{name}")

    def uri(self) -> str:
        return f"{self._at}/public/{self._prefix}/manifest.txt"

    def environment(self, endpoint: str) -> dict[str, str]:
        self._at = endpoint
        return {}

    def _write(self) -> None:
        # The query stands for a signature: the server of a public object ignores it, and nothing may show it.
        lines = [f"{quote(name)}?signature={SECRET}" for name in self._names]
        text = "\n".join(["# objects", *lines, ""])
        self._client.put_object(Bucket="public", Key=f"{self._prefix}/manifest.txt", Body=text.encode())


class Dicomweb:
    """Orthanc with its DICOMweb plugin."""

    names_are_free = False
    expired = (401, "Unauthorized")
    renews = "DICOMWEB_TOKEN"
    user: ClassVar = ("reader", SECRET)

    def __init__(self, folder: Path, server: Process) -> None:
        self.endpoint, self._stored = server.endpoint, {}  # type: ignore[var-annotated]
        del folder

    def put(self, name: str, content: bytes) -> None:
        answer = self._send("POST", "/instances", data=content).json()
        self._stored[name] = (answer["ID"], answer["ParentStudy"])

    def delete(self, name: str) -> None:
        self._send("DELETE", f"/instances/{self._stored[name][0]}")

    def uri(self) -> str:
        studies = {study for _, study in self._stored.values()}
        (study,) = studies or {""}
        uid = self._send("GET", f"/studies/{study}").json()["MainDicomTags"]["StudyInstanceUID"] if study else "1.2.3"
        return f"dicomweb+{self._at}/dicom-web?StudyInstanceUID={uid}"

    def environment(self, endpoint: str) -> dict[str, str]:
        self._at = endpoint
        return {"DICOMWEB_USERNAME": self.user[0], "DICOMWEB_PASSWORD": self.user[1]}

    def _send(self, method: str, path: str, **named: Any) -> requests.Response:
        answer = requests.request(
            method, self.endpoint + path, timeout=30, proxies={"http": ""}, auth=self.user, **named
        )
        assert answer.status_code == 200, answer.text
        return answer


REPOSITORIES: dict[str, tuple[type[Any], str]] = {
    "s3": (S3, "server"),
    "gs": (Gcs, "gcs_server"),
    "az": (Azure, "azurite"),
    "http": (Manifest, "public_server"),
    "dicomweb+http": (Dicomweb, "orthanc"),
}
"""Class and fixture of the server, for each scheme. `SAME_AS` has the schemes that are another name of one."""

SAME_AS = {
    "abfs": "az",
    "abfss": "az",
    "https": "http",
    "dicomweb+https": "dicomweb+http",
    "idc": "s3",
}
"""Schemes whose source is that of another, with TLS or with another form of the URI."""


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Return a running fake-gcs-server."""
    program, folder = servers("fake-gcs-server-*/fake-gcs-server"), tmp_path_factory.mktemp("gcs")

    def command(port: int) -> list[str]:
        options = ["-scheme", "http", "-host", HOST, "-port", str(port), "-backend", "memory", "-log-level", "warn"]
        return [str(program), *options]

    with Process(command, "/storage/v1/b?project=p", folder / "log") as running:
        yield running


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Return a running Azurite, the Blob service alone."""
    program, folder = servers("azurite-*/node_modules/.bin/azurite-blob"), tmp_path_factory.mktemp("azurite")
    if not shutil.which("node"):
        pytest.skip("node, which runs Azurite, is not installed")

    def command(port: int) -> list[str]:
        options = ["--blobHost", HOST, "--blobPort", str(port), "--location", str(folder), "--silent"]
        return [str(program), *options, "--skipApiVersionCheck", "--disableTelemetry"]

    with Process(command, "/", folder / "log") as running:
        yield running


@pytest.fixture(scope="session")
def public_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Return a running SeaweedFS whose objects anybody may read."""
    with S3Server(tmp_path_factory.mktemp("public"), anonymous=True) as running:
        yield running


ORTHANC_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Return a running Orthanc with DICOMweb at /dicom-web, which asks for a password."""
    program, folder = (
        shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin"),
        tmp_path_factory.mktemp("orthanc"),
    )
    if not program or not ORTHANC_PLUGIN.exists():
        pytest.skip("Orthanc with its DICOMweb plugin is not installed; .ci/repositories installs it")

    def command(port: int) -> list[str]:
        settings = {
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "HttpPort": port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": dict([Dicomweb.user]),
            "Plugins": [str(ORTHANC_PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        return [str(program), str(folder / "orthanc.json")]

    with Process(command, "/", folder / "log") as running:
        yield running


@pytest.fixture(params=REPOSITORIES)
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return an empty repository of each kind, on a real server."""
    kind, server = REPOSITORIES[request.param]
    unique = tmp_path / f"{abs(hash(request.node.nodeid)):x}"
    return kind(unique, request.getfixturevalue(server))


def use(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    """Set the variables of a repository, and remove all others of its kind."""
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "DICOMWEB_", "STORAGE_EMULATOR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setenv("NO_PROXY", "*")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
