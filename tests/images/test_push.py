"""`make push` pushes the images of `make images` and writes the names by which a cluster pulls them."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctbasis.installed import VERSION
from ctbasis.kubeflow.cluster_settings import ClusterSettings
from tests.images.registry_stand_in import RegistryStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[2]
BUILDER = next((one for one in ("buildah", "podman") if shutil.which(one)), None)

pytestmark = pytest.mark.skipif(BUILDER is None, reason="neither buildah nor podman is on PATH")


def builder(*command: str) -> str:
    assert BUILDER
    return subprocess.run([BUILDER, *command], check=True, capture_output=True, text=True, timeout=120).stdout.strip()


@pytest.fixture
def version(tmp_path: Path) -> Iterator[str]:
    """Build two images from a file each, and return the version that is their tag."""
    version = f"{VERSION}-{uuid.uuid4().hex[:8]}"
    for image in ("steps", "spark"):
        (tmp_path / "Dockerfile").write_text(f"FROM scratch\nCOPY Dockerfile /{image}\n")
        builder("build", "--tag", f"ctbasis/{image}:{version}", str(tmp_path))
    yield version
    names = builder("images", "--format", "{{.Name}}:{{.Tag}}").split()
    builder("rmi", "--force", *(name for name in names if name.endswith(f":{version}")))


def test_make_push_writes_the_names_with_the_digests_that_the_registry_has(version: str, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    pushed = tmp_path / "here" / "images.env"
    with RegistryStandIn(tmp_path / "blobs") as registry:
        folder = f"{registry.host}/lab/ctbasis"
        variables = [f"REGISTRY={folder}", f"VERSION={version}", f"PUSHED={pushed}", f"BUILDER={BUILDER}"]
        command = ["make", "--no-print-directory", "push", *variables, "PUSH_OPTIONS=--tls-verify=false"]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    written = dict(line.split("=", 1) for line in pushed.read_text().splitlines())
    assert list(written) == ["STEPS_IMAGE", "SPARK_IMAGE"]
    for name, image in written.items():
        repository = f"lab/ctbasis/{name.partition('_')[0].lower()}"
        pulled, _, digest = image.partition("@")
        assert pulled == f"{registry.host}/{repository}"
        assert (repository, digest) in registry.manifests
        assert registry.manifests[repository, digest] == registry.manifests[repository, version]
        assert ClusterSettings(steps_image=image)


def test_make_push_without_a_registry_says_what_is_lacking() -> None:
    done = subprocess.run(["make", "push"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "make push REGISTRY=registry.example.com/ctbasis" in done.stderr
