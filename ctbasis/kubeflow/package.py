"""The compiled pipeline `pipeline/denoise.yaml`: compiles it from `denoise.py`, and checks it against its source."""

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
from ctbasis.storage.outputs import replaced_file

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE = LAYOUT.compiled_pipeline
"""The compiled pipeline of this installation."""

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
    """The volume claim of a run's workspace. An empty attribute keeps the value of `denoise.py`.

    Attributes:
        access_mode: ReadWriteOnce or ReadWriteMany.
        storage_class: A StorageClass of the cluster; `denoise.py` uses the cluster's default.
        size: A quantity such as 20Gi.
    """

    access_mode: str = ""
    storage_class: str = ""
    size: str = ""


def compiled(claim: Claim | None = None) -> str:
    """Compile the pipeline and return the text of the package.

    Args:
        claim: The volume claim of the workspace, in place of that of pipeline/denoise.py.

    Raises:
        CtbasisError: This installation does not contain the pipeline's source.
    """
    if not LAYOUT.pipeline_source.is_file():
        raise CtbasisError(
            f"{LAYOUT.pipeline_source} is missing: compiling needs the source of the pipeline",
            expected="a checkout of ctbasis",
            cause="ctbasis was installed from a wheel, which contains only the compiled pipeline",
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
    """Compile the pipeline to a file, which is either written completely or left unchanged.

    Args:
        path: The file.
        claim: The volume claim of the workspace, in place of that of pipeline/denoise.py.

    Raises:
        CtbasisError: The package would have a fault, such as an invalid size of the workspace; `path` cannot be
            written; or this installation does not contain the pipeline's source.
    """
    text = compiled(claim)
    try:
        with replaced_file(path) as temporary:
            temporary.write_text(text)
            read_package(temporary)
    except OSError as error:
        raise CtbasisError(
            f"{path} cannot be written ({error.strerror or error})",
            expected="a path in a folder that exists and can be written to",
            remedy="choose another path",
        ) from error


def check(path: Path = PACKAGE) -> None:
    """Check that the package at `path` is the output of compiling the pipeline.

    Raises:
        CtbasisError: It differs, there is no package, or this installation does not contain the pipeline's source.
    """
    fresh = compiled()
    if not path.exists():
        raise CtbasisError(
            f"{path} is missing",
            expected="the output of compiling pipeline/denoise.py",
            remedy="run `ctbasis compile` and commit the result",
        )
    committed = path.read_text()
    if committed == fresh:
        return
    lines = difflib.unified_diff(committed.splitlines(), fresh.splitlines(), "committed", "compiled", n=1, lineterm="")
    raise CtbasisError(
        f"{path.name} differs from the output of compiling pipeline/denoise.py",
        details=list(lines)[:40],
        expected="identical bytes",
        cause="the source or kfp has changed, and the package was not compiled again",
        remedy="run `ctbasis compile` and commit the result",
    )


def read_package(package: Path) -> dict[str, Any]:
    """Return the pipeline specification of a compiled package, after the lint has found no fault in it.

    A server would report these faults only when the run starts, if at all.

    Raises:
        CtbasisError: The lint finds a fault, or the file is not a pipeline.
    """
    from ctbasis.kubeflow.lint import lint

    faults = lint([package])
    if faults:
        raise CtbasisError(
            f"{package.name} has {len(faults)} faults",
            details=[str(fault) for fault in faults[:10]],
            expected="a compiled KFP v2 package without faults",
            remedy="run `ctbasis compile`, or correct the pipeline",
        )
    spec: dict[str, Any] = next(yaml.safe_load_all(package.read_text(encoding="utf-8")))
    if "pipelineInfo" not in spec:
        raise CtbasisError(
            f"{package.name} is not a pipeline",
            expected="a compiled KFP v2 package",
            remedy="give the file that `ctbasis compile` writes",
        )
    return spec


def check_arguments(spec: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Check arguments against the parameters of a package. A server would start the run and let it fail.

    Args:
        spec: The pipeline specification, from `read_package`.
        arguments: Pipeline parameters by name.

    Raises:
        CtbasisError: A name is unknown, a value has the wrong type or is out of bounds, or a required parameter is
            missing.
    """
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    known = ", ".join(declared)
    for name, value in arguments.items():
        if name not in declared:
            raise CtbasisError(f"the package has no parameter {name!r}", expected=f"one of {known}")
        kind = declared[name]["parameterType"]
        if not isinstance(value, PARAMETER_TYPES[kind]) or (isinstance(value, bool) and kind != "BOOLEAN"):
            raise CtbasisError(f"parameter {name!r} is a {type(value).__name__}", expected=f"a {kind}")
    missing = [name for name, one in declared.items() if not one.get("isOptional") and name not in arguments]
    if missing:
        raise CtbasisError(
            f"{', '.join(missing)} has no value, and the package requires one",
            expected="a value of every required parameter",
            remedy="give a value",
        )
    ours = {parameter.name for parameter in parameters.PARAMETERS}
    parameters.check({name: value for name, value in arguments.items() if name in ours})
