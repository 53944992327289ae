"""The compiled package `pipeline/denoise.yaml`: made from `denoise.py`, committed, and held against it."""

from __future__ import annotations

import difflib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ctbasis import parameters
from ctbasis.errors import CtbasisError
from ctbasis.installed import LAYOUT

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE = LAYOUT.compiled_pipeline

PARAMETER_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (float, int),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}


@dataclass(frozen=True)
class Claim:
    """What a run's workspace is to be, where it is not to be what `denoise.py` says.

    Attributes:
        access_mode: ReadWriteOnce or ReadWriteMany; empty leaves it.
        storage_class: A StorageClass of the cluster; empty for its default.
        size: Such as 20Gi; empty leaves it.
    """

    access_mode: str = ""
    storage_class: str = ""
    size: str = ""


def compiled(claim: Claim | None = None) -> str:
    """Compile the pipeline and return the text of the package.

    Args:
        claim: Replaces the workspace's claim of pipeline/denoise.py.

    Raises:
        CtbasisError: This installation does not hold the pipeline's source.
    """
    if not LAYOUT.pipeline_source.is_file():
        raise CtbasisError(
            f"{LAYOUT.pipeline_source} is missing: compiling needs the source of the pipeline",
            expected="a checkout of ctbasis",
            cause="ctbasis was installed from a wheel, which holds the compiled pipeline only",
            remedy="run `ctbasis compile` in a checkout, and pass its output to `ctbasis submit --package`",
        )
    from kfp import compiler

    from pipeline.denoise import denoise

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "denoise.yaml"
        compiler.Compiler().compile(denoise, str(path))
        text = path.read_text()
    return text if claim is None else _with_workspace(text, claim)


def _with_workspace(package: str, claim: Claim) -> str:
    pipeline, platform = package.split("\n---\n")
    document = yaml.safe_load(platform)
    workspace = document["platforms"]["kubernetes"]["pipelineConfig"]["workspace"]
    patch = workspace["kubernetes"]["pvcSpecPatch"]
    if claim.access_mode:
        patch["accessModes"] = [claim.access_mode]
    if claim.storage_class:
        patch["storageClassName"] = claim.storage_class
    if claim.size:
        workspace["size"] = claim.size
    return f"{pipeline}\n---\n{yaml.safe_dump(document)}"


def write(path: Path = PACKAGE, claim: Claim | None = None) -> None:
    """Compile the pipeline to `path`, whole or not at all.

    Raises:
        CtbasisError: The package would not be one, as with a size that is none; or `path` cannot be written.
    """
    text = compiled(claim)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text)
        read_package(partial)
        partial.replace(path)
    except OSError as error:
        raise CtbasisError(f"{path} cannot be written ({error.strerror or error})", remedy="choose another") from error
    finally:
        partial.unlink(missing_ok=True)


def check(path: Path = PACKAGE) -> None:
    """Hold the package at `path` against the pipeline's source.

    Raises:
        CtbasisError: They differ, or there is no package.
    """
    committed = path.read_text() if path.exists() else ""
    fresh = compiled()
    if committed == fresh:
        return
    lines = difflib.unified_diff(committed.splitlines(), fresh.splitlines(), "committed", "compiled", n=1, lineterm="")
    raise CtbasisError(
        f"{path.name} is not what pipeline/denoise.py compiles to:\n" + "\n".join(list(lines)[:40]),
        expected="the same bytes",
        cause="the source or kfp changed and the package was not compiled again",
        remedy="run `ctbasis compile` and commit the result",
    )


def read_package(package: Path) -> dict[str, Any]:
    """Return the pipeline specification in a compiled package that has no fault.

    Raises:
        CtbasisError: The lint finds something, which a server would find when the run starts or never.
    """
    from ctbasis.kubeflow.lint import lint

    faults = lint([package])
    if faults:
        shown = "\n".join(f"    {fault}" for fault in faults[:10])
        raise CtbasisError(
            f"{package.name} has {len(faults)} faults:\n{shown}",
            expected="a compiled KFP v2 package",
            remedy="run `ctbasis compile`, or correct the pipeline",
        )
    spec: dict[str, Any] = next(yaml.safe_load_all(package.read_text(encoding="utf-8")))
    if "pipelineInfo" not in spec:
        raise CtbasisError(f"{package.name} is no pipeline", expected="a compiled KFP v2 package")
    return spec


def check_arguments(spec: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Hold arguments against a package's parameters; a server would first fail the run.

    Raises:
        CtbasisError: An unknown name, a value of another type or out of bounds, or a required one left out.
    """
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    known = ", ".join(declared)
    for name, value in arguments.items():
        if name not in declared:
            raise CtbasisError(f"parameter {name!r} is not in the package", expected=f"one of {known}")
        kind = declared[name]["parameterType"]
        if not isinstance(value, PARAMETER_TYPES[kind]) or (isinstance(value, bool) and kind != "BOOLEAN"):
            raise CtbasisError(f"parameter {name!r} is a {type(value).__name__}", expected=f"a {kind}")
    missing = [name for name, one in declared.items() if not one.get("isOptional") and name not in arguments]
    if missing:
        raise CtbasisError(f"the package requires {', '.join(missing)}", remedy="give a value")
    ours = {parameter.name for parameter in parameters.PARAMETERS}
    parameters.check({name: value for name, value in arguments.items() if name in ours})
