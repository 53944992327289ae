"""The Python packages that each image installs are sufficient for the modules of ctbasis that run in it."""

from __future__ import annotations

import importlib.metadata
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Collection

ROOT = Path(__file__).parents[2]

SPARK_MODULES = (
    *("ctbasis.spark.driver", "ctbasis.spark.fused", "ctbasis.spark.worker_daemon", "ctbasis.patch.mahout"),
    *("ctbasis.svd.engines.numpy", "ctbasis.svd.engines.spark", "ctbasis.svd.engines.mahout", "ctbasis.patch.denoise"),
    *("ctbasis.patch.matrix", "ctbasis.dicom.deidentify.deidentification", "ctbasis.storage.s3"),
)
"""The driver program and what it imports when it runs."""

OPTIONAL_MODULES = r"ctbasis\.svd\.engines\.ray|ctbasis\.kubeflow\.lint(\..*)?|.*\.__main__"
"""Modules that need an extra which the image has only if it is built with it, and the lint."""

STEP_MODULES = (
    "kfp.dsl.executor_main",
    *(
        module.name
        for module in pkgutil.walk_packages([str(ROOT / "ctbasis")], "ctbasis.")
        if not re.fullmatch(OPTIONAL_MODULES, module.name)
    ),
)
"""KFP's executor and all modules of ctbasis, without the optional ones."""

PROGRAM = """
import importlib, json, sys

absent, modules = json.loads(sys.argv[1])

class Present:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Present, sys.meta_path)
for module in modules:
    importlib.import_module(module)
"""


def requirements_of(requirement: Requirement) -> list[Requirement]:
    """Return the requirements of an installed package that apply here with the requested extras."""
    requires = map(Requirement, importlib.metadata.requires(requirement.name) or [])
    return [
        required
        for required in requires
        if required.marker is None
        or any(required.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras))
    ]


def with_dependencies(requirements: list[Requirement], *, excluded: Collection[str] = ()) -> set[str]:
    """Return the names of packages and of all their dependencies."""
    names: set[str] = set()
    done: set[str] = set()
    queue = list(requirements)
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if str(requirement) in done or name in excluded:
            continue
        done.add(str(requirement))
        names.add(name)
        queue += requirements_of(requirement)
    return names


def import_with(packages: set[str], modules: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Import `modules` in a new process in which only `packages` and ctbasis can be imported."""
    present = packages | {"ctbasis"}
    absent = [
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if not {canonicalize_name(name) for name in distributions} & present
    ]
    arguments = json.dumps([absent, modules])
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def spark_packages() -> set[str]:
    """Return the packages that the Dockerfile of the Spark image installs, with their dependencies."""
    text = (ROOT / "images" / "spark" / "Dockerfile").read_text()
    pruned = {canonicalize_name(name) for name in re.findall(r"--prune (\S+)", text)}
    assert {"kfp", "kubernetes", "matplotlib"} <= pruned
    return with_dependencies(requirements_of(Requirement("ctbasis")), excluded=pruned)


def step_packages() -> set[str]:
    """Return the packages that the Dockerfile of the steps' image installs, all but the excluded ones."""
    text = (ROOT / "images" / "steps" / "Dockerfile").read_text()
    excluded = {canonicalize_name(name) for name in re.findall(r"--no-emit-package (\S+)", text)}
    extras = re.findall(r"--extra (\w+)", re.findall(r'ARG EXTRAS="(.*)"', text)[0])
    names = with_dependencies(requirements_of(Requirement(f"ctbasis[{','.join(extras)}]")), excluded=excluded)
    assert excluded == {"pyspark", "py4j"}
    return names


def test_the_driver_program_imports_only_packages_of_the_spark_image() -> None:
    done = import_with(spark_packages(), SPARK_MODULES)
    assert done.returncode == 0, done.stderr


def test_the_steps_import_only_packages_of_their_image() -> None:
    done = import_with(step_packages(), STEP_MODULES)
    assert done.returncode == 0, done.stderr


def test_a_package_that_the_spark_image_lacks_is_noticed() -> None:
    done = import_with(spark_packages() - {"google-crc32c"}, SPARK_MODULES)
    assert done.returncode != 0
    assert "No module named 'google_crc32c'" in done.stderr
