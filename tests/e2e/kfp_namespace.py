"""A namespace in which the compiled package can be run: rights, bucket, Secret, and a series in S3."""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.cluster import CHECKOUT, SPARK_IMAGE, STEPS_IMAGE, base, hardened, kubectl, pod, ready
from tests.e2e.kfp_pods import ACCOUNT, BUCKET, BUCKET_PATH, PIPELINE_ROOT, Package, artifacts_claim, launcher_source
from tests.e2e.kfp_run import Run
from tests.e2e.object_store import ObjectStore, apply

WORKBENCH = "workbench"
ACCESS_MODE = os.environ.get("CTBASIS_E2E_ACCESS_MODE", "ReadWriteOnce")
"""Access mode of the workspace. The package requests ReadWriteMany, for which a test cluster rarely has a class."""

TEMPLATE = "manifests/application"

UPLOAD = """
import sys, tarfile
from concurrent.futures import ThreadPoolExecutor
import boto3
from botocore.config import Config
bucket = sys.argv[1]
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
if bucket not in {entry["Name"] for entry in s3.list_buckets().get("Buckets", [])}:
    s3.create_bucket(Bucket=bucket)
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar, ThreadPoolExecutor(8) as pool:
    puts = [pool.submit(s3.put_object, Bucket=bucket, Key=member.name, Body=tar.extractfile(member).read())
            for member in tar if member.isfile()]
    for put in puts:
        put.result()
print(len(puts))
"""

EMPTY = """
import sys
import boto3
from botocore.config import Config
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
for page in s3.get_paginator("list_objects_v2").paginate(Bucket=sys.argv[1]):
    for entry in page.get("Contents", []):
        s3.delete_object(Bucket=sys.argv[1], Key=entry["Key"])
s3.delete_bucket(Bucket=sys.argv[1])
"""

KEYS = """
import sys
import boto3
from botocore.config import Config
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
for page in s3.get_paginator("list_objects_v2").paginate(Bucket=sys.argv[1], Prefix=sys.argv[2]):
    for entry in page.get("Contents", []):
        print(entry["Key"])
"""


@dataclass
class RunNamespace:
    """A namespace for runs.

    Attributes:
        name: Name of the namespace and of its bucket in S3.
        store: The S3 endpoint as the pods reach it.
    """

    name: str
    store: ObjectStore
    _uploaded: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def create(cls, name: str, store: ObjectStore, scratch: Path) -> RunNamespace:
        """Create the objects that a run needs in the existing namespace `name`."""
        kubectl("apply", "-f", "-", given=base(name, scratch))
        kubectl("-n", name, "create", "serviceaccount", ACCOUNT)
        binding = ["rolebinding", ACCOUNT, "--role=ctbasis-launch", f"--serviceaccount={name}:{ACCOUNT}"]
        kubectl("-n", name, "create", *binding)
        apply(name, launcher_source(), artifacts_claim(), store.secret(), _workbench())
        ready(name, WORKBENCH)
        return cls(name, store)

    def kubectl(self, *command: str, given: str | bytes | None = None) -> str:
        return kubectl("-n", self.name, *command, given=given)

    def python(self, program: str, *arguments: str, given: bytes | None = None) -> str:
        """Run a Python program in a pod that mounts the bucket and has the variables of the Secret."""
        command = ("exec", "-i", WORKBENCH, "--", "python3", "-c", program, *arguments)
        return kubectl("-n", self.name, *command, given=given, seconds=600)

    def upload(self, series: Path) -> str:
        """Upload a folder to S3 through a pod, and return its URI."""
        if series not in self._uploaded:
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as tar:
                tar.add(series, arcname="series")
            files = int(self.python(UPLOAD, self.name, given=packed.getvalue()))
            assert files == sum(path.is_file() for path in series.rglob("*"))
            self._uploaded[series] = f"s3://{self.name}/series"
        return self._uploaded[series]

    def empty_bucket(self) -> None:
        """Remove the bucket of the namespace from an S3 server that outlives the namespace."""
        if self._uploaded:
            self.python(EMPTY, self.name)

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of the namespace's bucket below `prefix`."""
        return self.python(KEYS, self.name, prefix).splitlines()

    def run(self, package: Package, **arguments: Any) -> Run:
        """Start a run."""
        return Run(package, arguments, self.name).start()

    def artifact(self, run: Run, task: str, name: str, target: Path) -> Path:
        """Copy an artifact of a run to this machine: a folder, or a file of that name."""
        uri = run.executions[task].artifacts[name]["uri"]
        place = Path(BUCKET_PATH) / uri.removeprefix("minio://")
        assert uri.startswith(PIPELINE_ROOT)
        command = [
            "kubectl",
            "-n",
            self.name,
            "exec",
            WORKBENCH,
            "--",
            "tar",
            "-C",
            str(place.parent),
            "-c",
            place.name,
        ]
        done = subprocess.run(command, capture_output=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr.decode()
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
            tar.extractall(target, filter="data")
        return target / place.name

    def applications(self) -> list[dict[str, Any]]:
        """Return the applications of runs, without the suspended template."""
        found = json.loads(self.kubectl("get", "sparkapplications", "-o", "json"))["items"]
        return [one for one in found if not one["spec"].get("suspend")]

    def pods(self, selector: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", "pods", "-l", selector, "-o", "json"))["items"]
        return found

    def change_template(self, **changes: Any) -> None:
        """Create or replace the SparkApplication template of the namespace; later runs use it.

        Args:
            changes: Changes of the spec of the base's template: mappings are merged, other values are replaced.
        """
        template = yaml.safe_load(kubectl("kustomize", str(CHECKOUT / TEMPLATE)))
        _merge(template["spec"], {"image": SPARK_IMAGE, **changes})
        apply(self.name, template)


def small_package(*, until: str = "", svd_memory: str = "2Gi") -> Package:
    """Return the compiled package, adapted to a small cluster.

    With `until`, the package contains only that task, the tasks that it depends on, and the exit handler.

    The limits are unchanged. Requests are lowered, so that the steps of several runs fit on two cores beside the pods
    of the cluster. The access mode of the workspace is the one that the cluster supports, and the images are those
    under test.
    """
    package = Package.read()
    if until:
        package.end_at(until)
    for label, executor in package.spec["deploymentSpec"]["executors"].items():
        container = executor["container"]
        container["image"] = STEPS_IMAGE
        container["resources"] |= {"resourceCpuRequest": "100m", "resourceMemoryRequest": "256Mi"}
        if label == "exec-svd":
            container["resources"] |= {"resourceMemoryRequest": svd_memory, "resourceMemoryLimit": svd_memory}
    workspace = package.platform["pipelineConfig"]["workspace"]
    workspace["kubernetes"]["pvcSpecPatch"]["accessModes"] = [ACCESS_MODE]
    return package


def _merge(target: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = copy.deepcopy(value)


def _workbench() -> dict[str, Any]:
    """Return a pod that mounts the bucket and belongs to no run."""
    container = hardened(
        STEPS_IMAGE,
        name=WORKBENCH,
        command=["sleep", "infinity"],
        envFrom=[{"secretRef": {"name": "ctbasis-s3"}}],
        volumeMounts=[{"name": BUCKET, "mountPath": BUCKET_PATH}],
    )
    return pod(WORKBENCH, container, volumes=[{"name": BUCKET, "persistentVolumeClaim": {"claimName": BUCKET}}])
