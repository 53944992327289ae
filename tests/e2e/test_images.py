"""The images in hardened pods of the cluster: they contain all that the programs import, and nothing else."""

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

LEFTOVERS = """
import json, os, shutil, stat, sys
tools = "gcc g++ cc c++ ld as javac jlink mvn make pip pip3 uv git curl wget gpg".split()
found = {"uid": os.getuid(), "tools": [tool for tool in tools if shutil.which(tool)], "development_files": [],
         "caches": [], "writable": [], "settings": []}
for folder, folders, files in os.walk("/"):
    mounted = {"/proc", "/sys", "/dev", "/tmp", "/run/secrets"}
    folders[:] = [name for name in folders if os.path.join(folder, name) not in mounted]
    for name in files:
        path = os.path.join(folder, name)
        if name.endswith((".a", ".h", ".hpp", ".pyx", ".pxd")):
            found["development_files"].append(path)
        if path.startswith(("/var/lib/apt/lists/", "/root/.m2/", "/root/.cache/")):
            found["caches"].append(path)
        if name in {"pip.conf", "settings.xml", ".npmrc", ".netrc", "credentials"} and os.path.getsize(path):
            found["settings"].append(path)
        if not os.path.islink(path) and os.access(path, os.W_OK):
            found["writable"].append(path)
json.dump(found, sys.stdout)
"""

EVERY_MODULE = """
import importlib, pkgutil, re
import ctbasis
names = [module.name for module in pkgutil.walk_packages(ctbasis.__path__, "ctbasis.")]
# The image has Ray only if it was built with EXTRAS="--extra ray".
absent = re.compile(r"ctbasis\\.svd\\.engines\\.ray|.*\\.__main__")
names = [name for name in names if not absent.fullmatch(name)]
for name in names:
    importlib.import_module(name)
# `ctbasis submit` in a CronJob reads, checks and sends the package of the image.
from ctbasis.installed import LAYOUT
from ctbasis.kubeflow.package import read_package
assert read_package(LAYOUT.compiled_pipeline)["pipelineInfo"]["name"] == "ctbasis-denoise"
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


def output_of(image: str, program: str, *arguments: str) -> str:
    """Return the output of a Python program in a pod of `image` with a read-only root file system."""
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
def test_an_image_has_no_compilers_caches_or_settings_and_no_writable_files(image: str) -> None:
    found = json.loads(output_of(image, LEFTOVERS))
    assert found == {
        "uid": 185,
        "tools": [],
        "development_files": [],
        "caches": [],
        "settings": [],
        "writable": [],
    }


def test_the_steps_image_has_all_packages_that_ctbasis_imports() -> None:
    assert int(output_of(STEPS_IMAGE, EVERY_MODULE)) > 0


def test_the_spark_image_has_all_packages_that_driver_and_executors_import() -> None:
    modules = [
        *("ctbasis.spark.driver", "ctbasis.spark.fused", "ctbasis.spark.worker_daemon", "ctbasis.svd.engines.mahout"),
        *("ctbasis.svd.engines.spark", "ctbasis.patch.mahout", "ctbasis.matrix.store", "ctbasis.svd.factors"),
    ]
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint('all')"
    assert output_of(SPARK_IMAGE, program, *modules).split() == ["all"]


def test_the_matrix_step_has_a_decoder_for_every_compression_that_scanners_write() -> None:
    available = set(json.loads(output_of(STEPS_IMAGE, DECODERS)))
    assert {name for name, uid in COMPRESSED.items() if uid not in available} == set()
