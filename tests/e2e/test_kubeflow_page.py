"""The commands of docs/how-to/kubeflow.md lead to a run on a cluster with a registry of its own.

They are executed as they stand there, in their order, in a folder like a fresh clone. Two things stand in. The images
are those under test, which `.ci/e2e` or `make images` has built, and not built again. Kubeflow's server is that of
`tests/e2e/kfp_run.py`; `ctbasis submit` is executed by `tests/docs/test_kubeflow_page.py`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from ctbasis.installed import VERSION
from tests.docs.commands import clone, execute
from tests.e2e.cluster import SPARK_IMAGE, STEPS_IMAGE, kubectl, new_namespace, require_cluster
from tests.e2e.kfp_namespace import RunNamespace
from tests.e2e.kfp_package import Package
from tests.e2e.object_store import ObjectStore, object_store
from tests.images.registry_stand_in import RegistryStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

BUILDER = next((one for one in ("buildah", "podman") if shutil.which(one)), "")
# Layers are not compressed, which would take most of the time of the test.
PUSH_OPTIONS = f"--tls-verify=false {'--disable-compression' if BUILDER == 'buildah' else ''}".strip()
REMOVE = "Upgrade and remove"
SECONDS = 1200.0
LOGIN = {"REGISTRY_USER": "ct", "REGISTRY_PASSWORD": "stands-for-a-password"}


def variables(**values: str) -> dict[str, str]:
    """Return the settings of the page, and the names that its blocks set for one another."""
    names = dict.fromkeys(("KUBEFLOW", "SOURCE", "INCOMING"), "of no block here") | LOGIN | values
    return {"NAMESPACE": names["PROFILE"] or "kubeflow", **names}


def keys(store: ObjectStore) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": store.secret_key,
        "AWS_ENDPOINT_URL": store.endpoint,
    }


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryStandIn]:
    """Return a registry that the nodes reach as localhost, as on a cluster of one node on this machine."""
    require_cluster()
    if not BUILDER:
        pytest.skip("neither buildah nor podman is on PATH, which push the images to the registry of this test")
    for image, name in ((STEPS_IMAGE, "steps"), (SPARK_IMAGE, "spark")):
        known = subprocess.run([BUILDER, "tag", image, f"ctbasis/{name}:{VERSION}"], capture_output=True, check=False)
        if known.returncode:
            pytest.skip(f"{BUILDER} on this machine has no image {image} to push to the registry of this test")
    (tmp_path / "blobs").mkdir()
    with RegistryStandIn(tmp_path / "blobs") as made:
        yield made
    shutil.rmtree(tmp_path / "blobs")


def test_a_run_from_a_fresh_clone_pulls_its_images_from_a_registry_of_its_own(
    registry: RegistryStandIn, ct: Path, tmp_path: Path
) -> None:
    folder = clone(tmp_path / "clone")
    with new_namespace() as name:
        kubectl("-n", name, "create", "serviceaccount", "default-editor")  # Kubeflow makes it with a profile
        runs = RunNamespace.create(name, object_store(name), tmp_path)
        source = runs.upload(ct)
        # The page creates these.
        kubectl("-n", name, "delete", "secret", "ctbasis-s3")
        given = variables(REGISTRY=f"{registry.host}/lab", PROFILE=name, **keys(runs.store))
        push = {"BUILDER": BUILDER, "PUSH_OPTIONS": PUSH_OPTIONS, "VERSION": VERSION}
        done = subprocess.run(
            ["make", "push", *(f"{key}={value}" for key, value in (push | {"REGISTRY": given["REGISTRY"]}).items())],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said = execute(folder, kinds={"here", "cluster"}, variables=given, seconds=SECONDS, but=REMOVE)
        assert "missing" not in said
        assert "the account default-editor may start Spark applications" in said
        template = json.loads(kubectl("-n", name, "get", "sparkapplication", "ctbasis-svd", "-o", "json"))
        assert template["spec"]["image"].startswith(f"{registry.host}/lab/spark@sha256:")
        package = Package.read(folder / "here" / "denoise.yaml")
        run = runs.run(package, source=source, mode="global", rank="5", ranks="5", engine="mahout")
        run.succeed()
        pods = json.loads(kubectl("-n", name, "get", "pods", "-o", "json"))["items"]
        used = {container["image"] for pod in pods for container in pod["spec"]["containers"]}
        by_digest = {f"{registry.host}/{repository}@{digest}" for repository, digest in registry.pulled}
        # The steps' and the Spark image, each pulled by its digest; a tag of the same image on the node does not count.
        assert {image.partition("@")[0] for image in used & by_digest} == {
            f"{registry.host}/lab/{one}" for one in ("steps", "spark")
        }
        execute(folder, kinds={"cluster"}, variables=given, seconds=SECONDS, only=REMOVE)
        runs.empty_bucket()
        left = kubectl("-n", name, "get", "sparkapplications,roles,secrets", "-o", "name").split()
        assert not [one for one in left if one.rpartition("/")[2] in {"ctbasis-svd", "ctbasis-launch", "ctbasis-s3"}]


def test_the_commands_install_into_the_namespace_of_a_single_user_kubeflow(tmp_path: Path) -> None:
    require_cluster()
    if "namespace/kubeflow" in kubectl("get", "namespaces", "-o", "name").split():
        pytest.skip("the cluster has a namespace kubeflow, which this test would change")
    folder = clone(tmp_path / "clone")
    (folder / "here").mkdir()
    images = {name: f"registry.example.com/lab/{name.lower()}@sha256:{'0' * 64}" for name in ("STEPS", "SPARK")}
    (folder / "here" / "images.env").write_text("".join(f"{name}_IMAGE={image}\n" for name, image in images.items()))
    kubectl("create", "namespace", "kubeflow")
    try:
        kubectl("-n", "kubeflow", "create", "serviceaccount", "pipeline-runner")
        given = variables(
            REGISTRY="registry.example.com/lab", PROFILE="", **keys(ObjectStore("http://s3:8333", "key", "secret"))
        )
        said = execute(folder, kinds={"here", "cluster"}, variables=given, seconds=SECONDS, but=REMOVE)
        assert "missing" not in said
        assert "the account pipeline-runner may start Spark applications" in said
        execute(folder, kinds={"cluster"}, variables=given, seconds=SECONDS, only=REMOVE)
    finally:
        kubectl("delete", "namespace", "kubeflow", "--wait=false")
