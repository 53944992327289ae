"""The compiled pipelines: compiles them from their sources, and checks them against these.

denoise    pipeline/denoise.py -> pipeline/denoise.yaml, of one source
cohort     pipeline/cohort.py -> pipeline/cohort.yaml, of all series of a source
"""

from __future__ import annotations

import difflib
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ctbasis import parameters
from ctbasis.errors import CtbasisError
from ctbasis.installed import LAYOUT
from ctbasis.storage.outputs import replaced_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ctbasis.kubeflow.cluster_settings import ClusterSettings

PACKAGE = LAYOUT.compiled_pipeline
"""The compiled pipeline of one source of this installation."""

PACKAGES = {"denoise": PACKAGE, "cohort": LAYOUT.compiled_cohort}
"""The compiled pipelines of this installation by name."""

PARAMETER_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (float, int),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}


def compiled(settings: ClusterSettings | None = None, *, pipeline: str = "denoise") -> str:
    """Compile a pipeline and return the text of the package.

    Args:
        settings: What a cluster needs in the package, in place of the values of the source.
        pipeline: One of `PACKAGES`.

    Raises:
        CtbasisError: This installation does not contain the pipeline's source.
    """
    source = PACKAGES[pipeline].with_suffix(".py")
    if not source.is_file():
        raise CtbasisError(
            f"{source} is missing: compiling needs the source of the pipeline",
            expected="a checkout of ctbasis",
            cause="ctbasis was installed from a wheel, which contains only the compiled pipelines",
            remedy="run `ctbasis compile` in a checkout, and pass its output to `ctbasis submit --package`",
        )
    from kfp import compiler

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{pipeline}.yaml"
        compiler.Compiler().compile(_function(pipeline), str(path))
        text = path.read_text()
    return text if settings is None else settings.applied(text)


def _function(pipeline: str) -> Any:
    if pipeline == "cohort":
        from pipeline.cohort import cohort

        return cohort
    from pipeline.denoise import denoise

    return denoise


def write(path: Path = PACKAGE, settings: ClusterSettings | None = None, *, pipeline: str = "denoise") -> None:
    """Compile a pipeline to a file, which is either written completely or left unchanged.

    Args:
        path: The file.
        settings: What a cluster needs in the package, in place of the values of the source.
        pipeline: One of `PACKAGES`.

    Raises:
        CtbasisError: The package would have a fault, such as an invalid size of the workspace; `path` cannot be
            written; or this installation does not contain the pipeline's source.
    """
    write_text(compiled(settings, pipeline=pipeline), path)


def write_text(text: str, path: Path) -> None:
    """Write a package, which is checked before, to a file, which is either written completely or left unchanged.

    Raises:
        CtbasisError: The package has a fault, or `path` cannot be written.
    """
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


@contextmanager
def adapted(package: Path, settings: ClusterSettings) -> Iterator[Path]:
    """Return a package with the settings of a cluster, for the `with` block; without a setting, the package itself.

    Args:
        package: A compiled package, which is left unchanged.
        settings: What the cluster needs in it.

    Raises:
        CtbasisError: The package cannot be read, or it is that of another pipeline.
    """
    if not settings:
        yield package
        return
    with tempfile.TemporaryDirectory() as scratch:
        read_package(package)
        path = Path(scratch) / package.name
        write_text(settings.applied(package.read_text(encoding="utf-8")), path)
        yield path


def check(path: Path = PACKAGE, *, pipeline: str = "denoise") -> None:
    """Check that the package at `path` is the output of compiling a pipeline.

    Args:
        path: The file.
        pipeline: One of `PACKAGES`.

    Raises:
        CtbasisError: It differs, there is no package, or this installation does not contain the pipeline's source.
    """
    fresh = compiled(pipeline=pipeline)
    source = f"pipeline/{pipeline}.py"
    if not path.exists():
        raise CtbasisError(
            f"{path} is missing",
            expected=f"the output of compiling {source}",
            remedy="run `ctbasis compile` and commit the result",
        )
    committed = path.read_text()
    if committed == fresh:
        return
    lines = difflib.unified_diff(committed.splitlines(), fresh.splitlines(), "committed", "compiled", n=1, lineterm="")
    raise CtbasisError(
        f"{path.name} differs from the output of compiling {source}",
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
