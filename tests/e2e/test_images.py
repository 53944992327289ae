"""What lies in the images that the cluster runs, and that it is enough, seen from hardened pods."""

from __future__ import annotations

import json

import pytest

from tests.e2e.cluster import (
    GENEROUS_SECONDS,
    SPARK_IMAGE,
    STEPS_IMAGE,
    hardened,
    kubectl,
    new_namespace,
    pod,
    wait_until,
)

pytestmark = pytest.mark.e2e

LEFT_BEHIND = """
import json, os, shutil, stat, sys
tools = "gcc g++ cc c++ ld as javac jlink mvn make pip pip3 uv git curl wget gpg".split()
found = {"uid": os.getuid(), "tools": [tool for tool in tools if shutil.which(tool)], "wanted_by_compilers": [],
         "caches": [], "writable": [], "settings": []}
for folder, folders, files in os.walk("/"):
    mounted = {"/proc", "/sys", "/dev", "/tmp", "/run/secrets"}
    folders[:] = [name for name in folders if os.path.join(folder, name) not in mounted]
    for name in files:
        path = os.path.join(folder, name)
        if name.endswith((".a", ".h", ".hpp", ".pyx", ".pxd")):
            found["wanted_by_compilers"].append(path)
        if path.startswith(("/var/lib/apt/lists/", "/root/.m2/", "/root/.cache/")):
            found["caches"].append(path)
        if name in {"pip.conf", "settings.xml", ".npmrc", ".netrc", "credentials"} and os.path.getsize(path):
            found["settings"].append(path)
        if not os.path.islink(path) and os.access(path, os.W_OK):
            found["writable"].append(path)
json.dump(found, sys.stdout)
"""

EVERY_MODULE = """
import importlib, pkgutil
import ctbasis
names = [module.name for module in pkgutil.walk_packages(ctbasis.__path__, "ctbasis.")]
names.remove("ctbasis.svd.engines.ray")  # the image has it where it was built with EXTRAS="--extra ray"
for name in names:
    importlib.import_module(name)
print(len(names))
"""

DECODERS = """
import json
from pydicom.pixels.decoders.base import _PIXEL_DATA_DECODERS
print(json.dumps([str(uid) for uid, (decoder, *_) in _PIXEL_DATA_DECODERS.items() if decoder.is_available]))
"""

COMPRESSED = {
    "RLE Lossless": "1.2.840.10008.1.2.5",
    "JPEG-LS Lossless": "1.2.840.10008.1.2.4.80",
    "JPEG-LS Near-Lossless": "1.2.840.10008.1.2.4.81",
    "JPEG 2000 Lossless": "1.2.840.10008.1.2.4.90",
    "JPEG 2000": "1.2.840.10008.1.2.4.91",
    "HTJ2K Lossless": "1.2.840.10008.1.2.4.201",
    "JPEG Baseline": "1.2.840.10008.1.2.4.50",
}


def said(image: str, program: str, *arguments: str) -> str:
    """Return what a Python program prints in a pod of `image` whose root file system is read-only."""
    with new_namespace() as name:
        kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        container = hardened(
            image,
            name="main",
            command=["python3", "-c", program, *arguments],
            volumeMounts=[{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - a mount of the pod
        )
        container["securityContext"]["readOnlyRootFilesystem"] = True
        made = pod("look", container, volumes=[{"name": "tmp", "emptyDir": {}}], restartPolicy="Never")
        kubectl("--namespace", name, "create", "--filename=-", given=json.dumps(made))
        phase = ["--namespace", name, "get", "pod", "look", "--output=jsonpath={.status.phase}"]
        end = wait_until(
            lambda: (now := kubectl(*phase)) in {"Succeeded", "Failed"} and now, "the pod ends", GENEROUS_SECONDS
        )
        printed = kubectl("--namespace", name, "logs", "look")
        assert end == "Succeeded", printed
        return printed


@pytest.mark.parametrize("image", [SPARK_IMAGE, STEPS_IMAGE])
def test_no_compiler_no_cache_and_no_settings_are_left_and_nothing_can_be_written(image: str) -> None:
    found = json.loads(said(image, LEFT_BEHIND))
    assert found == {
        "uid": 185,
        "tools": [],
        "wanted_by_compilers": [],
        "caches": [],
        "settings": [],
        "writable": [],
    }


def test_every_step_finds_what_it_imports() -> None:
    assert int(said(STEPS_IMAGE, EVERY_MODULE)) > 0


def test_driver_and_executors_find_what_they_import() -> None:
    job = ["ctbasis.spark.driver", "ctbasis.svd.engines.mahout", "ctbasis.matrix.store", "ctbasis.svd.factors"]
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint('all')"
    assert said(SPARK_IMAGE, program, *job).split() == ["all"]


def test_the_matrix_step_has_a_decoder_for_every_compression_that_scanners_write() -> None:
    available = set(json.loads(said(STEPS_IMAGE, DECODERS)))
    assert {name for name, uid in COMPRESSED.items() if uid not in available} == set()
