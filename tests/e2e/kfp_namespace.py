"""A namespace in which the compiled package can be run: rights, bucket, Secret, and a series in S3."""

from __future__ import annotations

import copy
import functools
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.cluster import CHECKOUT, SPARK_IMAGE, STEPS_IMAGE, base, hardened, kubectl, pod, ready
from tests.e2e.kfp_compiler import ACCOUNT
from tests.e2e.kfp_driver import PIPELINE_ROOT
from tests.e2e.kfp_package import Package
from tests.e2e.kfp_run import WORKBENCH, Run
from tests.e2e.kfp_templates import BUCKET, BUCKET_PATH, PROGRAMS
from tests.e2e.object_store import EMPTY_BUCKET, ObjectStore, apply

ACCESS_MODE = os.environ.get("CTBASIS_E2E_ACCESS_MODE", "ReadWriteOnce")
"""Access mode of the workspace. The package requests ReadWriteMany, for which a test cluster rarely has a class."""

TEMPLATE = "manifests/application"
PULL_SECRET = "registry-login"  # noqa: S105 - the name of a Secret, not its content
"""Name of the Secret by which the nodes would pull the steps' image, if they did not have it."""

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
        """Create the objects that a run needs in the existing namespace `name`, which admits *restricted* pods only."""
        kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        kubectl("apply", "-f", "-", given=base(name, scratch))
        kubectl("-n", name, "create", "serviceaccount", ACCOUNT)
        binding = ["rolebinding", ACCOUNT, "--role=ctbasis-launch", f"--serviceaccount={name}:{ACCOUNT}"]
        kubectl("-n", name, "create", *binding)
        apply(name, *_executor_rights(), _programs(), _artifacts_claim(), store.secret())
        apply(name, _pull_secret(), _workbench())
        ready(name, WORKBENCH)
        return cls(name, store)

    def kubectl(self, *command: str, given: str | bytes | None = None) -> str:
        return kubectl("-n", self.name, *command, given=given)

    def python(self, program: str, *arguments: str, given: bytes | None = None) -> str:
        """Run a Python program in a pod that mounts the bucket and has the variables of the Secret."""
        command = ("exec", "-i", WORKBENCH, "--", "python3", "-c", program, *arguments)
        return kubectl("-n", self.name, *command, given=given, seconds=600)

    def upload(self, series: Path, name: str = "series") -> str:
        """Upload a folder to S3 through a pod, below a prefix of the bucket, and return its URI."""
        if series not in self._uploaded:
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as tar:
                tar.add(series, arcname=name)
            files = int(self.python(UPLOAD, self.name, given=packed.getvalue()))
            assert files == sum(path.is_file() for path in series.rglob("*"))
            self._uploaded[series] = f"s3://{self.name}/{name}"
        return self._uploaded[series]

    def empty_bucket(self) -> None:
        """Remove the bucket of the namespace from an S3 server that outlives the namespace."""
        if self._uploaded:
            self.python(EMPTY_BUCKET, self.name)

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of the namespace's bucket below `prefix`."""
        return self.python(KEYS, self.name, prefix).splitlines()

    def run(self, package: Package, **arguments: Any) -> Run:
        """Start a run."""
        return Run(package, arguments, self.name).start()

    def artifact(self, run: Run, task: str, name: str, target: Path) -> Path:
        """Copy an artifact of a run to this machine: a folder, or a file of that name."""
        uri = run.executions()[task].artifacts[name]["uri"]
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
        template = copy.deepcopy(_template())
        _merge(template["spec"], changes)
        apply(self.name, template)


def cohort_package() -> Package:
    """Return the pipeline of cohorts as `ctbasis compile` writes it for a small cluster."""
    return copy.deepcopy(_compiled("2Gi", "cohort"))


def small_package(*, until: str = "", svd_memory: str = "2Gi") -> Package:
    """Return the pipeline as `ctbasis compile` writes it for a small cluster with a private registry.

    With `until`, the package contains only that task, the tasks that it depends on, and the exit handler. The Spark
    pods request little, so that those of several runs fit on two cores.
    """
    package = copy.deepcopy(_compiled(svd_memory))
    if until:
        package.end_at(until)
    return package


@functools.cache
def _compiled(svd_memory: str, pipeline: str = "denoise") -> Package:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"{pipeline}.yaml"
        settings = {
            "--pipeline": pipeline,
            "--steps-image": STEPS_IMAGE,
            "--pull-secret": PULL_SECRET,
            "--pull-policy": "IfNotPresent",
            "--access-mode": ACCESS_MODE,
            "--size": "small",
            "--requests": f"svd:cpu=100m,memory={svd_memory}",
        }
        options = [part for option, value in settings.items() for part in (option, value)]
        command = [str(Path(sys.executable).with_name("ctbasis")), "compile", "--out", str(out), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return Package.read(out)


@functools.cache
def _template() -> dict[str, Any]:
    """Return the template of the SparkApplications with the image under test, as a kustomization names it."""
    image = image_entry("ctbasis/spark", SPARK_IMAGE)
    with tempfile.TemporaryDirectory() as folder:
        relative = os.path.relpath(CHECKOUT / TEMPLATE, Path(folder).resolve())
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [relative], "images": [image]}))
        found: dict[str, Any] = yaml.safe_load(kubectl("kustomize", folder))
        return found


def image_entry(name: str, image: str) -> dict[str, str]:
    """Return the entry of a kustomization's `images` that replaces the image `name` by `image`, a tag or a digest."""
    new_name, _, digest = image.partition("@")
    if digest:
        return {"name": name, "newName": new_name, "digest": digest}
    return {"name": name, **dict(zip(("newName", "newTag"), new_name.rsplit(":", 1), strict=True))}


def _merge(target: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = copy.deepcopy(value)


def _pull_secret() -> dict[str, Any]:
    """Return a Secret for a registry that no test asks."""
    login = json.dumps({"auths": {"registry.example.com": {"auth": "bm9ib2R5Om5vdGhpbmc="}}})
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson"}
    return {**secret, "metadata": {"name": PULL_SECRET}, "stringData": {".dockerconfigjson": login}}


def _executor_rights() -> list[dict[str, Any]]:
    """Return the rights that KFP gives its account for Argo's executor, to report the results of a pod."""
    name = "argo-executor"
    rule = {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]}
    api, group = "rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
    role = {"apiVersion": api, "kind": "Role", "metadata": {"name": name}, "rules": [rule]}
    binding = {
        "apiVersion": api,
        "kind": "RoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT}],
    }
    return [role, binding]


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


def _programs() -> dict[str, Any]:
    """Return the ConfigMap with the programs of driver and launcher."""
    here = Path(__file__)
    sources = {name: here.with_name(f"kfp_{name}.py").read_text() for name in ("driver", "launcher")}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": PROGRAMS}, "data": sources}


def _artifacts_claim(storage: str = "5Gi") -> dict[str, Any]:
    """Return the claim that replaces KFP's bucket and its database."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": BUCKET},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage}}},
    }
