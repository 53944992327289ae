"""A folder in, a folder out: the program of a container that routers call, by their conventions.

mercure (mercure-imaging.org) sets MERCURE_IN_DIR and MERCURE_OUT_DIR, writes the settings of the module to `task.json`
among the images, and reads `result.json` from the output. A MONAI Application Package, and the Holoscan Application
Package that its specification became, has HOLOSCAN_INPUT_PATH, HOLOSCAN_OUTPUT_PATH and HOLOSCAN_MODEL_PATH.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom

from ctbasis.errors import CtbasisError
from ctbasis.node.bases import StoredBases
from ctbasis.node.task import LEARN, UNFIT, Task
from ctbasis.node.worker import run
from ctbasis.printable import say
from ctbasis.storage.outputs import write_file
from ctbasis.storage.working_folder import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

INPUTS = ("MERCURE_IN_DIR", "HOLOSCAN_INPUT_PATH", "MONAI_INPUTPATH")
OUTPUTS = ("MERCURE_OUT_DIR", "HOLOSCAN_OUTPUT_PATH", "MONAI_OUTPUTPATH")
"""Variables that name the folders; the first that is set counts. The last are of packages before Holoscan's."""

MODELS = ("HOLOSCAN_MODEL_PATH", "MONAI_MODELPATH")
"""Variables that name the folder of models: each subfolder that is a stored basis is used."""

TASK, RESULT = "task.json", "result.json"

LARGEST_TASK = 16 << 20
"""Bytes of a task file at most."""


@dataclass(frozen=True)
class Settings:
    """What is to be done.

    Attributes:
        source: Folder with the instances, and possibly a task file.
        out: Folder for the results; empty or new.
        bases: URIs of stored bases.
        unfit: What is done with a series that no basis fits, one of `UNFIT`.
    """

    source: Path
    out: Path
    bases: tuple[str, ...] = ()
    unfit: str = LEARN

    @classmethod
    def of(
        cls,
        source: Path | None,
        out: Path | None,
        bases: tuple[str, ...] = (),
        unfit: str = "",
        *,
        environment: Mapping[str, str] = os.environ,
    ) -> Settings:
        """Return the settings from arguments, the task file and variables; the former prevail.

        Args:
            source: Folder with the instances; None for the variable.
            out: Folder for the results; None for the variable.
            bases: URIs of stored bases; empty for those of the task file, else of the folder of models.
            unfit: What is done with a series that no basis fits; empty for the task file, else `learn`.
            environment: The variables.

        Raises:
            CtbasisError: A folder is named nowhere, or the task file cannot be used.
        """
        folder = source or _folder(INPUTS, environment, "IN")
        asked = _asked(folder / TASK)
        return cls(
            folder,
            out or _folder(OUTPUTS, environment, "OUT"),
            bases or asked.bases or _models(environment),
            unfit or asked.unfit or LEARN,
        )


@dataclass(frozen=True)
class _Asked:
    """What a task file asks for."""

    bases: tuple[str, ...] = ()
    unfit: str = ""


def process(settings: Settings) -> dict[str, Any]:
    """Denoise every CT series of a folder, and write the results to another folder, all or none.

    An instance is written as `SeriesInstanceUID#SOPInstanceUID.dcm`, as mercure names files; `result.json` beside them
    has the record.

    Args:
        settings: What is to be done.

    Returns:
        The record: `volumes` with basis, notes and SeriesInstanceUID of each, and `seconds` of each stage.

    Raises:
        CtbasisError: The input has no CT series, the output folder is not empty, a basis cannot be used, or no basis
            fits and none may be learned.
    """
    if not settings.source.is_dir():
        raise CtbasisError(
            f"{settings.source} is no folder",
            expected="the folder with the instances",
            cause="it is not mounted into the container",
            remedy="name another folder, or mount it",
        )
    _require_empty(settings.out)
    with scratch_folder("ctbasis-process") as scratch:
        bases = StoredBases.collect(settings.bases, str(scratch / "bases.zarr"))
        task = Task(str(settings.source), str(scratch / "out"), bases.uri, settings.unfit)
        record = run(task, lambda stage: say(f"process: {stage}"))
        files = [Path(file) for _, file in record.pop("outputs")]
        write_file(scratch / RESULT, json.dumps(record, indent=1) + "\n")
        _deliver([(file, _name(file)) for file in files] + [(scratch / RESULT, RESULT)], settings.out)
    return record


def _folder(names: tuple[str, ...], environment: Mapping[str, str], argument: str) -> Path:
    for name in names:
        if environment.get(name):
            return Path(environment[name])
    raise CtbasisError(
        f"no folder {argument} is given, and none of {', '.join(names)} is set",
        expected="`ctbasis process IN OUT`, or the variables of mercure or of a MONAI Application Package",
        remedy="name the folders, or let the router set the variables",
    )


def _models(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the stored bases in the folder of models."""
    folder = next((Path(environment[name]) for name in MODELS if environment.get(name)), None)
    if folder is None or not folder.is_dir():
        return ()
    return tuple(str(path) for path in sorted(folder.iterdir()) if (path / "zarr.json").is_file())


def _asked(path: Path) -> _Asked:
    """Return what the task file of mercure asks for: `process.settings` with `basis` and `if_no_basis_fits`."""
    if not path.is_file():
        return _Asked()
    try:
        with path.open("rb") as stream:
            task = json.loads(stream.read(LARGEST_TASK))
        settings = (task.get("process") or {}).get("settings") or {}
        bases = settings.get("basis") or []
        bases = (bases,) if isinstance(bases, str) else tuple(map(str, bases))
        unfit = settings.get("if_no_basis_fits") or ""
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CtbasisError(
            f"{path} is no task file of mercure ({type(error).__name__})",
            expected="a JSON document with process.settings",
            remedy="remove the file, or correct the settings of the module",
        ) from None
    if unfit and unfit not in UNFIT:
        raise CtbasisError(
            f"if_no_basis_fits of {path} is another value",
            expected=" or ".join(UNFIT),
            remedy="correct the settings of the module",
        )
    return _Asked(bases, unfit)


def _require_empty(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        found = next((path.name for path in sorted(out.iterdir())), None)
    except OSError as error:
        raise CtbasisError(
            f"{out} cannot be made or read ({error.strerror})",
            expected="a folder that this user may write to",
            cause=f"it belongs to another user than {os.geteuid()}",
            remedy="give it to this user, or run the container as its owner",
        ) from error
    if found is not None:
        raise CtbasisError(
            f"{out} holds {found}", expected="a new or empty folder", remedy="empty the folder, or name another one"
        )


def _name(file: Path) -> str:
    header = pydicom.dcmread(file, specific_tags=["SeriesInstanceUID", "SOPInstanceUID"])
    return f"{header.SeriesInstanceUID}#{header.SOPInstanceUID}.dcm"


def _deliver(files: list[tuple[Path, str]], out: Path) -> None:
    """Copy files to the output folder, all or none: a router must not pass on half a series."""
    written: list[Path] = []
    try:
        for source, name in files:
            written.append(out / name)
            shutil.copyfile(source, out / name)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise CtbasisError(
            f"{out} cannot be written to ({error.strerror})",
            expected="a folder with free space that this user may write to",
            cause=f"the disk is full, or the folder belongs to another user than {os.geteuid()}",
            remedy="give it space, or run the container as its owner",
        ) from error
