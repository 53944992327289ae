"""`ctbasis lint --cluster` misses nothing where the overlay of Kubeflow is applied, and names what is removed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.cluster import CHECKOUT, STEPS_IMAGE, kubectl, new_namespace
from tests.e2e.installed import rendered
from tests.e2e.object_store import ObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

ACCOUNT = "pipeline-runner"
CTBASIS = str(Path(sys.executable).with_name("ctbasis"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return a namespace with the overlay `kubeflow`, the account of the runs and the Secret of S3; no pod runs."""
    folder = tmp_path_factory.mktemp("overlay")
    with new_namespace() as name:
        kubectl("apply", "-f", "-", given=rendered(CHECKOUT / "manifests" / "overlays" / "kubeflow", name, folder))
        kubectl("-n", name, "create", "serviceaccount", ACCOUNT)
        secret = ObjectStore("http://s3.example.com", "key", "secret").secret()
        kubectl("-n", name, "apply", "-f", "-", given=json.dumps(secret))
        yield name


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the package as compiled for a small cluster."""
    out = tmp_path_factory.mktemp("package") / "here.yaml"
    settings = ["--steps-image", STEPS_IMAGE, "--access-mode", "ReadWriteOnce", "--size", "small"]
    subprocess.run([CTBASIS, "compile", "--out", str(out), *settings], check=True, capture_output=True)
    return out


def lint(namespace: str, package: Path) -> tuple[int, list[str]]:
    """Return the exit code of `ctbasis lint --cluster`, and its lines about the cluster."""
    command = [CTBASIS, "lint", "--cluster", "--namespace", namespace, "--account", ACCOUNT, str(package)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, [*done.stdout.splitlines(), *done.stderr.splitlines()]


def missing(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("missing")]


def test_nothing_is_missing_in_a_prepared_namespace(prepared: str, package: Path) -> None:
    code, lines = lint(prepared, package)
    assert not [line for line in missing(lines) if " images: " not in line], lines
    assert code == (2 if missing(lines) else 0), lines
    assert sum(line.startswith("ok ") for line in lines) >= 6, lines


def test_a_deleted_template_and_a_deleted_rolebinding_are_named_with_the_command_that_restores_them(
    prepared: str, package: Path
) -> None:
    kubectl("-n", prepared, "delete", "rolebinding", "ctbasis-launch")
    kubectl("-n", prepared, "delete", "sparkapplication", "ctbasis-svd")
    code, lines = lint(prepared, package)
    assert code == 2
    found = "\n".join(lines)
    assert any("rights" in line and ACCOUNT in line for line in missing(lines)), found
    assert any("SparkApplication" in line or "template" in line for line in lines if not line.startswith("ok ")), found
    assert "kubectl" in found
